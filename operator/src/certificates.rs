//! Secrets out of chance: tokens, and the certificates between peers.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::build::PeerCertificates;

/// A new token.
pub(crate) fn token() -> String {
    let bytes: [u8; TOKEN_BYTES] = rand::random();
    hex::encode(bytes)
}

/// A new authority and one certificate for all members. The authority's key is forgotten: nobody can issue another.
pub(crate) fn peer_certificates(group: &str, server_name: &str) -> Result<PeerCertificates, rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority
        .distinguished_name
        .push(DnType::CommonName, format!("Quorate peers of {group}"));
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority.not_before = date_time_ymd(VALID_FROM_YEAR, 1, 1);
    authority.not_after = date_time_ymd(VALID_TO_YEAR, 1, 1);
    let (not_before, not_after) = (authority.not_before, authority.not_after);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let mut member = CertificateParams::new(vec![server_name.to_owned()])?;
    member.distinguished_name.push(DnType::CommonName, server_name);
    member.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    member.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    (member.not_before, member.not_after) = (not_before, not_after);
    let key = KeyPair::generate()?;
    let certificate = member.signed_by(&key, &authority)?;
    Ok(PeerCertificates {
        authority: authority.pem(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// 256 bits: nobody guesses them.
const TOKEN_BYTES: usize = 32;

/// Both ends are far away: these certificates live inside one group, and are replaced by deleting their secret.
const VALID_FROM_YEAR: i32 = 2020;
const VALID_TO_YEAR: i32 = 2100;

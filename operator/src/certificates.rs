//! Secrets out of chance: tokens, and the certificates between members.

pub(crate) mod rotation;

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::build::{Authority, PeerCertificates};

/// A new token.
pub(crate) fn token() -> String {
    let bytes: [u8; TOKEN_BYTES] = rand::random();
    hex::encode(bytes)
}

/// What does not differ between the authorities of a group.
fn authority_of(group: &str) -> CertificateParams {
    let mut authority = CertificateParams::default();
    authority
        .distinguished_name
        .push(DnType::CommonName, rotation::authority_name(group));
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority
}

/// A new authority of a group, at a Unix time in seconds; those in `previous` stay trusted.
pub(crate) fn authority(group: &str, previous: String, now: i64) -> Result<Authority, rcgen::Error> {
    let mut authority = authority_of(group);
    valid(&mut authority, now, now.saturating_add(AUTHORITY_SECONDS));
    let key = KeyPair::generate()?;
    Ok(Authority {
        certificate: authority.self_signed(&key)?.pem(),
        key: key.serialize_pem(),
        previous,
    })
}

/// A new certificate for all members, no longer valid than the authority that issues it.
pub(crate) fn members(
    authority: &Authority,
    (group, server_name): (&str, &str),
    now: i64,
) -> Result<PeerCertificates, rcgen::Error> {
    let issuer = Issuer::new(authority_of(group), KeyPair::from_pem(&authority.key)?);
    let mut member = CertificateParams::new(vec![server_name.to_owned()])?;
    member.distinguished_name.push(DnType::CommonName, server_name);
    member.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    member.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let end = rotation::end(&authority.certificate).unwrap_or(now);
    valid(&mut member, now, end.min(now.saturating_add(MEMBERS_SECONDS)));
    let key = KeyPair::generate()?;
    Ok(PeerCertificates {
        authorities: rotation::trusted(authority, now),
        certificate: member.signed_by(&key, &issuer)?.pem(),
        key: key.serialize_pem(),
    })
}

fn valid(certificate: &mut CertificateParams, now: i64, until: i64) {
    let at = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or_default();
        date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    certificate.not_before = at(now.saturating_sub(BACKDATED_SECONDS));
    certificate.not_after = at(until);
}

/// 256 bits: nobody guesses them.
const TOKEN_BYTES: usize = 32;

const DAY: i64 = 24 * 3600;

/// Five years.
pub(crate) const AUTHORITY_SECONDS: i64 = 5 * 365 * DAY;

/// Three months.
pub(crate) const MEMBERS_SECONDS: i64 = 90 * DAY;

/// Members' clocks may be that late.
const BACKDATED_SECONDS: i64 = DAY;

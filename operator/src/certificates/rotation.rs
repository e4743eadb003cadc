//! When the certificates between the members of a group are replaced, and by which steps. Pure.
//!
//! A member's certificate is issued anew after two thirds of its life, by the same authority: whoever reads it early and
//! whoever reads it late trust each other. An authority is succeeded after two thirds of its life, in four steps: the new one
//! is trusted beside the old one; once every member has read that, members get a certificate of the new one; once every
//! member shows it, the old one is forgotten. What is lost or damaged is made anew by the same steps.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use yasna::tags::TAG_UTCTIME;
use yasna::{ASN1Result, BERReaderSeq};

use crate::build::{Authority, PeerCertificates};
use crate::plan::Observed;

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Everything is as it should be, and every member has read it.
    Nothing,
    /// Members are still to read what is there; a sentence.
    Wait(String),
    /// Make an authority; these ones, PEM, stay trusted.
    Authority {
        /// Without those that have expired.
        previous: String,
        /// Why, for people.
        why: Why,
    },
    /// Issue a certificate for the members.
    Members(Why),
    /// Write down anew whom members trust.
    Trust,
    /// Nobody shows a certificate of the authorities before this one any more.
    Forget,
}

/// Why something is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was there, and in time.
    Due,
    /// Its authority has a successor, which every member trusts.
    Succession,
    /// It is not there.
    Missing,
    /// It is there and of no use; why, in a few words.
    Unusable(String),
}

/// Which members have not read what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Readers {
    /// They count by something else.
    pub behind: Vec<String>,
    /// They do not say what they count by, or do not answer.
    pub silent: Vec<String>,
}

impl Readers {
    /// Those of a group, given what its members are to read.
    pub(crate) fn of(observed: &Observed, members: Option<&PeerCertificates>) -> Self {
        let wanted = members.map(|members| digest(&members.authorities, &members.certificate));
        let mut readers = Self::default();
        for (name, answer) in &observed.answers {
            let detail = answer.as_ref().and_then(|answer| answer.detail.as_ref());
            match detail.and_then(|detail| detail.peer_certificates.as_ref()) {
                None => readers.silent.push(name.clone()),
                Some(read) if Some(read) != wanted.as_ref() => readers.behind.push(name.clone()),
                Some(_) => {}
            }
        }
        readers
    }

    fn is_everyone_done(&self) -> bool {
        self.behind.is_empty() && self.silent.is_empty()
    }

    fn waiting(&self) -> Next {
        let names = self.behind.iter().chain(&self.silent).cloned();
        let names = names.collect::<Vec<_>>().join(", ");
        let mut what = format!("waiting for {names} to read the newest certificates between members");
        if !self.silent.is_empty() {
            what.push_str("; nothing is heard of ");
            what.push_str(&self.silent.join(", "));
        }
        Next::Wait(what)
    }
}

/// Decides what comes next, at a Unix time in seconds.
pub(crate) fn next(
    authority: Option<&Authority>,
    members: Option<&PeerCertificates>,
    (group, server_name): (&str, &str),
    readers: &Readers,
    now: i64,
) -> Next {
    let Some(authority) = authority else {
        let known = members.map_or("", |members| &members.authorities);
        return succeed(&[known], Why::Missing, now);
    };
    let known = [
        authority.certificate.as_str(),
        &authority.previous,
        members.map_or("", |members| &members.authorities),
    ];
    let life = match authority_life(authority, group, now) {
        Ok(life) => life,
        Err(why) => return succeed(&known, Why::Unusable(why), now),
    };
    if life.is_past(RENEW_AFTER, now) {
        return succeed(&known[..2], Why::Due, now);
    }
    let Some(members) = members else {
        return Next::Members(Why::Missing);
    };
    let trusted = trusted(authority, now);
    let life = match members_life(members, &trusted, server_name, now) {
        Ok(life) => life,
        Err(why) => return Next::Members(Why::Unusable(why)),
    };
    if members.authorities != trusted {
        return Next::Trust;
    }
    let is_of_this_authority = members_life(members, &authority.certificate, server_name, now).is_ok();
    // Better that one who slept misses it than that everybody's certificate ends.
    let is_time = readers.is_everyone_done() || life.is_past(URGENT_AFTER, now);
    if !is_of_this_authority {
        return if is_time {
            Next::Members(Why::Succession)
        } else {
            readers.waiting()
        };
    }
    if life.is_past(RENEW_AFTER, now) {
        return Next::Members(Why::Due);
    }
    if trusted != block(&authority.certificate) {
        return if readers.is_everyone_done() {
            Next::Forget
        } else {
            readers.waiting()
        };
    }
    if readers.behind.is_empty() {
        Next::Nothing
    } else {
        readers.waiting()
    }
}

fn succeed(known: &[&str], why: Why, now: i64) -> Next {
    let mut previous = Vec::new();
    for certificate in known.iter().flat_map(|pem| blocks(pem)) {
        let is_valid = parse(&certificate).is_ok_and(|(_, life)| life.holds(now));
        if is_valid && !previous.contains(&certificate) && previous.len() < PREVIOUS_MAX {
            previous.push(certificate);
        }
    }
    let previous = previous.concat();
    Next::Authority { previous, why }
}

/// Whom members are to trust, PEM: the authority, and those before it that are still valid.
pub(crate) fn trusted(authority: &Authority, now: i64) -> String {
    let holds = |pem: &String| parse(pem).is_ok_and(|(_, life)| life.holds(now));
    let previous = blocks(&authority.previous).into_iter().filter(holds);
    let mut all = block(&authority.certificate);
    all.extend(previous);
    all
}

/// The name that every authority of a group has.
pub(crate) fn authority_name(group: &str) -> String {
    format!("Quorate peers of {group}")
}

/// The end of a certificate's life, as Unix time in seconds; none if it is none.
pub(crate) fn end(pem: &str) -> Option<i64> {
    parse(pem).ok().map(|(_, life)| life.until)
}

/// What a member says when it counts by these: SHA-256 over both files, each behind its length (64 bits, little-endian).
pub(crate) fn digest(authorities: &str, chain: &str) -> String {
    let mut hash = Sha256::new();
    for file in [authorities, chain] {
        hash.update((file.len() as u64).to_le_bytes());
        hash.update(file);
    }
    hex::encode(hash.finalize())
}

/// From when until when a certificate is valid, as Unix times in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    from: i64,
    until: i64,
}

impl Life {
    const fn holds(self, now: i64) -> bool {
        self.from <= now && now < self.until
    }

    /// Whether that fraction of it is over.
    const fn is_past(self, (of, parts): (i64, i64), now: i64) -> bool {
        now.saturating_sub(self.from).saturating_mul(parts)
            >= self.until.saturating_sub(self.from).saturating_mul(of)
    }
}

fn parse(pem: &str) -> Result<(CertificateDer<'static>, Life), String> {
    let der =
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| "is no certificate in PEM".to_owned())?;
    let life = yasna::parse_der(&der, |certificate| {
        certificate.read_sequence(|parts| {
            let life = parts.next().read_sequence(read_life);
            skip_rest(parts)?;
            life
        })
    });
    Ok((der, life.map_err(|_| "is no X.509 certificate".to_owned())?))
}

/// The validity of a certificate's inner part (RFC 5280 §4.1): version, number, algorithm and issuer come before it.
fn read_life(parts: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Life> {
    for _ in 0..4 {
        parts.next().read_der()?;
    }
    let life = parts.next().read_sequence(|times| {
        let from = read_time(times)?;
        let until = read_time(times)?;
        Ok(Life { from, until })
    });
    skip_rest(parts)?;
    life
}

/// Until 2049 in two digits of a year, from then on in four.
fn read_time(times: &mut BERReaderSeq<'_, '_>) -> ASN1Result<i64> {
    let time = times.next();
    if time.lookahead_tag()? == TAG_UTCTIME {
        Ok(time.read_utctime()?.datetime().unix_timestamp())
    } else {
        Ok(time.read_generalized_time()?.datetime().unix_timestamp())
    }
}

fn skip_rest(parts: &mut BERReaderSeq<'_, '_>) -> ASN1Result<()> {
    while parts.read_optional(|part| part.read_der())?.is_some() {}
    Ok(())
}

/// The life of an authority that can issue certificates now; why not, otherwise.
fn authority_life(authority: &Authority, group: &str, now: i64) -> Result<Life, String> {
    let (der, life) = parse(&authority.certificate)?;
    if !life.holds(now) {
        return Err("has expired, or is not valid yet".to_owned());
    }
    let has = |part: &[u8]| der.windows(part.len()).any(|bytes| bytes == part);
    if !has(IS_AUTHORITY) || !has(authority_name(group).as_bytes()) {
        return Err("is not that of this group's authority".to_owned());
    }
    has_key(der, &authority.key)?;
    Ok(life)
}

/// The life of a certificate that members who trust these authorities accept now; why they do not, otherwise.
fn members_life(
    members: &PeerCertificates,
    trusted: &str,
    server_name: &str,
    now: i64,
) -> Result<Life, String> {
    let (der, life) = parse(&members.certificate)?;
    if !life.holds(now) {
        return Err("has expired, or is not valid yet".to_owned());
    }
    let mut roots = RootCertStore::empty();
    for authority in blocks(trusted) {
        let (authority, _) = parse(&authority)?;
        roots
            .add(authority)
            .map_err(|_| "has an authority that cannot be used".to_owned())?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| error.to_string())?;
    let name = ServerName::try_from(server_name).map_err(|error| error.to_string())?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or_default()));
    verifier
        .verify_server_cert(&der, &[], &name, &[], at)
        .map_err(|error| format!("is not accepted by members: {error}"))?;
    has_key(der, &members.key)?;
    Ok(life)
}

fn has_key(certificate: CertificateDer<'static>, key: &str) -> Result<(), String> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "has no key in PEM".to_owned())?;
    CertifiedKey::from_der(vec![certificate], key, &provider())
        .map_err(|_| "has a key that is another one's".to_owned())?;
    Ok(())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

/// The certificates of a text in PEM, each as a text of its own.
fn blocks(pem: &str) -> Vec<String> {
    pem.split_inclusive(END)
        .filter(|part| part.contains(END))
        .map(block)
        .collect()
}

/// A certificate in PEM without what stands around it.
fn block(pem: &str) -> String {
    let begin = pem.find(BEGIN).unwrap_or_default();
    format!("{}\n", pem[begin..].trim())
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The extension of an authority that issues no other ones (RFC 5280 §4.2.1.9), as rcgen writes it.
const IS_AUTHORITY: &[u8] = &[
    0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x08, 0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01,
    0x00,
];

/// The part of a life after which a successor is made.
const RENEW_AFTER: (i64, i64) = (2, 3);

/// The part of its life after which a members' certificate waits for nobody.
const URGENT_AFTER: (i64, i64) = (5, 6);

/// One is usual; more come of authorities that were lost in the middle of a succession.
const PREVIOUS_MAX: usize = 4;

#[cfg(test)]
mod tests;

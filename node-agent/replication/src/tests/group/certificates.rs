//! Mutual TLS between members, and certificates that change underneath.

use std::fs;
use std::io;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;

const NAME: &str = "peer.quorate";
/// What a client of HTTP/2 says first (RFC 9113 §3.4), with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// An authority, and a certificate that it issued; PEM.
struct Authority {
    authority: String,
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        Self {
            authority: authority.pem(),
            certificate: params.signed_by(&key, &issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// Files that trust this authority alone and show its certificate.
    fn begin(&self, directory: &Path) -> PeerTls {
        let files = PeerTls {
            ca_file: directory.join("ca.pem"),
            cert_file: directory.join("cert.pem"),
            key_file: directory.join("key.pem"),
            server_name: NAME.to_owned(),
        };
        self.show(&files, &[self]);
        files
    }

    /// Files that trust those authorities and show this one's certificate. They are moved to their place, as a kubelet does.
    fn show(&self, files: &PeerTls, trusted: &[&Self]) {
        let authorities: String = trusted.iter().map(|one| one.authority.as_str()).collect();
        let contents = [
            (&files.ca_file, &authorities),
            (&files.cert_file, &self.certificate),
            (&files.key_file, &self.key),
        ];
        for (path, text) in contents {
            let new = path.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, path).unwrap();
        }
    }

    /// Calls a member with this one's certificate, trusting this one alone; what the member shows, if it lets the caller in.
    async fn call(&self, address: SocketAddr) -> io::Result<CertificateDer<'static>> {
        let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.authority)).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate(&self.certificate)], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(NAME).unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0]
            .clone()
            .into_owned();
        // With TLS 1.3 a caller learns afterwards that it was refused.
        stream.write_all(PREFACE).await?;
        stream.read_u8().await?;
        Ok(shown)
    }

    fn is_shown(&self, shown: &CertificateDer<'_>) -> bool {
        *shown == CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

impl Group {
    /// Waits until every member says something else of its certificates than `before`, and all the same.
    async fn everyone_read_others_than(&self, before: &str) -> String {
        within("reading the files", async {
            loop {
                let said = self
                    .members
                    .values()
                    .map(|member| member.node.status().peer_certificates);
                let mut said: Vec<_> = said.map(Option::unwrap).collect();
                said.dedup();
                if let [one] = &said[..]
                    && one != before
                {
                    return one.clone();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

/// Waits for an alarm of the member; an empty one is none.
async fn alarm(member: &Member, is_wanted: impl Fn(&str) -> bool) -> String {
    within("another alarm", async {
        loop {
            let alarm = member.node.status().alarm.unwrap_or_default();
            if is_wanted(&alarm) {
                return alarm;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_speak_mutual_tls_and_refuse_plain_callers() {
    let mut group = Group::new();
    group.tls = Some(Authority::new().begin(group.directory.path()));
    let mut group = group.of_three().await;
    group.propose("sealed").await;
    group.everyone_has("sealed").await;
    // A member without certificates cannot follow.
    group.tls = None;
    group.start(3).await;
    let options = group.members[&3].options.clone();
    let leader = group.leader().await;
    let identity = leader
        .node
        .add_learner(options.name, options.peer_advertise, options.admin_advertise)
        .await
        .unwrap();
    group.members[&3].node.join(identity).await.unwrap();
    let refused = leader.replica.ask(identity.node_id, Bytes::new()).await;
    assert!(refused.is_err());
    assert!(group.members[&3].replica.local(|ledger| ledger.lines.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_succeed_each_other_underneath_a_group_that_keeps_its_leader() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut group = Group::new();
    let files = old.begin(group.directory.path());
    group.tls = Some(files.clone());
    let mut group = group.of_three().await;
    let leader = group.leader().await;
    let (leads, term) = (leader.replica.id(), leader.node.status().term);
    let mut read = group.everyone_read_others_than("").await;
    let addresses: Vec<_> = group
        .members
        .values()
        .map(|member| member.options.peer_listen)
        .collect();

    old.show(&files, &[&old, &new]);
    read = group.everyone_read_others_than(&read).await;
    assert!(old.is_shown(&old.call(addresses[0]).await.unwrap()));
    new.show(&files, &[&old, &new]);
    read = group.everyone_read_others_than(&read).await;
    for address in &addresses {
        assert!(new.is_shown(&new.call(*address).await.unwrap()));
    }
    new.show(&files, &[&new]);
    group.everyone_read_others_than(&read).await;
    for address in &addresses {
        new.call(*address).await.unwrap();
        old.call(*address).await.unwrap_err();
    }
    group.propose("after all").await;
    group.everyone_has("after all").await;
    let leader = group.leader().await;
    assert_eq!((leader.replica.id(), leader.node.status().term), (leads, term));

    // Connections of a life that never saw the old files, in both directions.
    let is_follower = |member: &&Member| member.replica.id() != leads;
    let follower = group
        .members
        .values()
        .find(is_follower)
        .unwrap()
        .options
        .name
        .clone();
    let number = follower.trim_start_matches("m-").parse().unwrap();
    let options = group.stop(number).await;
    group.propose("without it").await;
    group.start_with(number, options).await;
    group.everyone_has("without it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_leave_what_was_there_and_are_complained_about() {
    let good = Authority::new();
    let mut group = Group::new();
    let files = good.begin(group.directory.path());
    group.tls = Some(files.clone());
    group.start(0).await;
    let member = &group.members[&0];
    assert_eq!(member.node.status().alarm, None);
    let others_key = Authority::new().key;
    for (text, why) in [
        ("oops", "no private key in PEM"),
        (&*others_key, "do not go together"),
    ] {
        fs::write(&files.key_file, text).unwrap();
        let said = alarm(member, |said| said.contains(why));
        assert!(said.await.contains("key.pem"));
        assert!(good.is_shown(&good.call(member.options.peer_listen).await.unwrap()));
    }
    fs::write(&files.key_file, &good.key).unwrap();
    alarm(member, str::is_empty).await;
}

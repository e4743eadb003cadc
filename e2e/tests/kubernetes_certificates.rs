//! Certificates between members that somebody else renews, as cert-manager does: members are replaced one by one, and the
//! group goes on.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use e2e::clock::PATIENCE as SOON;
use e2e::clock::eventually;
use e2e::data::random_bytes;
use e2e::kubernetes::{ClientPod, Cluster, Operator, PATIENCE, Resource, Space, TftpCluster};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

const BOOT: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: TftpCluster
metadata: {name: boot}
spec:
  replicas: 3
  timing: Edge
  tls: {mode: Secret, secretRef: {name: peers}}
"#;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap()
}

/// A new certificate of the authority, in the Secret that the members share.
fn issue(space: &Space<'_>, authority: &Authority) {
    let name = format!("boot-members.{}.svc", space.name());
    let key = KeyPair::generate().unwrap();
    let member = CertificateParams::new(vec![name]).unwrap();
    let certificate = member.signed_by(&key, authority).unwrap();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "peers"},
        "stringData": {
            "ca.crt": authority.pem(),
            "tls.crt": certificate.pem(),
            "tls.key": key.serialize_pem(),
        },
    });
    space.apply(&secret.to_string()).unwrap();
}

fn uids(boot: &Resource<'_>) -> Vec<serde_json::Value> {
    let pods = (0..3).map(|ordinal| boot.uid(&format!("boot-{ordinal}")).unwrap_or_default());
    pods.collect()
}

#[test]
fn renewed_certificates_reach_the_members_one_by_one() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "renewal").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let authority = authority();
    issue(&space, &authority);
    let boot = TftpCluster::apply(&space, "boot", BOOT).unwrap();
    boot.await_settled().unwrap();
    let content = random_bytes(4, 100_000);
    boot.put("image", &content).unwrap();
    let client = ClientPod::start(&space, "client", None).unwrap();

    let before = uids(&boot);
    issue(&space, &authority);
    // The operator looks once a minute.
    eventually("all members are replaced", PATIENCE * 2, || {
        let now = uids(&boot);
        let is_new = |(old, new): (_, &serde_json::Value)| old != new && !new.is_null();
        anyhow::ensure!(before.iter().zip(&now).all(is_new), "{before:?} {now:?}");
        Ok(())
    })
    .unwrap();
    boot.await_settled().unwrap();
    client.fetch("tftp://boot/image", &content, SOON).unwrap();
}

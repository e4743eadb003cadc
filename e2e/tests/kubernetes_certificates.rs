//! Certificates between members that are renewed underneath a group: by somebody else, as cert-manager does, and by the operator,
//! which also makes anew what was deleted. Members read them while they run, and the group keeps its leader.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use anyhow::Context as _;
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

const SELF_ISSUED: &str = r#"
apiVersion: quorate.dev/v1alpha1
kind: TftpCluster
metadata: {name: boot}
spec:
  replicas: 3
  timing: Edge
  tls: {mode: SelfIssued}
"#;

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

/// What must not change: which pods there are, and which one leads in which term.
fn standing(boot: &Resource<'_>) -> anyhow::Result<(Vec<serde_json::Value>, String, u64)> {
    let pods = (0..3).map(|ordinal| boot.uid(&format!("boot-{ordinal}")));
    let leader = boot.leader()?;
    let term = boot.status_of(&leader)?.term;
    Ok((pods.collect::<Result<_, _>>()?, leader, term))
}

/// Waits until all members count by the same certificates, and by others than `before`.
fn await_read(boot: &Resource<'_>, before: &str) -> String {
    // The operator looks once a minute, and so does each kubelet.
    eventually("all members read the certificates", PATIENCE * 2, || {
        let mut said = Vec::new();
        for ordinal in 0..3 {
            let detail = boot
                .status_of(&format!("boot-{ordinal}"))?
                .detail
                .context("no detail")?;
            said.push(detail.peer_certificates.context("it speaks plain TCP")?);
        }
        said.dedup();
        anyhow::ensure!(said.len() == 1 && said[0] != before, "{said:?}, before {before}");
        Ok(said.remove(0))
    })
    .unwrap()
}

/// A file of a Secret; none while there is none.
fn secret_file(space: &Space<'_>, secret: &str, key: &str) -> Option<String> {
    let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
    space.kubectl(&["get", "secret", secret, "-o", &template]).ok()
}

fn events(space: &Space<'_>, reason: &str) -> String {
    let of_reason = format!("reason={reason}");
    let arguments = [
        "get",
        "events",
        "--field-selector",
        &of_reason,
        "-o",
        "jsonpath={.items[*].message}",
    ];
    space.kubectl(&arguments).unwrap()
}

#[test]
fn renewed_certificates_reach_members_that_go_on_running() {
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

    let (before, read) = (standing(&boot).unwrap(), await_read(&boot, ""));
    issue(&space, &authority);
    await_read(&boot, &read);
    boot.await_settled().unwrap();
    assert_eq!(standing(&boot).unwrap(), before);
    client.fetch("tftp://boot/image", &content, SOON).unwrap();
}

#[test]
fn what_is_deleted_of_the_operators_own_certificates_is_made_anew_underneath_the_group() {
    let cluster = Cluster::connect().unwrap();
    Operator::define(&cluster).unwrap();
    let space = Space::new(&cluster, "self-issued").unwrap();
    let _operator = Operator::start(&space).unwrap();
    let boot = TftpCluster::apply(&space, "boot", SELF_ISSUED).unwrap();
    boot.await_settled().unwrap();
    let content = random_bytes(5, 100_000);
    boot.put("image", &content).unwrap();
    let client = ClientPod::start(&space, "client", None).unwrap();
    let (before, first) = (standing(&boot).unwrap(), await_read(&boot, ""));
    let authority = secret_file(&space, "boot-peer-tls", "ca.crt").unwrap();

    // A renewal: the authority stays.
    space.kubectl(&["delete", "secret", "boot-peer-tls"]).unwrap();
    await_read(&boot, &first);
    assert_eq!(
        secret_file(&space, "boot-peer-tls", "ca.crt").as_ref(),
        Some(&authority)
    );
    assert_eq!(standing(&boot).unwrap(), before);
    client.fetch("tftp://boot/image", &content, SOON).unwrap();

    // Another authority: members trust both until each of them shows a certificate of the new one.
    space.kubectl(&["delete", "secret", "boot-peer-ca"]).unwrap();
    let waiting = boot
        .await_reason("Progressing", "RenewingCertificates", PATIENCE)
        .unwrap();
    assert!(waiting.contains("to read the newest certificates"), "{waiting}");
    eventually("the former authority is forgotten", PATIENCE * 5, || {
        let trusted = secret_file(&space, "boot-peer-tls", "ca.crt").context("no Secret")?;
        let count = trusted.matches("BEGIN CERTIFICATE").count();
        anyhow::ensure!(
            count == 1 && trusted != authority,
            "{count} authorities are trusted"
        );
        Ok(())
    })
    .unwrap();
    eventually("every member has read it", PATIENCE * 2, || {
        let conditions = boot.get()?["status"]["conditions"].clone();
        let is_complete = |condition: &serde_json::Value| condition["reason"] == "Complete";
        anyhow::ensure!(
            conditions
                .as_array()
                .is_some_and(|all| all.iter().any(is_complete)),
            "{conditions}"
        );
        Ok(())
    })
    .unwrap();
    assert_eq!(standing(&boot).unwrap(), before);
    assert!(events(&space, "CertificatesRepaired").contains("was gone, and is made anew"));
    assert!(events(&space, "AuthorityReplaced").contains("is trusted no more"));

    // Connections that begin with the new authority.
    space
        .kubectl(&["delete", "pod", "boot-0", "--wait=false"])
        .unwrap();
    boot.space()
        .await_object("pod", "boot-0", PATIENCE, |pod| {
            anyhow::ensure!(pod["metadata"]["uid"] != before.0[0], "it is the former pod");
            Ok(())
        })
        .unwrap();
    boot.await_settled().unwrap();
    client.fetch("tftp://boot/image", &content, SOON).unwrap();
}

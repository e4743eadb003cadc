//! A member without Raft and without a disk, for tests of the admin port and of its clients.

use std::io;
use std::sync::Mutex;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use operator_api::admin::FileInfo;
use replication::MemberInfo;
use serde_json::json;

use super::files::{ByteStream, FileError};
use super::*;

/// A node that leads or follows, and remembers what it was asked.
pub(crate) struct Fake {
    leads: bool,
    status: NodeStatus,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Fake {
    fn answer<T: Send + 'static>(&self, asked: String, answer: T) -> Step<'_, T> {
        self.asked.lock().unwrap().push(asked);
        let outcome = if self.leads {
            Ok(answer)
        } else {
            Err(MembershipError::NotLeader {
                leader_admin_address: Some("127.0.0.1:9402".to_owned()),
            })
        };
        Box::pin(std::future::ready(outcome))
    }
}

impl Control for Fake {
    fn status(&self) -> NodeStatus {
        self.status.clone()
    }
    fn initialize(&self, group_id: Uuid) -> Step<'_, Identity> {
        self.answer(
            format!("initialize {group_id}"),
            Identity { group_id, node_id: 1 },
        )
    }
    fn add_learner(&self, name: String, peer: String, admin: String) -> Step<'_, Identity> {
        self.answer(
            format!("add {name} {peer} {admin}"),
            Identity {
                group_id: GROUP,
                node_id: 12,
            },
        )
    }
    fn join(&self, identity: Identity) -> Step<'_, ()> {
        self.answer(format!("join {}", identity.node_id), ())
    }
    fn promote(&self, id: NodeId) -> Step<'_, ()> {
        self.answer(format!("promote {id}"), ())
    }
    fn remove(&self, _: NodeId) -> Step<'_, ()> {
        Box::pin(std::future::ready(Err(MembershipError::Invalid(
            "node 9 is no member".to_owned(),
        ))))
    }
    fn transfer(&self, to: Option<NodeId>) -> Step<'_, ()> {
        self.answer(format!("transfer {to:?}"), ())
    }
    fn backup(&self, service: ServiceKind, at_least: u64) -> Step<'_, Bytes> {
        self.asked
            .lock()
            .unwrap()
            .push(format!("backup {service} {at_least}"));
        Box::pin(std::future::ready(Ok(Bytes::from_static(b"backup"))))
    }
}

/// One file in memory, on the leader; node 2 leads otherwise.
pub(crate) struct OneFile {
    leads: bool,
    content: Mutex<Option<Bytes>>,
    /// The next answers that break off in the middle.
    breaks: Mutex<u32>,
}

impl OneFile {
    fn check(&self, path: &str) -> Result<(), FileError> {
        if !self.leads {
            return Err(FileError::NotLeader { leader: Some(2) });
        }
        if path.contains("..") {
            return Err(FileError::InvalidPath(format!("`{path}` leaves the store")));
        }
        Ok(())
    }
}

pub(crate) fn info(path: &str, size: u64) -> FileInfo {
    FileInfo {
        path: path.to_owned(),
        size,
        sha256: "ab".repeat(32),
        version: 5,
        source: None,
    }
}

impl FileStore for OneFile {
    fn list(&self) -> BoxFuture<'_, Result<Vec<FileInfo>, FileError>> {
        Box::pin(async { self.check("").map(|()| vec![info("boot/a b", 3)]) })
    }
    fn put(
        &self,
        path: String,
        length: Option<u64>,
        body: ByteStream,
    ) -> BoxFuture<'_, Result<FileInfo, FileError>> {
        Box::pin(async move {
            self.check(&path)?;
            let pieces: Vec<Bytes> = body
                .try_collect()
                .await
                .map_err(|error| FileError::BodyBroken(error.to_string()))?;
            let content = Bytes::from(pieces.concat());
            let size = u64::try_from(content.len()).unwrap();
            assert!(length.is_none_or(|length| length == size));
            *self.content.lock().unwrap() = Some(content);
            Ok(info(&path, size))
        })
    }
    fn get(&self, path: String) -> BoxFuture<'_, Result<(FileInfo, ByteStream), FileError>> {
        Box::pin(async move {
            self.check(&path)?;
            let content = self
                .content
                .lock()
                .unwrap()
                .clone()
                .ok_or(FileError::NotFound(path.clone()))?;
            let size = u64::try_from(content.len()).unwrap();
            let mut breaks = self.breaks.lock().unwrap();
            if *breaks > 0 {
                *breaks -= 1;
                let pieces = [
                    Ok(content.slice(..content.len() / 2)),
                    Err(io::Error::other("broken")),
                ];
                return Ok((info(&path, size), stream::iter(pieces).boxed()));
            }
            Ok((info(&path, size), stream::iter([Ok(content)]).boxed()))
        })
    }
    fn remove(&self, path: String) -> BoxFuture<'_, Result<(), FileError>> {
        Box::pin(async move {
            self.check(&path)?;
            self.content
                .lock()
                .unwrap()
                .take()
                .map(drop)
                .ok_or(FileError::NotFound(path))
        })
    }
}

pub(crate) const GROUP: Uuid = Uuid::from_u128(7);
pub(crate) const TOKEN: &str = "correct-horse";

/// A member to be.
pub(crate) struct Setup {
    pub(crate) status: NodeStatus,
    pub(crate) token: Option<String>,
    pub(crate) admin_address: String,
    /// How many answers with a file break off.
    pub(crate) breaks: u32,
}

impl Setup {
    /// Node 1 at the first address, in a group with node 2 at the second one; one of the two leads.
    pub(crate) fn new(leads: bool, own_address: &str, other_address: &str) -> Self {
        let info = |id: u64, admin_address: &str| MemberInfo {
            id,
            name: format!("tftp-{id}"),
            peer_address: format!("127.0.0.1:740{id}"),
            admin_address: admin_address.to_owned(),
            voter: true,
            matched_index: None,
        };
        let status = NodeStatus {
            group_id: Some(GROUP),
            node_id: Some(1),
            role: if leads {
                replication::Role::Leader
            } else {
                replication::Role::Follower
            },
            term: 3,
            commit_index: 99,
            applied_index: 99,
            first_log_index: 1,
            last_log_index: 99,
            snapshot_index: 0,
            leader: Some(if leads { 1 } else { 2 }),
            serving: leads,
            ready: true,
            members: vec![info(2, other_address), info(1, own_address)],
            alarm: None,
            peer_certificates: None,
        };
        let token = Some(TOKEN.to_owned());
        Self {
            status,
            token,
            admin_address: own_address.to_owned(),
            breaks: 0,
        }
    }

    /// The member, its node, and its life.
    pub(crate) fn admin(self) -> (Admin, Arc<Fake>, watch::Sender<Phase>) {
        let leads = self.status.role == replication::Role::Leader;
        let node = Arc::new(Fake {
            leads,
            status: self.status,
            asked: Mutex::default(),
        });
        let (sender, phase) = watch::channel(Phase::Running);
        let files = OneFile {
            leads,
            content: Mutex::default(),
            breaks: Mutex::new(self.breaks),
        };
        let admin = Admin {
            service: ServiceKind::Tftp,
            name: "tftp-0".to_owned(),
            client_address: "127.0.0.1:6969".to_owned(),
            admin_address: self.admin_address,
            control: Arc::clone(&node) as Arc<dyn Control>,
            detail: Arc::new(|| json!([{ "file": "a" }])),
            lacks: Arc::new(|| None),
            files: Some(Arc::new(files)),
            hub: None,
            sent_backup: None,
            metrics: Arc::new(Metrics::new(ServiceKind::Tftp, "tftp-0").unwrap()),
            token: self.token,
            phase,
        };
        (admin, node, sender)
    }
}

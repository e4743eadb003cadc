use std::time::Duration;

use replication::Shutdown;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::admin;
use crate::admin::fake::{Setup, TOKEN};

/// A follower and a leader on loopback.
struct Group {
    follower: String,
    leader: String,
    until: Shutdown,
    tasks: JoinSet<()>,
}

impl Group {
    async fn start(breaks: u32) -> Self {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (follower, leader) = (listen().await, listen().await);
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let (follower_address, leader_address) = (address(&follower), address(&leader));
        let (until, mut tasks) = (Shutdown::new(), JoinSet::new());
        for (listener, leads, own, other) in [
            (follower, false, &follower_address, &leader_address),
            (leader, true, &leader_address, &follower_address),
        ] {
            let mut setup = Setup::new(leads, own, other);
            setup.breaks = breaks;
            let (admin, ..) = setup.admin();
            tasks.spawn(admin::server::serve(
                listener,
                admin::router(admin),
                until.clone(),
            ));
        }
        Self {
            follower: follower_address,
            leader: leader_address,
            until,
            tasks,
        }
    }

    /// A client that knows the follower only.
    fn by_follower(&self, token: &str) -> Leader {
        Leader::new(
            vec![self.follower.clone()],
            Some(token.to_owned()),
            Duration::from_secs(10),
        )
        .unwrap()
    }

    async fn stop(mut self) {
        self.until.request();
        while self.tasks.join_next().await.is_some() {}
    }
}

#[tokio::test]
async fn file_goes_to_the_leader_and_comes_back() {
    let group = Group::start(0).await;
    let leader = group.by_follower(TOKEN);
    let dir = tempfile::tempdir().unwrap();
    let (source, copy) = (dir.path().join("source"), dir.path().join("copy"));
    let content: Vec<u8> = (0..3_000_000_u32).map(|index| index.to_le_bytes()[1]).collect();
    fs::write(&source, &content).unwrap();
    let info = put(&leader, &source, "boot/a b").await.unwrap();
    assert_eq!((info.path.as_str(), info.size), ("boot/a b", 3_000_000));
    get_into_file(&leader, "boot/a b", &copy).await.unwrap();
    assert_eq!(fs::read(&copy).unwrap(), content);
    remove(&leader, "boot/a b").await.unwrap();
    let error = get_into_file(&leader, "boot/a b", &copy).await.unwrap_err();
    assert!(
        format!("{error:#}").contains("there is no file `boot/a b`"),
        "{error:#}"
    );
    assert_eq!(fs::read(&copy).unwrap(), content, "what was there stays");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "nothing is left behind"
    );
    group.stop().await;
}

#[tokio::test]
async fn follower_asked_by_mistake_leads_to_the_leader() {
    let group = Group::start(0).await;
    let follower = AdminClient::new(group.follower.as_str(), Some(TOKEN.to_owned())).unwrap();
    let outcome = follower.remove_file("a").await;
    assert!(
        matches!(&outcome, Err(ClientError::NotLeader { leader: Some(leader), .. }) if *leader == group.leader),
        "{outcome:?}"
    );
    group.stop().await;
}

#[tokio::test]
async fn broken_download_goes_on_where_it_stopped() {
    let group = Group::start(3).await;
    let leader = group.by_follower(TOKEN);
    let dir = tempfile::tempdir().unwrap();
    let (source, copy) = (dir.path().join("source"), dir.path().join("copy"));
    // More than any buffer on the way holds, so that the first half arrives before the end is known.
    let content: Vec<u8> = (0..12_000_000_u32).map(|index| index.to_le_bytes()[1]).collect();
    fs::write(&source, &content).unwrap();
    put(&leader, &source, "a").await.unwrap();
    get_into_file(&leader, "a", &copy).await.unwrap();
    assert!(fs::read(&copy).unwrap() == content, "every byte once, in order");
    group.stop().await;
}

#[tokio::test]
async fn wrong_token_is_said_even_for_a_large_body() {
    let group = Group::start(0).await;
    // Not through `Leader`, which would repeat what ended with a broken connection.
    let client = AdminClient::new(group.leader.as_str(), Some("wrong".to_owned())).unwrap();
    let piece = bytes::Bytes::from(vec![7; 1_000_000]);
    let body = stream::iter((0..64).map(move |_| Ok(piece.clone())));
    let outcome = client.put_file("a", 64_000_000, body).await;
    assert!(
        matches!(&outcome, Err(ClientError::Refused { status, .. }) if *status == reqwest::StatusCode::UNAUTHORIZED),
        "{outcome:?}"
    );
    group.stop().await;
}

#[tokio::test]
async fn without_a_leader_the_command_gives_up_and_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let leader = Leader::new(vec![address.clone()], None, Duration::ZERO).unwrap();
    let error = remove(&leader, "a").await.unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("no leader served the request within 0 s") && text.contains(&address),
        "{text}"
    );
}

#[test]
fn changed_file_is_not_mixed_with_the_former_one() {
    let mut arriving = Arriving {
        out: Box::new(Vec::new()),
        written: 0,
        tag: None,
    };
    assert_eq!(arriving.resume(Some("\"1\"".to_owned())).unwrap(), 0);
    arriving.write(b"abc").unwrap();
    assert_eq!(arriving.resume(Some("\"1\"".to_owned())).unwrap(), 3);
    assert!(
        arriving
            .resume(Some("\"2\"".to_owned()))
            .unwrap_err()
            .to_string()
            .contains("changed")
    );
}

#[test]
fn import_finds_files_in_all_depths_and_follows_no_links() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("x/y")).unwrap();
    fs::write(dir.path().join("x/y/b"), "").unwrap();
    fs::write(dir.path().join("a"), "").unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("x/etc")).unwrap();
    let found = walk(dir.path()).unwrap();
    let names: Vec<&str> = found.files.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["a", "x/y/b"]);
    assert_eq!(found.skipped, [dir.path().join("x/etc")]);
}

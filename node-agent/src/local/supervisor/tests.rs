use std::fs;

use super::*;

/// A stand-in for the agent: a shell script.
fn program(dir: &Path, script: &str) -> Program {
    Program {
        name: "tftp-0".to_owned(),
        file: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        log: dir.join("log"),
        socket: std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        prepare: Box::new(|| Ok(())),
    }
}

async fn next(events: &mut mpsc::UnboundedReceiver<Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(20), events.recv())
        .await
        .unwrap()
        .unwrap()
}

async fn started(events: &mut mpsc::UnboundedReceiver<Event>) -> u32 {
    match next(events).await {
        Event::Started { pid, .. } => pid,
        other => panic!("{other:?}"),
    }
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn pauses_double_while_it_keeps_dying_and_are_short_again_after_a_life() {
    let mut backoff = Backoff::default();
    let soon = Duration::from_secs(1);
    let pauses: Vec<u128> = (0..40).map(|_| backoff.after_life_of(soon).as_millis()).collect();
    assert_eq!(pauses[..6], [500, 1000, 2000, 4000, 8000, 8000]);
    assert_eq!(pauses[39], 8000);
    assert_eq!(backoff.after_life_of(QUICK_DEATH).as_millis(), 500);
    assert_eq!(backoff.after_life_of(soon).as_millis(), 1000);
}

#[tokio::test]
async fn killed_member_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    let member = Supervised::start(program(dir.path(), "exec sleep 60"), sender);
    let first = started(&mut events).await;
    kill(first);
    let Event::Died {
        how, restart_after, ..
    } = next(&mut events).await
    else {
        panic!("not dead");
    };
    assert!(how.contains("SIGKILL"), "{how}");
    assert_eq!(restart_after, RESTART_PAUSE);
    let second = started(&mut events).await;
    assert_ne!(first, second);
    member.stop().await;
    assert_eq!(
        next(&mut events).await,
        Event::Stopped {
            name: "tftp-0".to_owned()
        }
    );
    assert!(!Path::new(&format!("/proc/{second}")).exists());
}

#[tokio::test]
async fn last_words_of_a_member_that_cannot_start_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    let script = "echo '{\"level\":\"INFO\"}' >&2; echo 'the disk is full' >&2; exit 3";
    let member = Supervised::start(program(dir.path(), script), sender);
    started(&mut events).await;
    let Event::Died { how, .. } = next(&mut events).await else {
        panic!("not dead");
    };
    assert_eq!(how, "ended (exit status: 3): the disk is full");
    member.stop().await;
}

#[tokio::test]
async fn program_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut missing = program(dir.path(), "");
    missing.file = "/nonexistent/agent".into();
    let member = Supervised::start(missing, sender);
    let Event::Died { how, .. } = next(&mut events).await else {
        panic!("not dead");
    };
    assert!(how.contains("running /nonexistent/agent"), "{how}");
    member.stop().await;
}

/// Waits until the script has written this file.
async fn written(path: &Path) -> String {
    let appears = async {
        loop {
            match fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), appears)
        .await
        .unwrap()
}

#[tokio::test]
async fn member_gets_the_socket_as_descriptor_3_and_a_process_group_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    let script = "echo \"$LISTEN_FDS ${LISTEN_PID-unset} $(readlink /proc/$$/fd/3) $(cut -d' ' -f5 /proc/$$/stat)\"; exec sleep 60";
    let program = program(dir.path(), script);
    let inode = {
        use std::os::fd::AsRawFd;
        fs::read_link(format!("/proc/self/fd/{}", program.socket.as_raw_fd())).unwrap()
    };
    let member = Supervised::start(program, sender);
    let pid = started(&mut events).await;
    assert_eq!(
        written(&dir.path().join("log")).await,
        format!("1 unset {} {pid}\n", inode.display())
    );
    member.stop().await;
}

#[tokio::test]
async fn member_that_ignores_sigterm_is_killed_when_ordered() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    let script = "trap 'echo ignored' TERM; echo on; while :; do sleep 0.05; done";
    let member = Supervised::start(program(dir.path(), script), sender);
    let pid = started(&mut events).await;
    let log = dir.path().join("log");
    assert_eq!(written(&log).await, "on\n");
    let orders = member.orders();
    let killed = async {
        while !written(&log).await.contains("ignored") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        orders.send_replace(Order::Kill);
    };
    tokio::time::timeout(Duration::from_secs(9), async {
        tokio::join!(member.stop(), killed)
    })
    .await
    .unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn member_that_is_paused_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    // As the agent does, it handles the signal; without a handler it would die at once, paused or not.
    let script = "trap 'exit 0' TERM; echo on; while :; do sleep 0.05; done";
    let member = Supervised::start(program(dir.path(), script), sender);
    let pid = started(&mut events).await;
    assert_eq!(written(&dir.path().join("log")).await, "on\n");
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::STOP).unwrap();
    tokio::time::timeout(Duration::from_secs(9), member.stop())
        .await
        .unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn standard_input_of_a_member_ends_with_its_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut program = program(dir.path(), "exec cat");
    let mut child = spawn(&program).unwrap();
    let stdin = child.stdin.take();
    assert!(child.try_wait().unwrap().is_none());
    drop(stdin);
    let status = tokio::time::timeout(Duration::from_secs(20), child.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(status.success());
    // And it is held while the supervisor lives: `cat` is ended by `timeout` (124), not by the end of its input (0).
    program.arguments = vec![
        "-c".into(),
        "timeout 0.3 cat; echo \"status $?\"; exec sleep 60".into(),
    ];
    let member = Supervised::start(program, sender);
    started(&mut events).await;
    assert_eq!(written(&dir.path().join("log")).await, "status 124\n");
    member.stop().await;
}

//! Volumes, and pods without their StatefulSet.

use super::*;

/// What the plan says of volumes, with a `storage.size`.
fn sized(size: &str, change: impl FnOnce(&mut World)) -> Plan {
    let mut world = World::new(3);
    world.service = service(serde_json::json!({"storage": {"size": size}}));
    change(&mut world);
    plan(&world.service, &world.observed)
}

#[test]
fn volumes_grow_and_do_not_shrink() {
    let grows = Action::GrowVolumes {
        uid: "set".to_owned(),
        pods: 3,
        size: "3Gi".to_owned(),
    };
    assert_eq!(sized("3Gi", |_| {}).action, grows);
    // The same amount in other words.
    assert_eq!(sized("2048Mi", |_| {}).progress, Progress::Complete);
    let halted = sized("1Gi", |_| {});
    assert_eq!(halted.action, Action::Nothing);
    assert!(
        matches!(halted.progress, Progress::Halted("VolumesCannotShrink", _)),
        "{halted:?}"
    );
}

#[test]
fn volumes_wait_for_an_upgrade_and_for_the_old_stateful_set() {
    let upgrade = sized("3Gi", |world| {
        world.observed.stateful_set.as_mut().unwrap().update_revision = Some("b".to_owned());
    });
    assert!(
        !matches!(upgrade.action, Action::GrowVolumes { .. }),
        "{upgrade:?}"
    );
    let waiting = sized("3Gi", |world| {
        world.observed.stateful_set.as_mut().unwrap().is_terminating = true;
    });
    assert_eq!(waiting.action, Action::Nothing);
    assert!(
        matches!(waiting.progress, Progress::Moving("GrowingVolumes", _)),
        "{waiting:?}"
    );
}

#[test]
fn pods_of_a_deleted_stateful_set_stay_until_their_members_have_left() {
    let mut world = World::new(5);
    world.service = service(serde_json::json!({"replicas": 3}));
    world.observed.stateful_set = None;
    assert_eq!(plan(&world.service, &world.observed).pods, 5);
}

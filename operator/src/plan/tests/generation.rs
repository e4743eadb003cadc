//! A change is not complete before it began.

use super::*;

fn set(world: &mut World) -> &mut StatefulSet {
    world.observed.stateful_set.as_mut().unwrap()
}

#[test]
fn group_is_not_complete_before_its_pods_template_is_of_the_newest_generation() {
    let mut world = World::new(3);
    world.service.generation = Some(2);
    let progress = |world: &World| plan(&world.service, &world.observed).progress;
    // The template is still that of the specification before; then its controller has not seen the new one.
    for (of_generation, revision) in [(Some(1), Some("a")), (None, Some("a")), (Some(2), None)] {
        let set = set(&mut world);
        (set.of_generation, set.update_revision) = (of_generation, revision.map(str::to_owned));
        assert!(matches!(progress(&world), Progress::Moving("Upgrading", _)));
    }
    set(&mut world).update_revision = Some("b".to_owned());
    assert!(matches!(progress(&world), Progress::Moving("Upgrading", _)));
    set(&mut world).update_revision = Some("a".to_owned());
    assert_eq!(progress(&world), Progress::Complete);
}

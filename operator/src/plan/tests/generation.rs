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

#[test]
fn certificates_that_are_replaced_replace_pods_and_the_first_ones_do_not() {
    let hash = |text: &str| Some(text.to_owned());
    let none = Certificates::default();
    // A group of an operator that did not look at them.
    let first = none.after(hash("a").as_ref());
    assert_eq!((&first.seen, &first.pods), (&hash("a"), &None));
    assert_eq!(first.after(hash("a").as_ref()), first);
    let second = first.after(hash("b").as_ref());
    assert_eq!((&second.seen, &second.pods), (&hash("b"), &hash("b")));
    assert_eq!(second.after(hash("b").as_ref()), second);
    // Nothing is known while a Secret is missing.
    assert_eq!(second.after(None), second);
    let back = second.after(hash("a").as_ref());
    assert_eq!(back.pods, hash("a"));
}

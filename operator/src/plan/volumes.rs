//! Volumes that are to have another size. They can grow, and never shrink.

use super::{Action, Observed, Progress};
use crate::validate::{Storage, Validated};

/// What the volumes need; none when they have the size that the resource asks for. A group that is being scaled or
/// upgraded is finished first.
pub(super) fn next(service: &Validated, observed: &Observed) -> Option<(Action, Progress)> {
    let Storage::Persistent {
        bytes: wanted, size, ..
    } = &service.storage
    else {
        return None;
    };
    let Some(found) = &observed.stateful_set else {
        return None;
    };
    if found.is_terminating {
        let why = "the StatefulSet is made anew around its running pods, with larger volumes";
        return Some((
            Action::Nothing,
            Progress::Moving("GrowingVolumes", why.to_owned()),
        ));
    }
    let there = found.volume_size.as_ref()?;
    let bytes = there.bytes()?;
    if bytes > *wanted {
        let why = format!(
            "volumes cannot shrink: `storage.size` is {}, and they have {}; set it to that or more",
            size.0, there.0
        );
        return Some((Action::Nothing, Progress::Halted("VolumesCannotShrink", why)));
    }
    if bytes == *wanted || found.replicas != service.replicas {
        return None;
    }
    let action = Action::GrowVolumes {
        uid: found.uid.clone(),
        pods: found.replicas,
        size: size.0.clone(),
    };
    let why = format!("the volumes grow from {} to {}", there.0, size.0);
    Some((action, Progress::Moving("GrowingVolumes", why)))
}

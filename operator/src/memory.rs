//! What the operator remembers of each resource between two rounds. All of it may be lost at any time: a restarted
//! operator finds everything again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use operator_api::LeaderEpoch;
use operator_api::membership::{Initialization, Offer};
use operator_api::resources::GroupStatus;
use tokio::time::Instant;

use crate::plan::Progress;
use crate::validate::IpFamily;

/// An object's kind and name.
pub(crate) type ChildKey = (String, String);

/// Of one resource.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// What was applied last: a hash of it, and the version that the API server answered with.
    pub applied: BTreeMap<ChildKey, Applied>,
    /// The identity that was made last and not yet handed over.
    pub offer: Option<Offer>,
    /// The group's token and mark, once read.
    pub secret: Option<(String, Initialization)>,
    /// What the certificates between members wait for, if for anything, and when they were last looked at.
    pub renewal: Option<(Option<String>, Instant)>,
    /// A hash of the certificates that others keep, and when it was made.
    pub certificates: Option<(Option<String>, Instant)>,
    /// The configuration whose forerunners were deleted.
    pub pruned_for: Option<String>,
    /// Since when a slice has not been right.
    pub slices_wrong_since: BTreeMap<IpFamily, Instant>,
    /// Since when a slice has claimed a later leader than this one, which serves.
    pub slices_ahead_since: BTreeMap<IpFamily, (LeaderEpoch, Instant)>,
    /// What was last written as status, and when.
    pub status: Option<(GroupStatus, Instant)>,
    /// Where the group stood, and since when.
    pub progress: Option<(Progress, Instant)>,
    /// Rounds that failed in a row.
    pub failures: u32,
    /// The last complaint, so that it is not repeated every second.
    pub complaint: String,
}

/// What was applied of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    /// A hash of the object as it was sent.
    pub hash: [u8; 32],
    /// Its version afterwards.
    pub version: String,
}

/// Of every resource, by UID.
#[derive(Debug, Default)]
pub(crate) struct Memories {
    entries: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    memory: Arc<tokio::sync::Mutex<Memory>>,
    seen: Seen,
}

/// What was seen of a resource's children since the last round.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Versions; none of those that are gone.
    versions: BTreeMap<ChildKey, Option<String>>,
    /// Whether a watch began anew, and may have missed something.
    is_incomplete: bool,
}

impl Memories {
    /// The memory of a resource, with the versions of its children that were seen since it was last taken.
    pub(crate) fn take(&self, uid: &str) -> (Arc<tokio::sync::Mutex<Memory>>, Seen) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(uid.to_owned()).or_default();
        (Arc::clone(&entry.memory), std::mem::take(&mut entry.seen))
    }

    /// Notes what a watch tells of children.
    pub(crate) fn saw<K>(&self, event: &watcher::Event<K>)
    where
        K: Resource<DynamicType = ()>,
    {
        match event {
            watcher::Event::Apply(child) | watcher::Event::InitApply(child) => {
                self.note(child, Some(version(child)));
            }
            watcher::Event::Delete(child) => self.note(child, None),
            watcher::Event::Init => {
                let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
                for entry in entries.values_mut() {
                    entry.seen.is_incomplete = true;
                }
            }
            watcher::Event::InitDone => {}
        }
    }

    fn note<K>(&self, child: &K, version: Option<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        let key = (K::kind(&()).into_owned(), child.name_any());
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for owner in child.owner_references() {
            // Only of resources that are being looked after: their first round applies everything anyway.
            if let Some(entry) = entries.get_mut(&owner.uid) {
                entry.seen.versions.insert(key.clone(), version.clone());
            }
        }
    }

    /// Forgets the resources that are gone.
    pub(crate) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|uid, _| is_there(uid));
    }
}

impl Memory {
    /// Forgets to have applied what is not as it was applied any more.
    pub(crate) fn notice(&mut self, seen: Seen) {
        if seen.is_incomplete {
            self.applied.clear();
        }
        for (key, version) in seen.versions {
            if self
                .applied
                .get(&key)
                .is_some_and(|applied| Some(&applied.version) != version.as_ref())
            {
                self.applied.remove(&key);
            }
        }
    }

    /// How long ago the group's standing changed.
    pub(crate) fn stands_since(&mut self, progress: &Progress, now: Instant) -> Duration {
        match &self.progress {
            Some((known, since)) if known == progress => now - *since,
            _ => {
                self.progress = Some((progress.clone(), now));
                Duration::ZERO
            }
        }
    }
}

/// What changes when somebody changes what an object is to be. Status has no generation, where there is one.
pub(crate) fn version<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    match meta.generation {
        Some(generation) if generation > 0 => generation.to_string(),
        _ => meta.resource_version.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;

    use super::*;

    fn child(generation: i64, resource_version: &str) -> PodDisruptionBudget {
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "boot", "generation": generation, "resourceVersion": resource_version,
                "ownerReferences": [{"apiVersion": "v", "kind": "K", "name": "boot", "uid": "1"}],
            }
        }))
        .unwrap()
    }

    /// Whether the object is still taken for applied after an event.
    fn is_applied_after(event: &watcher::Event<PodDisruptionBudget>) -> bool {
        let memories = Memories::default();
        let key = ("PodDisruptionBudget".to_owned(), "boot".to_owned());
        let (memory, _) = memories.take("1");
        let mut memory = memory.try_lock().unwrap();
        let applied = Applied {
            hash: [0; 32],
            version: version(&child(3, "100")),
        };
        memory.applied.insert(key.clone(), applied);
        memories.saw(event);
        let (_, seen) = memories.take("1");
        memory.notice(seen);
        memory.applied.contains_key(&key)
    }

    #[test]
    fn changed_and_deleted_objects_are_applied_again() {
        use watcher::Event;
        // Its status changed: nothing of ours.
        assert!(is_applied_after(&Event::Apply(child(3, "101"))));
        assert!(!is_applied_after(&Event::Apply(child(4, "101"))));
        assert!(!is_applied_after(&Event::Delete(child(3, "101"))));
        // The watch begins anew: what was deleted meanwhile is not told.
        assert!(!is_applied_after(&Event::Init));
    }
}

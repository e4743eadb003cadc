//! What is to be put and removed so that the group has what a source has. Pure.

use std::collections::BTreeMap;

use tftp::path::FilePath;
use tftp::state::ContentHash;

/// What a source has: names, each with its content, or without where that is not known yet.
pub(super) type Wanted = BTreeMap<FilePath, Option<ContentHash>>;

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Files to put.
    pub put: Vec<(FilePath, ContentHash)>,
    /// Files to remove.
    pub remove: Vec<FilePath>,
    /// Files that stay as somebody else put them.
    pub kept: Vec<FilePath>,
    /// Whether some files are not known well enough yet.
    pub waits: bool,
}

/// Decides what to do, given the files that came from the source, and which files are others'.
pub(super) fn plan(
    wanted: &Wanted,
    own: &BTreeMap<FilePath, ContentHash>,
    is_of_another: impl Fn(&FilePath) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    for (path, content) in wanted {
        if is_of_another(path) {
            plan.kept.push(path.clone());
            continue;
        }
        match content {
            Some(content) if own.get(path) != Some(content) => plan.put.push((path.clone(), *content)),
            Some(_) => {}
            None => plan.waits = true,
        }
    }
    plan.remove = own
        .keys()
        .filter(|path| !wanted.contains_key(*path))
        .cloned()
        .collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> FilePath {
        FilePath::try_new(name).unwrap()
    }

    const fn hash(byte: u8) -> ContentHash {
        ContentHash([byte; 32])
    }

    #[test]
    fn group_gets_what_the_source_has() {
        let wanted = Wanted::from([
            (path("new"), Some(hash(1))),
            (path("changed"), Some(hash(2))),
            (path("same"), Some(hash(3))),
            (path("unknown yet"), None),
            (path("changing"), None),
            (path("by hand"), Some(hash(4))),
        ]);
        let own = BTreeMap::from([
            (path("changed"), hash(9)),
            (path("same"), hash(3)),
            (path("changing"), hash(5)),
            (path("gone"), hash(6)),
        ]);
        let found = plan(&wanted, &own, |other| *other == path("by hand"));
        assert_eq!(
            found,
            Plan {
                put: vec![(path("changed"), hash(2)), (path("new"), hash(1))],
                remove: vec![path("gone")],
                kept: vec![path("by hand")],
                waits: true,
            }
        );
    }

    #[test]
    fn nothing_to_do_is_nothing_done() {
        let own = BTreeMap::from([(path("a"), hash(1))]);
        let wanted = Wanted::from([(path("a"), Some(hash(1)))]);
        assert_eq!(plan(&wanted, &own, |_| false), Plan::default());
    }
}

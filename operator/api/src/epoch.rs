//! Which leader of a group a published address belongs to.

use std::fmt;
use std::str::FromStr;

/// The annotation of the leader's EndpointSlices that holds the [`LeaderEpoch`]. It never falls: the admission policy
/// refuses it, and a leader that finds a higher one than its own writes nothing.
pub const LEADER_EPOCH_ANNOTATION: &str = "quorate.dev/leader-epoch";

/// The field manager of what members write into Kubernetes.
pub const AGENT_FIELD_MANAGER: &str = "quorate-agent";

/// A leader of a group. Of two leaders the later one has the greater epoch: compared as numbers, the term first.
///
/// Written `<term>.<node id>`. The term alone would not do: a vote orders the candidates of one term by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaderEpoch {
    /// The Raft term.
    pub term: u64,
    /// The leader's node id.
    pub node_id: u64,
}

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.node_id)
    }
}

/// Text that is no epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnEpoch;

impl FromStr for LeaderEpoch {
    type Err = NotAnEpoch;

    fn from_str(text: &str) -> Result<Self, NotAnEpoch> {
        let (term, node_id) = text.split_once('.').ok_or(NotAnEpoch)?;
        let number = |digits: &str| digits.parse().map_err(|_| NotAnEpoch);
        Ok(Self {
            term: number(term)?,
            node_id: number(node_id)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(text: &str) -> LeaderEpoch {
        text.parse().unwrap()
    }

    #[test]
    fn epochs_are_compared_as_numbers() {
        assert!(epoch("10.3") > epoch("9.5"));
        assert!(epoch("9.5") > epoch("9.4"));
        assert!(epoch("9.10") > epoch("9.9"));
    }

    #[test]
    fn text_and_epoch_are_inverse() {
        assert_eq!(epoch("12.7").to_string(), "12.7");
        for wrong in ["", "1", "1.", ".1", "1.2.3", "a.1", "-1.1", "1.1 "] {
            assert_eq!(wrong.parse::<LeaderEpoch>(), Err(NotAnEpoch), "{wrong}");
        }
    }
}

//! How well a node keeps its executors within their bounds: the levels, and what a node reports.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reason::closed_list;

closed_list! {
    /// What bounds an executor's CPU and memory from outside, the weakest first; levels compare by
    /// strength.
    #[derive(Default)]
    OuterLimit {
        /// Resource limits, CPU affinity and a watchdog in the node.
        #[default]
        Process = "process",
        /// A control group of the first version.
        CgroupV1 = "cgroup_v1",
        /// A control group of the second version.
        CgroupV2 = "cgroup_v2",
    }
}

/// What stands around the executors of a node beside the sandbox itself, as the node measured it
/// when it started. The default is the weakest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "Told")]
pub struct Isolation {
    /// What bounds CPU and memory.
    pub outer_limit: OuterLimit,
    /// Whether an allow list bounds the system calls.
    pub seccomp: bool,
    /// Version of the kernel's file rules (Landlock) in force; 0 if there are none.
    pub landlock_abi: u32,
    /// Whether executors run under a user id of their own.
    pub own_uid: bool,
}

impl Isolation {
    /// The level that jobs and zones can count on: the outer limit, where executors are confined by a list
    /// of system calls and by file rules too. `None` is weak isolation: one of these is missing, and
    /// nobody who requires a level gets it here.
    pub fn level(&self) -> Option<OuterLimit> {
        self.lacks().is_empty().then_some(self.outer_limit)
    }

    /// What is missing for a level.
    pub fn lacks(&self) -> Vec<&'static str> {
        let missing = [(!self.seccomp, "seccomp"), (self.landlock_abi == 0, "landlock")];
        missing.into_iter().filter_map(|(lacks, what)| lacks.then_some(what)).collect()
    }

    /// One line for people: whether it is weak, the outer limit, then what else is in force.
    pub fn summary(&self) -> String {
        let mut words = vec![self.outer_limit.to_string()];
        if self.level().is_none() {
            words.insert(0, "weak".to_owned());
        }
        words.extend(self.seccomp.then(|| "seccomp".to_owned()));
        words.extend((self.landlock_abi > 0).then(|| format!("landlock {}", self.landlock_abi)));
        words.extend(self.own_uid.then(|| "own uid".to_owned()));
        words.join(", ")
    }
}

/// What a node may have said of itself: nodes of before the levels sent one word, and nodes to come
/// may name levels that this build does not know. What is not known counts as the weakest.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "IsolationTold")]
enum Told {
    /// Each by its name; what is absent counts as not in force.
    Fields {
        #[serde(default)]
        outer_limit: String,
        #[serde(default)]
        seccomp: bool,
        #[serde(default)]
        landlock_abi: u32,
        #[serde(default)]
        own_uid: bool,
    },
    /// The outer limit alone, the form of old nodes.
    Word(String),
}

impl From<Told> for Isolation {
    fn from(told: Told) -> Self {
        let level = |word: &str| word.parse().unwrap_or_default();
        match told {
            Told::Fields { outer_limit, seccomp, landlock_abi, own_uid } => {
                Self { outer_limit: level(&outer_limit), seccomp, landlock_abi, own_uid }
            }
            Told::Word(word) => Self { outer_limit: level(&word), ..Self::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_compare_by_strength_and_the_default_is_the_weakest() {
        assert!(OuterLimit::Process < OuterLimit::CgroupV1 && OuterLimit::CgroupV1 < OuterLimit::CgroupV2);
        assert_eq!(OuterLimit::ALL.iter().min(), Some(&OuterLimit::default()));
        assert_eq!(Isolation::default().summary(), "weak, process");
    }

    #[test]
    fn a_level_counts_only_with_both_mechanisms_inside_it() {
        let all = Isolation { seccomp: true, landlock_abi: 1, ..Isolation::default() };
        assert_eq!((all.level(), all.lacks()), (Some(OuterLimit::Process), vec![]));
        let without_files = Isolation { landlock_abi: 0, outer_limit: OuterLimit::CgroupV2, ..all };
        assert_eq!((without_files.level(), without_files.lacks()), (None, vec!["landlock"]));
        assert_eq!(without_files.summary(), "weak, cgroup_v2, seccomp");
        assert_eq!(Isolation::default().lacks(), ["seccomp", "landlock"]);
    }

    #[test]
    fn what_a_node_reports_comes_back_as_it_was() {
        let all =
            Isolation { outer_limit: OuterLimit::CgroupV2, seccomp: true, landlock_abi: 4, own_uid: true };
        let text = serde_json::to_string(&all).expect("isolation is JSON");
        assert_eq!(serde_json::from_str::<Isolation>(&text).expect("its own text"), all);
        assert_eq!(all.summary(), "cgroup_v2, seccomp, landlock 4, own uid");
    }

    #[test]
    fn a_word_and_unknown_levels_and_fields_are_read_as_the_weakest() {
        let read = |text| serde_json::from_str::<Isolation>(text).expect("a readable report");
        assert_eq!(read(r#""process""#), Isolation::default());
        assert_eq!(read(r#""none""#), Isolation::default());
        let later = read(r#"{"outer_limit":"microvm","seccomp":true,"more":1}"#);
        assert_eq!(later, Isolation { seccomp: true, ..Isolation::default() });
        assert_eq!(read("{}"), Isolation::default());
    }
}

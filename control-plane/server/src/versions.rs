//! The order of a module's versions, and the one that stands for all.

use std::cmp::Ordering;

use gristmill_protocol::{Timestamp, module::is_build_version};
use semver::Version;

/// What the order of versions depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) version: &'a str,
    pub(crate) is_deprecated: bool,
    pub(crate) created_at: Timestamp,
}

/// Newest first: versions that somebody named by their precedence (Semantic Versioning 2.0.0, section
/// 11), those that differ in build metadata alone by the time at which they came; then builds that are
/// named after their digest, by that time too.
pub(crate) fn newest_first(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    let came = || (b.created_at, b.version).cmp(&(a.created_at, a.version));
    match (is_build_version(a.version), is_build_version(b.version)) {
        (false, true) => Ordering::Less,
        (true, false) => Ordering::Greater,
        (true, true) => came(),
        (false, false) => match (Version::parse(a.version), Version::parse(b.version)) {
            (Ok(a), Ok(b)) => b.cmp_precedence(&a).then_with(came),
            (a, b) => b.is_ok().cmp(&a.is_ok()).then_with(came),
        },
    }
}

/// The one that stands for all: the highest that is neither deprecated nor a pre-release; a
/// pre-release only if there is nothing else. The newest build that is named after its digest, only if
/// nobody ever named a version: to deprecate one never brings such a build back.
pub(crate) fn latest<'a>(candidates: &[Candidate<'a>]) -> Option<&'a str> {
    let rank = |candidate: &Candidate<'_>| match Version::parse(candidate.version) {
        _ if is_build_version(candidate.version) => 0,
        Ok(version) if version.pre.is_empty() => 2,
        _ => 1,
    };
    let highest = candidates.iter().map(rank).max()?;
    let least = highest.min(1);
    let mut usable: Vec<_> =
        candidates.iter().filter(|candidate| !candidate.is_deprecated && rank(candidate) >= least).collect();
    usable.sort_by(|a, b| rank(b).cmp(&rank(a)).then_with(|| newest_first(a, b)));
    usable.first().map(|candidate| candidate.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0.0.0-sha256-ffffffffffffffff";
    const NEW: &str = "0.0.0-sha256-0000000000000000";

    /// Candidates published one second after the other.
    fn of(versions: &[(&'static str, bool)]) -> Vec<Candidate<'static>> {
        let at = |second| Timestamp::from_second(second).expect("in range");
        (0..)
            .zip(versions)
            .map(|(second, &(version, is_deprecated))| Candidate {
                version,
                is_deprecated,
                created_at: at(second),
            })
            .collect()
    }

    #[test]
    fn latest_is_the_highest_release_that_is_not_deprecated() {
        let latest = |versions: &[(&'static str, bool)]| latest(&of(versions));
        assert_eq!(latest(&[("1.9.0", false), ("1.10.0", false), ("2.0.0-rc.1", false)]), Some("1.10.0"));
        assert_eq!(latest(&[("1.9.0", false), ("1.10.0", true)]), Some("1.9.0"));
        assert_eq!(latest(&[("2.0.0-rc.1", false), ("2.0.0-rc.2", false)]), Some("2.0.0-rc.2"));
        assert_eq!(latest(&[("1.0.0", true), ("2.0.0-rc.1", false)]), Some("2.0.0-rc.1"));
        assert_eq!(latest(&[("1.0.0", true)]), None);
        assert_eq!(latest(&[]), None);
    }

    #[test]
    fn build_metadata_has_no_precedence_so_what_came_last_stands_for_both() {
        let latest = |versions: &[(&'static str, bool)]| latest(&of(versions));
        assert_eq!(latest(&[("1.2.3+b", false), ("1.2.3+a", false)]), Some("1.2.3+a"));
        assert_eq!(latest(&[("1.2.3+z", false), ("1.2.3", false)]), Some("1.2.3"));
        assert_eq!(latest(&[("1.2.4", false), ("1.2.3+z", false)]), Some("1.2.4"));
    }

    #[test]
    fn builds_named_after_their_digest_stand_for_a_module_only_alone_and_by_their_age() {
        let latest = |versions: &[(&'static str, bool)]| latest(&of(versions));
        assert_eq!(latest(&[(OLD, false), (NEW, false)]), Some(NEW));
        assert_eq!(latest(&[(OLD, false), (NEW, true)]), Some(OLD));
        assert_eq!(latest(&[("0.1.0-rc.1", false), (NEW, false)]), Some("0.1.0-rc.1"));
        assert_eq!(latest(&[("1.0.0", true), (NEW, false)]), None, "nobody asked for that build");
    }

    #[test]
    fn versions_come_newest_first() {
        let mut all = of(&[(OLD, false), ("1.9.0", false), (NEW, false), ("1.10.0", false)]);
        all.sort_by(newest_first);
        let order: Vec<_> = all.iter().map(|candidate| candidate.version).collect();
        assert_eq!(order, ["1.10.0", "1.9.0", NEW, OLD]);
    }
}

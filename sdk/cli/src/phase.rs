//! What a node does for a job, as people read it.

use gristmill_protocol::{Timestamp, WorkPhase};

/// The phase, and for how long it has lasted if the node has said it: `compiling 12 s`.
pub(crate) fn text(phase: Option<WorkPhase>, since: Option<Timestamp>) -> Option<String> {
    text_at(phase, since, Timestamp::now())
}

fn text_at(phase: Option<WorkPhase>, since: Option<Timestamp>, now: Timestamp) -> Option<String> {
    let phase = phase?;
    Some(match since {
        Some(since) => format!("{phase} {}", lasted(since, now)),
        None => phase.to_string(),
    })
}

/// For how long a phase has lasted that began at `since`, in whole seconds.
pub(crate) fn lasted(since: Timestamp, now: Timestamp) -> String {
    // The times are the server's; a clock here that is behind must not make it negative.
    match now.duration_since(since).as_secs().max(0) {
        seconds @ ..120 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_that_was_told_has_its_duration() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        let compiling = |since, now| text_at(Some(WorkPhase::Compiling), since, now);
        assert_eq!(compiling(Some(at(100)), at(112)).as_deref(), Some("compiling 12 s"));
        assert_eq!(compiling(Some(at(100)), at(300)).as_deref(), Some("compiling 3 min 20 s"));
        assert_eq!(compiling(Some(at(100)), at(50)).as_deref(), Some("compiling 0 s"));
        assert_eq!(compiling(None, at(1)).as_deref(), Some("compiling"));
        assert_eq!(text_at(None, None, at(1)), None);
    }
}

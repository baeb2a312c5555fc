//! Compilations that failed, so that a module at fault is not compiled again and again, also not after
//! a restart of the node.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use gristmill_protocol::{Limits, Outcome, Reason, Usage};
use serde::{Deserialize, Serialize};

use crate::state::write_private;

/// Modules whose compilation failed that are remembered; the oldest verdict makes room for a new one.
const VERDICTS_MAX: usize = 1_000;
/// Largest file of verdicts that is read.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// How long a verdict holds. The machine may have had a bad day, and time and memory depend on it.
const LASTING: Duration = Duration::from_hours(24);

/// A compilation that failed under these limits fails again under the same or smaller ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Verdict {
    /// The name of the code: module, engine and class.
    key: String,
    outcome: Outcome,
    time_ms: u64,
    memory_bytes: u64,
    /// Seconds since 1970.
    noted_at: u64,
}

/// What is remembered of compilations that failed, oldest first.
pub(crate) struct Verdicts {
    file: PathBuf,
    noted: Mutex<Vec<Verdict>>,
}

impl Verdict {
    fn holds_for(&self, limits: &Limits) -> bool {
        let is_recent = now().saturating_sub(self.noted_at) < LASTING.as_secs();
        is_recent
            && match self.outcome.reason {
                Some(Reason::CompileTimeout) => limits.compile_time_ms <= self.time_ms,
                Some(Reason::CompileMemory) => limits.compile_memory_bytes <= self.memory_bytes,
                _ => true,
            }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Verdicts {
    /// Reads what is remembered in `file`, as far as there is something. Blocks.
    pub(crate) fn open(file: PathBuf) -> Self {
        let noted = read(&file).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, "what was remembered of failed compilations cannot be read");
            }
            Vec::new()
        });
        Self { file, noted: Mutex::new(noted) }
    }

    /// The outcome of an earlier compilation that holds for these limits too.
    pub(crate) fn remembered(&self, key: &str, limits: &Limits) -> Option<Outcome> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = noted.iter().rfind(|verdict| verdict.key == key && verdict.holds_for(limits))?;
        Some(verdict.outcome.clone())
    }

    /// Notes an outcome if it says something about the module. Blocks.
    pub(crate) fn remember(&self, key: &str, limits: &Limits, outcome: &Outcome) {
        let lasting = matches!(
            outcome.reason,
            Some(Reason::CompileTimeout | Reason::CompileMemory | Reason::CompileCrash | Reason::LinkError)
        );
        if !lasting {
            return;
        }
        let verdict = Verdict {
            key: key.to_owned(),
            outcome: Outcome { usage: Usage::default(), ..outcome.clone() },
            time_ms: limits.compile_time_ms,
            memory_bytes: limits.compile_memory_bytes,
            noted_at: now(),
        };
        // Writing under the lock keeps an older list from overwriting a newer one.
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        // One of another reason may hold for limits for which this one does not.
        noted.retain(|other| (&other.key, other.outcome.reason) != (&verdict.key, verdict.outcome.reason));
        noted.push(verdict);
        let surplus = noted.len().saturating_sub(VERDICTS_MAX);
        noted.drain(..surplus);
        let written = serde_json::to_vec(&*noted)
            .map_err(io::Error::from)
            .and_then(|json| write_private(&self.file, &json));
        if let Err(error) = written {
            tracing::warn!(%error, "a failed compilation is remembered only until the node ends");
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<Verdict>> {
    if fs::metadata(file)?.len() > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut noted: Vec<Verdict> = serde_json::from_slice(&fs::read(file)?)?;
    noted.truncate(VERDICTS_MAX);
    Ok(noted)
}

#[cfg(test)]
mod tests {
    use gristmill_protocol::{LimitsSpec, limits::SlotSize};

    use super::*;

    fn limits(time_ms: u64) -> Limits {
        let spec = LimitsSpec { compile_time_ms: Some(time_ms), ..LimitsSpec::default() };
        spec.resolve(SlotSize::default()).expect("in range")
    }

    fn bench() -> (tempfile::TempDir, Verdicts) {
        let temp = tempfile::tempdir().expect("a directory");
        let verdicts = Verdicts::open(temp.path().join("verdicts.json"));
        (temp, verdicts)
    }

    #[test]
    fn a_timeout_is_remembered_for_limits_that_are_not_larger() {
        let (_temp, verdicts) = bench();
        let outcome = Outcome::failed(Reason::CompileTimeout, "too slow");
        verdicts.remember("key", &limits(1_000), &outcome);
        assert!(verdicts.remembered("key", &limits(1_000)).is_some());
        assert!(verdicts.remembered("key", &limits(500)).is_some());
        assert!(verdicts.remembered("key", &limits(2_000)).is_none(), "more time may help");
        assert!(verdicts.remembered("other", &limits(500)).is_none());
    }

    #[test]
    fn a_verdict_does_not_make_another_reason_forgotten() {
        let (_temp, verdicts) = bench();
        let with = |time_ms, memory_bytes| Limits { compile_memory_bytes: memory_bytes, ..limits(time_ms) };
        let known = |limits: &Limits| verdicts.remembered("key", limits).and_then(|outcome| outcome.reason);
        verdicts.remember("key", &with(600_000, 4 << 30), &Outcome::failed(Reason::CompileTimeout, "slow"));
        verdicts.remember("key", &with(700_000, 1 << 20), &Outcome::failed(Reason::CompileMemory, "large"));
        assert_eq!(known(&with(600_000, 4 << 30)), Some(Reason::CompileTimeout), "the dearer one");
        assert_eq!(known(&with(700_000, 1 << 20)), Some(Reason::CompileMemory));
        assert_eq!(known(&with(700_000, 4 << 30)), None, "more of both may help");
        verdicts.remember("key", &with(700_000, 4 << 30), &Outcome::failed(Reason::CompileTimeout, "slower"));
        assert_eq!(verdicts.noted.lock().expect("locked").len(), 2, "one for each reason");
    }

    #[test]
    fn what_says_nothing_about_the_module_is_not_remembered() {
        let (_temp, verdicts) = bench();
        for reason in [Reason::CancelledByUser, Reason::DeadlineExceeded, Reason::ExecutorCrashed] {
            verdicts.remember("key", &limits(1), &Outcome::failed(reason, "stopped"));
        }
        assert!(verdicts.remembered("key", &limits(1)).is_none());
        verdicts.remember("key", &limits(1), &Outcome::failed(Reason::CompileCrash, "crash"));
        assert!(verdicts.remembered("key", &limits(100)).is_some());
    }

    #[test]
    fn verdicts_survive_a_restart_and_a_damaged_file_is_no_harm() {
        let (_temp, verdicts) = bench();
        verdicts.remember("key", &limits(1_000), &Outcome::failed(Reason::LinkError, "why"));
        let again = Verdicts::open(verdicts.file.clone());
        assert_eq!(
            again.remembered("key", &limits(1)).and_then(|outcome| outcome.message),
            Some("why".into())
        );
        fs::write(&verdicts.file, "[{").expect("written");
        let damaged = Verdicts::open(verdicts.file.clone());
        assert!(damaged.remembered("key", &limits(1)).is_none());
        damaged.remember("key", &limits(1), &Outcome::failed(Reason::LinkError, "why"));
        assert!(Verdicts::open(verdicts.file).remembered("key", &limits(1)).is_some());
    }

    #[test]
    fn a_verdict_ends_after_a_day_and_the_number_of_verdicts_is_bounded() {
        let (_temp, verdicts) = bench();
        let outcome = Outcome::failed(Reason::LinkError, "why");
        verdicts.remember("old", &limits(1), &outcome);
        verdicts.noted.lock().expect("locked")[0].noted_at -= LASTING.as_secs();
        assert!(verdicts.remembered("old", &limits(1)).is_none());
        let old = verdicts.noted.lock().expect("locked")[0].clone();
        let many = (0..VERDICTS_MAX).map(|number| Verdict { key: number.to_string(), ..old.clone() });
        verdicts.noted.lock().expect("locked").splice(.., many);
        verdicts.remember("new", &limits(1), &outcome);
        let noted = verdicts.noted.lock().expect("locked");
        assert_eq!((noted.len(), noted[0].key.as_str()), (VERDICTS_MAX, "1"), "the oldest went");
    }
}

//! What happened to jobs and attempts, added up for monitoring. Labels are few: states, reasons and
//! phases, never a name or an id.

use std::collections::BTreeMap;

use gristmill_protocol::{AttemptState, JobState, Reason, Usage, event::EventKind};

use crate::{record::AttemptRecord, working_set::WorkingSet};

/// Upper bounds of a histogram's buckets.
pub type Bounds = [u64; 12];

/// Those of durations, in microseconds: 5 ms to 2 h.
pub const DURATION_BOUNDS: Bounds = [
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
    7_200_000_000,
];

/// Those of what the server does itself, in microseconds: 250 µs to a minute.
pub const LATENCY_BOUNDS: Bounds =
    [250, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 60_000_000];

/// Those of sizes, in bytes: 1 MiB to 64 GiB.
pub const SIZE_BOUNDS: Bounds = [
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
    256 << 20,
    512 << 20,
    1 << 30,
    2 << 30,
    4 << 30,
    8 << 30,
    16 << 30,
    64 << 30,
];

/// How many durations or sizes there were, by length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram {
    /// For each bound, how many lay at or below it and above the one before.
    pub buckets: Bounds,
    /// All of them, those above the last bound included.
    pub count: u64,
    /// Their sum, in the unit of the bounds.
    pub sum: u64,
}

impl Histogram {
    /// Adds one value; the same bounds every time.
    pub fn note(&mut self, value: u64, bounds: &Bounds) {
        if let Some(bucket) = bounds.iter().position(|bound| value <= *bound) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
    }

    fn absorb(&mut self, other: &Self) {
        for (own, more) in self.buckets.iter_mut().zip(other.buckets) {
            *own += more;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
    }
}

/// A part of an attempt with a time of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Inputs were brought to the node.
    Stage,
    /// The module was compiled, or compiled code was loaded.
    Compile,
    /// The guest ran.
    Run,
    /// Outputs were digested and uploaded.
    Collect,
}

impl Phase {
    /// Its name in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Compile => "compile",
            Self::Run => "run",
            Self::Collect => "collect",
        }
    }
}

/// Sums of what attempts used; what was not measured counts as nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageTotals {
    /// Fuel consumed.
    pub fuel: u64,
    /// CPU time of guests, in microseconds.
    pub cpu_us: u64,
    /// Bytes of inputs given to guests.
    pub input_bytes: u64,
    /// Bytes of outputs collected.
    pub output_bytes: u64,
    /// Bytes that guests read.
    pub read_bytes: u64,
    /// Bytes that guests wrote.
    pub written_bytes: u64,
    /// Times that compiled code was found in a node's cache.
    pub compile_hits: u64,
    /// Times that a module had to be compiled.
    pub compile_misses: u64,
}

impl UsageTotals {
    fn note(&mut self, usage: &Usage) {
        let add = |sum: &mut u64, value: Option<u64>| *sum = sum.saturating_add(value.unwrap_or(0));
        add(&mut self.fuel, usage.fuel);
        add(&mut self.cpu_us, usage.cpu_us);
        add(&mut self.input_bytes, usage.input_bytes);
        add(&mut self.output_bytes, usage.output_bytes);
        add(&mut self.read_bytes, usage.read_bytes);
        add(&mut self.written_bytes, usage.written_bytes);
        self.compile_hits += u64::from(usage.compile_cache_hit == Some(true));
        self.compile_misses += u64::from(usage.compile_cache_hit == Some(false));
    }

    fn absorb(&mut self, other: &Self) {
        let add = |sum: &mut u64, value: u64| *sum = sum.saturating_add(value);
        add(&mut self.fuel, other.fuel);
        add(&mut self.cpu_us, other.cpu_us);
        add(&mut self.input_bytes, other.input_bytes);
        add(&mut self.output_bytes, other.output_bytes);
        add(&mut self.read_bytes, other.read_bytes);
        add(&mut self.written_bytes, other.written_bytes);
        add(&mut self.compile_hits, other.compile_hits);
        add(&mut self.compile_misses, other.compile_misses);
    }
}

/// What happened, in one batch or since a store was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Jobs accepted.
    pub jobs_submitted: u64,
    /// Jobs that ended, by state and reason.
    pub jobs_finished: BTreeMap<(JobState, Option<Reason>), u64>,
    /// Leases granted.
    pub leases_granted: u64,
    /// Leases that ran out, or whose node process was gone.
    pub leases_expired: u64,
    /// Attempts that ended, by state and reason.
    pub attempts_ended: BTreeMap<(AttemptState, Option<Reason>), u64>,
    /// Times from a job's acceptance to the start of its first attempt.
    pub queue_waits: Histogram,
    /// Times from the grant of a lease to the attempt's end.
    pub attempt_durations: Histogram,
    /// Times of the parts of attempts.
    pub phases: BTreeMap<Phase, Histogram>,
    /// Most memory of each attempt's guest at a time, where it was measured.
    pub memory_peaks: Histogram,
    /// Most bytes in each attempt's scratch directory at a time, where they were counted.
    pub disk_peaks: Histogram,
    /// What attempts used.
    pub usage: UsageTotals,
}

impl Totals {
    /// What a batch made happen. Count it only when it is durable.
    pub fn of(set: &WorkingSet<'_>) -> Self {
        let mut totals = Self::default();
        for event in &set.events {
            match event.kind {
                EventKind::JobSubmitted => totals.jobs_submitted += 1,
                EventKind::JobFinished => {
                    if let Some(job) = set.jobs.get(&event.job) {
                        let state = job.row.phase.state();
                        *totals.jobs_finished.entry((state, event.reason)).or_default() += 1;
                    }
                }
                EventKind::AttemptLeased => totals.leases_granted += 1,
                EventKind::AttemptStarted => totals.note_start(set, event.job),
                EventKind::AttemptEnded => {
                    let key = event.attempt.map(|number| (event.job, number));
                    if let Some(attempt) = key.and_then(|key| set.attempts.get(&key)) {
                        totals.note_end(&attempt.row, event.reason);
                    }
                }
                _ => {}
            }
        }
        totals
    }

    fn note_start(&mut self, set: &WorkingSet<'_>, id: gristmill_protocol::JobId) {
        let Some(job) = set.jobs.get(&id).map(|job| &job.row) else { return };
        if job.started_at == Some(set.now()) {
            let waited = job.created_at.duration_until(set.now()).as_micros();
            self.queue_waits.note(u64::try_from(waited).unwrap_or(0), &DURATION_BOUNDS);
        }
    }

    fn note_end(&mut self, attempt: &AttemptRecord, reason: Option<Reason>) {
        *self.attempts_ended.entry((attempt.phase.state(), reason)).or_default() += 1;
        self.leases_expired += u64::from(reason == Some(Reason::LeaseExpired));
        if let Some(ended_at) = attempt.ended_at {
            let lasted = attempt.leased_at.duration_until(ended_at).as_micros();
            self.attempt_durations.note(u64::try_from(lasted).unwrap_or(0), &DURATION_BOUNDS);
        }
        if let Some(usage) = &attempt.usage {
            self.note_usage(usage);
        }
    }

    fn note_usage(&mut self, usage: &Usage) {
        self.usage.note(usage);
        for (peaks, bytes) in
            [(&mut self.memory_peaks, usage.memory_peak_bytes), (&mut self.disk_peaks, usage.disk_peak_bytes)]
        {
            if let Some(bytes) = bytes {
                peaks.note(bytes, &SIZE_BOUNDS);
            }
        }
        for (phase, us) in [
            (Phase::Stage, usage.stage_us),
            (Phase::Compile, usage.compile_us),
            (Phase::Run, usage.wall_us),
            (Phase::Collect, usage.collect_us),
        ] {
            if let Some(us) = us {
                self.phases.entry(phase).or_default().note(us, &DURATION_BOUNDS);
            }
        }
    }

    /// Adds what happened later.
    pub fn absorb(&mut self, later: Self) {
        self.jobs_submitted += later.jobs_submitted;
        self.leases_granted += later.leases_granted;
        self.leases_expired += later.leases_expired;
        for (key, count) in later.jobs_finished {
            *self.jobs_finished.entry(key).or_default() += count;
        }
        for (key, count) in later.attempts_ended {
            *self.attempts_ended.entry(key).or_default() += count;
        }
        self.queue_waits.absorb(&later.queue_waits);
        self.attempt_durations.absorb(&later.attempt_durations);
        for (phase, histogram) in &later.phases {
            self.phases.entry(*phase).or_default().absorb(histogram);
        }
        self.memory_peaks.absorb(&later.memory_peaks);
        self.disk_peaks.absorb(&later.disk_peaks);
        self.usage.absorb(&later.usage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_holds_it_and_the_longest_in_none() {
        let mut histogram = Histogram::default();
        for us in [5_000, 5_001, 7_200_000_000, 7_200_000_001] {
            histogram.note(us, &DURATION_BOUNDS);
        }
        assert_eq!((histogram.buckets[0], histogram.buckets[1], histogram.buckets[11]), (1, 1, 1));
        assert_eq!((histogram.count, histogram.sum), (4, 14_400_010_002));
    }

    #[test]
    fn adding_up_batches_gives_what_one_batch_would_have_given() {
        let usage = |hit| Usage {
            fuel: Some(2),
            read_bytes: Some(3),
            wall_us: Some(1_000),
            memory_peak_bytes: Some(8 << 30),
            compile_cache_hit: Some(hit),
            ..Usage::default()
        };
        let batch = |hit| {
            let mut totals = Totals { jobs_submitted: 1, ..Totals::default() };
            totals.note_usage(&usage(hit));
            totals.jobs_finished.insert((JobState::Failed, Some(Reason::Trap)), 1);
            totals
        };
        let mut sum = batch(true);
        sum.absorb(batch(false));
        assert_eq!((sum.jobs_submitted, sum.usage.fuel, sum.usage.read_bytes), (2, 4, 6));
        assert_eq!((sum.usage.compile_hits, sum.usage.compile_misses), (1, 1));
        assert_eq!(sum.jobs_finished[&(JobState::Failed, Some(Reason::Trap))], 2);
        assert_eq!((sum.phases[&Phase::Run].count, sum.phases[&Phase::Run].sum), (2, 2_000));
        assert_eq!((sum.memory_peaks.buckets[9], sum.memory_peaks.sum), (2, 16 << 30));
        assert_eq!(sum.disk_peaks, Histogram::default(), "what was not counted is no size");
    }
}

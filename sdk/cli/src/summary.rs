//! The one line with which `run` ends, and jobs as people read them.

use gristmill_protocol::{JobView, Metering, Reason, units::format_bytes};

use crate::{
    harmless::harmless,
    phase,
    printer::{pairs, slot, time},
    usage,
};

/// State, reason, hint, guest exit code, what the last attempt used, and output bytes.
pub(crate) fn line(job: &JobView) -> String {
    let usage = job.usage.clone().unwrap_or_default();
    let mut parts = vec![format!("{} {}{}", job.id, job.state, reason_text(job))];
    parts.extend(job.message.as_ref().map(|message| harmless(message)));
    parts.extend(hint(job).map(|hint| format!("hint: {}", harmless(&hint))));
    parts.extend(job.exit_code.map(|code| format!("exit code {code}")));
    parts.extend(usage::parts(&usage));
    parts.extend(is_fuel_unknown(job).then(|| "fuel unknown".to_owned()));
    parts.push(format!("output {}", format_bytes(job.output_bytes)));
    parts.join("; ")
}

/// Whether the guest ran with its fuel counted and the count was lost with its process.
fn is_fuel_unknown(job: &JobView) -> bool {
    let usage = job.usage.as_ref();
    job.limits.metering == Metering::Fuel
        && usage.is_some_and(|usage| usage.wall_us.is_some() && usage.fuel.is_none())
}

/// The reason in brackets, with the kind of a trap.
fn reason_text(job: &JobView) -> String {
    match (job.reason, job.trap_kind) {
        (Some(reason), Some(kind)) => format!(" ({reason}: {kind})"),
        (Some(reason), None) => format!(" ({reason})"),
        (None, _) => String::new(),
    }
}

fn hint(job: &JobView) -> Option<String> {
    job.hint.clone().or_else(|| job.reason.map(|reason: Reason| reason.hint().to_owned()))
}

/// All there is to say about one job.
pub(crate) fn details(job: &JobView) -> String {
    let usage = job.usage.clone().unwrap_or_default();
    let module = match (&job.module.name, &job.module.version) {
        (Some(name), Some(version)) => format!("{name}@{version}"),
        _ => job.module.digest.to_string(),
    };
    let mut lines = vec![
        ("id", Some(job.id.to_string())),
        ("state", Some(format!("{}{}", job.state, reason_text(job)))),
        ("phase", phase::text(job.phase, job.phase_since)),
        ("message", job.message.clone()),
        ("hint", hint(job)),
        ("exit code", job.exit_code.map(|code| code.to_string())),
        ("module", Some(module)),
        ("digest", Some(job.module.digest.to_string())),
        ("attempt", (job.attempt > 0).then(|| job.attempt.to_string())),
        ("zone", job.zone.clone()),
        ("node", job.node.map(|node| node.to_string())),
        ("asks for", Some(slot(job.limits.cpus_milli, job.limits.memory_bytes))),
        ("created", Some(time(job.created_at))),
        ("not before", job.not_before.map(time)),
        ("started", job.started_at.map(time)),
        ("finished", job.finished_at.map(time)),
        ("cancel asked", job.cancel_requested_at.map(time)),
    ];
    lines.extend(usage::figures(&usage));
    lines.push(("outputs", Some(format!("{} ({})", job.output_count, format_bytes(job.output_bytes)))));
    pairs(&lines)
}

#[cfg(test)]
pub(crate) fn sample(state: &str) -> JobView {
    let digest = gristmill_protocol::Digest::from_bytes([1; 32]);
    serde_json::from_value(serde_json::json!({
        "id": gristmill_protocol::JobId::from_parts(1, [0; 10]), "tenant": "default", "state": state,
        "module": {"digest": digest}, "spec": {"module": "m"},
        "limits": gristmill_protocol::LimitsSpec::default().resolve(gristmill_protocol::limits::SlotSize::default()).expect("valid"),
        "attempt": 1, "created_at": "2026-01-01T00:00:00Z", "output_count": 1, "output_bytes": 512, "version": 1,
    }))
    .expect("a job")
}

#[cfg(test)]
mod tests {
    use gristmill_protocol::{TrapKind, Usage};

    use super::*;

    #[test]
    fn the_last_line_says_how_it_ended_and_what_it_cost() {
        let mut job = sample("succeeded");
        job.exit_code = Some(0);
        job.usage = Some(Usage {
            fuel: Some(1_234_567),
            cpu_us: Some(1_500),
            wall_us: Some(2_000_000),
            memory_peak_bytes: Some(1 << 20),
            ..Usage::default()
        });
        let expected = format!(
            "{} succeeded; exit code 0; fuel 1,234,567; cpu 1.5 ms; wall 2.00 s; peak memory 1.0 MiB; output 512 B",
            job.id
        );
        assert_eq!(line(&job), expected);
    }

    #[test]
    fn fuel_that_was_counted_and_lost_is_unknown_and_fuel_that_was_not_counted_is_left_out() {
        let mut job = sample("failed");
        assert!(!line(&job).contains("fuel"), "the guest never ran");
        job.usage = Some(Usage { wall_us: Some(1), ..Usage::default() });
        assert!(line(&job).contains("; fuel unknown; "), "{}", line(&job));
        job.limits.metering = Metering::None;
        assert!(!line(&job).contains("fuel"), "{}", line(&job));
    }

    #[test]
    fn a_failure_names_reason_kind_and_hint_on_one_line() {
        let mut job = sample("failed");
        job.reason = Some(Reason::Trap);
        job.trap_kind = TrapKind::ALL.first().copied();
        job.message = Some("two\nlines".into());
        let line = line(&job);
        assert!(line.contains("failed (trap: unreachable); two\\nlines; hint: "), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}

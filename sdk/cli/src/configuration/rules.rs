//! Which settings go together.

use gristmill_protocol::{LimitsSpec, limits::SlotSize};

use super::{Loaded, Origin, Problem, field::bytes_text};
use crate::printer;

/// What cannot hold, each under the key that was set.
pub(crate) fn check(loaded: &Loaded) -> Vec<Problem> {
    let mut problems = check_together(loaded);
    problems.extend(check_slot(loaded.settings.server.config.settings.slot_default));
    problems
}

/// What a job gets that names no limits has to be what a job may have.
fn check_slot(slot: SlotSize) -> Vec<Problem> {
    let found = LimitsSpec::default().resolve(slot).err().unwrap_or_default();
    let problems = found.into_iter().filter_map(|limit| {
        let (key, shown, hint): (_, fn(u64) -> String, _) = match limit.field {
            "cpus_milli" => (
                "server.slot_cpus",
                |milli| printer::cpus(milli as u32),
                "jobs that need more say so themselves, with --cpus",
            ),
            "memory_bytes" => (
                "server.slot_memory",
                bytes_text,
                "no guest has more memory than one standard slot; for more jobs at a time let nodes offer more \
                 (node.slots, node.memory)",
            ),
            _ => return None,
        };
        let [min, max, found] = [limit.min, limit.max, limit.found].map(shown);
        let detail =
            format!("must be from {min} to {max}, found {found}, or jobs that do not name their own are refused");
        Some(Problem { line: None, key: key.to_owned(), detail, hint: Some(hint.to_owned()) })
    });
    problems.collect()
}

/// Settings that do not go together.
fn check_together(loaded: &Loaded) -> Vec<Problem> {
    let server = &loaded.settings.server;
    let rules = &server.config.settings;
    let node = &loaded.settings.node;
    let is_set = |key: &str| loaded.origin(key) != Origin::Default;
    let mut problems = Vec::new();
    let mut expect = |holds: bool, keys: [&str; 2], detail: &str| {
        if !holds {
            let key = keys.into_iter().find(|key| is_set(key)).unwrap_or(keys[0]).to_owned();
            problems.push(Problem { line: None, key, detail: detail.to_owned(), hint: None });
        }
    };
    expect(
        rules.lease_renew < rules.lease_stop,
        ["server.lease_renew", "server.lease_stop"],
        "server.lease_renew must be shorter than server.lease_stop, or guests are stopped between two renewals",
    );
    expect(
        rules.lease_stop < rules.lease_ttl,
        ["server.lease_ttl", "server.lease_stop"],
        "server.lease_stop must be shorter than server.lease_ttl, or a job could run twice at a time",
    );
    expect(
        rules.backoff_base <= rules.backoff_max,
        ["server.backoff_base", "server.backoff_max"],
        "server.backoff_base must not be longer than server.backoff_max",
    );
    expect(
        server.config.connections_max >= 16,
        ["server.connections_max", "server.connections_peer_max"],
        "server.connections_max must be at least 16, or nothing is left for nodes",
    );
    expect(
        server.tls_cert.is_some() == server.tls_key.is_some(),
        ["server.tls_cert", "server.tls_key"],
        "server.tls_cert and server.tls_key are needed together",
    );
    expect(
        !(server.config.behind_proxy && server.tls_cert.is_some()),
        ["server.behind_proxy", "server.tls_cert"],
        "server.behind_proxy says that a proxy speaks TLS, server.tls_cert that the server does; choose one",
    );
    expect(
        node.slots.is_none() || (node.cpus_milli.is_none() && node.memory_bytes.is_none()),
        ["node.slots", "node.cpus"],
        "node.slots stands for node.cpus and node.memory; give one or the others",
    );
    expect(
        !(node.allow_weak_isolation && is_set("node.isolation")),
        ["node.allow_weak_isolation", "node.isolation"],
        "node.allow_weak_isolation takes any isolation, node.isolation insists on one; choose",
    );
    problems
}

//! Which settings go together.

use super::{Loaded, Origin, Problem};

/// What does not go together, each under the key that was set.
pub(crate) fn check(loaded: &Loaded) -> Vec<Problem> {
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

//! Who may depend on whom, and which file may name what.

use std::{collections::BTreeSet, process::Command};

use gristmill_tests::repository;
use serde_json::Value;

use super::{code, expect_none, shown, sources};

/// Names of all packages that `package` links, itself left out; without build- and dev-dependencies.
fn links(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--package", package])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != package).map(str::to_owned).collect()
}

#[track_caller]
fn expect_links_none(package: &str, forbidden: &[&str]) {
    let found = links(package);
    let broken: Vec<_> =
        forbidden.iter().filter(|name| found.contains(**name)).map(|name| (*name).to_owned()).collect();
    expect_none(&format!("{package} must not link"), &broken);
}

#[test]
fn the_server_links_no_engine_and_nothing_of_the_runtime() {
    let engine = ["wasmtime", "wasmtime-wasi", "cranelift-codegen"];
    expect_links_none("gristmill-server", &engine);
    expect_links_none(
        "gristmill-server",
        &["gristmill-node", "gristmill-executor", "gristmill-sandbox", "gristmill-client"],
    );
}

#[test]
fn sandbox_and_executor_link_no_network_client_and_no_database() {
    for package in ["gristmill-sandbox", "gristmill-executor"] {
        expect_links_none(package, &["reqwest", "hyper", "axum", "sqlx", "object_store", "rustls"]);
        expect_links_none(package, &["gristmill-client", "gristmill-server", "gristmill-lifecycle"]);
    }
}

#[test]
fn the_node_meets_the_server_only_in_the_protocol() {
    expect_links_none("gristmill-node", &["gristmill-server", "gristmill-lifecycle", "sqlx", "axum"]);
    expect_links_none("gristmill-client", &["gristmill-server", "gristmill-lifecycle", "wasmtime", "sqlx"]);
}

#[test]
fn the_rules_are_pure_and_the_protocol_does_no_io() {
    let io = ["tokio", "sqlx", "axum", "hyper", "reqwest", "rand", "getrandom", "wasmtime", "object_store"];
    expect_links_none("gristmill-lifecycle", &io);
    expect_links_none("gristmill-protocol", &io);
}

#[test]
fn one_provider_of_cryptography_is_linked() {
    expect_links_none("gristmill", &["ring", "openssl", "openssl-sys", "native-tls"]);
}

#[test]
fn the_manifests_keep_the_order_of_the_crates() {
    let allowed: &[(&str, &[&str])] = &[
        ("gristmill-protocol", &[]),
        ("gristmill-inspect", &["gristmill-protocol"]),
        ("gristmill-tree", &["gristmill-protocol"]),
        ("gristmill-client", &["gristmill-protocol"]),
        ("gristmill-otlp", &["gristmill-protocol"]),
        ("gristmill-lifecycle", &["gristmill-protocol"]),
        ("gristmill-channel", &["gristmill-protocol"]),
        ("gristmill-sandbox", &["gristmill-channel", "gristmill-protocol"]),
        ("gristmill-executor", &["gristmill-channel", "gristmill-protocol", "gristmill-sandbox"]),
        (
            "gristmill-node",
            &[
                "gristmill-client",
                "gristmill-executor",
                "gristmill-inspect",
                "gristmill-protocol",
                "gristmill-tree",
            ],
        ),
        ("gristmill-server", &["gristmill-inspect", "gristmill-lifecycle", "gristmill-protocol"]),
        (
            "gristmill",
            &[
                "gristmill-client",
                "gristmill-executor",
                "gristmill-inspect",
                "gristmill-node",
                "gristmill-otlp",
                "gristmill-protocol",
                "gristmill-server",
                "gristmill-tree",
            ],
        ),
        ("gristmill-tests", &["gristmill-protocol"]),
    ];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let mut broken = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if allowed.iter().all(|(listed, _)| *listed != name) {
            broken.push(format!("{name} is not in this list"));
        }
    }
    for (name, may) in allowed {
        let package = packages.iter().find(|package| package["name"] == *name).expect("the crate exists");
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            if on.starts_with("gristmill") && dependency["kind"].is_null() && !may.contains(&on) {
                broken.push(format!("{name} -> {on}"));
            }
        }
    }
    expect_none("a crate depends only on those below it", &broken);
}

/// Lines of code below `dir` that hold one of `words`, outside the places that may.
fn naming(dir: &str, words: &[&str], may: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources(dir, ".rs") {
        let name = shown(&path);
        if may.iter().any(|place| name.contains(place)) {
            continue;
        }
        for line in code(&text).lines() {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{name}: {}", line.trim()));
            }
        }
    }
    found
}

const SERVER: &str = "control-plane/server/src";

#[test]
fn only_the_store_names_sqlx_and_only_http_names_axum() {
    expect_none("only store/ names sqlx", &naming(SERVER, &["sqlx"], &["src/store/"]));
    expect_none("only http/ names axum", &naming(SERVER, &["axum"], &["src/http/"]));
}

#[test]
fn http_calls_operations_and_operations_do_not_know_http() {
    expect_none(
        "http/ never names the store",
        &naming("control-plane/server/src/http", &["crate::store", "app.store"], &[]),
    );
    expect_none("ops/ never names http", &naming("control-plane/server/src/ops", &["crate::http"], &[]));
    expect_none("store/ never calls ops", &naming("control-plane/server/src/store", &["crate::ops"], &[]));
}

#[test]
fn only_the_clock_asks_the_time_and_only_entropy_rolls_dice() {
    let wall = ["SystemTime::now", "Timestamp::now", "Zoned::now"];
    expect_none("only clock.rs asks the time", &naming(SERVER, &wall, &["src/clock.rs"]));
    // Operations measure how long they wait by the runtime's clock, which tests can stop.
    let any = [&wall[..], &["Instant::now"]].concat();
    expect_none("the rules are given the time", &naming("control-plane/lifecycle/src", &any, &[]));
    let measured = naming("control-plane/server/src/ops", &["Instant::now"], &[]);
    let measured: Vec<_> =
        measured.into_iter().filter(|line| !line.contains("tokio::time::Instant")).collect();
    expect_none("operations measure by the runtime's clock", &measured);
    let dice = ["rand::", "SystemRandom"];
    expect_none("only entropy.rs rolls dice", &naming(SERVER, &dice, &["src/entropy.rs"]));
}

#[test]
fn only_configuration_reads_the_environment() {
    let words = ["std::env::var", "env::var(", "env::var_os("];
    for dir in [
        SERVER,
        "control-plane/lifecycle/src",
        "runtime/sandbox/src",
        "runtime/executor/src",
        "sdk/protocol/src",
    ] {
        expect_none("only config reads the environment", &naming(dir, &words, &["src/config.rs"]));
    }
}

#[test]
fn no_task_is_spawned_without_somebody_who_waits_for_it() {
    let words = ["tokio::spawn(", "task::spawn("];
    for dir in ["control-plane", "runtime", "sdk"] {
        let broken = naming(dir, &words, &["/tests/", "/benches/"]);
        expect_none("tasks are spawned on a TaskTracker", &broken);
    }
}

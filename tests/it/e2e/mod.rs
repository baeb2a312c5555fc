//! Runs from end to end.

mod big_streams;
mod bombs;
mod busy;
mod cancel_latency;
mod certificates;
mod command_line;
mod configuration;
mod dashboards;
mod durable;
mod example;
mod flood;
mod following;
mod hints;
mod logs;
mod nodes;
mod nouns;
mod observed;
mod phases;
mod placement;
mod private_instance;
mod programs;
mod reasons;
mod refusals;
mod reproducible;
mod scripts;
mod servers;
mod shared_code;
mod simulator;
mod terminals;
mod traces;
mod transcripts;
mod usage;
mod wasi_suite;

use std::path::{Path, PathBuf};

use gristmill_protocol::{
    JobSpec, LimitsSpec,
    job::{BlobSource, InputKind, InputMode, InputSpec},
};
use gristmill_tests::{
    cli::{Ended, Home},
    cluster::TestCluster,
    repository, skip,
};

/// A job of one module that asks for little, so that a small machine runs several at a time.
pub(crate) fn small_job(module: &str) -> JobSpec {
    let limits = LimitsSpec {
        cpus_milli: Some(500),
        memory_bytes: Some(64 << 20),
        wall_time_ms: Some(600_000),
        ..LimitsSpec::default()
    };
    JobSpec { module: module.to_owned(), limits, ..JobSpec::default() }
}

/// A blob as a file that a job reads at `/in/NAME`.
pub(crate) fn file_input(name: &str, digest: &str) -> InputSpec {
    InputSpec {
        name: name.to_owned(),
        source: BlobSource::Digest(digest.parse().expect("a digest")),
        kind: InputKind::File,
        mode: InputMode::Ro,
    }
}

/// Runs a command against a cluster, as its administrator.
pub(crate) fn run_at(cluster: &TestCluster, home: &Home, server: &str, args: &[&str]) -> Ended {
    let mut command = home.command(args);
    let output = command
        .env("GRISTMILL_SERVER", server)
        .env("GRISTMILL_TOKEN", &cluster.api.token)
        .output()
        .expect("the binary starts");
    Ended::from_output(output)
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The module that `tests/run` has built from the examples' source, or `None` after saying so when the run
/// is told to do without (the variable `skip`).
#[track_caller]
pub(crate) fn rebuilt(name: &str, part: &str) -> Option<PathBuf> {
    let module = repository().join(format!("target/rebuilt-guests/{name}.wasm"));
    if module.is_file() {
        return Some(module);
    }
    skip::without(part, format_args!("{}, from examples/guests/build and build-c", module.display()));
    None
}

/// The CRC-32 of zip, PNG and Ethernet.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(sum & 1)))
    })
}

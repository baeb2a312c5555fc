//! The reproducible mode: the same bits and the same fuel, on every node, whatever else it does.

use std::time::Duration;

use gristmill_protocol::{JobSpec, JobState, JobView, job::InputSpec};
use gristmill_tests::{
    api::Api,
    cluster::{NodeOptions, TestCluster},
    eventually,
    guests::{fetched, spins_for_ever},
    repository,
};

use super::{file_input, small_job};

const LIMIT: Duration = Duration::from_secs(300);

/// Everything that a run leaves: exit code, fuel, outputs with their digests, and both streams.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    exit_code: Option<i32>,
    fuel: Option<u64>,
    outputs: Vec<(String, String)>,
    streams: [Vec<u8>; 2],
}

async fn left(api: &Api, job: &JobView) -> Left {
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    let outputs = api.outputs(&job.id).await.expect("the outputs").outputs;
    Left {
        exit_code: job.exit_code,
        fuel: job.usage.as_ref().and_then(|usage| usage.fuel),
        outputs: outputs.into_iter().map(|output| (output.path, output.digest.to_string())).collect(),
        streams: [
            api.log(&job.id, 1, "stdout").await.expect("the log"),
            api.log(&job.id, 1, "stderr").await.expect("the log"),
        ],
    }
}

fn node_of(machine: &str) -> NodeOptions {
    let mut options = NodeOptions::named(machine);
    options.flags.extend(["--label".to_owned(), format!("machine={machine}")]);
    options
}

/// A job for one machine.
fn pinned(spec: &JobSpec, machine: &str) -> JobSpec {
    let mut spec = spec.clone();
    spec.labels.insert("machine".to_owned(), machine.to_owned());
    spec
}

async fn repository_input(api: &Api, name: &str, path: &str) -> InputSpec {
    let bytes = std::fs::read(repository().join(path)).expect("a file of the repository");
    file_input(name, &api.put_blob(bytes).await.expect("a blob"))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_one_of_them_busy_compute_the_same_bits_with_the_same_fuel() {
    let cluster = TestCluster::start().await;
    let api = &cluster.api;
    let _idle = cluster.node(&node_of("idle")).await;
    let _busy = cluster.node(&node_of("busy")).await;
    let mut specs = Vec::new();
    let examples: [(&str, &[(&str, &str)]); 3] = [
        ("csv-summary", &[("data.csv", "examples/simulations.csv")]),
        (
            "logic-sim",
            &[
                ("netlist.json", "examples/logic/crc32.netlist.json"),
                ("stimuli.txt", "examples/logic/crc32.stimuli.txt"),
            ],
        ),
        ("file-facts", &[("data", "examples/csv-summary.wasm")]),
    ];
    for (module, inputs) in examples {
        let example = repository().join(format!("examples/{module}.wasm"));
        api.publish(module, std::fs::read(example).expect("the example")).await.expect("a module");
        let mut spec = small_job(module);
        for (name, path) in inputs {
            spec.inputs.push(repository_input(api, name, path).await);
        }
        specs.push(spec);
    }
    if let Some(boolector) = fetched("boolector/boolector.wasm") {
        api.publish("boolector", std::fs::read(boolector).expect("it was fetched")).await.expect("a module");
        let mut spec = small_job("boolector");
        spec.inputs.push(repository_input(api, "problem.smt2", "examples/solver/multiply-by-ten.smt2").await);
        spec.args = vec!["/in/problem.smt2".to_owned()];
        spec.success_exit_codes = vec![10, 20];
        specs.push(spec);
    }
    if let Some(resvg) = fetched("resvg/resvg.wasm") {
        api.publish("resvg", std::fs::read(resvg).expect("it was fetched")).await.expect("a module");
        let mut spec = small_job("resvg");
        spec.inputs.push(repository_input(api, "millstone.svg", "examples/picture/millstone.svg").await);
        spec.args = vec!["/in/millstone.svg".to_owned(), "/out/millstone.png".to_owned()];
        specs.push(spec);
    }
    api.publish("spins", spins_for_ever()).await.expect("a module");
    let mut spinning = Vec::new();
    for _ in 0..4 {
        spinning.push(api.submit(&pinned(&small_job("spins"), "busy")).await.expect("a job").id);
    }
    for id in &spinning {
        eventually("the busy node to be busy", LIMIT, || async {
            api.job(id).await.ok().filter(|job| job.state == JobState::Running)
        })
        .await;
    }
    for mut spec in specs {
        spec.reproducible = true;
        let mut all = Vec::new();
        for machine in ["idle", "busy", "idle", "busy"] {
            let job = api.submit(&pinned(&spec, machine)).await.expect("a job");
            let ended = api.finished(&job.id, LIMIT).await.expect("it ends");
            all.push(left(api, &ended).await);
        }
        println!("{}: fuel {:?}, {} outputs", spec.module, all[0].fuel, all[0].outputs.len());
        assert!(all[0].fuel.is_some_and(|fuel| fuel > 1_000_000), "{all:#?}");
        assert!(all.iter().all(|one| *one == all[0]), "{}: {all:#?}", spec.module);
    }
    for id in &spinning {
        api.cancel(id).await.expect("a cancel");
    }
}

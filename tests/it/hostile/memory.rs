//! A guest that takes the whole memory of a slot.

use std::time::Duration;

use gristmill_protocol::{JobState, Reason, limits::SLOT_MEMORY_BYTES, node::NodeState};
use gristmill_tests::{
    cluster::{NodeOptions, TestCluster},
    guests::noop,
    process::{children_running, memory_available_bytes, memory_peak_bytes},
};

use super::guests;
use crate::e2e::small_job;

/// Touching 8 GiB takes seconds, on a busy machine minutes.
const LIMIT: Duration = Duration::from_mins(10);
/// What an executor may hold beside its guest's memory.
const OVERHEAD_BYTES: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn h39_a_guest_that_touches_the_whole_slot_ends_and_its_process_and_node_stay_well() {
    let room = memory_available_bytes().saturating_sub(2 << 30) & !((1 << 20) - 1);
    let bytes = room.min(SLOT_MEMORY_BYTES);
    if bytes < SLOT_MEMORY_BYTES {
        eprintln!("!! not the whole slot: only {} MiB can be touched on this machine", bytes >> 20);
    }
    let cluster = TestCluster::start().await;
    let mut options = NodeOptions::named("node-1");
    options.flags = ["--cpus", "4", "--memory", "9GiB"].map(str::to_owned).to_vec();
    let mut node = cluster.node(&options).await;
    let api = &cluster.api;
    api.publish("hungry", guests::touches_everything()).await.expect("a module");
    api.publish("honest", noop()).await.expect("a module");
    let mut spec = small_job("hungry");
    spec.limits.memory_bytes = Some(bytes);
    spec.limits.cpus_milli = Some(2_000);
    let job = api.submit(&spec).await.expect("a job");
    let mut largest = 0;
    let ended = loop {
        let peaks = children_running(node.pid(), "executor").into_iter().filter_map(memory_peak_bytes);
        largest = peaks.chain([largest]).max().unwrap_or_default();
        let job = api.job(&job.id).await.expect("the job");
        if job.state.is_terminal() {
            break job;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((ended.state, ended.reason), (JobState::Failed, Some(Reason::MemoryExceeded)), "{ended:#?}");
    let usage = ended.usage.expect("its usage");
    assert_eq!(usage.memory_peak_bytes, Some(bytes), "all of it, and the sandbox ended it: {usage:#?}");
    let message = ended.message.expect("a message");
    assert!(message.contains("asked for 1048576 more"), "{message}");
    println!("touched {bytes} bytes in {:?} us, the process had {largest}", usage.wall_us);
    assert!(largest > bytes / 2 && largest < bytes + OVERHEAD_BYTES, "{largest}");

    assert!(node.is_alive());
    assert_eq!(api.nodes().await.expect("the nodes")[0].state, NodeState::Active);
    let honest = api.submit(&small_job("honest")).await.expect("a job");
    let ended = api.finished(&honest.id, LIMIT).await.expect("it ends");
    assert_eq!((ended.state, ended.attempt), (JobState::Succeeded, 1), "{ended:#?}");
}

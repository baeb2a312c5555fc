//! Programs that nobody here wrote, unmodified.

use std::{fs, path::Path, process::Command, time::Duration};

use gristmill_protocol::{JobId, JobState};
use gristmill_tests::{
    cli::Home,
    cluster::{NodeOptions, TestCluster},
    eventually,
    guests::{fetched, spins_for_ever},
    proxy::Proxy,
    repository,
};

use super::{run_at, small_job, text};

/// The folder of an unpacked tree below the node's state, with what tells whether it was made anew.
fn unpacked_share(state: &Path) -> Vec<(std::path::PathBuf, u64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut folders = vec![state.to_owned()];
    while let Some(folder) = folders.pop() {
        let cells = folder.join("ice40/cells_sim.v");
        if let Ok(metadata) = fs::metadata(&cells) {
            found.push((cells, metadata.ino(), metadata.ctime_nsec() ^ metadata.ctime()));
            continue;
        }
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn yosys_synthesises_a_real_design_and_another_job_and_another_node_compute_the_same() {
    let Some(yosys) = fetched("yosys/yosys.wasm") else { return };
    let share = fetched("yosys/share").expect("it comes with the program");
    let cluster = TestCluster::start().await;
    let proxy = Proxy::start(&cluster.api.url).await;
    let options = NodeOptions { through: proxy.url.clone(), ..NodeOptions::named("node-1") };
    let mut node = cluster.node(&options).await;
    let home = Home::default();

    let design = text(&repository().join("examples/verilog"));
    let (share_input, rtl) = (format!("/share={}", text(&share)), format!("rtl={design}"));
    let run = |out: &str| {
        let module = text(&yosys);
        let args = ["run", &module, "--in", &share_input, "--in", &rtl, "--out", out];
        let limits = ["--memory", "2GiB", "--reproducible", "--output", "json"];
        let guest = ["--", "-q", "-s", "/in/rtl/synth.ys"];
        let ended = run_at(&cluster, &home, &proxy.url, &[&args[..], &limits[..], &guest[..]].concat());
        let job = ended.expect_code(0).json();
        job["usage"]["fuel"].as_u64().unwrap_or_else(|| panic!("no fuel in {job:#}"))
    };
    let first_fuel = run("first");
    let netlist = fs::read(home.path().join("first/netlist.json")).expect("the netlist was written");
    let netlist: serde_json::Value = serde_json::from_slice(&netlist).expect("the netlist is JSON");
    let soc = &netlist["modules"]["soc"];
    assert_eq!(soc["ports"]["txd"]["direction"], "output");
    let cells = soc["cells"].as_object().expect("the netlist has cells");
    let count = |kind: &str| cells.values().filter(|cell| cell["type"] == kind).count();
    assert!(count("SB_LUT4") > 1_000, "{} look-up tables", count("SB_LUT4"));
    assert_eq!(count("SB_RAM40_4K"), 8, "registers, FIFOs and RAM lie in block RAM");
    let statistics = fs::read_to_string(home.path().join("first/statistics.txt")).expect("written too");
    assert!(statistics.contains("SB_CARRY"), "{statistics}");

    super::scripts::synthesis(&cluster, &home, &yosys, &share);
    // This time the node has other things to do, too.
    let spinning = keep_busy(&cluster).await;
    let requests_before = proxy.requests().len();
    let unpacked_before = unpacked_share(&cluster.state_dir("node-1"));
    assert_eq!(run("second"), first_fuel, "the fuel differs on a busy node");
    for id in &spinning {
        cluster.api.cancel(id).await.expect("a cancel");
    }
    let requests = proxy.requests().split_off(requests_before);
    let moved: Vec<_> = requests
        .iter()
        .filter(|line| line.starts_with("PUT /v1/blobs/") || line.starts_with("PUT /v1/modules/"))
        .filter(|line| !line.contains("/logs/"))
        .collect();
    assert!(moved.is_empty(), "uploaded again: {moved:?}");
    let fetched: Vec<_> = requests
        .iter()
        .filter(|line| line.starts_with("GET /v1/node/attempts/") && line.contains("/blobs/"))
        .collect();
    assert!(fetched.is_empty(), "fetched again by the node: {fetched:?}");
    assert_eq!(unpacked_before.len(), 1, "the tree lies unpacked in one place: {unpacked_before:?}");
    assert_eq!(unpacked_before, unpacked_share(&cluster.state_dir("node-1")), "it was unpacked again");
    node.kill_9();
    // It gets the compiled code with it if it takes it, which spares minutes.
    copy_cache(&cluster.state_dir("node-1"), &cluster.state_dir("node-2"));
    let _other =
        cluster.node(&NodeOptions { through: proxy.url.clone(), ..NodeOptions::named("node-2") }).await;
    assert_eq!(run("third"), first_fuel, "the fuel differs on another node");
    let outputs = |dir: &str| {
        ["netlist.json", "statistics.txt"]
            .map(|name| fs::read(home.path().join(dir).join(name)).expect("an output"))
    };
    assert!(outputs("first") == outputs("second"), "the outputs differ on a busy node");
    assert!(outputs("first") == outputs("third"), "the outputs differ on another node");
}

/// Two jobs that run until they are cancelled.
async fn keep_busy(cluster: &TestCluster) -> Vec<JobId> {
    cluster.api.publish("spins", spins_for_ever()).await.expect("a module");
    let mut spinning = Vec::new();
    for _ in 0..2 {
        spinning.push(cluster.api.submit(&small_job("spins")).await.expect("a job").id);
    }
    for id in &spinning {
        eventually("the node to be busy", Duration::from_secs(60), || async {
            cluster.api.job(id).await.ok().filter(|job| job.state == JobState::Running)
        })
        .await;
    }
    spinning
}

/// Gives a node that never ran what another one has in its cache, but not its identity.
fn copy_cache(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
    assert!(copied.success());
    for own in ["identity.json", "lock"] {
        fs::remove_file(to.join(own)).expect("the copy has it");
    }
}

#[test]
fn boolector_proves_a_formula_unsatisfiable_and_its_exit_code_20_counts_as_success() {
    let Some(boolector) = fetched("boolector/boolector.wasm") else { return };
    let home = Home::default();
    let problem = text(&repository().join("examples/solver/multiply-by-ten.smt2"));
    let (module, input) = (text(&boolector), format!("problem.smt2={problem}"));
    let args = ["run", &module, "--in", &input, "--success-exit", "10,20", "--", "/in/problem.smt2"];
    let ended = home.run(args).expect_code(0);
    assert_eq!(ended.text(), "unsat\n");

    let ended = home.run(["run", &module, "--in", &input, "--", "/in/problem.smt2"]).expect_code(3);
    assert!(ended.stderr.contains("exit_code") && ended.stderr.contains("20"), "{}", ended.stderr);
}

#[test]
fn resvg_draws_an_svg_as_a_whole_png() {
    let Some(resvg) = fetched("resvg/resvg.wasm") else { return };
    let home = Home::default();
    let picture = text(&repository().join("examples/picture/millstone.svg"));
    let (module, input) = (text(&resvg), format!("millstone.svg={picture}"));
    let guest = ["--out", "drawn", "--", "/in/millstone.svg", "/out/millstone.png"];
    home.run([&["run", &module, "--in", &input][..], &guest[..]].concat()).expect_code(0);

    let png = fs::read(home.path().join("drawn/millstone.png")).expect("the picture was written");
    let chunks = png_chunks(&png);
    let (kind, header) = chunks.first().expect("a PNG has chunks");
    assert_eq!(*kind, *b"IHDR");
    assert_eq!(header[..8], [0, 0, 2, 128, 0, 0, 1, 104], "640 x 360");
    assert!(chunks.iter().any(|(kind, data)| kind == b"IDAT" && data.len() > 1_000));
    assert_eq!(chunks.last().map(|(kind, _)| *kind), Some(*b"IEND"));
}

/// Splits a PNG into its chunks, each checked by its CRC-32.
fn png_chunks(png: &[u8]) -> Vec<([u8; 4], Vec<u8>)> {
    let mut rest = png.strip_prefix(b"\x89PNG\r\n\x1a\n").expect("the PNG signature");
    let mut chunks = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (body, after) = after.split_at(4 + length);
        let (sum, after) = after.split_first_chunk::<4>().expect("each chunk ends with its sum");
        assert_eq!(super::crc32(body), u32::from_be_bytes(*sum), "a chunk is damaged");
        let (kind, data) = body.split_first_chunk::<4>().expect("each chunk has a kind");
        chunks.push((*kind, data.to_vec()));
        rest = after;
    }
    chunks
}

//! The scripts of the examples, as a user starts them.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use gristmill_tests::{cli::Home, cluster::TestCluster, guests::fetched, process::gristmill, repository};
use reqwest::Method;

use super::{
    run_at,
    simulator::{expect_crc, read_wave},
    text,
};

/// Runs a script with the cluster's address and token in its environment.
fn script(cluster: &TestCluster, home: &Home, path: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("python3");
    command.arg(path).args(args).current_dir(home.path()).env("HOME", home.path());
    command.env("GRISTMILL", gristmill()).env("GRISTMILL_TOKEN", &cluster.api.token);
    command.env("GRISTMILL_SERVER", &cluster.api.url).env("NO_PROXY", "127.0.0.1");
    command.output().expect("python3 runs")
}

#[track_caller]
fn expect_success(output: &Output) -> String {
    assert!(output.status.success(), "{output:#?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gallery_draws_a_hundred_pictures_and_a_second_start_submits_nothing_new() {
    let Some(resvg) = fetched("resvg/resvg.wasm") else { return };
    let count = std::env::var("GRISTMILL_GALLERY_COUNT").unwrap_or_else(|_| "100".into());
    let (cluster, _node) = TestCluster::with_node().await;
    let home = Home::default();
    let gallery = repository().join("examples/gallery/gallery.py");
    let args = ["--resvg", &text(&resvg), "--out", "pictures", "--count", &count];
    for _ in 0..2 {
        let said = expect_success(&script(&cluster, &home, &gallery, &args));
        assert!(said.starts_with(&format!("drew {count} pictures")), "{said}");
    }
    let page = fs::read_to_string(home.path().join("pictures/index.html")).expect("the page");
    let shown: Vec<_> = page.split("<img src=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(shown.len().to_string(), count);
    let picture = |name: &&str| fs::read(home.path().join("pictures").join(name)).expect("a picture");
    let mut pictures: Vec<_> = shown.iter().map(picture).collect();
    assert!(pictures.iter().all(|png| png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 500));
    pictures.sort_unstable();
    pictures.dedup();
    assert_eq!(pictures.len().to_string(), count, "two pictures are the same");
    let metrics = cluster.api.request(Method::GET, "/metrics").send().await.expect("an answer");
    let metrics = metrics.text().await.expect("text");
    let submitted = format!("gristmill_jobs_submitted_total {count}");
    assert!(metrics.lines().any(|line| line == submitted), "{metrics}");
}

/// The synthesis regression, with a node that has compiled Yosys: as it is, and with a baseline that is
/// wrong by one cell. Then the simulator on a netlist that a job has just made.
pub(super) fn synthesis(cluster: &TestCluster, home: &Home, yosys: &Path, share: &Path) {
    let script_dir = repository().join("examples/synthesis");
    let (yosys, share) = (text(yosys), text(share));
    let options = ["--yosys", &yosys, "--share", &share];
    let said = expect_success(&script(cluster, home, &script_dir.join("regress.py"), &options));
    assert_eq!(said.lines().filter(|line| line.ends_with(" as before")).count(), 6, "{said}");

    let copied = Command::new("cp").arg("-r").arg(&script_dir).arg(home.path().join("synthesis")).status();
    assert!(copied.expect("cp runs").success());
    let baseline = home.path().join("synthesis/baseline.json");
    let good = fs::read_to_string(&baseline).expect("a baseline");
    let bad = good.replacen("\"$_DFF_P_\": 16,", "\"$_DFF_P_\": 15,", 1);
    assert_ne!(good, bad, "the arbiter has 16 flip-flops");
    fs::write(&baseline, bad).expect("written");
    let design = text(&repository().join("examples/verilog/arbiter.v"));
    let args = [&options[..], &[design.as_str()]].concat();
    let ended = script(cluster, home, &home.path().join("synthesis/regress.py"), &args);
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(String::from_utf8_lossy(&ended.stdout).contains("$_DFF_P_ 15 -> 16"), "{ended:#?}");

    let run = |args: &[&str]| run_at(cluster, home, &cluster.api.url, args).expect_code(0);
    let design = format!("design.v={}", text(&repository().join("examples/verilog/crc32.v")));
    let steps = format!("synth.ys={}", text(&script_dir.join("synth.ys")));
    let inputs = ["--in", &format!("/share={share}"), "--in", &design, "--in", &steps];
    // As the others, so that the node has it compiled.
    let limits = ["--memory", "1GiB", "--reproducible", "--out", "netlist", "--", "-q", "-s", "/in/synth.ys"];
    run(&[&["run", &yosys], &inputs[..], &limits[..]].concat());
    let simulator = text(&repository().join("examples/logic-sim.wasm"));
    let netlist = format!("netlist.json={}", text(&home.path().join("netlist/netlist.json")));
    let stimuli = format!("stimuli.txt={}", text(&repository().join("examples/logic/crc32.stimuli.txt")));
    run(&["run", &simulator, "--in", &netlist, "--in", &stimuli, "--memory", "64MiB", "--out", "wave"]);
    expect_crc(&read_wave(&home.path().join("wave/wave.vcd")));
}

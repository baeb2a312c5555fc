//! A backup is whole or not there, and a server restored from it goes on where it was.

use std::{fs, path::Path, time::Duration};

use gristmill_protocol::{JobState, attempt::AttemptState};
use gristmill_tests::{
    checker,
    cli::{Ended, Home},
    cluster::{NodeOptions, TestCluster},
    guests,
};
use reqwest::{Method, StatusCode};

use crate::{
    e2e::{small_job, text},
    faults::RECOVERY,
};

const LIMIT: Duration = Duration::from_secs(120);

fn back_up(home: &Home, data: &Path, out: &Path) -> Ended {
    home.run(["backup", "--data", &text(data), "--out", &text(out), "--copy", "--output", "json"])
}

fn verify(home: &Home, backup: &Path) -> Ended {
    home.run(["backup", "--verify", &text(backup)])
}

fn restore(home: &Home, backup: &Path, data: &Path) -> Ended {
    home.run(["restore", "--from", &text(backup), "--data", &text(data), "--output", "json"])
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_every_job_of_the_backup_ends_once_and_older_leases_do_nothing() {
    let mut cluster = TestCluster::start().await;
    let mut options = NodeOptions::named("node-1");
    options.flags = ["--cpus", "1", "--memory", "4GiB"].map(str::to_owned).to_vec();
    let _node = cluster.node(&options).await;
    let (home, api) = (Home::default(), cluster.api.clone());
    api.publish("computes", guests::computes(1_000)).await.expect("a module");
    api.publish("long", guests::computes(8_000_000_000)).await.expect("a module");
    api.publish("speaks", guests::writes_lines(10_000)).await.expect("a module");
    let done = api.submit(&small_job("computes")).await.expect("a job");
    let spoken = api.submit(&small_job("speaks")).await.expect("a job");
    for job in [&done, &spoken] {
        assert_eq!(api.finished(&job.id, LIMIT).await.expect("it ends").state, JobState::Succeeded);
    }
    let log = api.log(&spoken.id, 1, "stdout").await.expect("its log");
    // Two fill the node, so that a third waits.
    let mut before = vec![done.id, spoken.id];
    let mut running = Vec::new();
    for _ in 0..2 {
        running.push(api.submit(&small_job("long")).await.expect("a job").id);
    }
    for id in &running {
        gristmill_tests::eventually("both to run", LIMIT, || async {
            (api.job(id).await.ok()?.state == JobState::Running).then_some(())
        })
        .await;
    }
    before.extend(&running);
    before.push(api.submit(&small_job("computes")).await.expect("a job that waits").id);

    let out = home.path().join("backup");
    tokio::task::block_in_place(|| back_up(&home, &cluster.data_dir(), &out)).expect_code(0);
    let after = api.submit(&small_job("computes")).await.expect("a job that the backup does not know");
    cluster.server.kill_9();
    verify(&home, &out).expect_code(0);
    restore(&home, &out, &cluster.data_dir()).expect_code(1);
    cluster.data = "restored".to_owned();
    let restored = restore(&home, &out, &cluster.data_dir()).expect_code(0).json();
    assert!(restored["generation"].as_u64().expect("a number") > 1);

    // The node goes on: it holds leases from before, and learns that they are over.
    cluster.restart_server().await;
    let unknown = api.request(Method::GET, &format!("/v1/jobs/{}", after.id)).send().await;
    assert_eq!(unknown.expect("an answer").status(), StatusCode::NOT_FOUND);
    for id in &before {
        let ended = api.finished(id, RECOVERY).await.expect("it ends");
        assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
        assert_eq!(api.output(id, "result").await.is_ok(), *id != spoken.id);
    }
    for id in &running {
        let attempts = api.attempts(id).await.expect("its attempts");
        let states: Vec<_> = attempts.iter().map(|attempt| attempt.state).collect();
        assert_eq!(states, [AttemptState::Lost, AttemptState::Succeeded], "{attempts:#?}");
        assert!(attempts[1].fence >> 32 > attempts[0].fence >> 32, "{attempts:#?}");
    }
    assert_eq!(api.log(&spoken.id, 1, "stdout").await.expect("its log"), log);
    checker::check(&cluster.data_dir(), &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_killed_leaves_nothing_under_its_name() {
    let cluster = TestCluster::start().await;
    let home = Home::default();
    for n in 0..150_u32 {
        cluster.api.put_blob(n.to_be_bytes().repeat(2_000)).await.expect("a blob");
    }
    let out = home.path().join("backup");
    let data = text(&cluster.data_dir());
    for delay_ms in (0..60).step_by(4) {
        let args = ["backup", "--data", &data, "--out", &text(&out), "--copy"];
        let mut child = home.command(args).spawn().expect("the binary starts");
        // Any moment of the work is as good as any other.
        std::thread::sleep(Duration::from_millis(delay_ms));
        let _ = child.kill();
        let _ = child.wait();
        if out.exists() {
            verify(&home, &out).expect_code(0);
            fs::remove_dir_all(&out).expect("it can be removed");
        }
    }
    back_up(&home, &cluster.data_dir(), &out).expect_code(0);
    verify(&home, &out).expect_code(0);
    let left: Vec<_> = fs::read_dir(home.path())
        .expect("the home")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("backup"))
        .collect();
    assert_eq!(left, ["backup"], "what the killed ones had begun is gone");
    let again = back_up(&home, &cluster.data_dir(), &out).expect_code(1);
    assert!(again.stderr.contains("exists"), "{}", again.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_damaged_in_a_backup_is_found_and_not_restored() {
    let cluster = TestCluster::start().await;
    let home = Home::default();
    let digest = cluster.api.put_blob(b"precious".to_vec()).await.expect("a blob");
    let hex = digest.trim_start_matches("sha256:").to_owned();
    let blob = format!("objects/blobs/sha256/{}/{}", &hex[..2], &hex[2..]);
    let damages: [(&str, Damage<'_>); 6] = [
        ("is damaged", Box::new(|dir| fs::write(dir.join(&blob), "precioux").expect("writes"))),
        (&blob, Box::new(|dir| fs::remove_file(dir.join(&blob)).expect("removes"))),
        ("gristmill.db is damaged", Box::new(|dir| flip_a_bit(&dir.join("gristmill.db")))),
        ("SHA256SUMS is damaged", Box::new(|dir| flip_a_bit(&dir.join("SHA256SUMS")))),
        ("no backup", Box::new(|dir| fs::remove_file(dir.join("manifest.json")).expect("removes"))),
        (
            "newer version",
            Box::new(|dir| {
                let path = dir.join("manifest.json");
                let text =
                    fs::read_to_string(&path).expect("reads").replace("\"format\": 1", "\"format\": 2");
                fs::write(path, text).expect("writes");
            }),
        ),
    ];
    for (index, (says, damage)) in damages.iter().enumerate() {
        let (out, data) =
            (home.path().join(format!("backup-{index}")), home.path().join(format!("data-{index}")));
        back_up(&home, &cluster.data_dir(), &out).expect_code(0);
        verify(&home, &out).expect_code(0);
        damage(&out);
        for ended in [verify(&home, &out), restore(&home, &out, &data)] {
            let ended = ended.expect_code(1);
            assert!(ended.stderr.contains(says), "{says:?} is not in {}", ended.stderr);
        }
        assert!(!data.exists(), "nothing appears under the name of the data directory");
    }
}

type Damage<'a> = Box<dyn Fn(&Path) + 'a>;

fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("writes");
}

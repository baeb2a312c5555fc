//! Kills without a plan, while jobs are submitted all the time.

use std::time::Duration;

use gristmill_protocol::JobState;
use gristmill_tests::guests;

use super::{RECOVERY, Watched, small_job};

const ROUNDS: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_job_survives_a_series_of_kills() {
    let mut watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("computes", guests::computes(50_000_000)).await.expect("a module");
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        for job in 0..8 {
            let key = format!("round-{round}-job-{job}");
            if let Ok(job) = api.submit_with_key(&small_job("computes"), &key).await {
                acknowledged.push(job.id);
            }
        }
        // Steps of 0 to 750 ms reach leases, compiles, runs, uploads and reports.
        tokio::time::sleep(Duration::from_millis(150 * round)).await;
        if round % 2 == 0 {
            watched.cluster.server.kill_9();
            watched.cluster.restart_server().await;
        } else {
            watched.restart_node().await;
        }
    }
    assert!(acknowledged.len() >= 40, "{} of 48 submits were acknowledged", acknowledged.len());
    for id in &acknowledged {
        let ended = api.finished(id, RECOVERY).await.expect("it ends");
        assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
        assert_eq!(api.output(id, "result").await.expect("its output"), b"result");
    }
    watched.expect_clean_history(&acknowledged).await;
}

//! The commands of the operators' page about a server's data do what it says.

use std::{fs, process::Command};

use gristmill_tests::{cli::Home, cluster::TestCluster, guests, process::gristmill, repository};

/// The commands in the page's shell blocks that are about a server's data, in order; `transcripts.rs`
/// runs the others.
fn commands() -> Vec<String> {
    let page = fs::read_to_string(repository().join("docs/operations.md")).expect("the page");
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks
        .flat_map(str::lines)
        .filter(|line| ["/var/lib/", "/backup/"].iter().any(|dir| line.contains(dir)));
    lines.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_operators_page_work_as_they_stand_there() {
    let mut cluster = TestCluster::start().await;
    let home = Home::default();
    cluster.api.publish("noop", guests::noop()).await.expect("a module");
    cluster.api.put_blob(b"bytes".to_vec()).await.expect("a blob");
    let data = cluster.data_dir();
    let run = |line: &str| {
        let line = line
            .replace("/var/lib/gristmill", &data.to_string_lossy())
            .replace("/backup", &home.path().join("backup").to_string_lossy());
        let bin = gristmill();
        let folder = bin.parent().expect("a folder").to_string_lossy().into_owned();
        let output = Command::new("sh")
            .args(["-euc", &line])
            .env("PATH", format!("{folder}:/usr/bin:/bin"))
            .env("HOME", home.path())
            .output()
            .expect("a shell");
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    fs::create_dir(home.path().join("backup")).expect("a folder for backups");
    let all = commands();
    let (online, stopped): (Vec<_>, Vec<_>) = all.iter().partition(|line| !line.contains("migrate"));
    assert_eq!((online.len(), stopped.len()), (4, 2), "{all:?}");
    for line in online {
        run(line);
    }
    cluster.server.kill_9();
    for line in stopped {
        assert!(run(line).contains("schema"), "{line}");
    }
    cluster.data = "server-restored".to_owned();
    cluster.restart_server().await;
    let modules: serde_json::Value = cluster.api.get("/v1/modules").await.expect("its modules");
    assert_eq!(modules["items"][0]["name"], "noop", "{modules}");
}

//! What people see on a terminal, and what pipes get instead.

use std::{process::Command, time::Duration};

use gristmill_tests::{
    cli::{Ended, Home},
    cluster::TestCluster,
    guests,
};

use super::{small_job, text};

const LIMIT: Duration = Duration::from_secs(60);
/// Begins every movement of the cursor and every colour.
const ESCAPE: char = '\u{1b}';

/// Lets a command talk to a cluster as its administrator.
fn at(cluster: &TestCluster, mut command: Command) -> Command {
    command.env("GRISTMILL_SERVER", &cluster.api.url).env("GRISTMILL_TOKEN", &cluster.api.token);
    command
}

fn ended(mut command: Command) -> Ended {
    Ended::from_output(command.output().expect("it starts"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_fits_the_terminal_is_coloured_there_and_is_whole_and_plain_on_a_pipe() {
    let cluster = TestCluster::start().await;
    cluster.api.publish("a-module-with-a-rather-long-name", guests::noop()).await.expect("published");
    let job = cluster.api.submit(&small_job("a-module-with-a-rather-long-name")).await.expect("accepted");
    let home = Home::default();
    let list = ["job", "list"];

    let piped = ended(at(&cluster, home.command(list))).expect_code(0).text();
    assert!(piped.contains("a-module-with-a-rather-long-name@") && piped.contains("CREATED"), "{piped}");
    assert!(!piped.contains(ESCAPE), "{piped:?}");

    let mut plain = at(&cluster, home.terminal_command(70, &list));
    plain.env("NO_COLOR", "1");
    let plain = ended(plain).expect_code(0).text();
    assert!(plain.contains(&job.id.to_string()), "the id is whole: {plain}");
    assert!(plain.lines().all(|line| line.trim_end().chars().count() <= 70), "{plain}");
    assert!(plain.contains('…') && !plain.contains(ESCAPE), "{plain:?}");

    let mut cancel = at(&cluster, home.command(["job", "cancel", &job.id.to_string()]));
    cancel.output().expect("the binary starts");
    let colored = ended(at(&cluster, home.terminal_command(200, &list))).expect_code(0).text();
    assert!(colored.contains(ESCAPE) && colored.contains("cancelled"), "{colored:?}");
    let never = ended(at(&cluster, home.terminal_command(200, &["job", "list", "--color", "never"])));
    assert!(!never.text().contains(ESCAPE), "{:?}", never.text());
    let always = ended(at(&cluster, home.command(["job", "list", "--color", "always"])));
    assert!(always.text().contains(ESCAPE), "{:?}", always.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_a_line_for_each_change_on_a_pipe_and_one_screen_on_a_terminal() {
    let (cluster, _node) = TestCluster::with_node().await;
    cluster.api.publish("noop", guests::noop()).await.expect("published");
    let home = Home::default();
    let config = format!("[client]\nserver = \"{}\"\ntoken_file = \"token\"\n", cluster.api.url);
    home.file("token", &cluster.api.token);
    let config = text(&home.file("client.toml", config));

    let mut watching = home.start(["job", "list", "--watch", "--interval", "100ms", "--config", &config]);
    let job = cluster.api.submit(&small_job("noop")).await.expect("accepted");
    let seen = watching.wait_for_stdout("succeeded");
    let of_job: Vec<_> = seen.lines().filter(|line| line.starts_with(&job.id.to_string())).collect();
    assert!(!of_job.is_empty() && !seen.contains(ESCAPE), "{seen:?}");
    watching.interrupt();
    watching.end(LIMIT).expect_code(0);

    let line = ["job", "list", "--watch", "--interval", "100ms", "--config", &config];
    let mut command = home.terminal_command(120, &line);
    let mut watching = command.stdout(std::process::Stdio::piped()).spawn().expect("there is a `script`");
    let mut shown = String::new();
    let mut pipe = watching.stdout.take().expect("a pipe");
    while shown.matches("\u{1b}[H").count() < 2 {
        let mut chunk = [0; 4_096];
        let count = std::io::Read::read(&mut pipe, &mut chunk).expect("readable");
        assert!(count > 0, "it ended: {shown:?}");
        shown.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
    assert!(shown.contains("succeeded"), "{shown:?}");
    watching.kill().expect("it runs");
    watching.wait().expect("it ends");
    let refused =
        home.run(["job", "list", "--watch", "--output", "json", "--config", &config]).expect_code(2);
    assert!(refused.stderr.contains("hint: "), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_from_one_attempt_to_the_next() {
    let (cluster, _node) = TestCluster::with_node().await;
    cluster.api.publish("again", guests::exits_with(75)).await.expect("published");
    let home = Home::default();
    let mut spec = small_job("again");
    spec.retries = 1;
    let job = cluster.api.submit(&spec).await.expect("accepted");
    let followed = ended(at(&cluster, home.command(["job", "logs", "-f", &job.id.to_string()])));
    followed.expect_code(0);
    // It came back only when the job had ended, after its second attempt.
    let view = cluster.api.job(&job.id).await.expect("there");
    assert!(view.state.is_terminal() && view.attempt == 2, "{view:?}");
}

//! The transcripts in `tests/cli`, and the commands of the README and of the pages in `docs`, against a
//! real `gristmill dev`.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use gristmill_tests::{
    cli::{Ended, Home, Started},
    cluster::free_port,
    process::gristmill,
    repository, skip,
};

/// A server and a node in this home, with its command line logged in.
fn dev(home: &Home, port: u16) -> Started {
    let data = home.path().join("dev").display().to_string();
    let mut dev = home.start(["dev", "--data", &data, "--listen", &format!("127.0.0.1:{port}")]);
    dev.wait_for_stdout("Ctrl-C");
    dev
}

#[test]
fn the_transcripts_are_what_is_said() {
    let home = Home::default();
    let _dev = dev(&home, 0);
    let cases = trycmd::TestCases::new();
    cases.register_bin("gristmill", gristmill()).timeout(Duration::from_secs(120));
    for (name, below) in
        [("HOME", ""), ("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache")]
    {
        cases.env(name, home.path().join(below).to_string_lossy());
    }
    cases.case(repository().join("tests/cli/*.md")).run();
}

/// A block of shell commands in a page, and the heading above it.
struct Block {
    heading: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let page = std::fs::read_to_string(repository().join(page)).expect("it is there");
    let mut found = Vec::new();
    let (mut heading, mut block) = (String::new(), None::<String>);
    for line in page.lines() {
        match &mut block {
            Some(text) if line == "```" => {
                found.push(Block { heading: heading.clone(), text: std::mem::take(text) });
                block = None;
            }
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
            None if line == "```sh" => block = Some(String::new()),
            None if line.starts_with('#') => line.trim_start_matches('#').trim().clone_into(&mut heading),
            None => {}
        }
    }
    found
}

/// Blocks that run elsewhere, by a part of their text: the first in `.ci/run`, real programs in
/// `programs.rs`, compilers in `examples/guests/build`, and `dev` around all others here.
const RUN_ELSEWHERE: [&str; 4] =
    ["cargo run --release -- run", "G=.cache/guests", "rustup target add", "\ngristmill dev\n"];

/// Makes an answer that refuses a request fail the command that made it.
const CURL: &str = "curl() { command curl --fail-with-body --silent --show-error \"$@\"; }\n";

/// A directory in which the pages' commands find what they name, and nothing of the repository is
/// written.
fn lay_out(home: &Home) {
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).expect("made");
    symlink(gristmill(), bin.join("gristmill")).expect("linked");
    symlink(repository().join("examples"), home.path().join("examples")).expect("linked");
}

/// A line as it is run here: other directories and another address, but the same command.
fn here(line: &str, home: &Home, port: u16, job: &str) -> String {
    let below = |name: &str| home.path().join(name).display().to_string();
    let address = format!("127.0.0.1:{port}");
    let line = line.replace("/var/lib/gristmill-node", &below("node"));
    let line = line.replace("/var/lib/gristmill", &below("server"));
    let line = line.replace("0.0.0.0:7070", &address);
    let line = line.replace("queue.example.com:7070", &format!("localhost:{port}"));
    let line = line.replace("queue.example.com", "localhost");
    let words = line.split(' ').map(|word| if word == "JOB" { job } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// Whether this machine has the commands that pages call beside `gristmill`.
fn has(commands: &[&str]) -> bool {
    let lacking = commands.iter().find(|command| Command::new(command).arg("--version").output().is_err());
    if let Some(command) = lacking {
        skip::without("COMMANDS", format_args!("{command} (Debian), which commands of the pages call"));
    }
    lacking.is_none()
}

/// A line in a shell in which the lines of `exports` were run before.
fn shell(exports: &str, line: &str, home: &Home) -> Command {
    let mut command = gristmill_tests::process::isolated(Path::new("bash"), home.path());
    let path = format!("{}:{}", home.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
    command.args(["-euo", "pipefail", "-c", &format!("{CURL}{exports}{line}")]).env("PATH", path);
    command.current_dir(home.path()).stdin(Stdio::null());
    command
}

fn ended(exports: &str, line: &str, home: &Home) -> Ended {
    Ended::from_output(shell(exports, line, home).output().expect("there is a bash"))
}

/// The reason that a line of the README promises in its comment, if it is about a failure.
fn promised_reason(line: &str) -> Option<&str> {
    let word = line.split_once(" # ")?.1.trim().split([' ', ',']).next()?;
    (word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')).then_some(word)
}

#[test]
fn every_command_of_the_readme_works() {
    if !has(&["curl", "openssl"]) {
        return;
    }
    let home = Home::default();
    lay_out(&home);
    let _dev = dev(&home, 0);
    let port = free_port();
    // What the README exports is all that the commands after it get.
    let (mut job, mut exports, mut services) = (String::new(), String::new(), Vec::new());
    for block in blocks("README.md") {
        let text = format!("\n{}", block.text);
        if RUN_ELSEWHERE.iter().any(|part| text.contains(part)) {
            continue;
        }
        let joined = block.text.replace("\\\n", " ");
        for line in joined.lines().filter(|line| !line.trim().is_empty()) {
            let line = here(line, &home, port, &job);
            if line.starts_with("export ") {
                exports = exports + &line + "\n";
                continue;
            }
            if line.contains("server run") || line.contains("node run ") {
                let mut command = shell(&exports, &format!("exec {line}"), &home);
                let mut started = Started::new(&mut command);
                started.wait_for_stdout(if line.contains("server run") {
                    "admin.token"
                } else {
                    "isolation"
                });
                services.push(started);
                continue;
            }
            let reason = promised_reason(&line);
            let run = ended(&exports, &line, &home);
            let code = if reason.is_some() { 3 } else { 0 };
            assert_eq!(run.code, code, "{}: {line}\n{}{}", block.heading, run.text(), run.stderr);
            assert!(run.stderr.contains(reason.unwrap_or_default()), "{line}\n{}", run.stderr);
            if line.contains("job submit") {
                run.text().trim().clone_into(&mut job);
                ended(&exports, &format!("gristmill job wait {job}"), &home).expect_code(0);
            }
        }
    }
    assert!(!job.is_empty() && services.len() >= 2, "the README's commands were found");
}

/// The blocks as one script that ends at the first command which fails. One that promises to be refused, by
/// status and code in its comment, has to be refused so.
fn script(blocks: &[Block]) -> String {
    let text: String = blocks.iter().map(|block| block.text.replace("\\\n", " ")).collect();
    let checked = |line: &str| match line.split_once("# refused: ") {
        Some((command, promise)) => {
            let code = promise.split([' ', ',']).nth(1).expect("a status and a code");
            format!(
                "if {command} > refused; then echo 'was not refused'; exit 1; fi\n\
                 grep -q '\"code\":\"{code}\"' refused\n"
            )
        }
        None => format!("{line}\n"),
    };
    // A stream is left by a time limit of curl's, which is no failure of the pipeline.
    "set +o pipefail -x\n".to_owned() + &text.lines().map(checked).collect::<String>()
}

/// Runs the blocks with the server's address and an administrator's token in the environment.
fn run_as_one(blocks: &[Block]) -> String {
    let home = Home::default();
    lay_out(&home);
    let port = free_port();
    let _dev = dev(&home, port);
    let exports = format!(
        "export GRISTMILL_SERVER=http://127.0.0.1:{port} GRISTMILL_TOKEN=$(cat dev/server/admin.token)\n"
    );
    // The node of `dev` stands for the one of the page.
    let verbs = ["drain", "show", "resume", "revoke"];
    let script = verbs.iter().fold(script(blocks), |script, verb| {
        script.replace(&format!("node {verb} lab-1"), &format!("node {verb} local"))
    });
    let run = ended(&exports, &script, &home);
    assert_eq!(run.code, 0, "{}{}", run.text(), run.stderr);
    run.text()
}

#[test]
fn every_command_of_the_api_page_works() {
    if !has(&["curl"]) {
        return;
    }
    let said = run_as_one(&blocks("docs/api.md"));
    for part in [
        "\"state\":\"succeeded\"",
        "400 records",
        "summary.csv",
        "304 Not Modified",
        "\"index\":3",
        "job_finished",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn the_commands_of_the_operators_page_about_tenants_and_nodes_work() {
    if !has(&["curl"]) {
        return;
    }
    let mut found = blocks("docs/operations.md");
    found.retain(|block| !["/var/lib/", "/backup/"].iter().any(|dir| block.text.contains(dir)));
    let headings = found.iter().map(|block| block.heading.as_str()).collect::<Vec<_>>();
    for heading in
        ["Tenants, zones and tokens", "Adding and retiring a node", "Who did what, and what happened"]
    {
        assert!(headings.contains(&heading), "{heading} in {headings:?}");
    }
    let said = run_as_one(&found);
    assert!(said.contains("\"operation\":\"token_create\""), "{said}");
}

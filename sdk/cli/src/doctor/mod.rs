//! `gristmill doctor`: checks this machine, its network and its server, and says what to do.

mod engine;
mod machine;
mod network;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::{
    args::Global,
    configuration::{Loaded, Sources},
    environment,
    failure::Exit,
    harmless::harmless,
    printer::Printer,
    progress::Progress,
    terminal, traces,
};

/// Check this machine, its network and its server; say what to do
#[derive(Debug, Args)]
#[command(
    after_help = "A server is checked when one is configured: --server, GRISTMILL_SERVER, a file of settings, \
                        or the current context. Exit codes: 0 nothing failed, 1 a check failed."
)]
pub(crate) struct DoctorArgs {
    /// Leave out the checks of engine, isolation and fuel rate, which take a few seconds
    #[arg(long)]
    quick: bool,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One check.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    /// What to do, when there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, detail: detail.into(), advice: None }
    }

    fn warning(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warning, detail: detail.into(), advice: Some(advice.into()) }
    }

    fn failed(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Failed, detail: detail.into(), advice: Some(advice.into()) }
    }
}

/// Runs the command.
pub(crate) async fn run(args: DoctorArgs, global: &Global) -> anyhow::Result<Exit> {
    let progress = Progress::start();
    let mut checks = vec![settings(global)];
    checks.push(network::proxies(&environment::variable));
    checks.extend(traces());
    progress.phase("asking the server");
    checks.extend(network::tls(global));
    checks.extend(network::server(global).await);
    progress.phase("looking at the directories");
    let dirs = machine::directories(&global.loaded)?;
    let looked = tokio::task::spawn_blocking(move || {
        let mut checks = Vec::new();
        for dir in &dirs {
            checks.extend(machine::directory(dir));
        }
        checks.push(machine::open_files());
        checks
    });
    checks.extend(looked.await?);
    if !args.quick {
        progress.phase("running a guest");
        checks.extend(engine::checks().await);
    }
    progress.finish();
    let has_failed = checks.iter().any(|check| check.verdict == Verdict::Failed);
    let document = json!({ "ok": !has_failed, "checks": checks });
    Printer::new(global.json()).show(&document, |_| checks.iter().map(text).collect())?;
    Ok(if has_failed { Exit::Error } else { Exit::Ok })
}

fn text(check: &Check) -> String {
    let word = format!("{:<8}", check.verdict.word());
    let word = match terminal::style_of(check.verdict.word()) {
        Some(style) if terminal::colors_stdout() => format!("{style}{word}{style:#}"),
        _ => word,
    };
    let advice = check.advice.as_ref().map(|advice| format!("{:23}do: {}\n", "", harmless(advice)));
    format!("{word} {:<14}{}\n{}", check.name, harmless(&check.detail), advice.unwrap_or_default())
}

/// Whether traces are exported, if anybody wants that.
fn traces() -> Option<Check> {
    const NAME: &str = "traces";
    Some(match traces::exporting()? {
        Ok(()) => Check::ok(NAME, "server and node export them, as OTEL_EXPORTER_OTLP_ENDPOINT says"),
        Err(why) => Check::warning(NAME, why, traces::ADVICE),
    })
}

/// Whether the settings can be used. They were not loaded when they are wrong.
fn settings(global: &Global) -> Check {
    let sources = Sources {
        file: global.config.as_deref(),
        given: global.given(),
        variable: &environment::variable,
        is_service: false,
    };
    match Loaded::from(sources) {
        Ok(Loaded { file: Some(path), .. }) => Check::ok("settings", format!("{} is valid", path.display())),
        Ok(_) => Check::ok("settings", "no file; options, environment and defaults count"),
        Err(failure) => Check::failed(
            "settings",
            failure.to_string(),
            "correct them; `gristmill config check` names every mistake with its line",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_line_and_says_below_what_to_do() {
        assert_eq!(text(&Check::ok("engine", "runs\n")), "ok       engine        runs\\n\n");
        let shown = text(&Check::failed("server", "no answer", "start it"));
        assert_eq!(shown, "failed   server        no answer\n                       do: start it\n");
    }
}

//! `gristmill job list`: which jobs there are, once or as they change.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use console::Term;
use gristmill_client::user::Client;
use gristmill_protocol::{
    JobId, JobState, JobView, Page, Timestamp, job::JobFilter, units::format_duration_us,
};

use crate::{
    args::Global,
    connect::Connection,
    failure::{Exit, Failure},
    harmless::harmless,
    interrupt::Interrupt,
    job_args, phase,
    printer::{Printer, time, write_stdout},
    steady::Steady,
    table::table,
};

/// Which jobs to list
#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    /// Only jobs in this state
    #[arg(long, value_parser = job_args::from_str::<JobState>)]
    state: Option<JobState>,
    /// Only jobs of this module
    #[arg(long)]
    module: Option<String>,
    /// Only jobs that ran last in this zone, or that ask for it and have not run yet
    #[arg(long)]
    zone: Option<String>,
    /// Only jobs with this label
    #[arg(long, value_name = "K=V", value_parser = job_args::parse_label)]
    label: Option<(String, String)>,
    /// Only jobs accepted after this time, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    created_after: Option<Timestamp>,
    /// Most jobs to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Go on after an earlier page (its `next_page_token`)
    #[arg(long, value_name = "TOKEN", conflicts_with = "watch")]
    page_token: Option<String>,
    /// Go on until Ctrl-C: on a terminal the table is drawn again, elsewhere each change is a line
    #[arg(short, long)]
    watch: bool,
    /// How often to look when watching [default: 2s]
    #[arg(long, value_name = "D", value_parser = job_args::duration_ms, requires = "watch")]
    interval: Option<u64>,
}

/// How often to look when nothing else is said.
const INTERVAL_MS: u64 = 2_000;
/// Shortest time between two looks.
const INTERVAL_MS_LEAST: u64 = 100;

/// Runs the command.
pub(crate) async fn run(connection: Connection, args: ListArgs, global: &Global) -> anyhow::Result<Exit> {
    if args.watch {
        if global.json() {
            return Err(Failure::usage("--watch goes on for ever, and --output json is one document")
                .hint("leave one of them away, or call `gristmill job list --output json` again and again")
                .into());
        }
        return watch(&Steady::new(connection), &args).await;
    }
    let client = &connection.client;
    let module = args.module.clone();
    let page = list(client, &args).await?;
    if let Some(module) = module.filter(|_| page.items.is_empty()) {
        tell_unknown_module(client, &module).await;
    }
    Printer::new(global.json()).show(&page, list_table)?;
    Ok(Exit::Ok)
}

async fn list(
    client: &Client,
    args: &ListArgs,
) -> Result<Page<JobView>, gristmill_client::user::ClientError> {
    let mut filter = JobFilter {
        state: args.state,
        module: args.module.clone(),
        zone: args.zone.clone(),
        label: args.label.as_ref().map(|(key, value)| format!("{key}:{value}")),
        created_after: args.created_after,
        page_size: None,
        page_token: args.page_token.clone(),
    };
    let mut items = Vec::new();
    loop {
        let left = args.limit.saturating_sub(items.len());
        filter.page_size = Some(left.clamp(1, 1_000) as u32);
        let page = client.job_list(&filter).await?;
        items.extend(page.items);
        filter.page_token = page.next_page_token;
        if items.len() >= args.limit || filter.page_token.is_none() {
            return Ok(Page { items, next_page_token: filter.page_token });
        }
    }
}

async fn watch(steady: &Steady, args: &ListArgs) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::for_service();
    let interval = Duration::from_millis(args.interval.unwrap_or(INTERVAL_MS).max(INTERVAL_MS_LEAST));
    let terminal = Some(Term::stdout()).filter(Term::is_term);
    let mut seen = Seen::default();
    loop {
        let looked = steady.call(|client| async move { list(&client, args).await });
        let page = tokio::select! {
            page = looked => page?,
            () = interrupt.first() => return Ok(Exit::Ok),
        };
        match &terminal {
            Some(terminal) => draw(terminal, &list_table(&page))?,
            None => write_stdout(seen.changes(&page.items).as_bytes())?,
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = interrupt.first() => return Ok(Exit::Ok),
        }
    }
}

/// Draws over what was drawn before: from the top, each line cleared behind its end, the rest cleared.
fn draw(terminal: &Term, text: &str) -> anyhow::Result<()> {
    let (height, _) = terminal.size();
    let mut out = String::from("\x1b[H");
    for line in text.lines().take(usize::from(height).saturating_sub(1)) {
        out.push_str(line);
        out.push_str("\x1b[K\n");
    }
    out.push_str("\x1b[J");
    write_stdout(out.as_bytes())
}

/// What was printed of each job.
#[derive(Debug, Default)]
struct Seen(BTreeMap<JobId, String>);

impl Seen {
    /// A line for each job that is new or has changed, the oldest first.
    fn changes(&mut self, jobs: &[JobView]) -> String {
        let mut lines = String::new();
        let mut now = BTreeMap::new();
        for job in jobs.iter().rev() {
            let reason = job.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let phase = job.phase.filter(|_| job.phase_since.is_some());
            let phase = phase.map(|phase| format!(": {phase}")).unwrap_or_default();
            let state = format!("{}{phase}{reason}", job.state);
            if self.0.get(&job.id) != Some(&state) {
                let zone = job.zone.as_deref().unwrap_or("-");
                lines.push_str(&harmless(&format!("{}  {state}  {}  {zone}", job.id, module_text(job))));
                lines.push('\n');
            }
            now.insert(job.id, state);
        }
        // Jobs that left the page are forgotten, so that this does not grow.
        self.0 = now;
        lines
    }
}

/// An empty list may stand for a module whose name was mistyped.
async fn tell_unknown_module(client: &Client, module: &str) {
    let found = client.module_get(module).await;
    if found.is_err_and(|error| error.is_not_found()) {
        eprintln!("note: there is no module {module:?}; gristmill module list shows what there is");
    }
}

fn module_text(job: &JobView) -> String {
    match (&job.module.name, &job.module.version) {
        (Some(name), Some(version)) => format!("{name}@{version}"),
        _ => format!("sha256:{}", &job.module.digest.hex()[..12]),
    }
}

fn list_table(page: &Page<JobView>) -> String {
    let rows = page.items.iter().map(|job| {
        let wall = job.usage.as_ref().and_then(|usage| usage.wall_us).map(format_duration_us);
        vec![
            job.id.to_string(),
            job.state.to_string(),
            phase::text(job.phase, job.phase_since).unwrap_or_default(),
            job.reason.map(|reason| reason.to_string()).unwrap_or_default(),
            module_text(job),
            job.zone.clone().unwrap_or_default(),
            wall.unwrap_or_default(),
            time(job.created_at),
        ]
    });
    let mut text = table(&["id", "state", "phase", "reason", "module", "zone", "wall", "created"], rows);
    if let Some(token) = &page.next_page_token {
        text.push_str("there are more; go on with --page-token ");
        text.push_str(token);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::sample;

    #[test]
    fn a_job_is_told_when_it_is_new_and_when_it_changes() {
        let mut seen = Seen::default();
        let told = ["queued", "queued", "running", "succeeded", "succeeded"]
            .map(|state| seen.changes(&[sample(state)]).lines().count());
        assert_eq!(told, [1, 0, 1, 1, 0]);
    }
}

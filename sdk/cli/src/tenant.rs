//! `gristmill tenant`: who jobs, modules and quotas belong to.

use std::{str::FromStr, time::Duration};

use clap::{Args, Subcommand};
use gristmill_protocol::tenancy::{TenantRetention, TenantSpec, TenantView};
use serde_json::json;

use crate::{
    args::Global,
    configuration::{bytes_text, duration_text},
    connect::connect,
    failure::Exit,
    job_args::{bytes, duration_ms},
    printer::{Printer, grouped, pairs, time},
    table::table,
};

/// Tenants
#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Make a tenant
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        settings: TenantSettings,
    },
    /// List tenants
    List,
    /// Show a tenant
    Show {
        /// Its name
        name: String,
    },
    /// Change what is given and leave the rest
    Set {
        /// Its name
        name: String,
        #[command(flatten)]
        settings: TenantSettings,
    },
}

/// What a tenant has for itself; `default` stands for the server's setting
#[derive(Debug, Default, Args)]
pub(crate) struct TenantSettings {
    /// Most jobs that may wait in the queue
    #[arg(long, value_name = "N", value_parser = own(number::<u64>))]
    queue_depth_max: Option<Own<u64>>,
    /// How long jobs are kept after their end, with their attempts and outputs
    #[arg(long, value_name = "D", value_parser = own(duration_ms))]
    keep_jobs: Option<Own<u64>>,
    /// How long logs are kept after the end of their job, at most as long as the job
    #[arg(long, value_name = "D", value_parser = own(duration_ms))]
    keep_logs: Option<Own<u64>>,
    /// Most jobs that are kept after their end; the oldest go first
    #[arg(long, value_name = "N", value_parser = own(number::<u32>))]
    keep_jobs_max: Option<Own<u32>>,
    /// Most bytes of outputs and logs that are kept of jobs after their end; the oldest jobs go first
    #[arg(long, value_name = "SIZE", value_parser = own(bytes))]
    keep_bytes_max: Option<Own<u64>>,
}

/// A value of the tenant's own, or none: then the server's setting holds.
#[derive(Debug, Clone, Copy)]
struct Own<T>(Option<T>);

fn own<T>(read: fn(&str) -> Result<T, String>) -> impl Fn(&str) -> Result<Own<T>, String> + Clone {
    move |text| if text == "default" { Ok(Own(None)) } else { read(text).map(|value| Own(Some(value))) }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not understood; write a whole number"))
}

impl TenantSettings {
    fn apply(self, spec: &mut TenantSpec) {
        fn set<T>(place: &mut Option<T>, given: Option<Own<T>>) {
            if let Some(Own(value)) = given {
                *place = value;
            }
        }
        set(&mut spec.queue_depth_max, self.queue_depth_max);
        set(&mut spec.retention.job_ttl_ms, self.keep_jobs);
        set(&mut spec.retention.log_ttl_ms, self.keep_logs);
        set(&mut spec.retention.jobs_max, self.keep_jobs_max);
        set(&mut spec.retention.bytes_max, self.keep_bytes_max);
    }
}

/// Runs the command.
pub(crate) async fn run(command: TenantCommand, global: &Global) -> anyhow::Result<Exit> {
    let connection = connect(global).await?;
    let client = &connection.client;
    let printer = Printer::new(global.json());
    match command {
        TenantCommand::Create { name, settings } => {
            let retention = TenantRetention::default();
            let mut spec = TenantSpec { name, queue_depth_max: None, retention };
            settings.apply(&mut spec);
            printer.show(&client.tenant_create(&spec).await?, details)?;
        }
        TenantCommand::List => {
            let tenants = client.tenant_list().await?;
            printer.show(&json!({ "items": tenants }), |_| {
                let rows = tenants.iter().map(|tenant| {
                    vec![
                        tenant.name.clone(),
                        grouped(tenant.queue_depth_max),
                        keeps(&tenant.retention),
                        time(tenant.created_at),
                    ]
                });
                table(&["name", "queue depth", "keeps", "created"], rows)
            })?;
        }
        TenantCommand::Show { name } => printer.show(&client.tenant_get(&name).await?, details)?,
        TenantCommand::Set { name, settings } => {
            let TenantView { name, queue_depth_max, retention, version, .. } =
                client.tenant_get(&name).await?;
            let mut spec = TenantSpec { name, queue_depth_max: Some(queue_depth_max), retention };
            settings.apply(&mut spec);
            printer.show(&client.tenant_set(&spec, version).await?, details)?;
        }
    }
    Ok(Exit::Ok)
}

/// What a tenant keeps by a policy of its own, in words.
fn keeps(retention: &TenantRetention) -> String {
    let TenantRetention { job_ttl_ms, log_ttl_ms, jobs_max, bytes_max } = *retention;
    let time = |ms| duration_text(Duration::from_millis(ms));
    let parts = [
        job_ttl_ms.map(|ms| format!("jobs for {}", time(ms))),
        log_ttl_ms.map(|ms| format!("logs for {}", time(ms))),
        jobs_max.map(|max| format!("at most {} jobs", grouped(max.into()))),
        bytes_max.map(|max| format!("at most {}", bytes_text(max))),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "as the server".into() } else { parts.join(", ") }
}

fn details(tenant: &TenantView) -> String {
    pairs(&[
        ("name", Some(tenant.name.clone())),
        ("queue depth", Some(grouped(tenant.queue_depth_max))),
        ("keeps", Some(keeps(&tenant.retention))),
        ("created", Some(time(tenant.created_at))),
    ])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        settings: TenantSettings,
    }

    fn changed(spec: &TenantSpec, args: &[&str]) -> TenantSpec {
        let mut spec = spec.clone();
        let line = Line::try_parse_from([&["set"], args].concat()).expect("a valid line");
        line.settings.apply(&mut spec);
        spec
    }

    #[test]
    fn what_is_not_given_stays_and_default_takes_a_value_back() {
        let retention = TenantRetention { log_ttl_ms: Some(5), ..TenantRetention::default() };
        let spec = TenantSpec { name: "acme".into(), queue_depth_max: Some(7), retention };
        assert_eq!(changed(&spec, &[]), spec);
        let all =
            changed(&spec, &["--keep-jobs", "7d", "--keep-jobs-max", "1000", "--keep-bytes-max", "2GiB"]);
        let expected = TenantRetention {
            job_ttl_ms: Some(7 * 86_400_000),
            log_ttl_ms: Some(5),
            jobs_max: Some(1_000),
            bytes_max: Some(2 << 30),
        };
        assert_eq!((all.queue_depth_max, &all.retention), (Some(7), &expected));
        let less = changed(&all, &["--keep-logs", "default", "--queue-depth-max", "default"]);
        assert_eq!(less.queue_depth_max, None);
        assert_eq!(less.retention, TenantRetention { log_ttl_ms: None, ..expected });
        Line::try_parse_from(["set", "--keep-jobs-max", "many"]).expect_err("no number");
        assert_eq!(keeps(&all.retention), "jobs for 7d, logs for 5ms, at most 1,000 jobs, at most 2GiB");
        assert_eq!(keeps(&TenantRetention::default()), "as the server");
    }
}

//! `gristmill tenant`: who jobs, modules and quotas belong to.

use clap::Subcommand;
use gristmill_protocol::tenancy::{TenantSpec, TenantView};
use serde_json::json;

use crate::{
    args::Global,
    connect::connect,
    failure::Exit,
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
        /// Most jobs that may wait in the queue [default: the server's setting]
        #[arg(long, value_name = "N")]
        queue_depth_max: Option<u64>,
    },
    /// List tenants
    List,
    /// Show a tenant
    Show {
        /// Its name
        name: String,
    },
}

/// Runs the command.
pub(crate) async fn run(command: TenantCommand, global: &Global) -> anyhow::Result<Exit> {
    let connection = connect(global).await?;
    let client = &connection.client;
    let printer = Printer::new(global.json());
    match command {
        TenantCommand::Create { name, queue_depth_max } => {
            let spec = TenantSpec { name, queue_depth_max };
            printer.show(&client.tenant_create(&spec).await?, details)?;
        }
        TenantCommand::List => {
            let tenants = client.tenant_list().await?;
            printer.show(&json!({ "items": tenants }), |_| {
                let rows = tenants.iter().map(|tenant| {
                    vec![tenant.name.clone(), grouped(tenant.queue_depth_max), time(tenant.created_at)]
                });
                table(&["name", "queue depth", "created"], rows)
            })?;
        }
        TenantCommand::Show { name } => printer.show(&client.tenant_get(&name).await?, details)?,
    }
    Ok(Exit::Ok)
}

fn details(tenant: &TenantView) -> String {
    pairs(&[
        ("name", Some(tenant.name.clone())),
        ("queue depth", Some(grouped(tenant.queue_depth_max))),
        ("created", Some(time(tenant.created_at))),
    ])
}

//! `gristmill module`: publish modules and look at them.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use gristmill_client::user::OnSent;
use gristmill_protocol::{
    module::{ModuleVersionView, ModuleView, Visibility},
    units::format_bytes,
};
use serde_json::json;

use crate::{
    args::Global,
    connect::{connect, connect_or_begin},
    failure::{Exit, Failure},
    job_args::from_str,
    printer::{Printer, pairs, time},
    progress::Progress,
    table::table,
};

/// Publish modules and look at them
#[derive(Debug, Subcommand)]
pub(crate) enum ModuleCommand {
    /// Publish a file as a version; the same bytes again change nothing
    Publish {
        /// The .wasm file
        file: PathBuf,
        /// Module name
        #[arg(long)]
        name: String,
        /// Semantic version; it can never be changed
        #[arg(long = "version", value_name = "V")]
        module_version: String,
        /// JSON Schema that the params of jobs must satisfy
        #[arg(long, value_name = "FILE")]
        params_schema: Option<PathBuf>,
        /// Who may see and run the module
        #[arg(long, value_name = "tenant|public", value_parser = from_str::<Visibility>)]
        visibility: Option<Visibility>,
    },
    /// List modules
    List,
    /// Show a module and its versions, or one version
    Show {
        /// NAME or NAME@VERSION
        module: String,
    },
    /// No longer pick a version by default; it still runs when named
    Deprecate {
        /// NAME@VERSION
        module: String,
        /// Take the mark away
        #[arg(long)]
        undo: bool,
    },
}

/// Runs the command.
pub(crate) async fn run(command: ModuleCommand, global: &Global) -> anyhow::Result<Exit> {
    let connection = match &command {
        ModuleCommand::Publish { .. } => connect_or_begin(global).await?,
        _ => connect(global).await?,
    };
    let client = &connection.client;
    let printer = Printer::new(global.json());
    match command {
        ModuleCommand::Publish { file, name, module_version, params_schema, visibility } => {
            let progress = Progress::start();
            progress.phase(&format!("publishing {name}@{module_version}"));
            let schema = match params_schema {
                Some(path) => Some(client.blob_put_file(&path, &OnSent::nobody()).await?.digest),
                None => None,
            };
            let published = client.module_publish(&name, &module_version, &file, schema.as_ref()).await;
            let view = published.with_context(|| format!("cannot publish {}", file.display()))?;
            if let Some(visibility) = visibility {
                client.module_set_visibility(&name, visibility).await?;
            }
            progress.finish();
            printer.show(&view, version_details)?;
        }
        ModuleCommand::List => {
            let mut items = Vec::new();
            let mut token = None;
            loop {
                let page = client.module_list(token.as_deref()).await?;
                items.extend(page.items);
                token = page.next_page_token;
                if token.is_none() {
                    break;
                }
            }
            printer.show(&json!({ "items": items }), |_| modules_table(&items))?;
        }
        ModuleCommand::Show { module } => match module.split_once('@') {
            Some((name, version)) => {
                printer.show(&client.module_version_get(name, version).await?, version_details)?;
            }
            None => printer.show(&client.module_get(&module).await?, module_details)?,
        },
        ModuleCommand::Deprecate { module, undo } => {
            let Some((name, version)) = module.split_once('@') else {
                return Err(Failure::usage("name the version too, as NAME@VERSION").into());
            };
            let view = client.module_version_deprecate(name, version, !undo).await?;
            printer.show(&view, version_details)?;
        }
    }
    Ok(Exit::Ok)
}

fn modules_table(modules: &[ModuleView]) -> String {
    let rows = modules.iter().map(|module| {
        vec![
            module.name.clone(),
            module.owner.clone(),
            module.latest.clone().unwrap_or_default(),
            module.visibility.to_string(),
            time(module.created_at),
        ]
    });
    table(&["name", "owner", "latest", "visible to", "created"], rows)
}

fn module_details(module: &ModuleView) -> String {
    let head = pairs(&[
        ("name", Some(module.name.clone())),
        ("owner", Some(module.owner.clone())),
        ("latest", module.latest.clone()),
        ("visible to", Some(module.visibility.to_string())),
    ]);
    let rows = module.versions.iter().map(|version| {
        vec![
            version.version.clone(),
            format_bytes(version.size),
            if version.deprecated { "deprecated".into() } else { String::new() },
            time(version.created_at),
            version.digest.to_string(),
        ]
    });
    head + "\n" + &table(&["version", "size", "", "published", "digest"], rows)
}

fn version_details(version: &ModuleVersionView) -> String {
    let list = |items: &[String]| (!items.is_empty()).then(|| items.join(", "));
    let metadata = &version.metadata;
    pairs(&[
        ("module", Some(format!("{}@{}", version.name, version.version))),
        ("owner", Some(version.owner.clone())),
        ("digest", Some(version.digest.to_string())),
        ("size", Some(format_bytes(version.size))),
        ("contract", Some(metadata.world.to_string())),
        ("description", metadata.description.clone()),
        ("licence", metadata.licenses.clone()),
        ("source", metadata.source.clone()),
        ("features", list(&metadata.features)),
        ("imports", list(&metadata.imports)),
        ("params", metadata.params_schema.as_ref().map(|_| "checked against a JSON Schema".into())),
        ("deprecated", version.deprecated.then(|| "yes".into())),
        ("published", Some(time(version.created_at))),
    ])
}

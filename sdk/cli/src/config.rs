//! `gristmill config`: check files of settings and show what is in force.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::{
    args::Global,
    configuration::{Loaded, Origin, Problem, SECTIONS, SETTINGS, Sources, check, example},
    environment,
    failure::{Exit, Failure},
    printer::Printer,
    table::wrapped,
};

/// Check files of settings and show what is in force
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a file: every mistake with its line, and the nearest known key
    Check {
        /// The file; the one that is in force when absent
        file: Option<PathBuf>,
    },
    /// Show the settings in force; secrets are not shown
    Show {
        /// Only this section: client, log, server, node or dev
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(SECTIONS.map(|(name, _)| name)))]
        section: Option<String>,
        /// Say where each comes from: an option, a variable, a line of a file, or the default
        #[arg(long)]
        origin: bool,
    },
    /// Print a file with every key, to start from
    Example {
        /// Sections to have in it
        #[arg(default_values = ["server", "node", "log"], value_parser = clap::builder::PossibleValuesParser::new(SECTIONS.map(|(name, _)| name)))]
        section: Vec<String>,
    },
}

/// Runs the command.
pub(crate) fn run(command: ConfigCommand, global: &Global) -> anyhow::Result<Exit> {
    match command {
        ConfigCommand::Check { file } => check_file(file, global),
        ConfigCommand::Show { section, origin } => show(section.as_deref(), origin, global),
        ConfigCommand::Example { section } => {
            let sections: Vec<_> = section.iter().map(String::as_str).collect();
            let text = example(&sections);
            Printer::new(global.json()).show(&json!({ "text": text }), |_| text.clone())?;
            Ok(Exit::Ok)
        }
    }
}

fn check_file(file: Option<PathBuf>, global: &Global) -> anyhow::Result<Exit> {
    let Some(path) = file.or_else(|| global.config.clone()).map_or_else(in_force, |path| Ok(Some(path)))?
    else {
        return Err(Failure::usage("there is no file of settings")
            .code("configuration")
            .hint("name one, or make one from `gristmill config example`")
            .into());
    };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::file(format!("cannot read {}", path.display()), &error).hint("name a file that can be read")
    })?;
    let (count, problems) = check(&path, &text);
    let shown = path.display();
    if problems.is_empty() {
        let document = json!({ "file": path, "settings": count, "problems": [] });
        let noun = if count == 1 { "setting" } else { "settings" };
        Printer::new(global.json()).show(&document, |_| format!("{shown} is valid: {count} {noun}"))?;
        return Ok(Exit::Ok);
    }
    if global.json() {
        let document = json!({ "file": path, "settings": count, "problems": problems });
        Printer::new(true).show(&document, |_| String::new())?;
        return Ok(Exit::Error);
    }
    let lines: Vec<_> =
        problems.iter().map(|problem: &Problem| format!("{shown}:{}", problem.text())).collect();
    Err(Failure::local(lines.join("\n"))
        .code("configuration")
        .hint("`gristmill config example` prints a file with every key")
        .into())
}

/// The file that would be read when none is named.
fn in_force() -> anyhow::Result<Option<PathBuf>> {
    Ok(crate::configuration::file_in_force(&environment::variable)?)
}

fn show(section: Option<&str>, with_origin: bool, global: &Global) -> anyhow::Result<Exit> {
    let loaded = Loaded::from(Sources {
        file: global.config.as_deref(),
        given: global.given(),
        variable: &environment::variable,
        is_service: false,
    })?;
    let chosen = SETTINGS.iter().filter(|setting| section.is_none_or(|section| setting.section == section));
    let rows: Vec<_> = chosen
        .map(|setting| {
            let origin = loaded.origin(&setting.key());
            let is_default = origin == Origin::Default;
            let value = loaded.shown(setting);
            let words =
                setting.default.filter(|_| is_default && value.is_none()).map(|text| format!("({text})"));
            (setting.key(), value, words, origin)
        })
        .collect();
    let document = json!({
        "file": loaded.file,
        "items": rows.iter().map(|(key, value, _, origin)| json!({
            "key": key, "value": value, "origin": origin.to_string(),
        })).collect::<Vec<_>>(),
    });
    Printer::new(global.json()).show(&document, |_| {
        let cells = rows.iter().map(|(key, value, words, origin)| {
            let shown = value.clone().or_else(|| words.clone()).unwrap_or_else(|| "(none)".to_owned());
            let mut row = vec![key.clone(), shown];
            row.extend(with_origin.then(|| origin.to_string()));
            row
        });
        let header: &[&str] = if with_origin { &["key", "value", "origin"] } else { &["key", "value"] };
        wrapped(header, cells)
    })?;
    Ok(Exit::Ok)
}

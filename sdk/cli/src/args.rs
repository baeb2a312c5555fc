//! The command line as a whole: options that every command takes, and the list of nouns.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    bench, completions, config,
    configuration::{Given, Loaded},
    context, dev, doctor, job,
    job_args::from_str,
    join_token, module, node, run, server, tenant,
    terminal::ColorChoice,
    token, upkeep, zone,
};

/// Runs WASI programs as jobs, wherever there is room.
#[derive(Debug, Parser)]
#[command(name = "gristmill", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 ok, 1 error, 2 usage, 3 job failed, 4 job cancelled, 5 timed out waiting."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Server address, http://HOST:PORT or https://HOST; or set GRISTMILL_SERVER
    #[arg(long, global = true, value_name = "URL", conflicts_with = "context")]
    pub(crate) server: Option<String>,
    /// File with the user token (`-`: standard input); or set GRISTMILL_TOKEN
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<String>,
    /// PEM file with certificate authorities to trust beside the system's; or set GRISTMILL_CA_FILE
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca_file: Option<String>,
    /// Saved context to use instead of the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Tables for people, or exactly one JSON document on standard output
    #[arg(long, global = true, value_enum, default_value_t = OutputFormat::Text, value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
    /// File of settings, else gristmill.toml in the user's configuration directory or /etc/gristmill
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// When to colour: auto, always or never; NO_COLOR and CLICOLOR count too
    #[arg(long, global = true, value_name = "WHEN", value_parser = from_str::<ColorChoice>)]
    pub(crate) color: Option<ColorChoice>,
    /// What to log on standard error: error, warn, info, debug, trace, or a filter; or set GRISTMILL_LOG
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// How to log; or set GRISTMILL_LOG_FORMAT [default: lines for people on a terminal and in other commands
    /// than services, else JSON]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// The settings in force.
    #[arg(skip)]
    pub(crate) loaded: Loaded,
}

impl Global {
    /// Whether standard output carries one JSON document.
    pub(crate) fn json(&self) -> bool {
        self.output == OutputFormat::Json
    }

    /// What these options say about settings.
    pub(crate) fn given(&self) -> Given {
        let color = self.color.map(|color| color.to_string());
        let log_format = self.log_format.map(|format| format.name().to_owned());
        Given::global([
            ("server", self.server.as_ref()),
            ("token-file", self.token_file.as_ref()),
            ("ca-file", self.ca_file.as_ref()),
            ("color", color.as_ref()),
            ("log-level", self.log_level.as_ref()),
            ("log-format", log_format.as_ref()),
        ])
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Tables and lines.
    Text,
    /// One JSON document.
    Json,
}

/// Nouns, and the shortcuts `run` and `dev`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a module: submit a job, follow it, fetch its outputs
    Run(Box<run::RunArgs>),
    /// Start a server and a node here, with the command line logged in
    Dev(dev::DevArgs),
    /// Submit jobs and look after them
    #[command(subcommand)]
    Job(Box<job::JobCommand>),
    /// Publish modules and look at them
    #[command(subcommand)]
    Module(module::ModuleCommand),
    /// Run a node, or look after nodes
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Run the server
    #[command(subcommand)]
    Server(server::ServerCommand),
    /// Make tokens with which nodes enrol
    #[command(subcommand)]
    JoinToken(join_token::JoinTokenCommand),
    /// Zones and their policies
    #[command(subcommand)]
    Zone(zone::ZoneCommand),
    /// Tenants
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// User tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Saved servers and their tokens
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Make a backup of a server's data, or check one
    Backup(upkeep::BackupArgs),
    /// Restore a backup into an empty directory
    Restore(upkeep::RestoreArgs),
    /// Bring a server's database up to date
    Migrate(upkeep::MigrateArgs),
    /// Check files of settings and show what is in force
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Check this machine, its network and its server; say what to do
    Doctor(doctor::DoctorArgs),
    /// Measure this machine
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print completions for a shell, or write the manual pages
    Completions(completions::CompletionsArgs),
    /// The child process in which guests run
    #[command(hide = true)]
    Executor(ChildArgs),
    /// The child process that compiles one module
    #[command(hide = true)]
    Compile(ChildArgs),
    /// The background process behind `run` when no server is configured
    #[command(hide = true)]
    Instance(crate::private::InstanceArgs),
}

impl Command {
    /// What the command's own options say about settings.
    pub(crate) fn given(&self) -> Given {
        match self {
            Self::Dev(args) => args.given(),
            Self::Server(command) => command.given(),
            Self::Node(command) => command.given(),
            _ => Given::default(),
        }
    }

    /// Whether it runs until it is told to end.
    pub(crate) fn is_service(&self) -> bool {
        match self {
            Self::Dev(_) | Self::Server(_) | Self::Instance(_) => true,
            Self::Node(command) => command.is_service(),
            _ => false,
        }
    }

    /// Whether it works with settings that are wrong: to say so, or because it needs none.
    pub(crate) fn bears_wrong_settings(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Doctor(_) | Self::Completions(_) | Self::Instance(_))
    }
}

/// Options of the child processes.
#[derive(Debug, clap::Args)]
pub(crate) struct ChildArgs {
    /// User and group id to take before anything else
    #[arg(long)]
    pub(crate) uid: Option<u32>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Everything that has no help, below a command.
    fn without_help(command: &clap::Command, name: &str, found: &mut Vec<String>) {
        let options = command.get_arguments().filter(|arg| arg.get_help().is_none());
        found.extend(options.map(|arg| format!("{name}: {}", arg.get_id())));
        for below in command.get_subcommands() {
            let name = format!("{name} {}", below.get_name());
            if below.get_about().is_none() {
                found.push(name.clone());
            }
            without_help(below, &name, found);
        }
    }

    #[test]
    fn every_command_and_every_option_has_a_help() {
        let mut command = Cli::command();
        command.build();
        let mut found = Vec::new();
        without_help(&command, "gristmill", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn what_follows_two_dashes_belongs_to_the_guest() {
        let cli = Cli::try_parse_from(["gristmill", "run", "m@1.0.0", "--fuel", "5", "--", "--fuel", "x"]);
        let Ok(Cli { command: Command::Run(args), .. }) = cli else { panic!("{cli:?}") };
        assert_eq!(args.job.args, ["--fuel", "x"]);
        assert_eq!(args.job.fuel, Some(5));
    }

    #[test]
    fn usage_errors_end_with_exit_code_two() {
        for line in [
            vec!["gristmill"],
            vec!["gristmill", "run"],
            vec!["gristmill", "run", "m", "--memory", "lots"],
            vec!["gristmill", "job", "get", "not-an-id"],
            vec!["gristmill", "fly"],
        ] {
            let error = Cli::try_parse_from(&line).expect_err("not a valid line");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }
}

//! `gristmill`: the one binary. It is the command line, the server, the node and, started again by
//! a node, the executor in which guests run.

mod args;
mod bench;
mod completions;
mod config;
mod configuration;
mod connect;
mod context;
mod dev;
mod doctor;
mod embedded;
mod environment;
mod failure;
mod follow;
mod harmless;
mod inputs;
mod interrupt;
mod job;
mod job_args;
mod job_list;
mod job_log;
mod join_token;
mod limit_texts;
mod local;
mod logging;
mod module;
mod module_ref;
mod node;
mod outputs;
mod phase;
mod printer;
mod private;
mod progress;
mod run;
mod saved;
mod server;
mod steady;
mod summary;
mod table;
mod tenant;
mod terminal;
mod token;
mod traces;
mod tree_stream;
mod upkeep;
mod usage;
mod waiting;
mod zone;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{
    CommandFactory as _, FromArgMatches as _,
    error::{ContextKind, ContextValue},
};

use crate::{
    args::{Cli, Command, Global},
    configuration::{Loaded, Sources},
    failure::{Exit, Failure, report},
    terminal::ColorChoice,
    traces::Traces,
};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let parsed = Cli::command().color(color_in(&words).for_help()).try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &words),
    };
    match cli.command {
        // Children of a node: they speak over their standard streams and need nothing of the rest.
        Command::Executor(child) => return gristmill_executor::executor_main(child.uid),
        Command::Compile(child) => return gristmill_executor::compile_main(child.uid),
        _ => {}
    }
    let json = cli.global.json();
    let exit = load(&cli).and_then(|loaded| run(cli, loaded)).unwrap_or_else(|error| report(&error, json));
    ExitCode::from(exit.code())
}

/// The settings in force for this command.
fn load(cli: &Cli) -> anyhow::Result<Loaded> {
    let sources = Sources {
        file: cli.global.config.as_deref(),
        given: cli.global.given().and(cli.command.given()),
        variable: &environment::variable,
        is_service: cli.command.is_service(),
    };
    match Loaded::from(sources) {
        Err(_) if cli.command.bears_wrong_settings() => Ok(Loaded::default()),
        loaded => Ok(loaded?),
    }
}

/// The value of an option on a command line that may be wrong otherwise.
fn word_of<'a>(words: &'a [String], option: &str) -> Option<&'a str> {
    let joined = words.iter().find_map(|word| word.strip_prefix(option)?.strip_prefix('='));
    let apart = || words.windows(2).find(|pair| pair[0] == option).map(|pair| pair[1].as_str());
    joined.or_else(apart)
}

fn color_in(words: &[String]) -> ColorChoice {
    word_of(words, "--color").and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// Where to find what is no command of its own.
fn hint_for(error: &clap::Error) -> Option<&'static str> {
    match error.get(ContextKind::InvalidSubcommand)? {
        ContextValue::String(word) if word == "events" => {
            Some("read them at GET /v1/events; `gristmill job list --watch` shows jobs as they change")
        }
        ContextValue::String(word) if word == "audit" => Some("read it at GET /v1/audit"),
        _ => None,
    }
}

/// Prints help or what is wrong with the command line, as JSON too when that was asked for.
fn refuse(error: &clap::Error, words: &[String]) -> ExitCode {
    let json = word_of(words, "--output") == Some("json");
    let _ = error.print();
    let hint = hint_for(error);
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    let is_help = error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if error.use_stderr() && !is_help {
        eprintln!("code: usage");
    }
    if json && error.use_stderr() {
        let text = error.render().to_string();
        let detail = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let failure = Failure::usage(detail);
        let failure = hint.into_iter().fold(failure, Failure::hint);
        let document = failure::document(&failure.into());
        println!("{document:#}");
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()))
}

fn run(mut cli: Cli, loaded: Loaded) -> anyhow::Result<Exit> {
    terminal::choose(loaded.settings.client.color);
    let settings = &loaded.settings;
    let mut traces = Traces::of(&cli.command);
    let is_service = cli.command.is_service();
    logging::start(settings.log_level.as_deref(), settings.log_format, is_service, traces.layer())?;
    traces.say_what_is_wrong();
    cli.global.loaded = loaded;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let exit = runtime.block_on(traces.while_running(dispatch(cli.command, &cli.global)));
    // A thread that still reads standard input must not keep the process.
    runtime.shutdown_background();
    exit
}

async fn dispatch(command: Command, global: &Global) -> anyhow::Result<Exit> {
    match command {
        Command::Run(args) => run::run(*args, global).await,
        Command::Dev(_) => dev::run(global).await,
        Command::Job(command) => job::run(*command, global).await,
        Command::Module(command) => module::run(command, global).await,
        Command::Node(command) => node::run(command, global).await,
        Command::Server(command) => server::run(command, global).await,
        Command::JoinToken(command) => join_token::run(command, global).await,
        Command::Zone(command) => zone::run(command, global).await,
        Command::Tenant(command) => tenant::run(command, global).await,
        Command::Token(command) => token::run(command, global).await,
        Command::Context(command) => context::run(command, global),
        Command::Backup(args) => upkeep::back_up(args, global).await,
        Command::Restore(args) => upkeep::restore(args, global).await,
        Command::Migrate(args) => upkeep::migrate(args, global).await,
        Command::Config(command) => config::run(command, global),
        Command::Doctor(args) => doctor::run(args, global).await,
        Command::Completions(args) => completions::run(&args),
        Command::Bench(command) => bench::run(command, global).await,
        Command::Instance(args) => private::run_instance(args).await,
        Command::Executor(_) | Command::Compile(_) => {
            Err(Failure::usage("this is no command for people").into())
        }
    }
}

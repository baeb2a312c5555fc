//! `gristmill completions`: what shells complete, and the manual pages.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, ValueEnum as _, builder::PossibleValuesParser};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{
    args::Cli,
    configuration::manual,
    failure::{Exit, Failure},
    printer::write_stdout,
};

/// Print completions for a shell, or write the manual pages
#[derive(Debug, Args)]
#[command(after_help = "\
bash:  gristmill completions bash > ~/.local/share/bash-completion/completions/gristmill
zsh:   gristmill completions zsh > DIR/_gristmill, with DIR in $fpath
fish:  gristmill completions fish > ~/.config/fish/completions/gristmill.fish
pages: gristmill completions man --out ~/.local/share/man")]
pub(crate) struct CompletionsArgs {
    /// A shell, or `man`
    #[arg(value_name = "SHELL|man", value_parser = PossibleValuesParser::new(["bash", "zsh", "fish", "elvish", "powershell", "man"]))]
    what: String,
    /// Directory that receives the manual pages, below man1 and man5
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut command = Cli::command();
    match (args.what.as_str(), &args.out) {
        ("man", Some(dir)) => write_pages(command, dir)?,
        ("man", None) => {
            return Err(Failure::usage("the manual is several pages").hint("add --out DIR").into());
        }
        (_, Some(_)) => {
            let failure = Failure::usage("--out is for the manual pages");
            return Err(failure.hint("redirect standard output to a file").into());
        }
        (name, None) => {
            let shell = Shell::from_str(name, true).map_err(Failure::usage)?;
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "gristmill", &mut script);
            write_stdout(&script)?;
        }
    }
    Ok(Exit::Ok)
}

fn write_pages(command: clap::Command, dir: &std::path::Path) -> anyhow::Result<()> {
    let (commands, files) = (dir.join("man1"), dir.join("man5"));
    for dir in [&commands, &files] {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("cannot make the directory {}", dir.display()))?;
    }
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write_page(&command, "gristmill", &commands)?;
    let page = files.join("gristmill.toml.5");
    std::fs::write(&page, manual()).with_context(|| format!("cannot write {}", page.display()))
}

/// The page of one command, then those of the commands below it.
fn write_page(command: &clap::Command, name: &str, dir: &std::path::Path) -> anyhow::Result<()> {
    let path = dir.join(format!("{name}.1"));
    let mut page = Vec::new();
    let named = command.clone().display_name(name).name(name.to_owned());
    Man::new(named).title(name).manual("Gristmill").render(&mut page)?;
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_page(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    Ok(())
}

//! The command line: one thin file a subcommand.

mod apply;
mod check;
mod completions;
mod dead;
mod diff;
mod enqueue;
mod explain;
mod init;
mod offsets;
mod output;
mod pause;
mod plan;
mod range;
mod rebuild;
mod shown;
mod since;
mod status;
mod verify;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::shown::lines;
use crate::backlog::Backlog;
use crate::config::Config;
use crate::operations::Context;

/// Exit code: it failed, or found something.
const FOUND: u8 = 1;
/// Exit code: wrong usage, or a configuration that can't be read.
const USAGE: u8 = 2;

/// Keeps Elasticsearch indexes true to a relational database.
#[derive(Debug, Parser)]
#[command(name = "pinion", version, max_term_width = 100)]
struct CommandLine {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", env = "PINION_CONFIG", default_value = "pinion.toml")]
    config: PathBuf,
    /// What is logged, to standard error: error, warn, info, debug, trace, or targets as in `info,lapin=debug`. The library
    /// lapin is silent by default: what matters of it is told by whoever uses it. Of no library more than debug is logged: at
    /// trace they would show what goes over the wire, passwords included.
    #[arg(long, global = true, value_name = "LEVEL", env = "PINION_LOG", default_value = "info,lapin=off")]
    log: String,
    /// Print JSON, where a command prints something that a script may want.
    #[arg(long, global = true)]
    json: bool,
}

impl Global {
    /// The configuration with clients of its servers.
    fn context(&self) -> Result<Context, Failure> {
        let config = Config::load(&self.config).map_err(|error| Failure::Usage(error.into()))?;
        Context::open(config).map_err(Failure::Usage)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make what is missing on the broker and in Elasticsearch, change what can be changed in place.
    Apply(apply::Apply),
    /// Check configuration, job folders, queries, rights, queues and indexes.
    Check(check::Check),
    /// Print a script that completes commands and options in a shell.
    Completions(completions::Completions),
    /// List, show, replay or drop dead letters: jobs that could not be done.
    Dead(dead::Dead),
    /// Compare two indexes, document by document.
    Diff(diff::Diff),
    /// Send documents' ids to a job's queue.
    Enqueue(enqueue::Enqueue),
    /// Show why a document is as it is: the source's beside the index's.
    Explain(explain::Explain),
    /// Show how far the change feed is, or let it begin again from an earlier time.
    Offsets(offsets::Offsets),
    /// Pause a job on all workers.
    Pause(pause::Pause),
    /// Write a configuration, and a job folder for a table, to begin with.
    Init(init::Init),
    /// Show what `apply` would do.
    Plan(plan::Plan),
    /// Build a job's index anew beside the old one, under live writes, and move its alias.
    Rebuild(rebuild::RebuildCommand),
    /// Let a paused job go on.
    Resume(pause::Resume),
    /// Show queues, workers, sources and dead letters at a glance.
    Status(status::Status),
    /// Compare a job's index with its source, both ways; enqueue what is wrong, if asked to.
    Verify(verify::Verify),
    /// Run the worker: take jobs, index documents, until SIGTERM.
    Work(work::Work),
}

/// Why a command ends with another exit code than 0.
pub(crate) enum Failure {
    /// Wrong usage, or a configuration that can't be read.
    Usage(anyhow::Error),
    /// It failed.
    Failed(anyhow::Error),
    /// It found something, and has printed what.
    Found,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let CommandLine { global, command } = CommandLine::parse();
    if let Err(error) = crate::logging::start(&global.log) {
        eprintln!("pinion: --log: {error}");
        return ExitCode::from(USAGE);
    }
    let backlog = Backlog::default();
    let moderated = backlog.clone();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.enable_all().on_thread_park(move || moderated.moderate()).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pinion: {error}");
            return ExitCode::from(FOUND);
        }
    };
    let outcome = runtime.block_on(async {
        match command {
            Command::Apply(apply) => apply.run(&global).await,
            Command::Check(check) => check.run(&global).await,
            Command::Completions(completions) => completions.run(),
            Command::Dead(dead) => dead.run(&global).await,
            Command::Diff(diff) => diff.run(&global).await,
            Command::Enqueue(enqueue) => enqueue.run(&global).await,
            Command::Explain(explain) => explain.run(&global).await,
            Command::Offsets(offsets) => offsets.run(&global).await,
            Command::Pause(pause) => pause.run(&global).await,
            Command::Init(init) => init.run(&global).await,
            Command::Plan(plan) => plan.run(&global).await,
            Command::Rebuild(rebuild) => rebuild.run(&global).await,
            Command::Resume(resume) => resume.run(&global).await,
            Command::Status(status) => status.run(&global).await,
            Command::Verify(verify) => verify.run(&global).await,
            Command::Work(work) => work.run(&global, backlog).await,
        }
    });
    // A read of standard input that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Found) => ExitCode::from(FOUND),
        Err(Failure::Failed(error)) => {
            eprintln!("pinion: {}", lines(&format!("{error:#}")));
            ExitCode::from(FOUND)
        }
        Err(Failure::Usage(error)) => {
            eprintln!("pinion: {}", lines(&format!("{error:#}")));
            ExitCode::from(USAGE)
        }
    }
}

//! The command line: one thin file a subcommand.

mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

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
    /// What is logged, to standard error: error, warn, info, debug, trace, or targets as in `info,lapin=debug`.
    #[arg(long, global = true, value_name = "LEVEL", env = "PINION_LOG", default_value = "info")]
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
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pinion: {error}");
            return ExitCode::from(FOUND);
        }
    };
    let outcome = runtime.block_on(async {
        match command {
            Command::Work(work) => work.run(&global).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Found) => ExitCode::from(FOUND),
        Err(Failure::Failed(error)) => {
            eprintln!("pinion: {error:#}");
            ExitCode::from(FOUND)
        }
        Err(Failure::Usage(error)) => {
            eprintln!("pinion: {error:#}");
            ExitCode::from(USAGE)
        }
    }
}

//! `pinion check`

use clap::Args;
use pinion_schemas::Severity;

use super::output::{print, print_json};
use super::{Failure, Global};
use crate::operations::check::check;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion check                  files, queries on the real database, rights, queues, indexes
  pinion check --offline        only the files, as in a pull request's tests
  pinion check --json           the findings for a script

Each finding names the file and line, the problem, and what to do. Exit code 0 without errors, whatever the
warnings; 1 with errors; 2 when the configuration can't be read.")]
pub(crate) struct Check {
    /// Only the files: connect to no server.
    #[arg(long)]
    offline: bool,
}

impl Check {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let context = global.context()?;
        let report = check(&context, self.offline).await;
        if global.json {
            print_json(&report.json())?;
        } else {
            print(&format!("{report}\n"))?;
        }
        if report.count(Severity::Error) > 0 { Err(Failure::Found) } else { Ok(()) }
    }
}

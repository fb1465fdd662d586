//! `pinion explain`

mod page;

use clap::Args;

use super::output::{print, print_json};
use super::{Failure, Global};
use crate::clock::now_ms;
use crate::operations::explain::explain;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion explain orders 42                             both documents, and where they differ
  pinion explain orders 42 --json | jq .differences

The source's document is what a worker would send now, read past the fence by the same code. Numbers are compared as
numbers. The exit code is 0 if the index is true to the source, and 1 if the documents differ or only one is there.")]
pub(crate) struct Explain {
    /// The job.
    #[arg(value_name = "JOB")]
    job: String,
    /// The document's id.
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    id: String,
}

impl Explain {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let context = global.context()?;
        let explanation = explain(&context, &self.job, &self.id).await?;
        if global.json {
            print_json(&explanation)?;
        } else {
            print(&page::page(&explanation, now_ms()))?;
        }
        if explanation.equal { Ok(()) } else { Err(Failure::Found) }
    }
}

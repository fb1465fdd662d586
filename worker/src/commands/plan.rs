//! `pinion plan`

use clap::Args;

use super::output::{print, print_json};
use super::{Failure, Global};
use crate::operations::plan::Plan as Steps;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion plan                   what `pinion apply` would do: + create, ~ change, ! can't be done by apply
  pinion plan --json            the same for a script; \"pending\" is the number of steps

It changes nothing. Exit code 0, steps or not; 1 when a server can't be asked.")]
pub(crate) struct Plan {}

impl Plan {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let context = global.context()?;
        let plan = Steps::make(&context).await?;
        if global.json {
            print_json(&plan.json())?
        } else {
            print(&format!("{plan}\n"))?
        }
        Ok(())
    }
}

//! `pinion work`

use std::net::SocketAddr;

use clap::Args;

use super::{Failure, Global};
use crate::backlog::Backlog;
use crate::operations::work::{WorkOptions, work};
use crate::shutdown::Shutdown;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion work                                  all jobs, settings from pinion.toml
  pinion work --jobs orders,customers          only these
  pinion work --listen 127.0.0.1:0             a free port for /healthz, /readyz and /metrics

It starts with the jobs that are good; broken ones are paused and say why in the log, in /readyz and in
`pinion status`. Where the configuration has [kafka], it follows the change feed, too. SIGTERM ends it in order: what was taken is finished, the rest goes back to its queue.")]
pub(crate) struct Work {
    /// Only these jobs, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "JOB")]
    jobs: Vec<String>,
    /// Address of the admin port, instead of [admin] listen.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

impl Work {
    pub(crate) async fn run(self, global: &Global, backlog: Backlog) -> Result<(), Failure> {
        let context = global.context()?;
        let shutdown = Shutdown::default();
        shutdown.on_signals().map_err(anyhow::Error::from)?;
        Ok(work(context, WorkOptions { jobs: self.jobs, listen: self.listen, backlog }, shutdown).await?)
    }
}

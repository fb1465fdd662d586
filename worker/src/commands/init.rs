//! `pinion init`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::output::{print, print_json};
use super::{Failure, Global};
use crate::operations::init::{InitOptions, Initialised, init};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion init                                          an annotated pinion.toml to fill in
  pinion init --source postgres://reader:secret@db:5432/shop
                                                       and the tables that can be jobs
  pinion init --source postgres://reader:secret@db:5432/shop --table public.orders
                                                       and a first job, jobs/orders
  pinion init --table public.customers --job clients   one more job, where pinion.toml is there

The columns of the table become the query and the mapping. Nothing is ever overwritten. A password in an
address is written into pinion.toml; ${NAME} or ${file:PATH} in its place keeps it elsewhere.")]
pub(crate) struct Init {
    /// Where pinion.toml is written, instead of beside --config.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The address of the primary, for a new pinion.toml; the name of a source, where there is one.
    #[arg(long, value_name = "URL|NAME")]
    source: Option<String>,
    /// The address of a replica; several times for several.
    #[arg(long = "replica", value_name = "URL")]
    replicas: Vec<String>,
    /// The address of RabbitMQ [default: amqp://guest:guest@127.0.0.1:5672/%2f]
    #[arg(long, value_name = "URL")]
    rabbitmq: Option<String>,
    /// The address of Elasticsearch [default: http://127.0.0.1:9200]
    #[arg(long, value_name = "URL")]
    elasticsearch: Option<String>,
    /// The table to write a job for.
    #[arg(long, value_name = "SCHEMA.TABLE")]
    table: Option<String>,
    /// The job's name, instead of the table's.
    #[arg(long, value_name = "NAME", requires = "table")]
    job: Option<String>,
}

impl Init {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let options = InitOptions {
            file: self.dir.map_or_else(|| global.config.clone(), |dir| dir.join("pinion.toml")),
            source: self.source,
            replicas: self.replicas,
            rabbitmq: self.rabbitmq,
            elasticsearch: self.elasticsearch,
            table: self.table,
            job: self.job,
        };
        let done = init(&options).await?;
        if global.json {
            let Initialised { written, job, left_out, tables } = done;
            print_json(&json!({"written": written, "job": job, "left_out": left_out, "tables": tables}))?;
        } else {
            print(&told(&done))?;
        }
        Ok(())
    }
}

fn told(done: &Initialised) -> String {
    let mut lines: Vec<String> = done.written.iter().map(|file| format!("wrote {}", file.display())).collect();
    if !done.left_out.is_empty() {
        lines.push(format!("left out: {}", done.left_out.join(", ")));
    }
    lines.push(String::new());
    match &done.job {
        Some(job) => lines.push(format!(
            "Look at them, then:\n  pinion apply                make queues and index\n  pinion check                is all well?\n  \
             pinion work                 the worker\n  pinion enqueue {job} --all    index every row"
        )),
        None if done.tables.is_empty() => {
            lines.push("Fill in the addresses, then: pinion init --table SCHEMA.TABLE writes a job.".to_owned());
        }
        None => {
            lines.push("Tables that can be jobs:".to_owned());
            lines.extend(done.tables.iter().map(|table| format!("  pinion init --table {table}")));
        }
    }
    lines.join("\n") + "\n"
}

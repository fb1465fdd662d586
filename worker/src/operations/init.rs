//! Writes a configuration and job folders to begin with. Overwrites nothing.

mod folder;
mod mysql;
mod table;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use pinion_schemas::valid_job_name;
use url::Url;

use self::table::Table;
use crate::config::{ANNOTATED, Config};
use crate::source::Source;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// Where `pinion.toml` is, or will be.
    pub file: PathBuf,
    /// The address of a new file's primary; or, of a file that is there, the name of a source.
    pub source: Option<String>,
    /// The addresses of a new file's replicas.
    pub replicas: Vec<String>,
    /// The address of a new file's broker.
    pub rabbitmq: Option<String>,
    /// The address of a new file's Elasticsearch.
    pub elasticsearch: Option<String>,
    /// The table that a job is written for, with its schema.
    pub table: Option<String>,
    /// The job's name; the table's, where none is given.
    pub job: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initialised {
    /// The files that were written.
    pub written: Vec<PathBuf>,
    /// The job that was written.
    pub job: Option<String>,
    /// Columns of its table that were left out, with the reason.
    pub left_out: Vec<String>,
    /// Tables of the source that could be jobs, where none was asked for.
    pub tables: Vec<String>,
}

/// Writes `pinion.toml` where there is none, and a job's folder where a table is named.
///
/// # Errors
/// A file is there already, the source can't be asked, or the table can't be a job as it is.
pub async fn init(options: &InitOptions) -> anyhow::Result<Initialised> {
    let mut done = Initialised::default();
    let file = &options.file;
    let is_new = !file.exists();
    if is_new {
        let text = configuration(options)?;
        let folder = file.parent().unwrap_or(Path::new("")).join(JOBS);
        std::fs::create_dir_all(&folder).with_context(|| format!("the folder {} can't be made", folder.display()))?;
        write_new(file, &text, SECRET_MODE)?;
        done.written.push(file.clone());
    } else {
        ensure!(!options.is_about_servers(), "{} is there already and is never overwritten: edit it", file.display());
        ensure!(
            options.table.is_some(),
            "{} is there already and is never overwritten; `pinion init --table SCHEMA.TABLE` adds a job to it",
            file.display()
        );
    }
    if options.table.is_none() && options.source.is_none() {
        return Ok(done);
    }
    let job = add_job(options, is_new, &mut done).await;
    let again = if is_new { format!("{} is written; ", file.display()) } else { String::new() };
    job.with_context(|| format!("{again}the job is not"))?;
    Ok(done)
}

impl InitOptions {
    /// Whether something is given that only a new file takes.
    fn is_about_servers(&self) -> bool {
        let is_address = |text: &String| text.contains("://");
        self.source.as_ref().is_some_and(is_address)
            || self.rabbitmq.is_some()
            || self.elasticsearch.is_some()
            || !self.replicas.is_empty()
    }
}

/// The folder of the job folders, beside `pinion.toml`.
const JOBS: &str = "jobs";

/// Who may read a file that holds passwords, and who one that does not.
const SECRET_MODE: u32 = 0o600;
const OPEN_MODE: u32 = 0o644;

/// Creates a file; one that is there stays as it is.
fn write_new(file: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let created = std::fs::File::options().write(true).create_new(true).mode(mode).open(file);
    created
        .and_then(|mut created| created.write_all(text.as_bytes()))
        .with_context(|| format!("{} can't be written", file.display()))
}

/// The annotated configuration with the addresses that are known.
fn configuration(options: &InitOptions) -> anyhow::Result<String> {
    let primary = options.source.as_deref().unwrap_or("postgres://pinion:secret@127.0.0.1:5432/shop");
    let kind = match primary.split_once("://") {
        Some((kind @ ("mariadb" | "mysql"), _)) => kind,
        Some(("postgres" | "postgresql", _)) => "postgres",
        _ => bail!(
            "--source: not an address such as postgres://user:password@host:5432/database; mariadb:// and mysql:// begin the others"
        ),
    };
    let known = Url::parse(primary).map_err(|error| anyhow::anyhow!("--source: not an address: {error}"))?;
    ensure!(
        kind == "postgres" || !options.replicas.is_empty(),
        "--replica: at least one is needed, because documents of MariaDB and MySQL are read from replicas only"
    );
    let name = known.path().trim_start_matches('/').to_lowercase();
    let name = if valid_job_name(&name) { name } else { "main".to_owned() };
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let replicas: Vec<String> = options.replicas.iter().map(|replica| quoted(replica)).collect();
    let mut text = String::new();
    for line in ANNOTATED.lines() {
        let key = line.split(" = ").next().unwrap_or_default();
        let comment = line
            .split_once("  # ")
            .or_else(|| line.split_once(" # "))
            .map(|(_, comment)| format!("  # {}", comment.trim()));
        let comment = comment.unwrap_or_default();
        let written = match key {
            "schemas" => format!("schemas = {}{comment}", quoted(JOBS)),
            "url" => {
                let url = options.rabbitmq.as_deref().unwrap_or("amqp://guest:guest@127.0.0.1:5672/%2f");
                format!("url = {}{comment}", quoted(url))
            }
            "urls" => {
                let url = options.elasticsearch.as_deref().unwrap_or("http://127.0.0.1:9200");
                format!("urls = [{}]{comment}", quoted(url))
            }
            "kind" => format!("kind = {}{comment}", quoted(kind)),
            "primary" => format!("primary = {}", quoted(primary)),
            "replicas" if replicas.is_empty() => format!("# replicas = []{comment}"),
            "replicas" => format!("replicas = [{}]{comment}", replicas.join(", ")),
            _ if line.starts_with("[sources.") => {
                format!("[sources.{name}]  # jobs name their source: source = {}", quoted(&name))
            }
            _ => line.to_owned(),
        };
        text.push_str(&written);
        text.push('\n');
    }
    Ok(text)
}

async fn add_job(options: &InitOptions, is_new: bool, done: &mut Initialised) -> anyhow::Result<()> {
    let config = Config::load(&options.file)?;
    let wanted = options.source.as_deref().filter(|_| !is_new);
    let name = match (wanted, config.sources.keys().next()) {
        (Some(name), _) => name.to_owned(),
        (None, Some(only)) if config.sources.len() == 1 => only.clone(),
        _ => {
            let names: Vec<&str> = config.sources.keys().map(String::as_str).collect();
            bail!("there are several sources ({}): name one with --source", names.join(", "));
        }
    };
    let Some(source) = config.sources.get(&name) else {
        bail!("there is no [sources.{name}] in {}", options.file.display())
    };
    let source = Source::new(&name, source, &config.worker).map_err(anyhow::Error::msg)?;
    let Some(table) = ask(&source, options, done).await.with_context(|| format!("the primary of [sources.{name}]"))?
    else {
        return Ok(());
    };
    let job = options.job.clone().unwrap_or_else(|| job_name(&table.name));
    ensure!(
        valid_job_name(&job),
        "{job:?} can't be a job's name: give one with --job, of lower-case letters, digits, - and _, beginning with a letter"
    );
    let files = folder::files(&table, &job, &name, matches!(source, Source::Mysql(_)))?;
    let folder = config.schemas.join(&job);
    ensure!(
        !folder.exists(),
        "{} is there already and is never overwritten: give another name with --job",
        folder.display()
    );
    std::fs::create_dir_all(&folder).with_context(|| format!("the folder {} can't be made", folder.display()))?;
    for (name, text) in [("job.toml", files.job), ("document.sql", files.document), ("mapping.json", files.mapping)] {
        write_new(&folder.join(name), &text, OPEN_MODE)?;
        done.written.push(folder.join(name));
    }
    done.left_out = files.left_out;
    done.job = Some(job);
    Ok(())
}

/// The table that is asked for; without one, those that could be.
async fn ask(source: &Source, options: &InitOptions, done: &mut Initialised) -> anyhow::Result<Option<Table>> {
    match (source, &options.table) {
        (Source::Postgres(database), Some(table)) => {
            Ok(Some(Table::read(&mut table::connect(database).await?, table).await?))
        }
        (Source::Mysql(database), Some(table)) => {
            Ok(Some(mysql::read(&mut mysql::connect(database).await?, table).await?))
        }
        (Source::Postgres(database), None) => {
            done.tables = table::candidates(&mut table::connect(database).await?).await?;
            Ok(None)
        }
        (Source::Mysql(database), None) => {
            done.tables = mysql::candidates(&mut mysql::connect(database).await?).await?;
            Ok(None)
        }
    }
}

/// A table's name as the name of a job.
fn job_name(table: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    table.to_lowercase().chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
#[path = "init/tests.rs"]
mod tests;

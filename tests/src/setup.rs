use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::mysql::MysqlShop;
use crate::namespace::Namespace;
use crate::pinion::Pinion;
use crate::script::top;

/// A configuration for one namespace: the example shop's jobs on the shared services, unless told otherwise.
///
/// ```no_run
/// # async fn example() -> anyhow::Result<()> {
/// let namespace = pinion_tests::Namespace::shop(100).await?;
/// let mut setup = pinion_tests::Setup::shop(&namespace)?;
/// setup.on_lag = "wait".to_owned();
/// setup.worker = "batch_max = 10\n".to_owned();
/// let pinion = setup.write(&namespace)?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Setup {
    /// The broker, for AMQP clients.
    pub rabbitmq: String,
    /// More lines for `[rabbitmq]`.
    pub rabbitmq_more: String,
    /// The nodes of Elasticsearch.
    pub elasticsearch: Vec<String>,
    /// More lines for `[elasticsearch]`.
    pub elasticsearch_more: String,
    /// The source's kind.
    pub kind: String,
    /// The source's primary.
    pub primary: String,
    /// The source's replicas; none: documents are read from the primary.
    pub replicas: Vec<String>,
    /// What to do when a replica lags: `primary` or `wait`.
    pub on_lag: String,
    /// How long a batch waits for a replica.
    pub replica_lag_ms_max: u64,
    /// More lines for the source.
    pub source_more: String,
    /// Lines for `[worker]`.
    pub worker: String,
    /// More at the end of the file: sections of their own.
    pub extra: String,
    /// The folder of job folders, a copy of the test's own: change it as you like.
    pub jobs: PathBuf,
}

impl Setup {
    /// The three jobs of the example shop, their indexes renamed to [`Namespace::index`].
    pub fn shop(namespace: &Namespace) -> Result<Self> {
        let setup = Self::without_jobs(namespace)?;
        setup.copy_jobs(namespace, "schemas/shop", |text| text)?;
        Ok(setup)
    }

    /// The three jobs of the example shop on MariaDB or MySQL.
    pub fn mysql(namespace: &Namespace, shop: &MysqlShop) -> Result<Self> {
        let setup = Self {
            kind: shop.kind().to_owned(),
            primary: shop.primary_url(),
            replicas: vec![shop.replica_url()],
            on_lag: "wait".to_owned(),
            ..Self::without_jobs(namespace)?
        };
        let in_own = |text: String| text.replace("\"shop.", &format!("\"{}.", namespace.name()));
        setup.copy_jobs(namespace, "schemas/shop-mysql", in_own)?;
        Ok(setup)
    }

    /// Copies the jobs of a folder, `job.toml` changed by `own`.
    fn copy_jobs(&self, namespace: &Namespace, folder: &str, own: impl Fn(String) -> String) -> Result<()> {
        for job in ["orders", "customers", "merchants"] {
            let folder = top().join(folder).join(job);
            let read = |file: &str| std::fs::read_to_string(folder.join(file)).with_context(|| format!("{job}/{file}"));
            self.write_job(namespace, job, &own(read("job.toml")?), &read("document.sql")?, &read("mapping.json")?)?;
        }
        Ok(())
    }

    /// No jobs yet: add some with [`write_job`](Self::write_job).
    pub fn without_jobs(namespace: &Namespace) -> Result<Self> {
        let jobs = namespace.folder().join("jobs");
        std::fs::create_dir_all(&jobs)?;
        Ok(Self {
            rabbitmq: namespace.rabbit().url().to_owned(),
            rabbitmq_more: String::new(),
            elasticsearch: vec![namespace.elastic().url().to_owned()],
            elasticsearch_more: String::new(),
            kind: "postgres".to_owned(),
            primary: namespace.primary_url(),
            replicas: vec![namespace.replica_url()],
            on_lag: "primary".to_owned(),
            replica_lag_ms_max: 2000,
            source_more: String::new(),
            worker: String::new(),
            extra: String::new(),
            jobs,
        })
    }

    /// Writes a job's folder. A line `index = …` of `job_toml` is replaced by the namespace's own index of that job.
    pub fn write_job(
        &self,
        namespace: &Namespace,
        job: &str,
        job_toml: &str,
        document_sql: &str,
        mapping_json: &str,
    ) -> Result<()> {
        let index = format!("index = \"{}\"", namespace.index(job));
        let is_index = |line: &str| line.split('=').next().is_some_and(|key| key.trim() == "index");
        let lines: Vec<&str> =
            job_toml.lines().map(|line| if is_index(line) { index.as_str() } else { line }).collect();
        let folder = self.jobs.join(job);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("job.toml"), lines.join("\n") + "\n")?;
        std::fs::write(folder.join("document.sql"), document_sql)?;
        std::fs::write(folder.join("mapping.json"), mapping_json)?;
        Ok(())
    }

    /// Writes `pinion.toml` into the namespace's folder and gives the program that reads it.
    pub fn write(&self, namespace: &Namespace) -> Result<Pinion> {
        let file = namespace.folder().join("pinion.toml");
        std::fs::write(&file, self.toml(namespace.name()))?;
        Pinion::new(&file)
    }

    fn toml(&self, namespace: &str) -> String {
        let mut text = format!("namespace = {namespace:?}\nschemas = {:?}\n", display(&self.jobs));
        let mut section = |name: &str, lines: String| write!(text, "\n[{name}]\n{lines}").expect("a string takes it");
        section("rabbitmq", format!("url = {:?}\n{}", self.rabbitmq, self.rabbitmq_more));
        section("elasticsearch", format!("urls = {:?}\n{}", self.elasticsearch, self.elasticsearch_more));
        section(
            "sources.shop",
            format!(
                "kind = {:?}\nprimary = {:?}\nreplicas = {:?}\nreplica_lag_ms_max = {}\non_lag = {:?}\n{}",
                self.kind, self.primary, self.replicas, self.replica_lag_ms_max, self.on_lag, self.source_more
            ),
        );
        section("worker", self.worker.clone());
        text + "\n" + &self.extra
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

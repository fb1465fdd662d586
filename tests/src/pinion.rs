use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::eventually;
use crate::metrics::Metrics;
use crate::naming::unique_name;
use crate::script::{freeze, signal};

const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
const START_TIMEOUT: Duration = Duration::from_secs(30);
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(60);

/// The program `pinion` with a configuration file.
pub struct Pinion {
    program: PathBuf,
    config: PathBuf,
    planted: Option<String>,
    patience: Duration,
}

impl Pinion {
    /// The program as built with these tests, or `PINION_TEST_PROGRAM`, reading that configuration.
    pub fn new(config: &Path) -> Result<Self> {
        let program = match std::env::var_os("PINION_TEST_PROGRAM") {
            Some(program) => PathBuf::from(program),
            None => {
                // CARGO_BIN_EXE_* does not cross packages; the binary lies beside the folder of the running test's.
                let test = std::env::current_exe()?;
                test.parent()
                    .and_then(Path::parent)
                    .context("the test lies in the target folder")?
                    .join("pinion-tested")
            }
        };
        ensure!(program.is_file(), "{} is missing: build the whole package pinion-tests", program.display());
        Ok(Self { program, config: config.to_owned(), planted: None, patience: COMMAND_TIMEOUT })
    }

    /// The same program with a bug of `planted.rs`, by its name, where these tests were built with the feature `planted-bugs`.
    #[must_use]
    pub fn with_planted(mut self, bug: Option<String>) -> Self {
        self.planted = bug;
        self
    }

    /// The same program, whose commands may take so long.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs a command to its end, whatever its exit code.
    pub async fn command(&self, arguments: &[&str]) -> Result<Output> {
        self.command_with_input(arguments, "").await
    }

    /// Runs a command to its end with a text on its standard input.
    pub async fn command_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = self.base(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("can't run {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("standard input is piped")?;
        let input = input.to_owned();
        // Beside the reading below, or a long input and a long output wait for each other. A command may end without reading it all.
        let feed = tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
        let finished = timeout(self.patience, child.wait_with_output()).await;
        feed.abort();
        let output = finished.with_context(|| format!("pinion {arguments:?} did not end in {:?}", self.patience))??;
        Ok(Output {
            code: output.status.code().context("a signal ended the command")?,
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }

    /// Starts a command that nobody listens to. Killed when it is dropped.
    pub fn start(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = self.base(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("can't run {}", self.program.display()))
    }

    /// Starts a worker, `pinion work` with more arguments, on a free admin port; returns once that port is known.
    pub async fn work(&self, arguments: &[&str]) -> Result<Worker> {
        let log = self.config.with_file_name(format!("worker-{}.log", unique_name()));
        let mut command = self.base(&["work", "--listen", "127.0.0.1:0"]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let child = command.spawn().with_context(|| format!("can't run {}", self.program.display()))?;
        let mut worker = Worker { child, log, admin: String::new(), http: reqwest::Client::new() };
        worker.admin = worker.find_admin().await?;
        Ok(worker)
    }

    fn base(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config).args(arguments).kill_on_drop(true);
        command.envs(self.planted.iter().map(|bug| ("PINION_PLANTED_BUG", bug)));
        command
    }
}

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error: the log, and error messages.
    pub stderr: String,
}

impl Output {
    /// The same, where the exit code is 0; otherwise an error with all that the command said.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.code == 0, "exit code {}\n{}{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// Standard output as one JSON value.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {}", self.stdout))
    }
}

/// A running worker. Killed when it is dropped.
pub struct Worker {
    child: Child,
    log: PathBuf,
    admin: String,
    http: reqwest::Client,
}

impl Worker {
    /// What the worker has logged so far.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// Its process's id; fails once it has ended.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the worker has ended")
    }

    /// The most memory that it has had so far, in bytes.
    pub fn memory_peak_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// A page of the admin port, such as `/readyz`: status and text.
    pub async fn admin(&self, path: &str) -> Result<(u16, String)> {
        let response = self.http.get(format!("http://{}{path}", self.admin)).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// Its metrics as of now.
    pub async fn metrics(&self) -> Result<Metrics> {
        let (status, text) = self.admin("/metrics").await?;
        ensure!(status == 200, "/metrics: {status} {text}");
        Ok(Metrics::new(text))
    }

    /// Freezes the process; [`resume`](Self::resume) lets it go on.
    pub async fn pause(&self) -> Result<()> {
        freeze(self.pid()?).await
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        signal(self.pid()?, "CONT")
    }

    /// Ends it on the spot, as `kill -9` does.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Asks it to end in an orderly way and waits for that; gives the exit code.
    pub async fn terminate(mut self) -> Result<i32> {
        signal(self.pid()?, "TERM")?;
        match timeout(TERMINATE_TIMEOUT, self.child.wait()).await {
            Ok(status) => status?.code().with_context(|| self.with_log("a signal ended the worker")),
            Err(_elapsed) => bail!(self.with_log("the worker did not end after SIGTERM")),
        }
    }

    /// The address in the log line that carries `admin_addr`.
    async fn find_admin(&mut self) -> Result<String> {
        let found = eventually("the worker's admin port", START_TIMEOUT, async || {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(Err(status)));
            }
            Ok(self.log()?.lines().find_map(admin_address).map(Ok))
        });
        match found.await {
            Ok(Ok(address)) => Ok(address),
            Ok(Err(status)) => {
                bail!(self.with_log(&format!("the worker ended with {status} while starting")))
            }
            Err(error) => Err(error.context(self.with_log("the worker did not start"))),
        }
    }

    fn with_log(&self, what: &str) -> String {
        format!("{what}; its log:\n{}", self.log().unwrap_or_else(|error| error.to_string()))
    }
}

/// `admin_addr` of a JSON log line, where it has one: at the top or among its `fields`.
fn admin_address(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let address = line.get("admin_addr").or_else(|| line.get("fields")?.get("admin_addr"))?;
    address.as_str().map(str::to_owned)
}

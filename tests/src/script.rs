//! The scripts of `stack/bin`, signals and free ports.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::eventually;

/// The repository's top folder.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' folder lies in the repository")
}

/// The folder that the scripts write to, `LAB` as in `stack/bin/env.sh`.
pub(crate) fn lab() -> PathBuf {
    std::env::var_os("LAB").map_or_else(|| PathBuf::from("/var/tmp/pinion-stack"), PathBuf::from)
}

/// Where a server's log is.
pub(crate) fn log(node: &str) -> PathBuf {
    lab().join("logs").join(format!("{node}.log"))
}

/// One of the scripts of `stack/bin`, with the variables that tell it which instance is meant.
pub(crate) fn script(name: &str, environment: &[(&str, String)]) -> Command {
    let mut command = Command::new(top().join("stack/bin").join(name));
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    command
}

/// Runs a command to its end; an error carries what it wrote to standard error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("can't run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The same without blocking the test's runtime.
pub(crate) async fn run_async(mut command: Command) -> Result<()> {
    tokio::task::spawn_blocking(move || run(&mut command)).await?
}

/// Sends a signal such as `KILL` or `STOP`.
pub(crate) fn signal(pid: u32, name: &str) -> Result<()> {
    run(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()))
}

/// Stops a process without ending it, and returns once all of its threads stand still; `CONT` lets it go on.
pub(crate) async fn freeze(pid: u32) -> Result<()> {
    signal(pid, "STOP")?;
    eventually("a process to stand still", Duration::from_secs(10), async || {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
            // The state follows the name, which stands in brackets and may hold any character.
            if !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// A port P such that P and P + each of `offsets` are free, below the range that the system gives to clients.
pub(crate) fn free_port(offsets: &[u16]) -> Result<u16> {
    const FIRST: u16 = 20_000;
    const SPAN: u16 = 12_000;
    const STEP: u16 = 7;
    /// Where to look next: tests of one process don't look at the same port, those of two hardly, though begun one after the other.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(4093) % u32::from(SPAN)) as u16;
    for _ in 0..1000 {
        let turn = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) * u32::from(STEP);
        let port = FIRST + ((u32::from(start) + turn) % u32::from(SPAN)) as u16;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && offsets.iter().all(|offset| free(port + offset)) {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + SPAN)
}

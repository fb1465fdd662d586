//! The fence: what is read now is not older than the jobs of the batch.
//!
//! A batch is closed before it comes here. The primary is asked where it is, and a server is
//! found that shows that much. A job was sent after its commit returned, so its change is shown.

use pinion_schemas::Version;
use tokio::time::Instant;

use super::Failed;
use super::batch::Batch;
use crate::metrics::job_label;
use crate::planted::{Bug, planted};
use crate::ports::{Position, ReadAt, Reading};

/// A batch with a reading that is new enough for all of its jobs.
pub struct Fenced {
    /// The batch.
    pub batch: Batch,
    /// Where its rows are to be read.
    pub reading: Box<dyn Reading>,
    /// The version that its documents get: the generation, and the position read before the rows.
    pub version: Version,
    /// When the reading was opened.
    pub read_at: ReadAt,
}

/// Takes the batch past the fence.
pub async fn fence(batch: Batch) -> Result<Fenced, Failed> {
    let job = batch.job.clone();
    let asked_at = Instant::now();
    let passed = async {
        let seen = job.generations.seen();
        let fence = job.database.position().await?;
        let generation = job.generations.of(&fence).await?;
        count_ignored_positions(&batch, fence.at);
        let read_at = Instant::now();
        let fence = match () {
            () if planted(Bug::NoFence) => Position { at: 0, ..fence },
            () if planted(Bug::EarlierFence) => Position { at: seen, ..fence },
            () => fence,
        };
        let reading = job.database.open(fence).await?;
        let version = job.generations.version(generation, reading.position())?;
        Ok((reading, version, read_at))
    };
    match passed.await {
        Ok((reading, version, read_at)) => {
            job.meters.fence_seconds.observe(asked_at.elapsed().as_secs_f64());
            Ok(Fenced { batch, reading, version, read_at })
        }
        Err(fault) => Err(Failed { batch, fault }),
    }
}

/// A message may name the commit that it is about. The fence is newer than any commit that had
/// returned, so a position beyond it is wrong; it is counted and changes nothing.
fn count_ignored_positions(batch: &Batch, fence: u64) {
    let beyond = batch.entries.iter().filter(|entry| entry.after.is_some_and(|after| after > fence)).count();
    if beyond > 0 {
        let label = job_label(batch.job.name());
        batch.job.meters.all.after_ignored.get_or_create(&label).inc_by(beyond as u64);
    }
}

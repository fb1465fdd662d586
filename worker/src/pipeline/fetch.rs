//! The rows of a batch, read from the database into a bulk request.

use pinion_schemas::Version;
use tokio::time::Instant;

use super::Failed;
use super::build::Builder;
use super::fence::Fenced;
use crate::ports::ReadAt;

/// The rows that came back, as documents.
#[derive(Debug)]
pub struct Fetched {
    /// The batch.
    pub batch: super::batch::Batch,
    /// Its documents so far.
    pub rows: Builder,
    /// Their version.
    pub version: Version,
    /// When the reading was opened.
    pub read_at: ReadAt,
}

/// Reads the rows of the batch's ids.
pub async fn fetch(fenced: Fenced) -> Result<Fetched, Failed> {
    let Fenced { batch, mut reading, version, read_at } = fenced;
    let job = batch.job.clone();
    let started_at = Instant::now();
    let ids = batch.ids();
    let mut rows = Builder::new(&ids, version, job.settings.bulk_bytes_max);
    match reading.rows(&job.definition, &ids, &mut rows).await {
        Ok(()) => {
            reading.finish().await;
            job.meters.fetch_seconds.observe(started_at.elapsed().as_secs_f64());
            let (bytes, documents) = rows.size();
            job.learn_size(bytes, documents);
            Ok(Fetched { batch, rows, version, read_at })
        }
        Err(fault) => Err(Failed { batch, fault }),
    }
}

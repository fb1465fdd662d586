//! The rows of a batch, read from the database into a bulk request.

use pinion_schemas::Version;
use tokio::time::Instant;

use super::Failed;
use super::build::Builder;
use super::fence::Fenced;
use super::targets::Route;
use crate::error::Fault;
use crate::ports::ReadAt;

/// The rows that came back, as documents.
#[derive(Debug)]
pub struct Fetched {
    /// The batch.
    pub batch: super::batch::Batch,
    /// Where it goes.
    pub route: Route,
    /// Its documents so far.
    pub rows: Builder,
    /// Those for the index beside, where they are made by another query.
    pub beside: Option<Builder>,
    /// Their version.
    pub version: Version,
    /// When the reading was opened.
    pub read_at: ReadAt,
}

/// Reads the rows of the batch's ids, in one snapshot for all of its indexes.
pub async fn fetch(fenced: Fenced, route: Route) -> Result<Fetched, Failed> {
    let Fenced { batch, mut reading, version, read_at } = fenced;
    let job = batch.job.clone();
    let started_at = Instant::now();
    let ids = batch.ids();
    let bytes = job.bytes_of(ids.len());
    let builder = || Builder::new(&ids, version, job.settings.bulk_bytes_max).with_room(bytes);
    let read = async {
        let mut rows = builder();
        let first = route.first();
        let trouble = |fault| if route.load { of_beside(&job, &route, fault) } else { fault };
        reading.rows(&first.definition, &ids, &mut rows).await.map_err(trouble)?;
        let other = route.beside().filter(|beside| !beside.is_same_query(first));
        let beside = match other {
            Some(other) => {
                let mut rows = builder();
                let read = reading.rows(&other.definition, &ids, &mut rows).await;
                read.map_err(|fault| of_beside(&job, &route, fault))?;
                Some(rows)
            }
            None => None,
        };
        Ok((rows, beside))
    };
    match read.await {
        Ok((rows, beside)) => {
            reading.finish().await;
            let took = started_at.elapsed();
            job.meters.fetch_seconds.observe(took.as_secs_f64());
            job.speed.took(took, ids.len());
            job.backlog.rows_took(took);
            let (bytes, documents) = rows.size();
            job.learn_size(bytes, documents);
            Ok(Fetched { batch, route, rows, beside, version, read_at })
        }
        Err(fault) => {
            // Whatever was cancelled because it took too long would have taken longer.
            job.speed.took(started_at.elapsed() * 2, ids.len());
            Err(Failed { batch, fault })
        }
    }
}

/// What is wrong with the query of the index beside ends the rebuild, and is no trouble of the job.
fn of_beside(job: &super::job::Job, route: &Route, fault: Fault) -> Fault {
    match fault {
        Fault::Job(reason) | Fault::Documents(reason) => job.lease.fail(route, &reason),
        fault => fault,
    }
}

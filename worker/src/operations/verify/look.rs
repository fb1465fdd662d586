//! Both sides of ids: at a glance, or closely.

use pinion_schemas::{Id, JobDefinition, Version};

use super::super::Context;
use super::super::difference::{Difference, differences};
use super::super::documents::{SourceDocument, Sourced, indexed, sourced};

/// What is found out about one id.
pub(super) enum Finding {
    Equal,
    Missing,
    Orphaned,
    Different(Vec<Difference>),
    Unwritable(String),
}

/// One id, looked at on both sides.
pub(super) struct Seen {
    pub(super) id: Id,
    pub(super) finding: Finding,
    /// Of the index's document.
    pub(super) held: Option<Version>,
    /// Of the reading.
    pub(super) read: Version,
}

/// How ids are looked at.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    pub(super) context: &'a Context,
    pub(super) job: &'a JobDefinition,
    pub(super) full: bool,
}

impl Look<'_> {
    /// Both sides of these ids, past the fence. The source first: what is indexed between the two then looks newer, not older.
    pub(super) async fn closely(self, ids: Vec<Id>) -> anyhow::Result<Vec<Seen>> {
        let Sourced { documents, version } = sourced(self.context, self.job, &ids).await?;
        let held = indexed(self.context, &self.job.index, &ids, true).await?;
        let mut seen = Vec::with_capacity(ids.len());
        for ((id, source), held) in ids.into_iter().zip(documents).zip(held) {
            let finding = match (source, &held.source) {
                (SourceDocument::Gone, None) => Finding::Equal,
                (SourceDocument::Gone, Some(_)) => Finding::Orphaned,
                (SourceDocument::Unwritable(problem), _) => Finding::Unwritable(problem),
                (SourceDocument::Document(_), None) => Finding::Missing,
                (SourceDocument::Document(source), Some(held)) => match differences(&source, held)? {
                    places if places.is_empty() => Finding::Equal,
                    places => Finding::Different(places),
                },
            };
            seen.push(Seen { id, finding, held: held.version.map(Version::from_u64).transpose()?, read: version });
        }
        Ok(seen)
    }

    /// Which of the source's ids are to be looked at closely, or again.
    pub(super) async fn at_a_glance(self, ids: Vec<Id>) -> anyhow::Result<(u64, Vec<Id>)> {
        let count = ids.len() as u64;
        if self.full {
            let seen = self.closely(ids).await?;
            let doubtful = seen.into_iter().filter(|seen| !matches!(seen.finding, Finding::Equal));
            return Ok((count, doubtful.map(|seen| seen.id).collect()));
        }
        let held = indexed(self.context, &self.job.index, &ids, false).await?;
        let missing = ids.into_iter().zip(held).filter(|(_, held)| held.version.is_none());
        Ok((count, missing.map(|(id, _)| id).collect()))
    }
}

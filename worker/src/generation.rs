//! Generations: a failover or a restore goes forward.
//!
//! A version is a position in the log of one server's history. When the history changes (a promoted replica, a restored
//! backup), positions may fall; the generation, which stands above them in the version, then rises by one.

use std::sync::{Arc, Mutex, PoisonError};

use pinion_schemas::Version;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::{Fault, Service};
use crate::ports::{Identity, Index, Position};

/// The document that holds a source's generation, in the index of sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// The present generation, 1 or more.
    pub generation: u16,
    /// The history that it belongs to.
    pub identity: Identity,
    /// A position that a worker has seen in it, a while ago: no primary on this history is below.
    pub mark: u64,
    /// The histories of earlier generations: a server that is left on one is refused.
    pub earlier: Vec<Identity>,
}

/// The generations of one source.
pub struct Generations {
    source: String,
    index: Arc<dyn Index>,
    state_index: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    state: Option<SourceState>,
    /// The highest position seen by this worker.
    seen: u64,
    /// `seen` as it was when the mark was last kept. What is kept is that old, because answers
    /// overtake each other: a position asked just before `seen` may be looked at just after it.
    seen_before: u64,
    /// The kept generation that a primary on another history was held against, and when it was read. An answer may be older than
    /// what is kept, so only a primary that is asked after it raises the generation.
    doubted: Option<(u16, Instant)>,
}

impl Generations {
    /// The generations of `source`, kept in the index `state_index`.
    pub fn new(source: &str, index: Arc<dyn Index>, state_index: String) -> Self {
        Self { source: source.to_owned(), index, state_index, known: Mutex::default() }
    }

    /// The generation that `position`, just asked from the primary, belongs to. Raises it when the
    /// primary's history is a new one.
    ///
    /// # Errors
    /// The primary is on an earlier history, or behind what was seen on this one; or the state
    /// can't be read or written.
    pub async fn of(&self, position: &Position) -> Result<u16, Fault> {
        // A refusal is believed only of what was just read: an operator may have raised the generation.
        if let Ok(Some(generation)) = self.known_generation(position) {
            return Ok(generation);
        }
        loop {
            let (state, expected) = match self.load().await? {
                Some((state, _)) if state.identity == position.identity => (state, None),
                Some((state, seq_no)) => {
                    let raised = self.raised(&state, position)?;
                    self.confirm(&state, position)?;
                    (raised, Some(Some(seq_no)))
                }
                None => (SourceState::first(position), Some(None)),
            };
            if let Some(expected) = expected {
                if !self.store(&state, expected).await? {
                    continue;
                }
                let (generation, identity) = (state.generation, state.identity);
                tracing::info!(source = self.source, generation, %identity, "generation");
            }
            self.remember(state);
            // Checked against the mark that was just read, unless another failover was seen meanwhile.
            if let Some(generation) = self.known_generation(position)? {
                return Ok(generation);
            }
        }
    }

    /// The next question is answered by what is kept, and not by what is remembered: somebody may have raised the generation.
    pub fn forget(&self) {
        self.lock().state = None;
    }

    /// The version of `position` in `generation`.
    ///
    /// # Errors
    /// A position or generation that does not fit into a version.
    pub fn version(&self, generation: u16, position: u64) -> Result<Version, Fault> {
        Version::new(generation, position).map_err(|error| self.refusal(&error.to_string()))
    }

    /// Raises the kept mark, so that a restored disk is noticed. Called every few seconds, longer than a
    /// question to the primary may take; another worker may be faster, which is as good.
    ///
    /// # Errors
    /// When the state can't be read or written.
    pub async fn keep_mark(&self) -> Result<(), Fault> {
        let (seen, known) = {
            let mut known = self.lock();
            let newest = known.seen;
            (std::mem::replace(&mut known.seen_before, newest), known.state.clone())
        };
        let Some(known) = known.filter(|known| known.mark < seen) else { return Ok(()) };
        let Some((stored, seq_no)) = self.load().await? else { return Ok(()) };
        if stored.identity != known.identity || stored.generation != known.generation {
            self.lock().state = None;
            return Ok(());
        }
        let raised = SourceState { mark: stored.mark.max(seen), ..stored };
        if self.store(&raised, Some(seq_no)).await? {
            self.remember(raised);
        }
        Ok(())
    }

    /// The highest position that this worker has seen.
    pub(crate) fn seen(&self) -> u64 {
        self.lock().seen
    }

    fn known_generation(&self, position: &Position) -> Result<Option<u16>, Fault> {
        let mut known = self.lock();
        let Some(state) = known.state.as_ref().filter(|state| state.identity == position.identity) else {
            return Ok(None);
        };
        if position.at < state.mark {
            return Err(self.refusal(&format!(
                "the primary is at {}, but {} was seen on the same history ({}): a disk snapshot was restored? \
                 Check it, then raise the generation with `pinion apply --raise-generation {}`",
                position.at, state.mark, state.identity, self.source
            )));
        }
        let generation = state.generation;
        known.seen = known.seen.max(position.at);
        Ok(Some(generation))
    }

    /// Whether the primary was asked after the kept state was read.
    fn confirm(&self, state: &SourceState, position: &Position) -> Result<(), Fault> {
        let mut known = self.lock();
        if known.doubted.is_some_and(|(generation, since)| generation == state.generation && position.asked_at >= since)
        {
            return Ok(());
        }
        known.doubted = Some((state.generation, Instant::now()));
        let reason = format!(
            "the primary is on {}, generation {} is on {}: it is asked again",
            position.identity, state.generation, state.identity
        );
        Err(Fault::Again { service: Service::Source(self.source.clone()), reason })
    }

    fn raised(&self, state: &SourceState, position: &Position) -> Result<SourceState, Fault> {
        if state.earlier.contains(&position.identity) {
            return Err(self.refusal(&format!(
                "the primary of the configuration is on {}, but generation {} is on {}: it was failed over from; \
                 point `primary` to the present one, or, if this is the present one again, `pinion apply --raise-generation {}`",
                position.identity, state.generation, state.identity, self.source
            )));
        }
        Ok(state.clone().raised(position))
    }

    fn refusal(&self, reason: &str) -> Fault {
        Fault::Away { service: Service::Source(self.source.clone()), reason: reason.to_owned() }
    }

    fn remember(&self, state: SourceState) {
        let mut known = self.lock();
        let same = |before: &SourceState| before.identity == state.identity && before.generation == state.generation;
        if !known.state.as_ref().is_some_and(same) {
            known.seen = state.mark;
            known.seen_before = state.mark;
        }
        known.state = Some(state);
    }

    async fn load(&self) -> Result<Option<(SourceState, (u64, u64))>, Fault> {
        let Some(document) = self.index.state(&self.state_index, &self.source).await? else { return Ok(None) };
        let state = serde_json::from_value(document.source)
            .map_err(|error| self.refusal(&format!("its document in {} can't be read: {error}", self.state_index)))?;
        Ok(Some((state, document.seq_no)))
    }

    async fn store(&self, state: &SourceState, expected: Option<(u64, u64)>) -> Result<bool, Fault> {
        let document = serde_json::to_value(state).expect("a state is plain data");
        self.index.put_state(&self.state_index, &self.source, &document, expected).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourceState {
    /// The first generation, of the history that `position` is on.
    pub fn first(position: &Position) -> Self {
        Self { generation: 1, identity: position.identity, mark: 0, earlier: Vec::new() }
    }

    /// The next generation, on the history that `position` is on.
    pub fn raised(mut self, position: &Position) -> Self {
        if self.identity != position.identity {
            self.earlier.push(self.identity);
        }
        Self { generation: self.generation + 1, identity: position.identity, mark: 0, earlier: self.earlier }
    }
}

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;

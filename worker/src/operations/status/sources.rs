//! How far the sources are: the primary's position, the replicas' lag, the generation.

use futures_util::future::join_all;
use pinion_schemas::{Lsn, StateIndex};
use serde::Serialize;

use super::{PATIENCE, Part, part};
use crate::generation::SourceState;
use crate::operations::Context;
use crate::operations::state::State;
use crate::ports::{Database as _, Position};
use crate::postgres::Postgres;
use crate::postgres::operator::ReplicaStanding;

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// Its name in the configuration.
    pub source: String,
    /// The generation of its versions; none before the first document.
    pub generation: Part<Option<u16>>,
    /// The primary's position, as PostgreSQL writes it.
    pub primary: Part<String>,
    /// Its replicas.
    pub replicas: Vec<Replica>,
}

/// A replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replica {
    /// Host and port.
    pub server: String,
    /// How many bytes of log it is behind the primary; none where the primary does not answer.
    pub bytes_behind: Part<Option<u64>>,
}

impl Source {
    /// What does not answer, or is not what the configuration says.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let primary = self.primary.down().map(|error| format!("source {}, primary: {error}", self.source));
        let replicas = self.replicas.iter().filter_map(|replica| {
            let error = replica.bytes_behind.down()?;
            Some(format!("source {}, replica {}: {error}", self.source, replica.server))
        });
        primary.into_iter().chain(replicas)
    }
}

/// Asks all sources at once.
pub(super) async fn sources(context: &Context) -> Vec<Source> {
    join_all(context.sources.iter().map(|(name, database)| source(context, name, database))).await
}

async fn source(context: &Context, name: &str, database: &Postgres) -> Source {
    let generation = async {
        let state: Option<SourceState> = State::of(context, StateIndex::Sources).get(name).await?;
        Ok(state.map(|state| state.generation))
    };
    let position = async { database.position().await.map_err(|fault| anyhow::anyhow!("{}", fault.reason())) };
    let (generation, primary, standings) =
        futures_util::join!(part(generation), part(position), database.replica_standings(PATIENCE));
    let replicas = standings.into_iter().map(|(server, standing)| {
        let bytes_behind = match standing.and_then(|standing| behind(&standing, primary.known())) {
            Ok(bytes) => Part::Known(bytes),
            Err(error) => Part::Down(error),
        };
        Replica { server, bytes_behind }
    });
    Source {
        source: name.to_owned(),
        generation,
        replicas: replicas.collect(),
        primary: match primary {
            Part::Known(position) => Part::Known(Lsn(position.at).to_string()),
            Part::Down(error) => Part::Down(error),
        },
    }
}

/// The lag of a server that is what it should be: a replica of this primary.
fn behind(standing: &ReplicaStanding, primary: Option<&Position>) -> Result<Option<u64>, String> {
    if !standing.in_recovery {
        return Err("it is not a replica (any more): it was promoted?".to_owned());
    }
    let Some(primary) = primary else { return Ok(None) };
    if standing.identity != primary.identity {
        return Err(format!("it is on {}, the primary on {}", standing.identity, primary.identity));
    }
    Ok(Some(primary.at.saturating_sub(standing.replayed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Identity;

    #[test]
    fn only_a_replica_of_this_primary_has_a_lag() {
        let identity = Identity { system: 7, timeline: 1 };
        let primary = Position { identity, at: 100 };
        let standing = |in_recovery, timeline, replayed| ReplicaStanding {
            in_recovery,
            identity: Identity { system: 7, timeline },
            replayed,
        };
        assert_eq!(behind(&standing(true, 1, 60), Some(&primary)), Ok(Some(40)));
        // Asked a moment later, it may be ahead of what the primary said.
        assert_eq!(behind(&standing(true, 1, 160), Some(&primary)), Ok(Some(0)));
        assert_eq!(behind(&standing(true, 1, 60), None), Ok(None));
        let promoted = behind(&standing(false, 1, 60), Some(&primary)).expect_err("a primary of its own");
        assert!(promoted.contains("promoted"), "{promoted}");
        let other = behind(&standing(true, 2, 60), Some(&primary)).expect_err("another history");
        assert!(other.contains("timeline 2") && other.contains("timeline 1"), "{other}");
    }
}

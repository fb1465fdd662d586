//! How far the sources are: the primary's position, the replicas' lag, the generation.

use futures_util::future::join_all;
use pinion_schemas::StateIndex;
use serde::Serialize;

use super::{PATIENCE, Part, part};
use crate::generation::SourceState;
use crate::operations::Context;
use crate::operations::state::State;
use crate::ports::{Database, LogUnit};

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// Its name in the configuration.
    pub source: String,
    /// The generation of its versions; none before the first document.
    pub generation: Part<Option<u16>>,
    /// The primary's position, as the server writes it.
    pub primary: Part<String>,
    /// Its replicas.
    pub replicas: Vec<Replica>,
}

/// A replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replica {
    /// Host and port.
    pub server: String,
    /// How far it is behind the primary; none where the primary does not answer.
    pub behind: Part<Option<u64>>,
    /// What that counts.
    pub unit: LogUnit,
}

impl Source {
    /// What does not answer, or is not what the configuration says.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let primary = self.primary.down().map(|error| format!("source {}, primary: {error}", self.source));
        let replicas = self.replicas.iter().filter_map(|replica| {
            let error = replica.behind.down()?;
            Some(format!("source {}, replica {}: {error}", self.source, replica.server))
        });
        primary.into_iter().chain(replicas)
    }
}

/// Asks all sources at once.
pub(super) async fn sources(context: &Context) -> Vec<Source> {
    join_all(context.sources.iter().map(|(name, database)| source(context, name, database.as_database()))).await
}

async fn source(context: &Context, name: &str, database: &dyn Database) -> Source {
    let generation = async {
        let state: Option<SourceState> = State::of(context, StateIndex::Sources).get(name).await?;
        Ok(state.map(|state| state.generation))
    };
    let position = async { database.position().await.map_err(|fault| anyhow::anyhow!("{}", fault.reason())) };
    let (generation, primary) = futures_util::join!(part(generation), part(position));
    let unit = database.log_unit();
    let replicas = database.replica_lags(primary.known(), PATIENCE).await.into_iter().map(|(server, lag)| {
        let behind = match lag {
            Ok(behind) => Part::Known(behind),
            Err(error) => Part::Down(error),
        };
        Replica { server, behind, unit }
    });
    Source {
        source: name.to_owned(),
        generation,
        replicas: replicas.collect(),
        primary: match primary {
            Part::Known(position) => Part::Known(position.text.to_string()),
            Part::Down(error) => Part::Down(error),
        },
    }
}

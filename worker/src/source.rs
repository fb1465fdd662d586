//! A source of the configuration: which kind of database it is.

use std::sync::Arc;

use crate::config::{self, SourceKind};
use crate::mysql::{Flavor, Mysql};
use crate::ports::Database;
use crate::postgres::Postgres;

/// The clients of a source's servers. The pipeline and most operations know it as a [`Database`]; `check` and `init` ask each
/// kind in its own words.
#[derive(Clone)]
pub enum Source {
    /// PostgreSQL.
    Postgres(Arc<Postgres>),
    /// MariaDB or MySQL.
    Mysql(Arc<Mysql>),
}

impl Source {
    /// The source `name` of the configuration. Connects when it is first needed.
    ///
    /// # Errors
    /// An address that is none; the text names the key.
    pub fn new(name: &str, source: &config::Source, worker: &config::Worker) -> Result<Self, String> {
        Ok(match source.kind {
            SourceKind::Postgres => Self::Postgres(Arc::new(Postgres::new(name, source, worker)?)),
            SourceKind::Mariadb => Self::Mysql(Arc::new(Mysql::new(Flavor::Mariadb, name, source, worker)?)),
            SourceKind::Mysql => Self::Mysql(Arc::new(Mysql::new(Flavor::Mysql, name, source, worker)?)),
        })
    }

    /// What is asked of every kind.
    pub fn as_database(&self) -> &dyn Database {
        match self {
            Self::Postgres(postgres) => &**postgres,
            Self::Mysql(mysql) => &**mysql,
        }
    }

    /// The same, to keep.
    pub fn database(&self) -> Arc<dyn Database> {
        match self {
            Self::Postgres(postgres) => postgres.clone(),
            Self::Mysql(mysql) => mysql.clone(),
        }
    }
}

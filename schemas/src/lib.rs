//! The contracts that every part of Pinion shares: the job message and its ids, the job definition, the version of a
//! document and the names on the broker and in Elasticsearch. No I/O but the reading of job folders.

pub mod change;
pub mod column;
pub mod contract;
pub mod id;
pub mod job;
pub mod mapping;
pub mod message;
pub mod names;
pub mod position;
pub mod sql;
pub mod version;

pub use column::{ColumnType, Unit};
pub use id::{Id, IdError, KeyType};
pub use job::{Finding, From, JobDefinition, LoadError, LoadedJob, Severity, Watch, WatchRule, load_job, load_jobs};
pub use mapping::{Dynamic, Mapping, MappingError};
pub use message::{DecodeError, Ids, Job, JobMessage, decode};
pub use names::{NameError, Names, StateIndex, valid_job_name};
pub use position::{Lsn, LsnError, position_of};
pub use sql::{SqlError, SqlTemplate};
pub use version::{Version, VersionError};

//! Publishes Pinion jobs to RabbitMQ.
//!
//! Publish a job *after* its change's commit returned. A message that is sent inside the transaction can be worked
//! off before the commit is visible: the document then stays as it was, and nobody can notice. With a commit hook
//! (`after_commit`, `on_commit`) it is right.
//!
//! Jobs that wait to be published at the same time go out in one message
//! ([`PublisherConfig::ids_joined_max`]), and none waits for others.
//!
//! Sending a job twice does no harm: Pinion reads the document anew each time, and coalesces what waits.
//!
//! ```no_run
//! use pinion_client::{Publisher, PublisherConfig};
//! use pinion_schemas::Job;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let publisher = Publisher::connect(PublisherConfig::new("amqp://guest:guest@localhost/%2f")).await?;
//! publisher.publish(&Job::new("orders", 42)).await?; // the broker has it, on disk
//! publisher.close().await;
//! # Ok(())
//! # }
//! ```

pub mod connection;
pub mod error;
pub mod publisher;

pub use connection::{ConnectError, connect};
pub use error::PublishError;
pub use publisher::{BatchReport, Lane, Publisher, PublisherConfig};

//! The harness of the integration tests: the real services, started by the scripts in `stack/bin`,
//! and the real worker as a child process.
//!
//! Each test takes a [`Namespace`]: a database, queues and indexes of its own on shared servers, so that tests run
//! side by side. A test that stops, pauses or floods a server takes a private one: [`PrivateReplica`],
//! [`PrivatePostgres`], [`PrivateElasticsearch`], [`PrivateRabbit`], [`PrivateMariadb`], [`PrivateKafka`]. All of it is removed at the end of the test;
//! what a killed run left behind is removed by the next run an hour later.
//!
//! Nothing here sleeps for a fixed time: [`eventually`] waits for a condition.

mod dice;
mod elastic;
mod eventually;
mod feed;
mod metrics;
mod mysql;
mod namespace;
mod naming;
mod pinion;
mod primary;
mod private;
mod proxy;
mod rabbit;
mod replica;
mod script;
mod setup;
mod stack;
mod sweep;
mod tls;

pub use dice::Dice;
pub use elastic::Elastic;
pub use eventually::eventually;
pub use feed::Feed;
pub use metrics::Metrics;
pub use mysql::{MysqlShop, PrivateMariadb};
pub use namespace::Namespace;
pub use pinion::{Output, Pinion, Worker};
pub use primary::PrivatePostgres;
pub use private::{PrivateElasticsearch, PrivateKafka, PrivateRabbit, PrivateService};
pub use proxy::{Proxy, Wire};
pub use rabbit::Rabbit;
pub use replica::{FrozenReceiver, PrivateReplica};
pub use setup::Setup;
pub use stack::{Stack, stack};
pub use tls::{Authority, Signed, TlsFront, Validity};

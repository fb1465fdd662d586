//! The integration tests, one binary: they run side by side on the same services.

mod apply;
mod bad_input;
mod broker_limits;
mod check;
mod client;
mod dead;
mod documents;
mod enqueue;
mod event_job;
mod explain;
mod fan_out;
mod feed;
mod feed_formats;
mod feed_operators;
mod feed_treatments;
mod harness;
mod histories;
mod hostile_ids;
mod init;
mod main_job;
mod mysql;
mod operators;
mod outages;
mod postgres_types;
mod secrets;
mod shop;

mod tls;
mod versions;

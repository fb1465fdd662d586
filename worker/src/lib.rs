//! The worker and the operator's commands. See ARCHITECTURE.md for the map.

pub mod admin;
pub mod backlog;
pub mod broker;
pub mod clock;
mod commands;
pub mod config;
pub mod control;
pub mod dead_letter;
pub mod elasticsearch;
pub mod error;
pub mod event_job;
pub mod feed;
pub mod gate;
pub mod generation;
pub mod json;
pub mod limit;
mod logging;
pub mod metrics;
pub mod mysql;
pub mod operations;
pub mod pipeline;
pub mod planted;
pub mod ports;
pub mod postgres;
pub mod retry;
mod server;
pub mod shutdown;
pub mod source;
pub mod status;
mod substitute;
pub mod tracker;
mod wkb;

pub use commands::run;

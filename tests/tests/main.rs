//! The integration tests, one binary: they run side by side on the same services.

mod harness;
mod postgres_types;

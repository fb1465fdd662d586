//! JSON text, written straight into buffers.

pub use crate::postgres::json::write_json_string;

//! Values as JSON: what the types of all databases share.

pub use crate::postgres::json::write_json_string;
pub(crate) use crate::postgres::json::{
    write_base64, write_date, write_float, write_integer, write_json, write_moment, write_time_of_day,
};

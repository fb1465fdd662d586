//! Geometry of events, as text. Pure.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::value::{bytes, read};
use crate::json::write_json_string;
use crate::wkb;

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(default, borrow)]
    wkb: Option<&'a RawValue>,
    x: Option<f64>,
    y: Option<f64>,
}

/// Appends an `io.debezium.data.geometry` value's text.
///
/// # Errors
/// It is none.
pub(super) fn write(value: &RawValue, out: &mut Vec<u8>) -> Result<(), String> {
    let written: Written<'_> = read(value)?;
    let text = match (written.wkb.filter(|wkb| wkb.get() != "null"), written.x, written.y) {
        (Some(wkb), ..) => wkb::text(&bytes(wkb)?).ok_or("is no WKB")?,
        (None, Some(x), Some(y)) => format!("POINT ({x} {y})"),
        _ => return Err("has neither wkb nor x and y".to_owned()),
    };
    write_json_string(&text, out);
    Ok(())
}

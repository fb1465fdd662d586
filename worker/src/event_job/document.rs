//! The document of a row's image. Pure.

use pinion_schemas::change::{Row, is_unavailable};
use pinion_schemas::{ColumnType, JobDefinition};

use super::value;
use crate::feed::format::ColumnTypes;
use crate::json::write_json_string;

/// Why a row makes no document.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// A value was left as it was and is not told.
    Missing(String),
    /// A value that is not what its type says.
    Value(String),
}

/// The row as a document: every column that does not begin with `_`. What the job says of a column's type outweighs what the
/// event's schema says.
pub(super) fn document(job: &JobDefinition, types: Option<&ColumnTypes>, row: &Row<'_>) -> Result<Vec<u8>, Defect> {
    let mut json = vec![b'{'];
    for (name, value) in row.columns() {
        if is_unavailable(value) {
            return Err(Defect::Missing(name.to_owned()));
        }
        if json.len() > 1 {
            json.push(b',');
        }
        write_json_string(name, &mut json);
        json.push(b':');
        let kind = job.columns.get(name).or_else(|| types?.get(name)).unwrap_or(&ColumnType::Plain);
        value::write(kind, value, &mut json).map_err(|problem| Defect::Value(format!("column {name}: {problem}")))?;
    }
    json.push(b'}');
    Ok(json)
}

//! `--by`, `--from` and `--to`: the rows of which a column lies between two values.

use clap::Args;

use super::{Failure, shown};
use crate::ports::ColumnRange;

/// A range of rows; without both limits it is none.
#[derive(Debug, Args)]
pub(super) struct Range {
    /// Only rows from this value on, in the order of --by.
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    from: Option<String>,
    /// Only rows before this value, in the order of --by.
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    to: Option<String>,
    /// What --from and --to are values of: a column of the id's table, by its name in the document [default: the id].
    #[arg(long, value_name = "FIELD")]
    by: Option<String>,
}

impl Range {
    /// The range that was given, if one was; --by alone is wrong usage.
    pub(super) fn into_columns(self) -> Result<Option<ColumnRange>, Failure> {
        let Self { from, to, by } = self;
        if from.is_some() || to.is_some() {
            return Ok(Some(ColumnRange { field: by.unwrap_or_else(|| "_id".to_owned()), from, to }));
        }
        match by {
            None => Ok(None),
            Some(_) => {
                Err(Failure::Usage(anyhow::anyhow!("--by says what --from and --to are values of: give one of them")))
            }
        }
    }
}

/// A range in words, after which something is said of it.
pub(super) fn told(range: &ColumnRange) -> String {
    let ColumnRange { field, from, to } = range;
    let mut text = shown::argument(field);
    for (word, value) in [("from", from), ("to", to)] {
        if let Some(value) = value {
            text.push_str(&format!(" {word} {}", shown::argument(value)));
        }
    }
    text
}

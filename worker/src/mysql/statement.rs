//! The columns of a job's query, and how they become a document.

use pinion_schemas::{Id, JobDefinition, KeyType};
use sqlx::mysql::{MySqlColumn, MySqlRow, MySqlTypeInfo};
use sqlx::{Column as _, Row as _, TypeInfo as _};

use super::json::Encoder;
use crate::pipeline::build::{Defect, DocumentPlan};
use crate::ports::Record;

/// What is known of a query's answer.
#[derive(Debug)]
pub(crate) struct Statement {
    /// How the columns nest.
    pub(crate) plan: DocumentPlan,
    /// The columns in order.
    pub(crate) columns: Vec<Column>,
}

/// A column of a job's query.
#[derive(Debug)]
pub(crate) struct Column {
    /// Its name, dots included.
    pub(crate) name: String,
    type_info: MySqlTypeInfo,
    encoder: Encoder,
}

impl Column {
    /// The type of what it becomes in a document, in the server's words.
    pub(crate) fn kind(&self) -> &str {
        self.encoder.kind().unwrap_or_else(|| self.type_info.name().trim_end_matches(" UNSIGNED"))
    }
}

impl Statement {
    /// What these columns of the job's query become.
    ///
    /// # Errors
    /// They make no document.
    pub(crate) fn new(job: &JobDefinition, columns: &[MySqlColumn]) -> Result<Self, Defect> {
        let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
        let plan = DocumentPlan::new(&names)?;
        let fields = job.mapping.fields();
        let columns = columns.iter().map(|column| {
            let name = column.name();
            let encoder = Encoder::of(column.type_info(), fields.get(name).map(String::as_str));
            if name == "_id" {
                check_key(job.key, column.type_info(), &encoder)?;
            }
            Ok(Column { name: name.to_owned(), type_info: column.type_info().clone(), encoder })
        });
        Ok(Self { plan, columns: columns.collect::<Result<_, Defect>>()? })
    }

    /// Whether an answer has the columns that this statement was made for.
    pub(super) fn fits(&self, columns: &[MySqlColumn]) -> bool {
        columns.len() == self.columns.len()
            && columns.iter().zip(&self.columns).all(|(column, known)| {
                *column.type_info() == known.type_info
                    && column.type_info().name() == known.type_info.name()
                    && column.name() == known.name
            })
    }

    /// A row of an answer.
    pub(super) fn record<'a>(&'a self, row: &'a MySqlRow, key: KeyType) -> MysqlRecord<'a> {
        MysqlRecord { columns: &self.columns, row, key }
    }
}

/// The key's values are read from the `_id` column, so its type has to be the key's.
fn check_key(key: KeyType, type_info: &MySqlTypeInfo, encoder: &Encoder) -> Result<(), Defect> {
    let fits = match key {
        KeyType::Bigint => encoder.is_integer(),
        KeyType::Uuid | KeyType::Text => encoder.is_text(),
    };
    if fits {
        return Ok(());
    }
    let expected = match key {
        KeyType::Bigint => "an integer",
        KeyType::Uuid => "a text such as CHAR(36), or UUID",
        KeyType::Text => "a text",
    };
    let name = type_info.name();
    Err(Defect(format!(
        "_id is of type {name}, but job.toml says key = \"{key}\"; change the key, or select {expected}"
    )))
}

/// A row with what is known of its columns.
pub(super) struct MysqlRecord<'a> {
    columns: &'a [Column],
    row: &'a MySqlRow,
    key: KeyType,
}

impl MysqlRecord<'_> {
    fn raw(&self, column: usize) -> Result<Option<&[u8]>, String> {
        self.row.try_get_unchecked(column).map_err(|error| error.to_string())
    }
}

impl Record for MysqlRecord<'_> {
    fn write_column(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let Some(raw) = self.raw(column)? else {
            out.extend_from_slice(b"null");
            return Ok(());
        };
        let column = &self.columns[column];
        column.encoder.write(raw, out).map_err(|problem| format!("the column \"{}\": {problem}", column.name))
    }

    fn id(&self, column: usize) -> Result<Option<Id>, String> {
        let Some(raw) = self.raw(column)? else { return Ok(None) };
        let encoder = &self.columns[column].encoder;
        let id = match self.key {
            KeyType::Bigint => encoder.integer(raw).map(Id::Int),
            KeyType::Uuid | KeyType::Text => {
                let text = std::str::from_utf8(raw).ok();
                text.and_then(|text| self.key.id_from_text(text).ok())
            }
        };
        id.map(Some).ok_or_else(|| format!("_id has {} bytes that are no {}", raw.len(), self.key))
    }
}

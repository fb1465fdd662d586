//! Reads a job's folder: from the files as they are written to the definition as it is used.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::column::ColumnType;
use crate::id::KeyType;
use crate::job::{Finding, From, INDEX_BYTES_MAX, JobDefinition, Severity, Watch, WatchRule};
use crate::mapping::Mapping;
use crate::names::{JOB_NAME_BYTES_MAX, valid_job_name};
use crate::sql::{SqlError, SqlTemplate};

pub(super) const JOB_FILE: &str = "job.toml";
const SQL_FILE: &str = "document.sql";
const MAPPING_FILE: &str = "mapping.json";

/// `job.toml` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AsWritten {
    index: Spanned<String>,
    source: Spanned<String>,
    key: KeyType,
    owner: Option<String>,
    description: Option<String>,
    freshness_s_max: Option<Spanned<u64>>,
    age_s_max: Option<Spanned<u64>>,
    #[serde(default)]
    watch: Vec<WatchAsWritten>,
    #[serde(default)]
    from: From,
    columns: Option<Spanned<BTreeMap<String, ColumnType>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WatchAsWritten {
    table: Spanned<String>,
    key: Option<Spanned<String>>,
    sql: Option<Spanned<String>>,
}

/// The least of `age_s_max`: a walk over all ids takes half of it.
const AGE_S_LEAST: u64 = 10;

/// Reads one folder and collects what it finds on the way.
pub(super) struct Reader<'a> {
    folder: &'a Path,
    pub(super) findings: Vec<Finding>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(folder: &'a Path) -> Reader<'a> {
        Reader { folder, findings: Vec::new() }
    }

    /// The definition, if nothing is missing that it needs. It may be there in spite of errors in the findings.
    pub(super) fn definition(&mut self) -> Option<JobDefinition> {
        let name = self.name();
        let is_event = self.is_event();
        let sql = if is_event { None } else { self.sql() };
        let mapping = self.mapping();
        let text = self.read(JOB_FILE, "write index, source and key into it")?;
        let written: AsWritten = toml::from_str(&text).map_err(|error| self.not_understood(&text, &error)).ok()?;
        self.check(&text, &written);
        let watch: Vec<Watch> = written.watch.iter().filter_map(|watch| self.watch(&text, watch)).collect();
        let sql = if is_event { self.event_query(&text, &written, &watch) } else { sql };
        Some(JobDefinition {
            name,
            folder: self.folder.to_owned(),
            index: written.index.into_inner(),
            source: written.source.into_inner(),
            key: written.key,
            owner: written.owner,
            description: written.description,
            freshness_s_max: written.freshness_s_max.map(Spanned::into_inner),
            age_s_max: written.age_s_max.map(Spanned::into_inner),
            watch,
            from: written.from,
            columns: written.columns.map(Spanned::into_inner).unwrap_or_default(),
            sql: sql?,
            mapping: mapping?,
        })
    }

    /// Whether the job's documents come from events, whatever else is wrong in its file.
    fn is_event(&self) -> bool {
        let text = std::fs::read_to_string(self.path(JOB_FILE)).unwrap_or_default();
        let table: toml::Table = toml::from_str(&text).unwrap_or_default();
        table.get("from").and_then(toml::Value::as_str) == Some("event")
    }

    fn name(&mut self) -> String {
        let name = folder_name(self.folder);
        if !valid_job_name(&name) {
            let problem = format!("the folder's name {name:?} can't be a job's name");
            let mend = format!(
                "begin with a letter a-z, go on with a-z, 0-9, _ and -, {JOB_NAME_BYTES_MAX} characters at most"
            );
            self.error(JOB_FILE, None, problem, mend);
        }
        name
    }

    fn sql(&mut self) -> Option<SqlTemplate> {
        let text =
            self.read(SQL_FILE, "write the query for the documents into it: SELECT … AS _id, … WHERE id = ANY(:ids)")?;
        match SqlTemplate::parse(&text) {
            Ok(sql) => Some(sql),
            Err(SqlError { line, problem, mend }) => {
                self.error(SQL_FILE, Some(line), problem, mend);
                None
            }
        }
    }

    fn mapping(&mut self) -> Option<Mapping> {
        let text = self
            .read(MAPPING_FILE, "write {\"settings\": {…}, \"mappings\": {…}} into it, as Elasticsearch takes them")?;
        match Mapping::parse(&text) {
            Ok(mapping) => Some(mapping),
            Err(errors) => {
                for error in errors {
                    self.error(MAPPING_FILE, error.line, error.problem, error.mend);
                }
                None
            }
        }
    }

    fn check(&mut self, text: &str, written: &AsWritten) {
        if let Err(problem) = check_index(written.index.get_ref()) {
            let mend = format!("write lower-case letters, digits, - and _, {INDEX_BYTES_MAX} bytes at most");
            self.error(
                JOB_FILE,
                line(text, &written.index.span()),
                format!("index {:?} {problem}", written.index.get_ref()),
                mend,
            );
        }
        if written.source.get_ref().is_empty() {
            let mend = "name one of the [sources.…] in the configuration";
            self.error(JOB_FILE, line(text, &written.source.span()), "source is empty", mend);
        }
        if written.from == From::Query
            && let Some(columns) = &written.columns
        {
            let mend = "remove it, or write from = \"event\"";
            self.error(JOB_FILE, line(text, &columns.span()), "[columns] has no effect on a query", mend);
        }
        if let Some(freshness) = &written.freshness_s_max
            && *freshness.get_ref() == 0
        {
            let mend = "write the seconds that a document may be behind, or leave it out";
            self.error(JOB_FILE, line(text, &freshness.span()), "freshness_s_max is 0", mend);
        }
        if let Some(age) = &written.age_s_max {
            if *age.get_ref() < AGE_S_LEAST {
                let mend = "write the seconds that a document may be old, 10 or more, or leave it out";
                self.error(JOB_FILE, line(text, &age.span()), format!("age_s_max is {}", age.get_ref()), mend);
            }
            if written.from == From::Event {
                let mend = "remove it: what comes from events is not read again";
                self.error(JOB_FILE, line(text, &age.span()), "age_s_max has no effect on events", mend);
            }
        }
    }

    /// What the documents of a job from events are: the rows of its one table, by the row's own key.
    fn event_query(&mut self, text: &str, written: &AsWritten, watch: &[Watch]) -> Option<SqlTemplate> {
        if self.path(SQL_FILE).exists() {
            let mend = "remove the file, or from = \"event\" in job.toml";
            self.error(SQL_FILE, None, "from = \"event\" takes the documents from the events, not from a query", mend);
        }
        let [Watch { table, rule: WatchRule::Key(key) }] = watch else {
            // A rule that is wrong by itself has its own finding.
            if written.watch.len() != 1 || !watch.is_empty() {
                let place = written.watch.first().and_then(|watch| line(text, &watch.table.span()));
                let mend = "write one [[watch]] with table, and key = the column of the row's own key";
                self.error(JOB_FILE, place, "from = \"event\" needs one table whose rows are the documents", mend);
            }
            return None;
        };
        event_query(table, key, "= ANY(:ids)")
    }

    fn watch(&mut self, text: &str, written: &WatchAsWritten) -> Option<Watch> {
        let table = written.table.get_ref();
        let place = line(text, &written.table.span());
        match table.split_once('.') {
            Some((schema, name)) if !schema.is_empty() && !name.is_empty() => {}
            _ => self.error(JOB_FILE, place, format!("table {table:?} has no schema"), "write both: \"public.orders\""),
        }
        let rule = match (&written.key, &written.sql) {
            (Some(key), None) if key.get_ref().is_empty() => {
                self.error(
                    JOB_FILE,
                    line(text, &key.span()),
                    "key is empty",
                    "name the column that holds the document's id",
                );
                return None;
            }
            (Some(key), None) => WatchRule::Key(key.get_ref().clone()),
            (None, Some(sql)) => match SqlTemplate::parse(sql.get_ref()) {
                Ok(template) => WatchRule::Sql(template),
                Err(error) => {
                    let at = first_line(text, &sql.span()) + error.line - 1;
                    self.error(JOB_FILE, Some(at), format!("sql: {}", error.problem), error.mend);
                    return None;
                }
            },
            _ => {
                let mend = "write key = \"column\" or sql = \"SELECT … :ids …\", and not both";
                self.error(JOB_FILE, place, format!("the watch of {table:?} needs one rule"), mend);
                return None;
            }
        };
        Some(Watch { table: table.clone(), rule })
    }

    /// The text of a file, or a finding that says why there is none.
    fn read(&mut self, file: &str, mend_missing: &str) -> Option<String> {
        match std::fs::read_to_string(self.path(file)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.error(file, None, "the file is missing", mend_missing);
                None
            }
            Err(error) => {
                self.error(file, None, format!("the file can't be read: {error}"), "it must be readable and UTF-8");
                None
            }
        }
    }

    fn not_understood(&mut self, text: &str, error: &toml::de::Error) {
        let at = error.span().and_then(|span| line(text, &span));
        let mend = "index, source and key are needed; owner, description, freshness_s_max, age_s_max, from, [columns] and [[watch]] are allowed";
        self.error(JOB_FILE, at, error.message().trim_end().replace('\n', ", "), mend);
    }

    fn error(&mut self, file: &str, line: Option<usize>, problem: impl Into<String>, mend: impl Into<String>) {
        self.findings.push(Finding {
            file: self.path(file),
            line,
            problem: problem.into(),
            mend: mend.into(),
            severity: Severity::Error,
        });
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }
}

/// The rows of a table by a column, with how it is compared with the ids.
pub(super) fn event_query(table: &str, key: &str, compared: &str) -> Option<SqlTemplate> {
    let name = |name: &str| {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
    };
    let (table, key) = (table.splitn(2, '.').map(name).collect::<Vec<_>>().join("."), name(key));
    SqlTemplate::parse(&format!("SELECT t.{key} AS _id, t.* FROM {table} AS t WHERE t.{key} {compared}")).ok()
}

/// The last part of a folder's path, whatever it is made of.
pub(super) fn folder_name(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Elasticsearch's rules for the names of indexes and aliases.
fn check_index(index: &str) -> Result<(), &'static str> {
    if index.is_empty() {
        return Err("is empty");
    }
    if index.len() > INDEX_BYTES_MAX {
        return Err("is too long");
    }
    if index.starts_with(['-', '_', '+', '.']) {
        return Err("begins with -, _, + or a dot");
    }
    if index.chars().any(|c| c.to_lowercase().ne([c])) {
        return Err("has upper-case letters");
    }
    if index.contains(|c: char| c.is_whitespace() || c.is_control() || "\\/*?\"<>|,#:%".contains(c)) {
        // Elasticsearch would take a %, but in an address it stands for something else.
        return Err("has a character that can't be in it: a space or one of \\ / * ? \" < > | , # : %");
    }
    Ok(())
}

fn line(text: &str, span: &Range<usize>) -> Option<usize> {
    text.get(..span.start).map(|before| 1 + before.matches('\n').count())
}

/// The line on which a string's content begins: behind `"""` and a line break it is the next one.
fn first_line(text: &str, span: &Range<usize>) -> usize {
    let raw = text.get(span.clone()).unwrap_or_default();
    let next = ["\"\"\"", "'''"]
        .iter()
        .any(|quotes| raw.strip_prefix(quotes).is_some_and(|rest| rest.starts_with('\n') || rest.starts_with("\r\n")));
    line(text, span).unwrap_or(1) + usize::from(next)
}

//! The SQL of a job: one statement with the placeholder `:ids`.

use thiserror::Error;

use crate::sql::scan::Scan;

mod scan;

/// A checked query in which `:ids` stands for the ids of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlTemplate {
    /// Between two neighbours stands one `:ids`.
    parts: Vec<String>,
    mysql_problem: Option<SqlError>,
}

/// Why a text can't be a job's query.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {problem}; {mend}")]
pub struct SqlError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub mend: String,
}

impl SqlTemplate {
    /// Finds `:ids` wherever it is not inside a string, a quoted name or a comment. Strings are read as the SQL
    /// standard and PostgreSQL do: in `'…'` a backslash is an ordinary character and a quote is written twice, in
    /// `E'…'` it escapes.
    ///
    /// Refused: no `:ids`, another `:name` or `$1`, a second statement, one that doesn't begin with SELECT or WITH. A
    /// semicolon and comments at the end are dropped, so that the text can be put in parentheses.
    pub fn parse(text: &str) -> Result<SqlTemplate, SqlError> {
        let scan = Scan::run(text)?;
        let mut parts = Vec::with_capacity(scan.placeholders.len() + 1);
        let mut from = 0;
        for at in scan.placeholders {
            parts.push(text[from..at].to_owned());
            from = at + IDS.len();
        }
        parts.push(text[from..scan.end].to_owned());
        Ok(SqlTemplate { parts, mysql_problem: scan.mysql_problem })
    }

    /// The query as it was written, without what follows its end.
    pub fn text(&self) -> String {
        self.parts.join(IDS)
    }

    /// The query for PostgreSQL: every `:ids` is `$1`, an array.
    pub fn to_postgres(&self) -> String {
        self.with_ids("$1")
    }

    /// The query with `ids` in the place of each `:ids`.
    pub fn with_ids(&self, ids: &str) -> String {
        self.parts.join(ids)
    }

    /// The query for MySQL and MariaDB: every `:ids` is `count` question marks, for `IN (:ids)`. `count` is at least
    /// 1, and the ids are bound once for each of the [`places`](SqlTemplate::places).
    pub fn to_mysql(&self, count: usize) -> String {
        debug_assert!(count > 0, "IN () is no SQL");
        let mut marks = "?,".repeat(count);
        marks.pop();
        self.parts.join(&marks)
    }

    /// What MySQL and MariaDB read otherwise than [`parse`](SqlTemplate::parse) did, so that `:ids` may not be where it was
    /// found: a backslash in a string, `#` and `--` as comments, `/*!` as none.
    pub fn mysql_problem(&self) -> Option<&SqlError> {
        self.mysql_problem.as_ref()
    }

    /// How often `:ids` occurs: at least once.
    pub fn places(&self) -> usize {
        self.parts.len() - 1
    }
}

const IDS: &str = ":ids";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn postgres(text: &str) -> String {
        SqlTemplate::parse(text).expect(text).to_postgres()
    }

    fn refused(text: &str, line: usize, problem: &str) {
        let error = SqlTemplate::parse(text).expect_err(text);
        assert_eq!(error.line, line, "{error}");
        assert!(error.problem.contains(problem), "{error} should contain {problem}");
    }

    #[test]
    fn placeholders_are_replaced() {
        let query = "select id from a where b = any(:ids) or c = any(:ids)";
        let template = SqlTemplate::parse(query).expect("a query");
        assert_eq!(template.text(), query);
        assert_eq!(template.places(), 2);
        assert_eq!(template.to_postgres(), "select id from a where b = any($1) or c = any($1)");
        let template = SqlTemplate::parse("WITH x AS (SELECT 1) SELECT 1 WHERE a IN (:ids)").expect("a query");
        assert_eq!(template.to_mysql(3), "WITH x AS (SELECT 1) SELECT 1 WHERE a IN (?,?,?)");
        assert_eq!(template.to_mysql(1), "WITH x AS (SELECT 1) SELECT 1 WHERE a IN (?)");
    }

    #[test]
    fn what_mysql_reads_otherwise_is_known() {
        let problem = |text: &str| {
            let template = SqlTemplate::parse(text).expect(text);
            template.mysql_problem().map(|error| (error.line, error.problem.clone()))
        };
        for (text, line, what) in [
            ("SELECT 'it\\'\n, :ids, '1'", 1, "backslash"),
            ("SELECT 1\n--:ids\n, :ids", 2, "space"),
            ("SELECT 1 # one\n, :ids", 1, "#"),
            ("SELECT /*! it is code */ :ids", 1, "/*!"),
        ] {
            let found = problem(text).expect(text);
            assert!(found.0 == line && found.1.contains(what), "{text}: {found:?}");
        }
        assert_eq!(
            problem("SELECT 'it''s #1', `a#b`, a->'$.b' -- :ids\n, c /* :ids */ FROM t WHERE id IN (:ids)"),
            None
        );
    }

    #[test]
    fn quoted_text_and_comments_stay() {
        for quoted in [
            "':ids'",
            "'it''s :ids'",
            r"'\', ':ids'",
            r"E'\':ids'",
            r"e'\\', ':ids'",
            "\"a\"\":ids\"",
            "`a``:ids`",
            "$$ ' :ids $x$ $$",
            "$tag$ $$ :ids $tag$",
            "$ä$ :ids $ä$",
            "1 -- it's :ids\n",
            "1 /* it's /* :ids */ :ids */",
            "a$b$ :: text, 'c$b$'",
            "date':ids'",
        ] {
            let written = format!("SELECT {quoted} FROM a WHERE id = ANY(:ids)");
            let expected = format!("SELECT {quoted} FROM a WHERE id = ANY($1)");
            assert_eq!(postgres(&written), expected);
        }
    }

    #[test]
    fn casts_slices_and_assignments_are_no_placeholders() {
        assert_eq!(postgres("SELECT a::text, (:ids)::bigint[]"), "SELECT a::text, ($1)::bigint[]");
        assert_eq!(postgres("SELECT :ids::bigint[]"), "SELECT $1::bigint[]");
        assert_eq!(postgres("SELECT a[1:n], a[:n], a[n:], :ids"), "SELECT a[1:n], a[:n], a[n:], $1");
        assert_eq!(postgres("SELECT a[(SELECT 1 = ANY(:ids)):n]"), "SELECT a[(SELECT 1 = ANY($1)):n]");
        assert_eq!(postgres("SELECT @x:=1, :ids"), "SELECT @x:=1, $1");
        assert_eq!(postgres("SELECT ']', :ids"), "SELECT ']', $1");
    }

    #[test]
    fn what_follows_the_end_is_dropped() {
        assert_eq!(postgres("SELECT :ids ; \n"), "SELECT $1");
        assert_eq!(postgres("SELECT :ids;; -- done\n/* ; */"), "SELECT $1");
        assert_eq!(postgres("SELECT :ids -- done"), "SELECT $1");
        assert_eq!(postgres("-- first\n/* c */ select :ids\n"), "-- first\n/* c */ select $1");
    }

    #[test]
    fn what_is_refused() {
        refused("", 1, "is empty");
        refused("-- nothing\n ;", 1, "is empty");
        refused("SELECT 1\nFROM a", 1, "has no :ids");
        refused("SELECT ':ids'", 1, "has no :ids");
        refused("SELECT :ids,\n  :id", 2, ":id is");
        refused("SELECT :ids2", 1, ":ids2 is");
        refused("SELECT :IDS", 1, ":IDS is");
        refused("SELECT :ids, $1", 1, "$1 is");
        refused("SELECT a[1:ids], :ids", 1, ":ids inside [ ]");
        refused("SELECT :ids;\n\nSELECT 2", 3, "second statement");
        refused("\n\nUPDATE a SET b = 1 WHERE id = ANY(:ids)", 3, "begins with UPDATE");
        refused("\n'select :ids'", 2, "begins with '");
        refused("SELECT :ids,\n'abc\n", 2, "string");
        refused("SELECT :ids /* /* */", 1, "comment");
        refused("SELECT :ids, \"a", 1, "quoted name");
        refused("SELECT :ids, $a$ $b$", 1, "dollar-quoted");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _outcome = SqlTemplate::parse(&text);
        }

        #[test]
        fn nothing_like_sql_panics(text in r"(select|[:$'/*\-\[\]();`\n ]|ids|E'|\$a\$|ä|::){0,40}") {
            if let Ok(template) = SqlTemplate::parse(&text) {
                prop_assert!(template.places() > 0);
                prop_assert!(text.starts_with(&template.text()));
                prop_assert_eq!(SqlTemplate::parse(&template.text()), Ok(template));
            }
        }

        #[test]
        fn what_is_quoted_is_never_replaced(inner in "[a-z:$'\"`*/ \\-\\[\\]ä]{0,30}", kind in 0..5_usize) {
            let quoted = match kind {
                0 => format!("'{}:ids'", inner.replace('\'', "''")),
                1 => format!("E'{}:ids'", inner.replace('\'', "\\'")),
                2 => format!("\"{}:ids\"", inner.replace('"', "\"\"")),
                3 => format!("$q${}:ids$q$", inner.replace("$q$", "")),
                _ => format!("/*{}:ids*/", inner.replace(['*', '/'], "")),
            };
            let template = SqlTemplate::parse(&format!("SELECT {quoted}, :ids")).expect(&quoted);
            prop_assert_eq!(template.to_postgres(), format!("SELECT {quoted}, $1"));
        }
    }
}

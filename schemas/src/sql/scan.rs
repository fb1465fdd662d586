//! Walks over SQL far enough to tell its words from what is quoted or commented.

use crate::sql::{IDS, SqlError};

/// What a walk over a whole query finds.
pub(super) struct Scan {
    /// Where each `:ids` begins, in bytes.
    pub(super) placeholders: Vec<usize>,
    /// Where the statement ends: behind its last word, before its semicolon.
    pub(super) end: usize,
    /// The first thing that MySQL reads otherwise.
    pub(super) mysql_problem: Option<SqlError>,
}

impl Scan {
    /// Walks to the end of the text, or to the first thing that is refused.
    pub(super) fn run(text: &str) -> Result<Scan, SqlError> {
        let mut walk = Walk {
            text,
            at: 0,
            open: Vec::new(),
            placeholders: Vec::new(),
            first: None,
            end: 0,
            over: false,
            mysql_problem: None,
        };
        while walk.at < text.len() {
            walk.step()?;
        }
        let Some(first) = walk.first else {
            return Err(error(text, 0, "the query is empty", "write a SELECT with :ids"));
        };
        let word = word_at(text, first);
        if !["select", "with"].iter().any(|start| word.eq_ignore_ascii_case(start)) {
            let shown = if word.is_empty() { &text[first..walk.char_end(first)] } else { word };
            let problem = format!("the query begins with {shown}");
            return Err(error(text, first, &problem, "it must begin with SELECT or WITH"));
        }
        if walk.placeholders.is_empty() {
            return Err(error(
                text,
                first,
                "the query has no :ids",
                "ask for the batch's ids: WHERE id = ANY(:ids), in MySQL WHERE id IN (:ids)",
            ));
        }
        Ok(Scan { placeholders: walk.placeholders, end: walk.end, mysql_problem: walk.mysql_problem })
    }
}

struct Walk<'a> {
    text: &'a str,
    at: usize,
    /// The brackets that are open here: `(` or `[`.
    open: Vec<u8>,
    placeholders: Vec<usize>,
    /// Where the first word begins.
    first: Option<usize>,
    end: usize,
    /// Whether a semicolon has ended the statement.
    over: bool,
    mysql_problem: Option<SqlError>,
}

impl Walk<'_> {
    /// Takes one token.
    fn step(&mut self) -> Result<(), SqlError> {
        let from = self.at;
        let rest = &self.text.as_bytes()[from..];
        match rest {
            [b'-', b'-', other, ..] if !other.is_ascii_whitespace() => {
                self.differs_in_mysql(from, "-- is no comment there without a space behind it", "write a space");
            }
            [b'/', b'*', b'!', ..] => self.differs_in_mysql(from, "/*! is no comment there", "leave it out"),
            [b'#', ..] => self.differs_in_mysql(from, "# begins a comment there", "write comments with --"),
            _ => {}
        }
        match rest {
            [b, ..] if b.is_ascii_whitespace() => self.at += 1,
            [b'-', b'-', ..] => self.at = self.find("\n", from).unwrap_or(self.text.len()),
            [b'/', b'*', ..] => self.comment()?,
            [b';', ..] => {
                self.over = self.first.is_some();
                self.at += 1;
            }
            _ => {
                if self.over {
                    return Err(error(
                        self.text,
                        from,
                        "a second statement follows the semicolon",
                        "keep one SELECT in the query",
                    ));
                }
                self.first.get_or_insert(from);
                self.token(rest)?;
                self.end = self.at;
            }
        }
        Ok(())
    }

    /// Takes note of something that MySQL reads otherwise.
    fn differs_in_mysql(&mut self, at: usize, problem: &str, mend: &str) {
        if self.mysql_problem.is_none() {
            let problem = format!("MariaDB and MySQL read this otherwise: {problem}");
            self.mysql_problem = Some(error(self.text, at, &problem, mend));
        }
    }

    /// Takes one token that belongs to the statement.
    fn token(&mut self, rest: &[u8]) -> Result<(), SqlError> {
        match rest {
            [b'\'', ..] => self.quoted(self.at, b'\'', false)?,
            [quote @ (b'"' | b'`'), ..] => self.quoted(self.at, *quote, false)?,
            [b'e' | b'E', b'\'', ..] => self.quoted(self.at + 1, b'\'', true)?,
            [b'$', ..] => self.dollar()?,
            [b':', b':' | b'=', ..] => self.at += 2,
            [b':', ..] => self.colon()?,
            [open @ (b'(' | b'['), ..] => {
                self.open.push(*open);
                self.at += 1;
            }
            [b')' | b']', ..] => {
                self.open.pop();
                self.at += 1;
            }
            [b, ..] if is_word(*b) => self.at += word_with_dollars(self.text, self.at).len(),
            _ => self.at = self.char_end(self.at),
        }
        Ok(())
    }

    /// Takes a quoted text whose opening quote is at `open`; a quote inside is written twice, or escaped by a
    /// backslash.
    fn quoted(&mut self, open: usize, quote: u8, backslash: bool) -> Result<(), SqlError> {
        let bytes = self.text.as_bytes();
        let mut at = open + 1;
        while at < bytes.len() {
            if bytes[at] == b'\\' && quote != b'`' {
                self.differs_in_mysql(
                    at,
                    "a backslash in a string escapes there",
                    "write it as CHAR(92), and a quote twice",
                );
            }
            if backslash && bytes[at] == b'\\' {
                at += 2;
            } else if bytes[at] != quote {
                at += 1;
            } else if bytes.get(at + 1) == Some(&quote) {
                at += 2;
            } else {
                self.at = at + 1;
                return Ok(());
            }
        }
        let what = if quote == b'\'' { "a string" } else { "a quoted name" };
        Err(error(self.text, open, &format!("{what} begins here and does not end"), "close it with the same quote"))
    }

    /// Takes `$tag$ … $tag$`.
    fn dollar(&mut self) -> Result<(), SqlError> {
        let from = self.at;
        let tag = word_at(self.text, from + 1);
        if tag.starts_with(|first: char| first.is_ascii_digit()) {
            let problem = format!("${tag} is a placeholder of the database");
            return Err(error(self.text, from, &problem, "write :ids, the worker numbers it"));
        }
        let behind = from + 1 + tag.len();
        if self.text.as_bytes().get(behind) != Some(&b'$') {
            self.at = behind;
            return Ok(());
        }
        let delimiter = &self.text[from..=behind];
        let Some(close) = self.find(delimiter, behind + 1) else {
            let problem = format!("a dollar-quoted string {delimiter} begins here and does not end");
            return Err(error(self.text, from, &problem, "close it with the same tag"));
        };
        self.at = close + delimiter.len();
        Ok(())
    }

    /// Takes `:name`, or the colon of an array slice.
    fn colon(&mut self) -> Result<(), SqlError> {
        let from = self.at;
        let name = word_at(self.text, from + 1);
        let found = &self.text[from..from + 1 + name.len()];
        let slice = self.open.last() == Some(&b'[');
        if slice && found == IDS {
            return Err(error(
                self.text,
                from,
                ":ids inside [ ] could be a slice or the placeholder",
                "write ANY(:ids) for the placeholder; for a slice put a space behind the colon",
            ));
        }
        if slice || name.is_empty() {
            self.at += 1;
            return Ok(());
        }
        if found != IDS {
            return Err(error(
                self.text,
                from,
                &format!("{found} is no placeholder, :ids is the only one"),
                "write :ids; where no placeholder is meant put a space behind the colon",
            ));
        }
        self.placeholders.push(from);
        self.at += IDS.len();
        Ok(())
    }

    /// Takes a comment of the form `/* … */`, with those inside it.
    fn comment(&mut self) -> Result<(), SqlError> {
        let from = self.at;
        let bytes = self.text.as_bytes();
        let mut depth = 0_usize;
        while self.at < bytes.len() {
            match &bytes[self.at..] {
                [b'/', b'*', ..] => {
                    depth += 1;
                    self.at += 2;
                }
                [b'*', b'/', ..] => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => self.at += 1,
            }
        }
        Err(error(self.text, from, "a comment begins here and does not end", "close it with */, those inside it too"))
    }

    fn find(&self, wanted: &str, from: usize) -> Option<usize> {
        self.text[from..].find(wanted).map(|offset| from + offset)
    }

    fn char_end(&self, at: usize) -> usize {
        at + self.text[at..].chars().next().map_or(1, char::len_utf8)
    }
}

/// Letters, digits, the underscore and everything beyond ASCII, as PostgreSQL has it.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn word_at(text: &str, at: usize) -> &str {
    let rest = &text[at..];
    let len = rest.bytes().position(|b| !is_word(b)).unwrap_or(rest.len());
    &rest[..len]
}

/// A name may go on with a dollar sign, which then begins no dollar-quoted string.
fn word_with_dollars(text: &str, at: usize) -> &str {
    let rest = &text[at..];
    let len = rest.bytes().position(|b| !is_word(b) && b != b'$').unwrap_or(rest.len());
    &rest[..len]
}

fn error(text: &str, at: usize, problem: &str, mend: &str) -> SqlError {
    let line = 1 + text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count();
    SqlError { line, problem: problem.to_owned(), mend: mend.to_owned() }
}

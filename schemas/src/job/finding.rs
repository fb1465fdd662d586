//! What a check has to say about a file.

use std::fmt;
use std::path::PathBuf;

/// Something wrong, or doubtful, in a job's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub mend: String,
    /// Whether the job can run in spite of it.
    pub severity: Severity,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know; nothing has to be done.
    Note,
    /// The job runs.
    Warning,
    /// The job does not run.
    Error,
}

impl fmt::Display for Finding {
    /// `orders/job.toml:3: problem; mend`, as compilers write it, so that editors and terminals can jump there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        match self.severity {
            Severity::Note => write!(f, " note:")?,
            Severity::Warning => write!(f, " warning:")?,
            Severity::Error => {}
        }
        write!(f, " {}; {}", self.problem, self.mend)
    }
}

//! What PostgreSQL's errors mean, by their SQLSTATE.

use crate::error::{Fault, Service};

/// An error of a question to the primary: without it there is no fence.
pub(super) fn of_primary(source: &str, server: &str, error: &sqlx::Error) -> Fault {
    let mut reason = format!("{server}: {}", describe(error));
    match state(error).as_deref() {
        Some("55000") => reason.push_str("; the server is a standby: point `primary` to the present primary"),
        Some("28P01" | "28000" | "3D000" | "42501") => {
            reason.push_str(&format!("; mend `primary` of [sources.{source}], or the role's rights"));
        }
        _ => {}
    }
    Fault::Away { service: Service::Source(source.to_owned()), reason }
}

/// An error of reading a job's rows.
pub(super) fn of_reading(source: &str, server: &str, error: &sqlx::Error) -> Fault {
    of_query("document.sql", source, server, error)
}

/// An error of one of a job's queries, which is named so in the reason.
pub(super) fn of_query(query: &str, source: &str, server: &str, error: &sqlx::Error) -> Fault {
    let reason = format!("{server}: {}", describe(error));
    let again = |reason| Fault::Again { service: Service::Source(source.to_owned()), reason };
    let Some(state) = state(error) else { return again(reason) };
    if is_stale_plan(error) {
        return again(reason);
    }
    match &state[..2] {
        // Data exception, cardinality violation, raised by a function: the fault of some rows.
        "22" | "21" | "P0" => Fault::Documents(format!("{query}: {}", describe(error))),
        // Syntax, names, rights, features, a write in a read-only transaction: of the definition.
        "42" | "0A" | "25" | "2F" | "38" | "39" => Fault::Job(format!("{query}: {reason}")),
        _ => again(reason),
    }
}

/// Whether a prepared plan has to be made anew, because the tables changed.
pub(super) fn is_stale_plan(error: &sqlx::Error) -> bool {
    state(error).as_deref() == Some("0A000") && describe(error).contains("cached plan")
}

fn state(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned()).filter(|state| state.len() == 5)
}

/// The message and its place, in one line.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => format!("{} ({})", error.message(), error.code().unwrap_or_default()),
        sqlx::Error::PoolTimedOut => "no connection in time".to_owned(),
        error => error.to_string().replace('\n', " "),
    }
}

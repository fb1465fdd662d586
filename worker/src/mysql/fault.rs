//! What the errors of MariaDB and MySQL mean, by their SQLSTATE, and by their number where that is a mere HY000.

use pinion_schemas::Id;
use sqlx::mysql::MySqlDatabaseError;

use crate::error::{Fault, Service};

/// An error of a question to the primary: without it there is no fence.
pub(super) fn of_primary(source: &str, server: &str, error: &sqlx::Error) -> Fault {
    let mut reason = format!("{server}: {}", describe(error));
    // No such user, password, database, or right.
    if let Some(1044 | 1045 | 1049 | 1142 | 1227) = refused(error).map(MySqlDatabaseError::number) {
        reason.push_str(&format!("; mend `primary` of [sources.{source}], or the user's rights"));
    }
    Fault::Away { service: Service::Source(source.to_owned()), reason }
}

/// An error of one of a job's queries, which is named so in the reason.
pub(super) fn of_query(query: &str, source: &str, server: &str, error: &sqlx::Error) -> Fault {
    let reason = format!("{server}: {}", describe(error));
    let again = |reason| Fault::Again { service: Service::Source(source.to_owned()), reason };
    let Some(refused) = refused(error) else { return again(reason) };
    match (refused.number(), refused.code().unwrap_or_default()) {
        // The login, the database: of the server, not of the query.
        (1044 | 1045 | 1049, _) => again(reason),
        // Names, functions, collations and views that don't fit, which have no state of their own: of the definition.
        (1111 | 1210 | 1267 | 1270 | 1271 | 1356, _) => Fault::Job(format!("{query}: {reason}")),
        // A data exception, more rows than one: the fault of some rows.
        (_, state) if state.starts_with("22") || state.starts_with("21") => {
            Fault::Documents(format!("{query}: {}", describe(error)))
        }
        // Syntax, names, rights, a write in a read-only transaction.
        (_, state) if state.starts_with("42") || state.starts_with("25") => Fault::Job(format!("{query}: {reason}")),
        _ => again(reason),
    }
}

/// An error of a job's query for these ids: one with a character that the key's column has no place for can't even be compared
/// with it, which spoils the query for the others of its batch.
pub(super) fn of_ids(ids: &[Id], query: &str, source: &str, server: &str, error: &sqlx::Error) -> Fault {
    // Collations that can't be mixed; MySQL 8: strings that can't be converted.
    let of_a_character =
        matches!(refused(error).map(MySqlDatabaseError::number), Some(1267 | 1270 | 1271 | 3854 | 3988));
    // What is ASCII can be compared with anything, so that the query itself is at fault.
    let not_ascii = |id: &Id| matches!(id, Id::Text(text) if !text.is_ascii());
    if of_a_character && ids.iter().any(not_ascii) {
        let problem = "an id has a character that its column can't hold, so that there is no such row";
        return Fault::Documents(format!("{query}: {problem}: {}", describe(error)));
    }
    of_query(query, source, server, error)
}

/// The server's own error, if it is one.
pub(crate) fn refused(error: &sqlx::Error) -> Option<&MySqlDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// The message in one line.
pub(super) fn describe(error: &sqlx::Error) -> String {
    match (refused(error), error) {
        (Some(refused), _) => format!("{} ({})", refused.message().replace('\n', " "), refused.number()),
        (None, sqlx::Error::PoolTimedOut) => "no connection in time".to_owned(),
        (None, error) => error.to_string().replace('\n', " "),
    }
}

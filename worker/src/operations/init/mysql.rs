//! What the catalog of MariaDB or MySQL says of a table, in the words that [`Table`] has of PostgreSQL.

use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlx::Connection as _;
use sqlx::mysql::MySqlConnection;

use super::table::{Table, TableColumn};
use crate::mysql::Mysql;
use crate::mysql::quoted;

/// A connection to the primary.
pub(super) async fn connect(database: &Mysql) -> anyhow::Result<MySqlConnection> {
    let options = database.primary().connect_options();
    let connecting = tokio::time::timeout(Duration::from_secs(5), MySqlConnection::connect_with(&options)).await;
    let server = format!("{}:{}", options.get_host(), options.get_port());
    connecting.map_err(anyhow::Error::from).and_then(|connected| connected.map_err(anyhow::Error::from)).context(server)
}

/// The tables with a key of one column that the user may read, largest first.
pub(super) async fn candidates(connection: &mut MySqlConnection) -> anyhow::Result<Vec<String>> {
    const SHOWN: i64 = 50;
    let rows = sqlx::query_scalar(
        "SELECT CONCAT(t.TABLE_SCHEMA, '.', t.TABLE_NAME) FROM information_schema.TABLES t WHERE t.TABLE_TYPE = 'BASE TABLE' \
         AND t.TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') \
         AND (SELECT COUNT(*) FROM information_schema.COLUMNS c WHERE c.TABLE_SCHEMA = t.TABLE_SCHEMA \
             AND c.TABLE_NAME = t.TABLE_NAME AND c.COLUMN_KEY = 'PRI') = 1 ORDER BY t.TABLE_ROWS DESC, 1 LIMIT ?",
    );
    Ok(rows.bind(SHOWN).fetch_all(connection).await?)
}

/// Reads what the catalog has of `table`, which is of the connection's database where none is written.
pub(super) async fn read(connection: &mut MySqlConnection, table: &str) -> anyhow::Result<Table> {
    let present: Option<String> = sqlx::query_scalar("SELECT DATABASE()").fetch_one(&mut *connection).await?;
    let present = present.unwrap_or_default();
    let (schema, name) = table.split_once('.').unwrap_or((&present, table));
    let rows = sqlx::query_as::<_, (String, String, String, String)>(
        "SELECT c.COLUMN_NAME, CAST(c.DATA_TYPE AS CHAR), CAST(c.COLUMN_TYPE AS CHAR), CAST(c.COLUMN_KEY AS CHAR) \
         FROM information_schema.COLUMNS c JOIN information_schema.TABLES t \
         ON t.TABLE_SCHEMA = c.TABLE_SCHEMA AND t.TABLE_NAME = c.TABLE_NAME \
         WHERE t.TABLE_SCHEMA = ? AND t.TABLE_NAME = ? AND t.TABLE_TYPE = 'BASE TABLE' ORDER BY c.ORDINAL_POSITION",
    );
    let rows = rows.bind(schema).bind(name).fetch_all(connection).await?;
    if rows.is_empty() {
        bail!(
            "there is no table {schema}.{name} that the user may read: mend database and name, upper and lower case as in the database, \
             or GRANT SELECT on it; a view has no key and no changes of its own"
        );
    }
    let keys: Vec<&str> = rows.iter().filter(|row| row.3 == "PRI").map(|row| row.0.as_str()).collect();
    let [key] = keys[..] else {
        bail!(
            "the primary key of {table} has {} columns: a document needs one value that tells it from the others",
            keys.len()
        );
    };
    let key = key.to_owned();
    let columns = rows.into_iter().map(|(name, data_type, column_type, _)| TableColumn {
        quoted: quoted(&name),
        kind: kind(&data_type, &column_type).to_owned(),
        class: "b".to_owned(),
        // Prose is what has a type for it.
        width_bytes: if data_type.ends_with("text") { i32::MAX } else { 0 },
        name,
    });
    let columns = columns.collect();
    let quoted = format!("{}.{}", quoted(schema), quoted(name));
    Ok(Table { schema: schema.to_owned(), name: name.to_owned(), quoted, key, columns })
}

/// The type of PostgreSQL that becomes the same field.
fn kind<'a>(data_type: &'a str, column_type: &str) -> &'a str {
    match data_type {
        "tinyint" | "bit" if ["tinyint(1)", "bit(1)"].contains(&column_type) => "bool",
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" | "bit" => "int8",
        "float" | "double" | "decimal" => "numeric",
        "datetime" | "timestamp" | "date" => "timestamp",
        "json" => "jsonb",
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => "bytea",
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => "text",
        other => other,
    }
}

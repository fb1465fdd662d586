//! What PostgreSQL's catalog says of a table.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use crate::postgres::Postgres;

/// A table with a key of one column.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
    /// Schema and name as they are written in SQL.
    pub(super) quoted: String,
    pub(super) key: String,
    pub(super) columns: Vec<TableColumn>,
}

/// A column of a table.
#[derive(Debug, Clone)]
pub(super) struct TableColumn {
    pub(super) name: String,
    /// The name as it is written in SQL.
    pub(super) quoted: String,
    /// The type's name in the catalog: of a domain its base type's, of an array its elements'.
    pub(super) kind: String,
    /// The catalog's class of the type: `b`ase, `c`omposite, `e`num, `r`ange, `m`ultirange.
    pub(super) class: String,
    /// How long its values are on average, in bytes; 0 where the table was never analysed.
    pub(super) width_bytes: i32,
}

/// A connection to the primary.
pub(super) async fn connect(database: &Postgres) -> anyhow::Result<PgConnection> {
    let options = database.primary().connect_options();
    let connecting = tokio::time::timeout(Duration::from_secs(5), PgConnection::connect_with(&options)).await;
    let server = format!("{}:{}", options.get_host(), options.get_port());
    connecting.map_err(anyhow::Error::from).and_then(|connected| connected.map_err(anyhow::Error::from)).context(server)
}

/// The tables with a key of one column that the role may read, largest first.
pub(super) async fn candidates(connection: &mut PgConnection) -> anyhow::Result<Vec<String>> {
    const SHOWN: i64 = 50;
    let rows = sqlx::query(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1 \
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND has_table_privilege(c.oid, 'SELECT') \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY c.reltuples DESC, 1 LIMIT $1",
    )
    .bind(SHOWN)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

impl Table {
    /// Reads what the catalog has of `table`, which is `public` where no schema is written.
    pub(super) async fn read(connection: &mut PgConnection, table: &str) -> anyhow::Result<Self> {
        let (schema, name) = table.split_once('.').unwrap_or(("public", table));
        let found = sqlx::query(
            "SELECT c.oid::int8, quote_ident(nspname) || '.' || quote_ident(relname), relkind IN ('r', 'p', 'f'), \
             has_table_privilege(c.oid, 'SELECT'), current_user::text \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE nspname = $1 AND relname = $2 AND relkind IN ('r', 'p', 'f', 'v', 'm')",
        )
        .bind(schema)
        .bind(name)
        .fetch_optional(&mut *connection)
        .await?;
        let Some(found) = found else {
            bail!("there is no table {schema}.{name}: mend schema and name, upper and lower case as in the database");
        };
        let (oid, quoted): (i64, String) = (found.try_get(0)?, found.try_get(1)?);
        ensure!(
            found.try_get::<bool, _>(2)?,
            "{schema}.{name} is a view, which has no key and no changes of its own: name a table, and write the view's query into \
             document.sql"
        );
        let role: String = found.try_get(4)?;
        ensure!(
            found.try_get::<bool, _>(3)?,
            "the role {role} may not read {schema}.{name}: GRANT SELECT ON {quoted} TO {role}"
        );
        let key = key(connection, oid, table).await?;
        let columns = columns(connection, oid).await?;
        Ok(Self { schema: schema.to_owned(), name: name.to_owned(), quoted, key, columns })
    }
}

async fn key(connection: &mut PgConnection, oid: i64, table: &str) -> anyhow::Result<String> {
    let key: Vec<String> = sqlx::query_scalar(
        "SELECT attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
         WHERE i.indrelid = $1::int8::oid AND i.indisprimary ORDER BY attnum",
    )
    .bind(oid)
    .fetch_all(connection)
    .await?;
    match key.as_slice() {
        [key] => Ok(key.clone()),
        [] => bail!("{table} has no primary key: a document needs one value that tells it from the others"),
        several => bail!(
            "the primary key of {table} has several columns ({}): write the job's folder by hand, with one text for _id made of them",
            several.join(", ")
        ),
    }
}

async fn columns(connection: &mut PgConnection, oid: i64) -> anyhow::Result<Vec<TableColumn>> {
    let rows = sqlx::query(
        "WITH RECURSIVE resolved AS ( \
             SELECT attnum, attname, atttypid AS type FROM pg_attribute \
             WHERE attrelid = $1::int8::oid AND attnum > 0 AND NOT attisdropped \
             UNION ALL \
             SELECT attnum, attname, CASE typtype WHEN 'd' THEN typbasetype ELSE typelem END \
             FROM resolved JOIN pg_type t ON t.oid = type WHERE typtype = 'd' OR typcategory = 'A' \
         ) \
         SELECT r.attname::text, quote_ident(r.attname), typname::text, typtype::text, coalesce(s.avg_width, 0) \
         FROM resolved r JOIN pg_type t ON t.oid = type JOIN pg_class c ON c.oid = $1::int8::oid \
         LEFT JOIN pg_stats s ON s.schemaname = c.relnamespace::regnamespace::text AND s.tablename = c.relname \
             AND s.attname = r.attname AND NOT s.inherited \
         WHERE typtype <> 'd' AND typcategory <> 'A' ORDER BY attnum",
    )
    .bind(oid)
    .fetch_all(connection)
    .await?;
    let column = |row: &sqlx::postgres::PgRow| {
        Ok(TableColumn {
            name: row.try_get(0)?,
            quoted: row.try_get(1)?,
            kind: row.try_get(2)?,
            class: row.try_get(3)?,
            width_bytes: row.try_get(4)?,
        })
    };
    rows.iter().map(column).collect::<Result<_, sqlx::Error>>().map_err(anyhow::Error::from)
}

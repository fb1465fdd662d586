//! Every type of PostgreSQL that a document can hold: described and read by sqlx, encoded, and compared as text. Then what was
//! written is indexed in Elasticsearch and found again.

mod cases;
mod elasticsearch;

use anyhow::{Result, anyhow};
use pinion_tests::Namespace;
use pinion_worker::postgres::json::Encoder;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _, ValueRef as _};

/// A database with the types of `cases::SETUP`.
struct Types {
    namespace: Namespace,
    connection: PgConnection,
}

impl Types {
    async fn create() -> Result<Self> {
        let namespace = Namespace::empty().await?;
        let mut connection = PgConnection::connect(&namespace.superuser_url()).await?;
        connection.execute(cases::SETUP).await?;
        Ok(Self { namespace, connection })
    }

    /// One row of `sql`, asked with a bound parameter, so that its columns come in their binary form.
    async fn row(&mut self, sql: &str) -> Result<PgRow> {
        let sql = format!("{sql} WHERE $1");
        Ok(sqlx::query(AssertSqlSafe(sql)).bind(true).fetch_one(&mut self.connection).await?)
    }

    /// The JSON of an expression; None where its type has no encoder.
    async fn json(&mut self, expression: &str) -> Result<Option<String>> {
        encode(&self.row(&format!("SELECT {expression}")).await?, 0)
    }

    async fn finish(self) -> Result<()> {
        self.connection.close().await?;
        self.namespace.finish().await
    }
}

fn encode(row: &PgRow, column: usize) -> Result<Option<String>> {
    let value = row.try_get_raw(column)?;
    let Some(encoder) = Encoder::of(&value.type_info()) else {
        return Ok(None);
    };
    let mut out = Vec::new();
    encoder.write(value.as_bytes().map_err(|error| anyhow!(error))?, &mut out)?;
    Ok(Some(String::from_utf8(out)?))
}

#[tokio::test]
async fn each_type_becomes_the_json_of_the_table() -> Result<()> {
    let mut types = Types::create().await?;
    let mut wrong = Vec::new();
    for &(expression, expected) in cases::JSON {
        let found = match types.json(expression).await {
            Ok(found) => found.unwrap_or_else(|| "no encoder".to_owned()),
            Err(error) => error.to_string(),
        };
        let is_json = serde_json::from_str::<&serde_json::value::RawValue>(&found).is_ok();
        if found != expected || !is_json {
            wrong.push(format!("{expression}\n  expected {expected}\n  found    {found}"));
        }
    }
    types.finish().await?;
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases::JSON.len(), wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn a_type_without_a_known_form_has_no_encoder_and_its_text_has() -> Result<()> {
    let mut types = Types::create().await?;
    for &(expression, text) in cases::AS_TEXT {
        let direct = types.json(expression).await?;
        assert_eq!(direct, None, "{expression}");
        let cast = types.json(&format!("({expression})::text")).await?;
        assert_eq!(cast.as_deref(), Some(text), "{expression}");
    }
    types.finish().await
}

/// PostgreSQL prints what is compared, so that the forms that are its own are its own for thousands of values.
#[tokio::test]
async fn random_values_are_printed_as_postgresql_prints_them() -> Result<()> {
    let mut types = Types::create().await?;
    types.connection.execute("SET intervalstyle = iso_8601; SET timezone = 'UTC'; SELECT setseed(0.5)").await?;
    for (value, printed) in cases::PRINTED {
        let sql = format!(
            "SELECT value, ({printed})::text FROM (SELECT {value} AS value FROM generate_series(1, 2000) AS n) AS v WHERE $1"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(true).fetch_all(&mut types.connection).await?;
        assert_eq!(rows.len(), 2000);
        for row in &rows {
            let json = encode(row, 0)?.expect("these types have encoders");
            let printed = row.try_get::<&str, _>(1)?;
            assert_eq!(json.trim_matches('"'), printed, "{value}");
        }
    }
    types.finish().await
}

/// The types of sqlx 0.9 end before multiranges: the statement can't be prepared. As an array of ranges they can be had.
#[tokio::test]
async fn a_multirange_is_an_array_of_ranges() -> Result<()> {
    let mut types = Types::create().await?;
    let multirange = "'{[1,3),[7,)}'::int4multirange";
    let error = types.json(multirange).await.expect_err("a version of sqlx that knows multiranges wants an encoder");
    assert!(error.to_string().contains("unknown type code"), "{error}");
    let json = types.json(&format!("ARRAY(SELECT unnest({multirange}))")).await?;
    assert_eq!(json.as_deref(), Some(r#"[{"gte":1,"lt":3},{"gte":7}]"#));
    types.finish().await
}

#[tokio::test]
async fn deeply_nested_types_are_left_to_their_text() -> Result<()> {
    let mut types = Types::create().await?;
    types.connection.execute("CREATE TYPE level1 AS (v int4)").await?;
    for level in 2..=32 {
        let sql = format!("CREATE TYPE level{level} AS (v level{})", level - 1);
        types.connection.execute(AssertSqlSafe(sql)).await?;
    }
    // The innermost integer counts, too.
    assert!(Encoder::of(&types.row("SELECT NULL::level31").await?.try_get_raw(0)?.type_info()).is_some());
    assert!(Encoder::of(&types.row("SELECT NULL::level32").await?.try_get_raw(0)?.type_info()).is_none());
    types.finish().await
}

/// sqlx keeps a type's description as long as its connection: what is sent later can be of another shape.
#[tokio::test]
async fn a_type_altered_since_its_description_is_an_error() -> Result<()> {
    let mut types = Types::create().await?;
    let pair = "(SELECT p FROM pairs p)";
    types.connection.execute("CREATE TABLE pairs AS SELECT 1 AS x, 2 AS y").await?;
    assert_eq!(types.json(pair).await?.as_deref(), Some(r#"{"x":1,"y":2}"#));

    types.connection.execute("ALTER TABLE pairs ADD COLUMN z int4").await?;
    let error = types.json(pair).await.expect_err("an attribute more").to_string();
    assert!(error.contains("type pairs has another number of attributes"), "{error}");

    types.connection.execute("ALTER TABLE pairs DROP COLUMN z, ALTER COLUMN y TYPE text").await?;
    let error = types.json(pair).await.expect_err("an attribute of another type").to_string();
    assert!(error.contains("holds a value of the type with oid 25 where 23 was described"), "{error}");
    types.finish().await
}

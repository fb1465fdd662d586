//! What is written is what Elasticsearch's field types take, and what its queries then find.

use anyhow::{Context as _, Result, ensure};
use pinion_tests::Elastic;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row as _;

use super::{Types, encode};

/// An index of the namespace.
struct Index<'a> {
    elastic: &'a Elastic,
    name: String,
}

impl<'a> Index<'a> {
    async fn create(elastic: &'a Elastic, name: String, properties: Value) -> Result<Self> {
        let body = json!({
            "settings": {"number_of_shards": 1, "number_of_replicas": 0},
            "mappings": {"dynamic": "strict", "properties": properties},
        });
        elastic.ok(Method::PUT, &format!("/{name}"), Some(body)).await?;
        Ok(Self { elastic, name })
    }

    /// Indexes `{field: json}` under a number, to be seen at once. The text is sent as it is, every digit of it.
    async fn put(&self, id: usize, field: &str, json: &str) -> Result<()> {
        let url = format!("{}/{}/_doc/{id}?refresh=true", self.elastic.url(), self.name);
        let request = reqwest::Client::new().put(url).header("content-type", "application/json");
        let response = request.body(format!(r#"{{"{field}":{json}}}"#)).send().await?;
        let success = response.status().is_success();
        ensure!(success, "{json}: {}", response.text().await?);
        Ok(())
    }

    /// The document's hit, if the query finds it.
    async fn find(&self, id: usize, query: Value) -> Result<Option<Value>> {
        let body = json!({
            "query": {"bool": {"filter": [{"ids": {"values": [id.to_string()]}}, query]}},
            "docvalue_fields": [{"field": "at*", "format": "epoch_millis"}],
        });
        let answer = self.elastic.search(&self.name, body).await?;
        Ok(answer["hits"]["hits"].get(0).cloned())
    }
}

/// Dates as they are indexed: the milliseconds that PostgreSQL counts for them.
#[tokio::test]
async fn dates_are_taken_and_found_in_elasticsearch() -> Result<()> {
    let mut types = Types::create().await?;
    let elastic = types.namespace.elastic().clone();
    let index = Index::create(&elastic, types.namespace.index("dates"), json!({"at": {"type": "date"}})).await?;
    const DATES: &[&str] = &[
        "'2024-01-02'::date",
        "'9999-12-31'::date",
        "'10000-01-01'::date",
        "'5874897-12-31'::date",
        "'0001-01-01'::date",
        "'0001-12-31 BC'::date",
        "'0002-01-01 BC'::date",
        "'4714-11-24 BC'::date",
        "'2024-01-02 03:04:05'::timestamp",
        "'2024-01-02 03:04:05.678'::timestamp",
        "'0044-03-15 12:00 BC'::timestamp",
        "'294276-12-31 23:59:59'::timestamp",
        "'2024-01-02 03:04:05.678901+02'::timestamptz",
        "'1969-12-31 23:59:59.999Z'::timestamptz",
        "'0044-03-15 12:00:00.5Z BC'::timestamptz",
        "'9999-12-31 23:59:59.999999Z'::timestamptz",
        "'10000-01-01 00:00:00.25Z'::timestamptz",
    ];
    for (id, expression) in DATES.iter().enumerate() {
        let sql = format!("SELECT {expression}, floor(extract(epoch FROM {expression}) * 1000)::int8");
        let row = types.row(&sql).await?;
        let json = encode(&row, 0)?.expect("dates have encoders");
        let millis: i64 = row.try_get(1)?;
        index.put(id, "at", &json).await.with_context(|| expression.to_string())?;

        let value: Value = serde_json::from_str(&json)?;
        let same = json!({"range": {"at": {"gte": value, "lte": value}}});
        let hit = index.find(id, same).await?.with_context(|| format!("{expression} is not found"))?;
        assert_eq!(hit["fields"]["at"], json!([millis.to_string()]), "{expression}");
        assert_eq!(hit["_source"]["at"], value, "{expression}");
        for other in [json!({"gt": value}), json!({"lt": value})] {
            let query = json!({"range": {"at": other}});
            assert_eq!(index.find(id, query).await?, None, "{expression} is neither before nor after itself");
        }
    }
    for (id, expression) in ["'infinity'::date", "'-infinity'::timestamptz"].iter().enumerate() {
        let json = types.json(expression).await?.expect("dates have encoders");
        index.put(id, "at", &json).await?;
        assert_eq!(index.find(id, json!({"exists": {"field": "at"}})).await?, None, "{expression}");
    }
    types.finish().await
}

/// A range in Elasticsearch holds a value exactly when it does in PostgreSQL.
#[tokio::test]
async fn ranges_hold_the_same_values_in_elasticsearch() -> Result<()> {
    const RANGES: &[(&str, &str, &[&str], &[&str])] = &[
        (
            "integer_range",
            "int4range",
            &["[1,5]", "(1,5)", "[1,)", "(,1)", "(,)", "empty", "[-2147483648,2147483647)"],
            &["-2147483648", "0", "1", "2", "4", "5", "6", "2147483646"],
        ),
        (
            "long_range",
            "int8range",
            &["[1,5]", "[-9223372036854775808,9223372036854775807)"],
            &["-9223372036854775808", "1", "5", "6", "9223372036854775806"],
        ),
        (
            "double_range",
            "numrange",
            &["[1.50,2.00)", "(1.50,2.00]", "[2,2]", "[-Infinity,2)", "(2,Infinity]", "[NaN,NaN]", "[1e20,1e30]"],
            &["1.49", "1.50", "1.51", "1.99", "2", "2.01", "1e25"],
        ),
        (
            "date_range",
            "daterange",
            &[
                "[2024-01-02,2024-01-03]",
                "(,2024-01-02)",
                "[infinity,]",
                "[2024-01-02,infinity]",
                "[0044-03-15 BC,10000-01-01]",
            ],
            &[
                "0044-03-14 BC",
                "0044-03-15 BC",
                "2024-01-01",
                "2024-01-02",
                "2024-01-03",
                "2024-01-04",
                "10000-01-01",
                "10000-01-02",
            ],
        ),
        (
            "date_range",
            "tstzrange",
            &["[2024-01-02 00:00Z,2024-01-03 00:00Z)", "(2024-01-02 00:00Z,2024-01-03 00:00Z]", "(,infinity)"],
            &[
                "2024-01-01 23:59:59.999Z",
                "2024-01-02 00:00Z",
                "2024-01-02 00:00:00.001Z",
                "2024-01-02 23:59:59.999Z",
                "2024-01-03 00:00Z",
                "2024-01-03 00:00:00.001Z",
            ],
        ),
    ];
    let mut types = Types::create().await?;
    let elastic = types.namespace.elastic().clone();
    for (number, (field_type, range_type, ranges, probes)) in RANGES.iter().enumerate() {
        let name = types.namespace.index(&format!("ranges-{number}"));
        let index = Index::create(&elastic, name, json!({"range": {"type": field_type}})).await?;
        for (id, range) in ranges.iter().enumerate() {
            let range = format!("'{range}'::{range_type}");
            let json = types.json(&range).await?.expect("ranges have encoders");
            index.put(id, "range", &json).await.with_context(|| range.clone())?;
            for probe in *probes {
                let probe = format!("lower('[{probe},]'::{range_type})");
                let row = types.row(&format!("SELECT {probe}, {range} @> {probe}")).await?;
                let probe_json = encode(&row, 0)?.expect("bounds have encoders");
                let expected: bool = row.try_get(1)?;
                let value: Value = serde_json::from_str(&probe_json)?;
                let query = json!({"range": {"range": {"gte": value, "lte": value}}});
                let found = index.find(id, query).await?.is_some();
                assert_eq!(found, expected, "{range} @> {probe}; indexed as {json}, asked for {probe_json}");
            }
        }
    }
    types.finish().await
}

/// Everything else that has a field type of its own.
#[tokio::test]
async fn other_values_are_taken_and_found_in_elasticsearch() -> Result<()> {
    const VALUES: &[(&str, &str)] = &[
        ("long", "(-9223372036854775808)::int8"),
        ("long", "9223372036854775807::int8"),
        ("long", "4294967295::oid"),
        ("double", "1e20::float8"),
        ("double", "'1.7976931348623157e308'::float8"),
        ("double", "'5e-324'::float8"),
        ("float", "'3.4028235e38'::float4"),
        ("double", "12.50::numeric"),
        ("double", "1e30::numeric"),
        ("double", "123456789012345678901234567890.123456789::numeric"),
        ("double", "1e-300::numeric"),
        ("boolean", "true"),
        ("keyword", "E'q\"b\\\\ \\n\\x01'"),
        ("keyword", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid"),
        ("keyword", "'1 year -04:05:06.5'::interval"),
        ("keyword", "'{a,b}'::text[]"),
        ("long", "'{{1,2},{3,NULL}}'::int4[]"),
        ("ip", "'192.168.0.1'::inet"),
        ("ip", "'::1.2.3.4'::inet"),
        ("ip", "'2001:db8::1'::inet"),
        ("ip_range", "'10.0.0.0/8'::cidr"),
        ("ip_range", "'2001:db8::/32'::cidr"),
        ("binary", "'\\xdeadbeef01'::bytea"),
        ("binary", "''::bytea"),
    ];
    let mut types = Types::create().await?;
    let fields = ["long", "double", "float", "boolean", "keyword", "ip", "ip_range", "binary"];
    let properties = fields.iter().map(|name| ((*name).to_owned(), json!({"type": name}))).collect();
    let elastic = types.namespace.elastic().clone();
    let index = Index::create(&elastic, types.namespace.index("values"), Value::Object(properties)).await?;
    for (id, (field, expression)) in VALUES.iter().enumerate() {
        let json = types.json(expression).await?.context("no encoder")?;
        index.put(id, field, &json).await.with_context(|| expression.to_string())?;
        // A binary field is only kept, not searched.
        if *field == "binary" {
            continue;
        }
        let mut value: Value = serde_json::from_str(&json)?;
        while let Some(first) = value.get(0) {
            value = first.clone();
        }
        // A network is found by an address in it.
        if let Some((address, _)) = value.as_str().and_then(|text| text.split_once('/')) {
            value = address.into();
        }
        let query = json!({"term": {*field: value}});
        assert!(index.find(id, query).await?.is_some(), "{expression}, indexed as {json}");
    }
    types.finish().await
}

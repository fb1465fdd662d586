//! Avro as Kafka Connect's converters write it, turned into the JSON that its JsonConverter would have written. Pure.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pinion_schemas::ColumnType;
use serde_json::{Map, Value as Json, json};

use super::format::ColumnTypes;

/// Which byte it is is of no matter.
const END: u8 = 0;
/// A torn message may claim any length; Kafka's messages are of a few megabytes.
const ALLOCATION_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A schema of the registry.
pub(crate) struct AvroSchema {
    schema: apache_avro::Schema,
    /// Of the columns of its row, if it has one.
    types: Arc<ColumnTypes>,
}

/// Where a message's schema is told: a zero byte, then the schema's number in four bytes. JSON never begins so.
pub(super) fn split(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (id, datum) = bytes.strip_prefix(&[0])?.split_at_checked(4)?;
    Some((u32::from_be_bytes(id.try_into().ok()?), datum))
}

impl AvroSchema {
    /// Reads a schema.
    ///
    /// # Errors
    /// It is none, or refers to others.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        apache_avro::util::max_allocation_bytes(ALLOCATION_BYTES_MAX);
        let written: Json = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let schema = apache_avro::Schema::parse(&plain(&written)).map_err(|error| error.to_string())?;
        let types = ColumnType::of_event(&connect(&written, &mut HashMap::new()));
        Ok(Self { schema, types: Arc::new(types) })
    }

    /// What the columns of its row are.
    pub(super) fn types(&self) -> &Arc<ColumnTypes> {
        &self.types
    }

    /// The JSON of a value of this schema.
    ///
    /// # Errors
    /// The bytes are of another schema, or torn.
    pub(super) fn to_json(&self, datum: &[u8]) -> Result<Vec<u8>, String> {
        // The library takes a value that is not there for null. Behind the end lies a byte that has to be left over.
        let mut rest = datum.chain(&[END][..]);
        let read = GenericDatumReader::builder(&self.schema).build().and_then(|reader| reader.read_value(&mut rest));
        let value = read.map_err(|error| error.to_string())?;
        match rest.bytes().count() {
            1 => {}
            0 => return Err("it is torn".to_owned()),
            more => return Err(format!("{} bytes are left over", more - 1)),
        }
        let mut json = Vec::new();
        write(&value, &mut json)?;
        Ok(json)
    }
}

/// A schema with its types alone: logical types are the reader's affair, defaults the writer's.
fn plain(schema: &Json) -> Json {
    match schema {
        Json::Array(branches) => branches.iter().map(plain).collect(),
        Json::Object(written) => {
            let mut kept = Map::new();
            for (key, value) in written {
                let value = match key.as_str() {
                    "name" | "namespace" | "size" | "symbols" => value.clone(),
                    "type" | "items" | "values" => plain(value),
                    "fields" => fields(value),
                    _ => continue,
                };
                kept.insert(key.clone(), value);
            }
            Json::Object(kept)
        }
        name => name.clone(),
    }
}

fn fields(fields: &Json) -> Json {
    let field = |field: &Json| json!({"name": field["name"], "type": plain(&field["type"])});
    fields.as_array().map(|fields| fields.iter().map(field).collect()).unwrap_or_default()
}

/// A schema as Kafka Connect has it, which the converter writes into attributes that the library drops. `known` are the records
/// so far, that others may name.
fn connect(schema: &Json, known: &mut HashMap<String, Json>) -> Json {
    match schema {
        // Optional: null and one other.
        Json::Array(branches) => {
            branches.iter().find(|branch| *branch != "null").map(|branch| connect(branch, known)).unwrap_or_default()
        }
        Json::String(name) => {
            let simple = name.rsplit('.').next().unwrap_or_default();
            known.get(simple).cloned().unwrap_or_else(|| json!({"type": name}))
        }
        Json::Object(written) => {
            let attribute = |name: &str| written.get(name).cloned().unwrap_or_default();
            let mut found = match attribute("type").as_str() {
                Some("array") => json!({"type": "array", "items": connect(&attribute("items"), known)}),
                Some("record") => {
                    let fields = attribute("fields").as_array().cloned().unwrap_or_default();
                    let field = |field: &Json| {
                        let mut found = connect(&field["type"], known);
                        found["field"] = field["name"].clone();
                        found
                    };
                    json!({"type": "struct", "fields": fields.iter().map(field).collect::<Vec<_>>()})
                }
                Some(kind) => json!({"type": kind}),
                None => connect(&attribute("type"), known),
            };
            for (key, attribute) in [("name", "connect.name"), ("parameters", "connect.parameters")] {
                if let Some(value) = written.get(attribute) {
                    found[key] = value.clone();
                }
            }
            if let Some(name) = attribute("name").as_str().filter(|_| found["type"] == "struct") {
                known.insert(name.to_owned(), found.clone());
            }
            found
        }
        _ => Json::Null,
    }
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    match value {
        Value::Null => out.extend(b"null"),
        Value::Boolean(value) => text(value, out)?,
        Value::Int(value) => text(value, out)?,
        Value::Long(value) => text(value, out)?,
        Value::Float(value) => text(value, out)?,
        Value::Double(value) => text(value, out)?,
        Value::String(value) | Value::Enum(_, value) => text(value, out)?,
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => text(&STANDARD.encode(bytes), out)?,
        Value::Union(_, value) => write(value, out)?,
        Value::Array(items) => {
            out.push(b'[');
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Record(fields) => object(fields.iter().map(|(name, value)| (name, value)), out)?,
        Value::Map(entries) => object(entries.iter(), out)?,
        // Logical types are not asked for, see `plain`.
        other => return Err(format!("a value that is not expected: {other:?}")),
    }
    Ok(())
}

fn object<'a>(entries: impl Iterator<Item = (&'a String, &'a Value)>, out: &mut Vec<u8>) -> Result<(), String> {
    out.push(b'{');
    for (number, (name, value)) in entries.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        text(name, out)?;
        out.push(b':');
        write(value, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn text(value: &(impl serde::Serialize + ?Sized), out: &mut Vec<u8>) -> Result<(), String> {
    serde_json::to_writer(out, value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use apache_avro::writer::datum::GenericDatumWriter;
    use proptest::prelude::*;

    use super::*;

    /// As AvroConverter registers a table's envelope, shortened.
    const ENVELOPE: &str = r#"{"type":"record","name":"Envelope","namespace":"shop.public.orders","fields":[
        {"name":"before","type":["null",{"type":"record","name":"Value","fields":[
            {"name":"id","type":"long"},
            {"name":"i2","type":["null",{"type":"int","connect.type":"int16"}],"default":null},
            {"name":"total","type":["null",{"type":"bytes","scale":2,"precision":10,"connect.version":1,
                "connect.parameters":{"scale":"2"},"connect.name":"org.apache.kafka.connect.data.Decimal","logicalType":"decimal"}],"default":null},
            {"name":"day","type":[{"type":"int","connect.name":"org.apache.kafka.connect.data.Date","logicalType":"date","connect.default":1},"null"],"default":1},
            {"name":"tags","type":["null",{"type":"array","items":["null","string"]}],"default":null},
            {"name":"more","type":["null",{"type":"map","values":["null","string"]}],"default":null},
            {"name":"ratio","type":["null","float"],"default":null},
            {"name":"flag","type":"boolean"}
        ],"connect.name":"shop.public.orders.Value"}],"default":null},
        {"name":"after","type":["null","Value"],"default":null},
        {"name":"op","type":"string"}
        ],"connect.version":2,"connect.name":"shop.public.orders.Envelope"}"#;

    fn union(index: u32, value: Value) -> Value {
        Value::Union(index, Box::new(value))
    }

    fn row() -> Value {
        let tags = [union(1, Value::String("a\"b".to_owned())), union(0, Value::Null)];
        Value::Record(vec![
            ("id".to_owned(), Value::Long(i64::MAX)),
            ("i2".to_owned(), union(1, Value::Int(-2))),
            ("total".to_owned(), union(1, Value::Bytes(vec![3, 231]))),
            ("day".to_owned(), union(0, Value::Int(19_782))),
            ("tags".to_owned(), union(1, Value::Array(tags.into()))),
            (
                "more".to_owned(),
                union(1, Value::Map([("k".to_owned(), union(1, Value::String("v".to_owned())))].into())),
            ),
            ("ratio".to_owned(), union(1, Value::Float(0.1))),
            ("flag".to_owned(), Value::Boolean(true)),
        ])
    }

    fn written(schema: &AvroSchema) -> Vec<u8> {
        let event = Value::Record(vec![
            ("before".to_owned(), union(0, Value::Null)),
            ("after".to_owned(), union(1, row())),
            ("op".to_owned(), Value::String("u".to_owned())),
        ]);
        let writer = GenericDatumWriter::builder(&schema.schema).build().expect("a writer");
        writer.write_value_to_vec(event).expect("a datum")
    }

    #[test]
    fn an_event_becomes_what_json_would_have_been() {
        let schema = AvroSchema::parse(ENVELOPE).expect("a schema");
        let json = schema.to_json(&written(&schema)).expect("an event");
        assert_eq!(
            String::from_utf8_lossy(&json),
            r#"{"before":null,"after":{"id":9223372036854775807,"i2":-2,"total":"A+c=","day":19782,"tags":["a\"b",null],"more":{"k":"v"},"ratio":0.1,"flag":true},"op":"u"}"#
        );
    }

    #[test]
    fn the_types_of_columns_are_those_of_connect() {
        let schema = AvroSchema::parse(ENVELOPE).expect("a schema");
        let types = schema.types();
        assert_eq!(types.get("total"), Some(&ColumnType::Decimal(2)), "{types:?}");
        assert_eq!((types.get("day"), types.get("id")), (Some(&ColumnType::Date), Some(&ColumnType::Plain)));
        assert_eq!(
            (types.get("tags"), types.get("ratio")),
            (Some(&ColumnType::Array(Box::default())), Some(&ColumnType::Float))
        );
    }

    #[test]
    fn bytes_of_another_schema_are_refused() {
        let schema = AvroSchema::parse(ENVELOPE).expect("a schema");
        let whole = written(&schema);
        assert!(schema.to_json(&whole[..whole.len() - 1]).is_err());
        let longer = [&whole[..], b"x"].concat();
        assert_eq!(schema.to_json(&longer), Err("1 bytes are left over".to_owned()));
        assert!(AvroSchema::parse("{").is_err());
        assert!(AvroSchema::parse(r#"{"type":"record"}"#).is_err());
    }

    #[test]
    fn a_message_tells_its_schema() {
        assert_eq!(split(&[0, 0, 0, 1, 2, 9]), Some((258, &[9_u8][..])));
        assert_eq!(split(&[0, 0, 0, 1]), None);
        assert_eq!(split(b"{\"op\":1}"), None);
        assert_eq!(split(b""), None);
    }

    proptest! {
        #[test]
        fn no_framing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let framed = [&[0], &bytes[..]].concat();
            prop_assert_eq!(split(&framed).is_some(), bytes.len() >= 4);
            let _any = split(&bytes);
        }

        #[test]
        fn no_schema_panics(at in any::<proptest::sample::Index>(), gone in 0_usize..40, added in any::<String>()) {
            let at = at.index(ENVELOPE.len());
            let mut text = ENVELOPE.as_bytes().to_vec();
            text.splice(at..(at + gone).min(ENVELOPE.len()), added.into_bytes());
            if let Ok(text) = String::from_utf8(text) {
                let _schema = AvroSchema::parse(&text).is_ok();
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), at in 0_usize..100) {
            let schema = AvroSchema::parse(ENVELOPE).expect("a schema");
            let _torn = schema.to_json(&bytes).is_ok();
            let mut changed = written(&schema);
            let at = at % changed.len();
            changed.splice(at..at, bytes);
            if let Ok(json) = schema.to_json(&changed) {
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&json).is_ok());
            }
        }
    }
}

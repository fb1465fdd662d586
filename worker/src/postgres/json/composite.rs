//! Composite types (`record_send` in PostgreSQL's `rowtypes.c`).

use super::reader::{Problem, Reader};
use super::{Encoder, write_json_string};

/// One attribute of a composite type.
#[derive(Debug)]
pub(super) struct Attribute {
    /// The name as it goes into the object, with its quotes and the colon.
    key: Box<[u8]>,
    encoder: Encoder,
}

impl Attribute {
    pub(super) fn new(name: &str, encoder: Encoder) -> Self {
        let mut key = Vec::new();
        write_json_string(name, &mut key);
        key.push(b':');
        Self { key: key.into(), encoder }
    }
}

/// Appends an object with a field for each attribute.
pub(super) fn write(attributes: &[Attribute], mut reader: Reader<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
    if usize::try_from(reader.i32()?) != Ok(attributes.len()) {
        return Err(Problem::Wrong("has another number of attributes than described; was the type altered since?"));
    }
    out.push(b'{');
    for (index, Attribute { key, encoder }) in attributes.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(key);
        let found = reader.u32()?;
        if found != encoder.oid {
            return Err(Problem::OtherType { expected: encoder.oid, found });
        }
        match reader.value()? {
            Some(value) => encoder.append(value, out)?,
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
    reader.end()
}

//! Arrays (`array_send` in PostgreSQL's `arrayfuncs.c`).

use super::Encoder;
use super::reader::{Problem, Reader};

/// The most dimensions that PostgreSQL has (`MAXDIM`).
const DIMENSIONS_MAX: usize = 6;

/// Appends an array of what `element` encodes, an array in it for each further dimension.
pub(super) fn write(element: &Encoder, mut reader: Reader<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
    let dimensions = reader.i32()?;
    let _has_nulls = reader.i32()?;
    let found = reader.u32()?;
    if found != element.oid {
        return Err(Problem::OtherType { expected: element.oid, found });
    }
    let mut lengths = [0; DIMENSIONS_MAX];
    let lengths = usize::try_from(dimensions)
        .ok()
        .and_then(|dimensions| lengths.get_mut(..dimensions))
        .ok_or(Problem::Wrong("has an impossible number of dimensions"))?;
    for length in &mut *lengths {
        *length = reader.i32()?;
        // An array without elements has no dimensions: so every step below reads something, and no length can make it endless.
        if *length < 1 {
            return Err(Problem::Wrong("has a dimension without elements"));
        }
        let _lower_bound = reader.i32()?;
    }
    if lengths.is_empty() {
        out.extend_from_slice(b"[]");
    } else {
        dimension(lengths, element, &mut reader, out)?;
    }
    reader.end()
}

fn dimension(lengths: &[i32], element: &Encoder, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
    let Some((&length, inner)) = lengths.split_first() else {
        return match reader.value()? {
            Some(value) => element.append(value, out),
            None => {
                out.extend_from_slice(b"null");
                Ok(())
            }
        };
    };
    out.push(b'[');
    for index in 0..length {
        if index > 0 {
            out.push(b',');
        }
        dimension(inner, element, reader, out)?;
    }
    out.push(b']');
    Ok(())
}

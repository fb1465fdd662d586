//! Strings, and what is written as short ones.

/// Appends `text` as a JSON string.
///
/// Runs of bytes that need no escape are copied whole. All of UTF-8 but the quote, the backslash and the control characters
/// below U+0020 stays as it is (RFC 8259, section 7).
#[inline]
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    for chunk in bytes.chunks(SCAN_BYTES) {
        if any_needs_escape(chunk) {
            escape(chunk, out);
        } else {
            out.extend_from_slice(chunk);
        }
    }
    out.push(b'"');
}

/// PostgreSQL's one-byte `"char"`: NUL is the empty string, a byte that is not ASCII is printed as `\` and three octal digits.
pub(super) fn internal_char([byte]: [u8; 1], out: &mut Vec<u8>) {
    match byte {
        0 => out.extend_from_slice(b"\"\""),
        1..0x80 => write_json_string(char::from(byte).encode_utf8(&mut [0; 4]), out),
        _ => {
            let octal = [byte >> 6, (byte >> 3) & 7, byte & 7].map(|digit| b'0' + digit);
            out.extend_from_slice(b"\"\\\\");
            out.extend_from_slice(&octal);
            out.push(b'"');
        }
    }
}

pub(super) fn uuid(bytes: [u8; 16], out: &mut Vec<u8>) {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    out.push(b'"');
    out.extend_from_slice(uuid::Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut text).as_bytes());
    out.push(b'"');
}

/// How many bytes are looked at before they are copied whole or one by one: measured, most short strings in one piece.
const SCAN_BYTES: usize = 128;

const HEX: &[u8; 16] = b"0123456789abcdef";

fn needs_escape(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// Without an early exit, so that the compiler makes it a few vector instructions.
fn any_needs_escape(chunk: &[u8]) -> bool {
    chunk.iter().fold(false, |any, &byte| any | needs_escape(byte))
}

#[cold]
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut run_start = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if !needs_escape(byte) {
            continue;
        }
        out.extend_from_slice(&bytes[run_start..at]);
        run_start = at + 1;
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
    out.extend_from_slice(&bytes[run_start..]);
}

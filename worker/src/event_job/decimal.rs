//! Decimal numbers of any length, from the bytes of an unscaled integer. Pure.

/// A number takes a few bytes for each digit; a longer one is no number that a database has.
const BYTES_MAX: usize = 65_536;

/// Appends the number: all of its digits, with so many of them behind the point.
///
/// # Errors
/// No bytes, or far too many.
pub(super) fn decimal(bytes: &[u8], scale: u32, out: &mut Vec<u8>) -> Result<(), String> {
    let number = unscaled(bytes)?;
    let scale = scale as usize;
    if scale > BYTES_MAX {
        return Err("has too many digits".to_owned());
    }
    let (sign, digits) = number.strip_prefix('-').map_or(("", &*number), |digits| ("-", digits));
    out.extend(sign.bytes());
    if scale == 0 {
        out.extend(digits.bytes());
        return Ok(());
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    out.extend(whole.bytes());
    out.push(b'.');
    out.extend(fraction.bytes());
    Ok(())
}

/// The digits of a big-endian integer in two's complement.
///
/// # Errors
/// No bytes, or far too many.
pub(super) fn unscaled(bytes: &[u8]) -> Result<String, String> {
    if bytes.is_empty() || bytes.len() > BYTES_MAX {
        return Err(format!("is a decimal of {} bytes", bytes.len()));
    }
    if bytes.len() <= 16 {
        let fill = if bytes[0] & 0x80 == 0 { 0 } else { 0xff };
        let mut whole = [fill; 16];
        whole[16 - bytes.len()..].copy_from_slice(bytes);
        return Ok(i128::from_be_bytes(whole).to_string());
    }
    Ok(num_bigint::BigInt::from_signed_bytes_be(bytes).to_string())
}

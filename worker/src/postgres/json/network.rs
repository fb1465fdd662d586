//! Network addresses, printed as PostgreSQL prints them.

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::reader::{Problem, Reader};

/// PostgreSQL's two numbers for address families (`utils/inet.h` in its source).
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 3;

/// Two types of one binary form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// A host, with its network's length where that is not the whole address.
    Inet,
    /// A network: always with its length.
    Cidr,
}

/// Appends an `inet` or `cidr`.
pub(super) fn address(mut reader: Reader<'_>, kind: Kind, out: &mut Vec<u8>) -> Result<(), Problem> {
    let [family, network_bits, _is_cidr, size] = reader.array()?;
    out.push(b'"');
    let bits_max = match (family, size) {
        (FAMILY_V4, 4) => {
            display(Ipv4Addr::from(reader.array::<4>()?), out);
            32
        }
        (FAMILY_V6, 16) => {
            v6(Ipv6Addr::from(reader.array::<16>()?), out);
            128
        }
        _ => return Err(Problem::Wrong("is of no known address family")),
    };
    reader.end()?;
    if network_bits > bits_max {
        return Err(Problem::Wrong("has more network bits than its address"));
    }
    if kind == Kind::Cidr || network_bits < bits_max {
        out.push(b'/');
        display(network_bits, out);
    }
    out.push(b'"');
    Ok(())
}

/// Appends a `macaddr` (6 bytes) or `macaddr8` (8 bytes).
pub(super) fn mac_address(raw: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
    if !matches!(raw.len(), 6 | 8) {
        return Err(Problem::Wrong("has neither six nor eight bytes"));
    }
    let mut separator = b'"';
    for byte in raw {
        out.push(separator);
        write!(out, "{byte:02x}").expect("writing to memory");
        separator = b':';
    }
    out.push(b'"');
    Ok(())
}

/// As the standard library, but for the last four bytes of an IPv4-compatible address, which PostgreSQL writes as IPv4.
fn v6(address: Ipv6Addr, out: &mut Vec<u8>) {
    match address.octets() {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] if (a, b) != (0, 0) => {
            out.extend_from_slice(b"::");
            display(Ipv4Addr::new(a, b, c, d), out);
        }
        _ => display(address, out),
    }
}

fn display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    write!(out, "{value}").expect("writing to memory");
}

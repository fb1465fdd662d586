//! Bounds-checked reading of a value's bytes. PostgreSQL sends everything in network order.

use std::fmt;

/// What is wrong with a value. Reads on after "a value of type …".
#[derive(Debug, PartialEq)]
pub(super) enum Problem {
    /// Another number of bytes than the type has.
    Length { expected: usize, found: usize },
    /// It ends before what it announces.
    Torn,
    /// So many bytes are left at its end.
    Trailing(usize),
    /// Text that is not UTF-8, as a database of the encoding `SQL_ASCII` can hold.
    NotUtf8,
    /// An element or attribute is of another type than described: the numbers of both types.
    OtherType { expected: u32, found: u32 },
    /// Anything else, in words.
    Wrong(&'static str),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { expected, found } => write!(f, "has {found} bytes instead of {expected}"),
            Self::Torn => f.write_str("ends too early"),
            Self::Trailing(count) => write!(f, "has {count} bytes too many"),
            Self::NotUtf8 => f.write_str("is not UTF-8"),
            Self::OtherType { expected, found } => write!(
                f,
                "holds a value of the type with oid {found} where {expected} was described; was the type altered since?"
            ),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

/// The whole of a value of fixed size.
pub(super) fn fixed<const N: usize>(raw: &[u8]) -> Result<[u8; N], Problem> {
    raw.try_into().map_err(|_| Problem::Length { expected: N, found: raw.len() })
}

/// The value as text.
pub(super) fn utf8(raw: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(raw).map_err(|_| Problem::NotUtf8)
}

/// What has not been read yet of a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(raw: &'a [u8]) -> Self {
        Self { rest: raw }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Problem::Torn)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Problem> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn i16(&mut self) -> Result<i16, Problem> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Problem> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Problem> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Problem> {
        self.array().map(i64::from_be_bytes)
    }

    /// A value with its length before it; None is NULL, whose length is -1.
    pub(super) fn value(&mut self) -> Result<Option<&'a [u8]>, Problem> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| Problem::Wrong("holds a value of negative length"))?;
        let (value, rest) = self.rest.split_at_checked(length).ok_or(Problem::Torn)?;
        self.rest = rest;
        Ok(Some(value))
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Everything has been read.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(Problem::Trailing(count)),
        }
    }
}

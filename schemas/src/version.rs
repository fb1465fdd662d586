//! The external version of a document in Elasticsearch.

use std::fmt;

use thiserror::Error;

use crate::position::Lsn;

const POSITION_BITS: u32 = 53;
const GENERATION_BITS: u32 = 10;

/// A position of the source within a generation. Elasticsearch's external versions are not negative and have 63 bits:
/// the low 53 are the position, the 10 above them the generation, so that a newer generation is above every older
/// position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u64);

/// What no version can hold.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum VersionError {
    /// Ten bits are used up.
    #[error("generation {0} is beyond the last one, 1023: rebuild the source's indexes and start its generations anew")]
    Generation(u16),
    /// 53 bits are used up: eight pebibytes of log.
    #[error("position {0} is beyond the last one that a version can hold, 2^53 - 1")]
    Position(u64),
    /// The sign bit of Elasticsearch's versions is set.
    #[error("{0} is no version: Elasticsearch's end at 2^63 - 1")]
    Number(u64),
}

impl Version {
    /// The highest generation.
    pub const GENERATION_MAX: u16 = (1 << GENERATION_BITS) - 1;
    /// The highest position.
    pub const POSITION_MAX: u64 = (1 << POSITION_BITS) - 1;

    /// The version of a position in a generation.
    pub fn new(generation: u16, position: u64) -> Result<Version, VersionError> {
        if generation > Version::GENERATION_MAX {
            return Err(VersionError::Generation(generation));
        }
        if position > Version::POSITION_MAX {
            return Err(VersionError::Position(position));
        }
        Ok(Version(u64::from(generation) << POSITION_BITS | position))
    }

    /// The version that Elasticsearch gives as this number.
    pub fn from_u64(number: u64) -> Result<Version, VersionError> {
        if number >> (POSITION_BITS + GENERATION_BITS) == 0 {
            Ok(Version(number))
        } else {
            Err(VersionError::Number(number))
        }
    }

    /// The number for Elasticsearch.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The generation: the top ten bits.
    pub fn generation(self) -> u16 {
        (self.0 >> POSITION_BITS) as u16
    }

    /// The position: the low 53 bits.
    pub fn position(self) -> u64 {
        self.0 & Version::POSITION_MAX
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} position {}", self.generation(), Lsn(self.position()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_limits() {
        let highest = Version::new(1023, (1 << 53) - 1).expect("the highest");
        assert_eq!(highest.as_u64(), i64::MAX as u64);
        assert_eq!(Version::new(1024, 0), Err(VersionError::Generation(1024)));
        assert_eq!(Version::new(0, 1 << 53), Err(VersionError::Position(1 << 53)));
        assert_eq!(Version::from_u64(1 << 63), Err(VersionError::Number(1 << 63)));
        assert_eq!(Version::new(3, 0x16B_3748).expect("a version").to_string(), "generation 3 position 0/16B3748");
    }

    proptest! {
        #[test]
        fn it_comes_back(generation in 0..1024_u16, position in 0..1_u64 << 53) {
            let version = Version::new(generation, position).expect("within the limits");
            prop_assert_eq!(version.generation(), generation);
            prop_assert_eq!(version.position(), position);
            prop_assert_eq!(Version::from_u64(version.as_u64()), Ok(version));
        }

        #[test]
        fn a_generation_is_above_every_older_position(
            a in (0..1024_u16, 0..1_u64 << 53),
            b in (0..1024_u16, 0..1_u64 << 53),
        ) {
            let version = |(generation, position)| Version::new(generation, position).expect("within the limits");
            prop_assert_eq!(version(a).cmp(&version(b)), a.cmp(&b));
            prop_assert_eq!(version(a).as_u64().cmp(&version(b).as_u64()), a.cmp(&b));
        }
    }
}

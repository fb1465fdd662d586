//! Random numbers that a seed repeats.

/// SplitMix64: small, and good enough to choose what happens next.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of their own, which this throw and a name decide.
    pub fn split(&mut self) -> Self {
        Self(self.next())
    }

    /// A number of the range.
    pub fn of(&mut self, range: std::ops::RangeInclusive<i64>) -> i64 {
        let span = u64::try_from(range.end() - range.start() + 1).expect("the range is not empty");
        range.start() + i64::try_from(self.next() % span).expect("below the range's end")
    }

    /// True so many times of a hundred.
    pub fn percent(&mut self, percent: i64) -> bool {
        self.of(1..=100) <= percent
    }

    /// One of these.
    pub fn one<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[usize::try_from(self.of(1..=choices.len() as i64) - 1).expect("not negative")]
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

//! Choices that differ from one run to the next, and can be made again.

use std::{
    env,
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// Where the seed of a failed run is given again.
const VARIABLE: &str = "RIKLET_SDN_TEST_SEED";

/// `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Begins anew, with a seed that is printed, which cargo shows where the test fails.
    #[expect(
        clippy::disallowed_methods,
        clippy::print_stderr,
        reason = "a failure is to be had again"
    )]
    pub(crate) fn new() -> Self {
        let given = env::var(VARIABLE).ok().map(|seed| seed.parse().expect("a number"));
        let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        eprintln!("{VARIABLE}={seed}");
        Self(seed)
    }

    /// Others, which go on independently.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.next())
    }

    /// A number from 0 up to this, which is none of them.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).expect("64 bits");
        usize::try_from(self.next() % limit).expect("less than the limit")
    }

    /// A part of this time, down to none of it.
    pub(crate) fn part_of(&mut self, time: Duration) -> Duration {
        time * u32::try_from(self.below(1000)).expect("a small number") / 1000
    }

    /// One of these.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

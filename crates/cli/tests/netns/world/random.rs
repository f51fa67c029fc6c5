//! Random choices that can be repeated.

use std::{
    env,
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// The environment variable that repeats a failed run, by its seed.
const VARIABLE: &str = "RIKLET_SDN_TEST_SEED";

/// `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Creates a generator with a new seed. The seed is printed, and cargo shows it if the test fails.
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

    /// Creates the generator of this seed.
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns another generator, which is independent of this one.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.next())
    }

    /// Returns a number from 0 up to, but not including, `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).expect("64 bits");
        usize::try_from(self.next() % limit).expect("less than the limit")
    }

    /// Returns a random part of this time, from zero up.
    pub(crate) fn part_of(&mut self, time: Duration) -> Duration {
        time * u32::try_from(self.below(1000)).expect("a small number") / 1000
    }

    /// Returns one of these items.
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

//! A small version of what cargo-fuzz does: runs a target with a corpus of foreign bytes, and with mutations of it.

#![expect(clippy::print_stdout, reason = "how a test says what repeats it")]

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    path::Path,
    thread,
};

/// The number of mutations of the corpus to try.
const MUTATIONS: usize = 4000;
/// The longest input, in bytes.
const LONGEST: usize = 64 * 1024;
/// Values at which lengths and counts often go wrong.
const EDGES: [u8; 8] = [0, 1, 3, 4, 0x7f, 0x80, 0xfe, 0xff];

/// Runs `target` with each file of `fuzz/corpus/NAME`, and with mutations of them.
///
/// The mutations follow from a seed, which is printed: set `RIKLET_SDN_FUZZ_SEED` to it to repeat them. An input that
/// makes the target panic is printed as a Rust byte string (`b"…"`).
pub fn replay(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let corpus = corpus(&directory);
    assert!(!corpus.is_empty(), "no corpus in {}", directory.display());
    for input in &corpus {
        run(target, input);
    }
    let seed = seed();
    println!("RIKLET_SDN_FUZZ_SEED={seed}");
    let mut random = Random(seed);
    for _ in 0..MUTATIONS {
        let mut input = random.of(&corpus).clone();
        for _ in 0..=random.below(4) {
            mutate(&mut random, &corpus, &mut input);
        }
        input.truncate(LONGEST);
        run(target, &input);
    }
}

fn run(target: fn(&[u8]), input: &[u8]) {
    /// Prints the input of a target that panics.
    struct Said<'a>(&'a [u8]);

    impl Drop for Said<'_> {
        fn drop(&mut self) {
            if thread::panicking() {
                println!("the input is b\"{}\"", self.0.escape_ascii());
            }
        }
    }

    let _said = Said(input);
    target(input);
}

#[expect(clippy::disallowed_methods, reason = "a test reads its inputs")]
fn corpus(directory: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).expect("it can be read")).collect()
}

#[expect(clippy::disallowed_methods, reason = "whoever repeats a test says so by the environment")]
fn seed() -> u64 {
    match std::env::var("RIKLET_SDN_FUZZ_SEED") {
        Ok(text) => text.parse().expect("RIKLET_SDN_FUZZ_SEED is a number"),
        Err(_) => RandomState::new().hash_one(0),
    }
}

/// Changes the input in one of the ways that find the most bugs.
fn mutate(random: &mut Random, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
    let (from, to) = random.range(input.len());
    match random.below(7) {
        0 => {
            let edge = *random.of(&EDGES);
            input.get_mut(from..to.min(from + 4)).into_iter().flatten().for_each(|b| *b = edge);
        }
        1 => {
            let bit = 1 << random.below(8);
            input.get_mut(from).into_iter().for_each(|byte| *byte ^= bit);
        }
        2 => drop(input.drain(from..to)),
        3 => input.truncate(from),
        4 => {
            let again = input.get(from..to).unwrap_or_default().to_vec();
            input.splice(to..to, again);
        }
        5 => {
            let other = random.of(corpus);
            let (first, last) = random.range(other.len());
            let part = other.get(first..last).unwrap_or_default().to_vec();
            input.splice(from..to, part);
        }
        // Adds one to a byte, as an off-by-one error in netlink's native-endian numbers would.
        _ => input.get_mut(from).into_iter().for_each(|byte| *byte = byte.wrapping_add(1)),
    }
}

/// `splitmix64`: random numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let limit = u64::try_from(limit.max(1)).expect("lengths have 64 bits");
        usize::try_from((mixed ^ (mixed >> 31)) % limit).expect("it is below a length")
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let index = self.below(items.len());
        items.get(index).expect("there are some")
    }

    /// Returns a range within this length. Most are short.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let from = self.below(length + 1);
        let longest = *self.of(&[1, 4, 16, 256]);
        let to = (from + self.below(longest + 1)).min(length);
        (from, to)
    }
}

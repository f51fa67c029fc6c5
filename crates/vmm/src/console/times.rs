//! The times at which a log was written: a file beside it with pairs of a time and the length that the log had then.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{LIMIT, empty, with_suffix};

/// The time that one pair stands for, in milliseconds: output within it gets no pair of its own.
const STEP: u64 = 1000;
/// The length of a pair in bytes: two numbers of 64 bits, little-endian.
const PAIR: usize = 16;

/// The times of a log that is written.
#[derive(Debug)]
pub(super) struct Times {
    file: File,
    length: u64,
    last: Option<u64>,
}

impl Times {
    pub(super) fn create(log: &Path) -> io::Result<Self> {
        Ok(Self { file: empty(&path(log))?, length: 0, last: None })
    }

    /// Tells whether the times take so much room that the log should be set aside with them. A guest that writes a
    /// byte a second would otherwise have more times than output.
    pub(super) const fn are_many(&self) -> bool {
        self.length >= LIMIT / 4
    }

    /// Notes that output comes at this time, in milliseconds since 1970, at this length of the log.
    pub(super) fn note(&mut self, now: u64, written: u64) -> io::Result<()> {
        // The clock may have been set back.
        if self.last.is_some_and(|last| (last..last + STEP).contains(&now)) {
            return Ok(());
        }
        self.last = Some(now);
        self.length += 16;
        self.file.write_all(&[now.to_le_bytes(), written.to_le_bytes()].concat())
    }
}

/// Returns the path of the times of a log.
pub(super) fn path(log: &Path) -> PathBuf {
    with_suffix(log, ".times")
}

/// Returns the offset of the first output at or after a time, give or take a second; `None` if there is none. Without any
/// times, as in a log of an earlier version, all output counts. Pure.
pub(super) fn offset_since(times: &[u8], since: u64) -> Option<u64> {
    let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
    let pair = |pair: &[u8]| Some((number(pair.get(..8)?)?, number(pair.get(8..)?)?));
    let mut pairs = times.chunks_exact(PAIR).filter_map(pair).peekable();
    if pairs.peek().is_none() {
        return Some(0);
    }
    pairs.find(|(time, _)| time.saturating_add(STEP) > since).map(|(_, offset)| offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_found_by_its_time() {
        let pairs = [(5_000_u64, 0_u64), (6_500, 10), (60_000, 30)];
        let times: Vec<u8> =
            pairs.iter().flat_map(|(t, o)| [t.to_le_bytes(), o.to_le_bytes()].concat()).collect();
        for (since, offset) in [
            (0, Some(0)),
            (5_999, Some(0)),
            (6_000, Some(10)),
            (7_500, Some(30)),
            (60_999, Some(30)),
            (61_000, None),
        ] {
            assert_eq!(offset_since(&times, since), offset, "{since}");
        }
        assert_eq!(offset_since(&[], 7), Some(0));
        // The last pair is cut off: the disk was full.
        assert_eq!(offset_since(&times[..40], 7_500), None);
    }
}

//! Reads the part of a log that somebody asks for.

use std::{fs, io, path::Path};

use super::{Follower, aside, times};

/// The part of a log to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection {
    /// Only output from this time on, in milliseconds since 1970, give or take a second.
    pub since: Option<u64>,
    /// Only the last lines of it: at most so many.
    pub tail: Option<usize>,
}

/// Reads a log as far as it is written: the older part, then the newer one. Also returns the follower that reads on;
/// `None` if there is no log yet.
///
/// # Errors
/// Fails if a part exists and cannot be read.
pub fn read(path: &Path, selection: Selection) -> io::Result<(Vec<u8>, Option<Follower>)> {
    let older = open(&aside(path))?.map(|mut older| older.read_new()).transpose()?;
    let mut all = since(older.unwrap_or_default(), &aside(path), selection.since)?;
    let mut follower = open(path)?;
    if let Some(follower) = &mut follower {
        all.extend(since(follower.read_new()?, path, selection.since)?);
    }
    let skipped = selection.tail.map_or(0, |count| before_last_lines(&all, count));
    Ok((all.split_off(skipped), follower))
}

/// Opens a log. Returns `None` if it does not exist yet: it is created when the VMM starts.
fn open(path: &Path) -> io::Result<Option<Follower>> {
    match Follower::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

#[expect(clippy::disallowed_methods, reason = "the times are this module's own")]
fn since(mut text: Vec<u8>, path: &Path, since: Option<u64>) -> io::Result<Vec<u8>> {
    let Some(since) = since else { return Ok(text) };
    let times = match fs::read(times::path(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
        times => times?,
    };
    let offset = times::offset_since(&times, since).and_then(|offset| usize::try_from(offset).ok());
    let offset = offset.unwrap_or(text.len()).min(text.len());
    Ok(text.split_off(offset))
}

/// Returns the number of bytes before the last `count` lines. The last line need not end in a newline.
fn before_last_lines(text: &[u8], count: usize) -> usize {
    let Some(count) = count.checked_sub(1) else { return text.len() };
    let without_end = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = without_end.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    ends.map(|(index, _)| index + 1).nth(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_counted_from_the_end() {
        let text = b"one\ntwo\n\nfour";
        let cases: [&[u8]; 6] = [b"", b"four", b"\nfour", b"two\n\nfour", text, text];
        for (count, expected) in cases.into_iter().enumerate() {
            assert_eq!(&text[before_last_lines(text, count)..], expected, "{count}");
        }
        assert_eq!(before_last_lines(b"one\ntwo\n", 1), 4);
        assert_eq!(before_last_lines(b"", 3), 0);
    }
}

//! Keeps the users of slots apart from those of the host: a VMM must not run as somebody.

use std::{fmt, fs};

use riklet_core::model::SlotAccounts;

/// A user or group of the host, or a range that the host gives to one, in a block of users for VMMs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "vmm_uid_base: {} to {} are users of VMMs, and {file} gives {numbers} to {holder}",
    block.shared(), block.last()
)]
pub struct BlockConflict {
    block: SlotAccounts,
    file: &'static str,
    holder: String,
    numbers: Numbers,
}

/// A range of users or groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbers {
    first: u32,
    last: u32,
}

impl BlockConflict {
    /// The advice.
    pub const HINT: &'static str = "set vmm_uid_base to a number after which so many are free";
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first} to {last}") }
    }
}

/// Returns what the host's own files give to somebody else. What a directory service gives is not seen.
#[must_use]
pub fn conflict(block: SlotAccounts) -> Option<BlockConflict> {
    let read = |(file, sort): (&'static str, Sort)| {
        let text = read(file).unwrap_or_default();
        sort.conflict(block, file, &String::from_utf8_lossy(&text))
    };
    FILES.into_iter().find_map(read)
}

/// The files of the host's users, and of the ranges that users may use for their containers.
const FILES: [(&str, Sort); 4] = [
    ("/etc/passwd", Sort::Accounts),
    ("/etc/group", Sort::Accounts),
    ("/etc/subuid", Sort::Ranges),
    ("/etc/subgid", Sort::Ranges),
];

/// The form of a file of users.
#[derive(Debug, Clone, Copy)]
enum Sort {
    /// `NAME:PASSWORD:NUMBER`, and more (passwd(5), group(5)).
    Accounts,
    /// `NAME:FIRST:COUNT` (subuid(5)).
    Ranges,
}

impl Sort {
    fn conflict(
        self,
        block: SlotAccounts,
        file: &'static str,
        text: &str,
    ) -> Option<BlockConflict> {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let holder = fields.next()?.to_owned();
            let numbers: [&str; 2] = [fields.next()?, fields.next()?];
            let [second, third] = numbers.map(|number| number.trim().parse::<u32>().ok());
            let numbers = match self {
                Self::Accounts => Numbers { first: third?, last: third? },
                Self::Ranges => {
                    let (first, more) = (second?, third?.checked_sub(1)?);
                    Numbers { first, last: first.saturating_add(more) }
                }
            };
            let overlaps = numbers.first <= block.last() && block.shared() <= numbers.last;
            overlaps.then_some(BlockConflict { block, file, holder, numbers })
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the host's files of users")]
fn read(file: &str) -> std::io::Result<Vec<u8>> {
    fs::read(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_the_host_are_not_those_of_slots() {
        let block = SlotAccounts::new(100_000).unwrap();
        let found = |sort: Sort, text: &str| {
            sort.conflict(block, "/etc/f", text).map(|conflict| conflict.to_string())
        };
        let passwd = "root:x:0:0:root:/root:/bin/sh\nanna:x:99999:1:::\n\n#\n+::::::\n";
        assert_eq!(found(Sort::Accounts, passwd), None);
        let more = format!("{passwd}bert:x:231071:1:::\n");
        let expected =
            "vmm_uid_base: 100000 to 231071 are users of VMMs, and /etc/f gives 231071 to bert";
        assert_eq!(found(Sort::Accounts, &more).as_deref(), Some(expected));
        assert_eq!(found(Sort::Ranges, "anna:231072:65536\nbert:34464:65536\nx:1:0\n"), None);
        let expected = "vmm_uid_base: 100000 to 231071 are users of VMMs, and /etc/f gives 34465 to 100000 to anna";
        assert_eq!(found(Sort::Ranges, "anna:34465:65536\n").as_deref(), Some(expected));
        assert!(found(Sort::Ranges, "anna:1:4294967295\n").is_some());
    }
}

//! The version of a VMM. Pure.

use std::{fmt, str::FromStr};

/// Three numbers, compared from the left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Incompatible changes.
    pub major: u32,
    /// Additions.
    pub minor: u32,
    /// Fixes.
    pub patch: u32,
}

/// The error about a text that does not begin with a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no version: it begins with no number")]
pub struct VersionError {
    text: String,
}

impl Version {
    /// Creates a version of these numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }
}

/// Parses the version formats of VMMs: `1.16.0`, `v27.0`, `1.17.0-dev`, `v40.0-83-g330e1aac`. A missing number counts
/// as 0, and everything after the numbers is ignored.
impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let digits = text.trim().trim_start_matches('v');
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (digits, _) = digits.split_at(end);
        let mut numbers = digits.split('.').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        let major = next().ok_or_else(|| VersionError { text: text.to_owned() })?;
        Ok(Self { major, minor: next().unwrap_or(0), patch: next().unwrap_or(0) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch } = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_formats_of_vmms_are_parsed() {
        for (text, major, minor, patch) in [
            ("1.16.0", 1, 16, 0),
            ("v27.0", 27, 0, 0),
            ("1.17.0-dev", 1, 17, 0),
            ("v40.0-83-g330e1aac\n", 40, 0, 0),
            ("51.1.2", 51, 1, 2),
            ("7", 7, 0, 0),
        ] {
            assert_eq!(text.parse(), Ok(Version::new(major, minor, patch)), "{text:?}");
        }
        for text in ["", "v", "dev", ".1", "99999999999.0"] {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
        assert!(Version::new(1, 9, 9) < Version::new(1, 16, 0));
        assert_eq!(Version::new(1, 16, 0).to_string(), "1.16.0");
    }
}

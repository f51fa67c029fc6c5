//! Owners: the state directories that objects on the host belong to.

use std::{fmt, str::FromStr};

/// The identifier of a state directory: 64 random bits, chosen at its first use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(u64);

/// A text that is not 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an identifier has 16 hexadecimal digits")]
pub struct OwnerIdError;

impl OwnerId {
    /// The length of the identifier as text.
    pub const DIGITS: usize = 16;

    /// Returns the identifier with these bits.
    #[must_use]
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for OwnerId {
    type Err = OwnerIdError;

    fn from_str(text: &str) -> Result<Self, OwnerIdError> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != Self::DIGITS || !text.bytes().all(digit) {
            return Err(OwnerIdError);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_digits| OwnerIdError)
    }
}

/// A state directory, in the form in which its objects name it: `ID DIRECTORY`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    id: OwnerId,
    directory: String,
}

/// A text that is not an identifier and a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an owner is an identifier and a directory")]
pub struct OwnerError;

impl Owner {
    /// The longest directory in bytes: nft(8) accepts comments of 127 bytes, and the table's comment has more to say.
    pub const MAX_DIRECTORY: usize = 80;
    /// The text that stands for the omitted front of a longer directory.
    const CUT: &str = "...";

    /// Returns the owner with this identifier. Characters that a comment of iptables would have to escape become `?`,
    /// and a directory that is too long is shortened from the front.
    #[must_use]
    pub fn new(id: OwnerId, directory: &str) -> Self {
        let plain =
            |c: char| if c.is_control() || matches!(c, '"' | '\'' | '\\') { '?' } else { c };
        let mut directory: String = directory.chars().map(plain).collect();
        if directory.len() > Self::MAX_DIRECTORY {
            let least = directory.len() - (Self::MAX_DIRECTORY - Self::CUT.len());
            let start = (least..directory.len())
                .find(|&at| directory.is_char_boundary(at))
                .unwrap_or(least);
            let end = directory.split_off(start);
            directory = format!("{}{end}", Self::CUT);
        }
        Self { id, directory }
    }

    /// Returns the identifier.
    #[must_use]
    pub const fn id(&self) -> OwnerId {
        self.id
    }

    /// Returns the directory, as far as it fits.
    #[must_use]
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// Returns the mark on the objects of this owner.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark::Signed { id: self.id, directory: Some(self.directory.clone()) }
    }

    /// Returns whether something with this mark bears this owner's identifier.
    #[must_use]
    pub fn signed(&self, mark: &Mark) -> bool {
        matches!(mark, Mark::Signed { id, .. } if *id == self.id)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.directory)
    }
}

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let (id, directory) = text.split_once(' ').ok_or(OwnerError)?;
        Ok(Self::new(id.parse().map_err(|OwnerIdError| OwnerError)?, directory))
    }
}

/// The mark on an object that this program made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// It names no owner: an earlier version of this program made it.
    Unsigned,
    /// It names its owner.
    Signed {
        /// The identifier of the owner.
        id: OwnerId,
        /// The owner's directory; `None` if there was no room for it.
        directory: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_reads_back() {
        let owner = Owner::new(OwnerId::new(0xab), "/run/riklet sdn");
        assert_eq!(owner.to_string(), "00000000000000ab /run/riklet sdn");
        assert_eq!(owner.to_string().parse(), Ok(owner));
        for wrong in ["", "ab /run", "00000000000000AB /run", "+0000000000000ab /run"] {
            assert_eq!(wrong.parse::<Owner>(), Err(OwnerError), "{wrong}");
        }
    }

    #[test]
    fn a_directory_is_shortened_from_the_front() {
        let long = format!("/{}/the-end", "ü".repeat(80));
        let owner = Owner::new(OwnerId::new(1), &long);
        assert!(owner.directory().len() <= Owner::MAX_DIRECTORY, "{owner}");
        assert!(owner.directory().starts_with("...ü"), "{owner}");
        assert!(owner.directory().ends_with("/the-end"), "{owner}");
        assert_eq!(owner.to_string().parse(), Ok(owner));
        assert_eq!(Owner::new(OwnerId::new(1), "/a\"b\\c\n").directory(), "/a?b?c?");
    }
}

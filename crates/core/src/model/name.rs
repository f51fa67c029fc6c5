use std::fmt;

/// The name of an instance: 1 to 63 characters of `[a-z0-9.-]`, the first and the last a letter or a digit.
///
/// The length is that of a DNS label (RFC 1035, section 2.3.4), so that a name can become one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName(String);

/// The reason why a text is not an [`InstanceName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("the name is empty")]
    Empty,
    /// The text is longer than [`InstanceName::MAX_LENGTH`].
    #[error("the name is {length} characters long; at most {max} are allowed", max = InstanceName::MAX_LENGTH)]
    TooLong {
        /// The length found, in characters.
        length: usize,
    },
    /// A character outside `[a-z0-9.-]`.
    #[error(
        "the name has the character {character:?} at position {position}; allowed are a-z, 0-9, '.' and '-'"
    )]
    Character {
        /// The first such character.
        character: char,
        /// Its position, counted from 1.
        position: usize,
    },
    /// `.` or `-` at an end, where it would read as a path or an option.
    #[error(
        "the name {name:?} starts or ends with '.' or '-'; both ends must be a letter or a digit"
    )]
    Edge {
        /// The name as given.
        name: String,
    },
}

impl InstanceName {
    /// The longest name, in characters.
    pub const MAX_LENGTH: usize = 63;

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for InstanceName {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-');
        let length = text.chars().count();
        if length == 0 {
            return Err(NameError::Empty);
        }
        if let Some((index, character)) = text.chars().enumerate().find(|&(_, c)| !allowed(c)) {
            return Err(NameError::Character { character, position: index + 1 });
        }
        if length > Self::MAX_LENGTH {
            return Err(NameError::TooLong { length });
        }
        if text.starts_with(['.', '-']) || text.ends_with(['.', '-']) {
            return Err(NameError::Edge { name: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl std::str::FromStr for InstanceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::try_from(text)
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_with_their_reason() {
        let refused = |text: &str| InstanceName::try_from(text).unwrap_err();
        assert_eq!(refused(""), NameError::Empty);
        assert_eq!(refused(&"a".repeat(64)), NameError::TooLong { length: 64 });
        assert_eq!(refused("héllo"), NameError::Character { character: 'é', position: 2 });
        assert_eq!(refused("Hello"), NameError::Character { character: 'H', position: 1 });
        assert_eq!(refused("-all"), NameError::Edge { name: "-all".into() });
        assert_eq!(refused(".."), NameError::Edge { name: "..".into() });
        assert!(InstanceName::try_from("a").is_ok());
        assert!(InstanceName::try_from(&*"a".repeat(63)).is_ok());
        assert!(InstanceName::try_from("my-function.v2").is_ok());
    }
}

use std::{fmt, str::FromStr};

/// A user or a group of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// The number of the user or group.
    Id(u32),
    /// The name, which the host must know: passwd(5), group(5) or another source of nsswitch.conf(5).
    Name(AccountName),
}

/// The name of a user or a group, as passwd(5) can have it: not empty, without `:` and control characters, and
/// not a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(String);

/// The reason why a number or a text is not an [`Account`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The number is -1, which stands for no account (chown(2)), or too large.
    #[error("{found} is not a user or group; ids are 0 to {}", u32::MAX - 1)]
    Id {
        /// The number as given.
        found: String,
    },
    /// The name is one that no host can have.
    #[error("{text:?} is not the name of a user or group")]
    Name {
        /// The text as given.
        text: String,
    },
}

impl Account {
    /// Returns the user or group of this number.
    ///
    /// # Errors
    /// Fails if no user or group can have this number.
    pub fn of_id(id: i64) -> Result<Self, AccountError> {
        let number = u32::try_from(id).ok().filter(|&id| id < u32::MAX);
        number.map(Self::Id).ok_or_else(|| AccountError::Id { found: id.to_string() })
    }
}

impl FromStr for Account {
    type Err = AccountError;

    /// Reads a user or group; a text of digits is a number.
    fn from_str(text: &str) -> Result<Self, AccountError> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = text.parse::<i64>().map(Self::of_id);
            return number.unwrap_or_else(|_overflow| {
                Err(AccountError::Id { found: crate::excerpt::excerpt(text) })
            });
        }
        let bad = |c: char| c == ':' || c.is_control();
        if text.is_empty() || text.contains(bad) {
            return Err(AccountError::Name { text: crate::excerpt::excerpt(text) });
        }
        Ok(Self::Name(AccountName(text.to_owned())))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl AccountName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_numbers_or_names() {
        let account = |text: &str| text.parse::<Account>();
        assert_eq!(account("1000"), Ok(Account::Id(1000)));
        assert!(matches!(account("riklet"), Ok(Account::Name(name)) if name.as_str() == "riklet"));
        assert!(matches!(account("AD\\joe.m"), Ok(Account::Name(_))));
        assert_eq!(
            Account::of_id(u32::MAX.into()).unwrap_err().to_string(),
            "4294967295 is not a user or group; ids are 0 to 4294967294"
        );
        for wrong in ["", "a:b", "a\nb", "4294967295", "99999999999999999999"] {
            assert!(account(wrong).is_err(), "{wrong:?}");
        }
        assert!(Account::of_id(-1).is_err());
    }
}

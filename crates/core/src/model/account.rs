use std::{fmt, str::FromStr};

use super::Slot;

/// A user or a group of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// The number of the user or group.
    Id(u32),
    /// The name, which the host must know: passwd(5), group(5) or another source of nsswitch.conf(5).
    Name(AccountName),
    /// The number of the instance's slot, so that no two functions of a node have it.
    OfSlot(SlotAccounts),
}

/// A block of users, or of groups, that no host has names for: one for what all microVMs of a node share, and one for each
/// slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotAccounts {
    base: u32,
}

impl SlotAccounts {
    /// The default block. It is unused by systemd's allocations (UIDS-GIDS of systemd).
    pub const DEFAULT: Self = Self { base: 1_900_000_000 };
    /// The number of slots that a node can have, and one for what they share.
    const SIZE: u32 = 1 << 17;

    /// The least first number. Below are root, the users of the host, and `nobody` (UIDS-GIDS of systemd).
    const LEAST: u32 = 1 << 16;
    /// The greatest first number. The last two numbers stand for no user (chown(2)), and for `nobody` on some hosts.
    const GREATEST: u32 = u32::MAX - 1 - Self::SIZE;

    /// Returns the block that begins at this number; `None` for a block with root, users of the host or `nobody`.
    #[must_use]
    pub const fn new(base: u32) -> Option<Self> {
        if base < Self::LEAST || base > Self::GREATEST { None } else { Some(Self { base }) }
    }

    /// Returns the last number.
    #[must_use]
    pub const fn last(self) -> u32 {
        self.base + (Self::SIZE - 1)
    }

    /// Returns the first number: that of the group of images, which all microVMs may read.
    #[must_use]
    pub const fn shared(self) -> u32 {
        self.base
    }

    /// Tells whether a number is one of the block.
    #[must_use]
    pub const fn contains(self, number: u32) -> bool {
        number >= self.base && number - self.base < Self::SIZE
    }

    /// Returns the number of a slot.
    #[must_use]
    pub fn of(self, slot: Slot) -> u32 {
        // A block has room for every slot.
        self.base.saturating_add(1).saturating_add(slot.number().into())
    }
}

/// The text of [`Account::OfSlot`] before its number.
const OF_SLOT: &str = "slot+";

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

/// A number that is not the first of [`SlotAccounts`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found} is not the first of {} users of microVMs: below {} are root and the host's users, and the greatest is {}",
    SlotAccounts::SIZE,
    SlotAccounts::LEAST,
    SlotAccounts::GREATEST
)]
pub struct SlotAccountsError {
    found: String,
}

impl FromStr for SlotAccounts {
    type Err = SlotAccountsError;

    /// Reads the first number of a block.
    fn from_str(text: &str) -> Result<Self, SlotAccountsError> {
        let refused = || SlotAccountsError { found: crate::excerpt::excerpt(text) };
        text.parse().ok().and_then(Self::new).ok_or_else(refused)
    }
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
        let of_slot = text.strip_prefix(OF_SLOT).and_then(|base| base.parse().ok());
        if let Some(accounts) = of_slot.and_then(SlotAccounts::new) {
            return Ok(Self::OfSlot(accounts));
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
            Self::OfSlot(accounts) => write!(f, "{OF_SLOT}{}", accounts.base),
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

    #[test]
    fn each_slot_has_an_account_of_its_own() {
        let accounts = SlotAccounts::DEFAULT;
        let account = Account::OfSlot(accounts);
        assert_eq!(account.to_string(), "slot+1900000000");
        assert_eq!(account.to_string().parse(), Ok(account));
        let numbers = [0, 1, u16::MAX].map(|slot| accounts.of(Slot::new(slot)));
        assert_eq!(numbers, [1_900_000_001, 1_900_000_002, 1_900_065_536]);
        assert!(!numbers.contains(&accounts.shared()));
        assert!(numbers.into_iter().chain([accounts.shared()]).all(|n| accounts.contains(n)));
        assert!(!accounts.contains(1_899_999_999) && !accounts.contains(0));
        // Root's is never among them; what looks like it is a name.
        for base in [0, 1, 65_535, u32::MAX - (1 << 17), u32::MAX - 9, u32::MAX] {
            assert_eq!(SlotAccounts::new(base), None, "{base}");
        }
        for base in [65_536, u32::MAX - 1 - (1 << 17)] {
            let accounts = SlotAccounts::new(base).unwrap();
            assert!(accounts.of(Slot::new(u16::MAX)) <= accounts.last());
            assert!(accounts.contains(accounts.last()) && accounts.last() < u32::MAX - 1);
        }
        assert_eq!(
            "0".parse::<SlotAccounts>().unwrap_err().to_string(),
            "0 is not the first of 131072 users of microVMs: below 65536 are root and the host's users, and the \
             greatest is 4294836222"
        );
        assert!(matches!("slot+0".parse(), Ok(Account::Name(_))));
    }
}

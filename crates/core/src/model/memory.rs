use std::{fmt, str::FromStr};

/// The memory of a guest in whole MiB, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory(u32);

/// The reason why a number or a text is not a [`Memory`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The amount is zero or negative.
    #[error("a guest needs at least 1 MiB of memory")]
    Zero,
    /// The amount is not a whole number of MiB.
    #[error("{text} is not a whole number of MiB")]
    Fraction {
        /// The amount as given.
        text: String,
    },
    /// The amount is more than [`Memory::MAX_MIB`].
    #[error("{text} is more than {} MiB", Memory::MAX_MIB)]
    TooMuch {
        /// The amount as given.
        text: String,
    },
    /// The text is not a number with a unit.
    #[error("{text:?} is not an amount of memory; write MiB as a number, or 524288K, 512M, 2G")]
    Syntax {
        /// The text as given.
        text: String,
    },
}

impl Memory {
    /// 16 TiB, more than any host has.
    pub const MAX_MIB: u32 = 1 << 24;

    /// Returns this number of MiB.
    ///
    /// # Errors
    /// Fails if it is not 1 to [`Self::MAX_MIB`].
    pub fn new(mib: i64) -> Result<Self, MemoryError> {
        match u32::try_from(mib) {
            Ok(mib @ 1..=Self::MAX_MIB) => Ok(Self(mib)),
            _ if mib <= 0 => Err(MemoryError::Zero),
            _ => Err(MemoryError::TooMuch { text: mib.to_string() }),
        }
    }

    /// Returns the memory in MiB.
    #[must_use]
    pub const fn mib(self) -> u32 {
        self.0
    }
}

impl FromStr for Memory {
    type Err = MemoryError;

    /// Reads digits and a binary unit: K, M or G.
    fn from_str(text: &str) -> Result<Self, MemoryError> {
        let syntax = || MemoryError::Syntax { text: crate::excerpt::excerpt(text) };
        let too_much = || MemoryError::TooMuch { text: crate::excerpt::excerpt(text) };
        let units = [('K', 1), ('M', 1 << 10), ('G', 1 << 20)];
        let parts = units.iter().find_map(|&(unit, kib)| Some((text.strip_suffix(unit)?, kib)));
        let (digits, kib) = parts.ok_or_else(syntax)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(syntax());
        }
        let number = digits.parse::<i64>().map_err(|_overflow| too_much())?;
        let kib = number.checked_mul(kib).ok_or_else(too_much)?;
        if kib % 1024 != 0 {
            return Err(MemoryError::Fraction { text: crate::excerpt::excerpt(text) });
        }
        Self::new(kib / 1024).map_err(|error| match error {
            MemoryError::TooMuch { .. } => too_much(),
            other => other,
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_whole_mebibytes() {
        let mib = |text: &str| text.parse::<Memory>().map(Memory::mib);
        assert_eq!(mib("512M"), Ok(512));
        assert_eq!(mib("2G"), Ok(2048));
        assert_eq!(mib("524288K"), Ok(512));
        assert_eq!(mib("16384G"), Ok(Memory::MAX_MIB));
        let refused = |text: &str| mib(text).unwrap_err().to_string();
        assert_eq!(refused("1000K"), "1000K is not a whole number of MiB");
        assert_eq!(refused("0G"), "a guest needs at least 1 MiB of memory");
        for text in ["16385G", "99999999999999999999M", "9223372036854775807G"] {
            assert_eq!(refused(text), format!("{text} is more than 16777216 MiB"));
        }
        for text in ["", "M", "512", "512m", "512MB", "+1M", "-1M", "1.5G", " 1G"] {
            assert!(refused(text).contains("is not an amount of memory"), "{text}");
        }
        assert_eq!(Memory::new(0), Err(MemoryError::Zero));
        assert!(matches!(Memory::new(1 << 40), Err(MemoryError::TooMuch { .. })));
    }
}

use std::{fmt, str::FromStr};

/// The choice of IPv6 for guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Ipv6 {
    /// Guests have IPv4 only.
    #[default]
    Off,
    /// Guests have IPv6 as well, where the host has it.
    On,
}

/// The reason why a text is not an [`Ipv6`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not on or off")]
pub struct Ipv6Error {
    text: String,
}

impl Ipv6 {
    /// Returns the name, as in the configuration and the output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
        }
    }
}

impl FromStr for Ipv6 {
    type Err = Ipv6Error;

    fn from_str(text: &str) -> Result<Self, Ipv6Error> {
        let named = [Self::Off, Self::On].into_iter().find(|choice| choice.as_str() == text);
        named.ok_or_else(|| Ipv6Error { text: text.to_owned() })
    }
}

impl fmt::Display for Ipv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for choice in [Ipv6::Off, Ipv6::On] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        let refused = "yes".parse::<Ipv6>().unwrap_err();
        assert_eq!(refused.to_string(), "\"yes\" is not on or off");
    }
}

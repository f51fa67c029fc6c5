use std::{fmt, str::FromStr};

/// The reach of guests beyond published ports, which are open to all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Egress {
    /// Public addresses, and name servers (port 53) behind the uplinks or on the host. Not: the host's services, private
    /// and link-local networks, with the metadata services of clouds, and mail servers (TCP port 25).
    #[default]
    Internet,
    /// Everything behind the uplinks, and the host's services.
    All,
    /// Nothing.
    None,
}

/// The reason why a text is not an [`Egress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not internet, all or none")]
pub struct EgressError {
    text: String,
}

impl Egress {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Internet, Self::All, Self::None];

    /// Returns the name, as in the configuration and the output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internet => "internet",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

impl FromStr for Egress {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        let named = Self::ALL.into_iter().find(|egress| egress.as_str() == text);
        named.ok_or_else(|| EgressError { text: text.to_owned() })
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for egress in Egress::ALL {
            assert_eq!(egress.to_string().parse(), Ok(egress));
        }
        let refused = "Internet".parse::<Egress>().unwrap_err();
        assert_eq!(refused.to_string(), "\"Internet\" is not internet, all or none");
    }
}

use std::{fmt, str::FromStr};

/// The position of an event among those of one daemon: a reader that names it gets what followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Token {
    /// The start of the daemon, in microseconds since 1970.
    daemon: u64,
    /// The number of the event, from 1 on.
    number: u64,
}

/// A text that is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the token of an event")]
pub struct TokenError {
    text: String,
}

impl Token {
    /// Returns the position before the first event of a daemon that was started at this time, in microseconds since 1970.
    #[must_use]
    pub const fn start(daemon: u64) -> Self {
        Self { daemon, number: 0 }
    }

    /// Returns the position of the next event.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// Returns the number of events from an earlier one to this; `None` if that is another daemon's, or later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Option<u64> {
        if self.daemon == earlier.daemon { self.number.checked_sub(earlier.number) } else { None }
    }
}

/// Formats as `6447c8b2f1a04-17`.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.daemon, self.number)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parsed = text.split_once('-').and_then(|(daemon, number)| {
            let daemon = u64::from_str_radix(daemon, 16).ok()?;
            Some(Self { daemon, number: number.parse().ok()? })
        });
        parsed.ok_or_else(|| TokenError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_they_are_written() {
        let token = Token { daemon: 0x6447_c8b2, number: 17 };
        assert_eq!(token.to_string(), "6447c8b2-17");
        assert_eq!(token.to_string().parse(), Ok(token));
        for text in ["", "17", "x-17", "17-x", "-", "1-2-3", "1--2"] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}

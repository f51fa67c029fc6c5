use std::{fmt, str::FromStr};

/// The flows that a guest may have at a time, of those that it begins.
///
/// A flow is an entry of the kernel's connection tracking, which has one table for the whole host. Flows that others begin
/// with a guest do not count.
///
/// The kernel does not count closed TCP connections either (`already_closed` of `net/netfilter/nf_conncount.c`), and keeps
/// them for two minutes. So a guest also has a rate at which it may begin flows, and in all at most ten times the limit of
/// entries: those that count, the burst, and those of two minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowLimit(Option<u32>);

/// The reason why a text is not a [`FlowLimit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a limit of flows; these are {min} to {max}, or unlimited", min = FlowLimit::MIN, max = FlowLimit::MAX)]
pub struct FlowLimitError {
    text: String,
}

impl FlowLimit {
    /// The smallest limit.
    pub const MIN: u32 = 1;
    /// The largest limit. To count the flows of a guest that begins one, the kernel looks each of them up, in every tick of
    /// its clock at most.
    pub const MAX: u32 = 65_536;
    /// The word for no limit.
    const UNLIMITED: &str = "unlimited";

    /// Returns the number; `None` is unlimited.
    #[must_use]
    pub const fn number(self) -> Option<u32> {
        self.0
    }

    /// Returns the flows that a guest may begin in a second, after a burst of as many as it may have; `None` is any number.
    ///
    /// iptables keeps the time between two packets, in microseconds, and shows the rate that follows from it.
    #[must_use]
    pub fn each_second(self) -> Option<u32> {
        const SHARE: u32 = 16;
        const MICROSECONDS: u32 = 1_000_000;
        self.0.map(|number| MICROSECONDS / (MICROSECONDS / (number / SHARE).max(1)))
    }
}

impl Default for FlowLimit {
    fn default() -> Self {
        Self(Some(4096))
    }
}

impl FromStr for FlowLimit {
    type Err = FlowLimitError;

    fn from_str(text: &str) -> Result<Self, FlowLimitError> {
        if text == Self::UNLIMITED {
            return Ok(Self(None));
        }
        let number = text.parse().ok().filter(|number| (Self::MIN..=Self::MAX).contains(number));
        let refused = || FlowLimitError { text: text.to_owned() };
        number.map(|number| Self(Some(number))).ok_or_else(refused)
    }
}

impl fmt::Display for FlowLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number}"),
            None => f.write_str(Self::UNLIMITED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_written() {
        for text in ["1", "4096", "65536", "unlimited"] {
            assert_eq!(text.parse::<FlowLimit>().unwrap().to_string(), text);
        }
        assert_eq!(FlowLimit::default().to_string(), "4096");
        let rate = |text: &str| text.parse::<FlowLimit>().unwrap().each_second();
        let rates = ["1", "64", "4096", "48000", "unlimited"].map(rate);
        assert_eq!(rates, [Some(1), Some(4), Some(256), Some(3003), None]);
        assert_eq!("unlimited".parse::<FlowLimit>().unwrap().number(), None);
        for text in ["", "0", "-1", "65537", "4294967297", "many", "Unlimited"] {
            let refused = text.parse::<FlowLimit>().unwrap_err().to_string();
            let expected =
                format!("{text:?} is not a limit of flows; these are 1 to 65536, or unlimited");
            assert_eq!(refused, expected);
        }
    }
}

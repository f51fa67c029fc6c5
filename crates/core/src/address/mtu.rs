use std::fmt;

/// The length in bytes of the longest IP packet that an interface sends: 68, which every IPv4 node must take
/// (RFC 791, section 3.2), to 65,521, the most that the kernel's TAPs have (`MAX_MTU` less an Ethernet header,
/// in drivers/net/tun.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtu(u32);

/// The reason why a text or a number is not an [`Mtu`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} is not an MTU; these are {min} to {max} bytes", min = Mtu::MIN, max = Mtu::MAX)]
pub struct MtuError {
    text: String,
}

impl Mtu {
    /// The lowest, in bytes.
    pub const MIN: u32 = 68;
    /// The highest, in bytes.
    pub const MAX: u32 = 65_521;

    /// Returns the number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for Mtu {
    type Error = MtuError;

    fn try_from(number: i64) -> Result<Self, MtuError> {
        let bytes = u32::try_from(number).ok();
        let bytes = bytes.filter(|bytes| (Self::MIN..=Self::MAX).contains(bytes));
        bytes.map(Self).ok_or_else(|| MtuError { text: number.to_string() })
    }
}

impl std::str::FromStr for Mtu {
    type Err = MtuError;

    fn from_str(text: &str) -> Result<Self, MtuError> {
        let number = text.parse::<i64>().map_err(|_no| MtuError { text: format!("{text:?}") });
        Self::try_from(number?)
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_out_of_the_range_of_taps_is_refused() {
        assert_eq!("68".parse::<Mtu>().unwrap().bytes(), 68);
        assert_eq!("65521".parse::<Mtu>().unwrap().bytes(), 65_521);
        let refused = |text: &str| text.parse::<Mtu>().unwrap_err().to_string();
        assert_eq!(refused("67"), "67 is not an MTU; these are 68 to 65521 bytes");
        assert_eq!(refused("65522"), "65522 is not an MTU; these are 68 to 65521 bytes");
        assert_eq!(refused("-1"), "-1 is not an MTU; these are 68 to 65521 bytes");
        assert_eq!(refused("jumbo"), "\"jumbo\" is not an MTU; these are 68 to 65521 bytes");
    }
}

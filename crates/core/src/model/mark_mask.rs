use std::{fmt, str::FromStr};

/// The bits of packets' and connections' marks that are ours to use.
///
/// All programs on a host share marks, so we write no bit outside of this mask, and never a mark of a packet that is
/// neither from nor to a guest. Its bits, from the lowest:
///
/// | bits | use |
/// | --- | --- |
/// | 3 | the uplink that a connection to a guest came in by |
/// | 1 | a packet of a guest that `inet riklet-policies` allows, beside iptables |
/// | 2 | reserved for the epoch of policies |
/// | 1 | a guest sent the packet to an address of the host, or an exposure translates it on its way to another guest |
///
/// The bits need not be beside each other. The default is `0x7f`: kube-proxy has 0xc000, Calico 0xffff0000, Tailscale
/// 0xff0000, Cilium 0xf00, the CNI plugin portmap 0x2000 and that of AWS 0x80.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkMask(u32);

/// The reason why a text is not a [`MarkMask`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct MarkMaskError {
    text: String,
    /// The number of bits, if it is a mask.
    bits: Option<u32>,
}

impl MarkMask {
    /// The number of bits in use or reserved: the end of the last field.
    const BITS: u32 = 7;
    /// The number of bits for the uplink.
    const UPLINK_BITS: u32 = 3;
    /// The place of the bit of packets that policies allow.
    const ALLOWED: u32 = Self::UPLINK_BITS;
    /// The place of the bit of packets to the host.
    const ASKED: u32 = 6;
    /// The fields, each with the place of its last bit.
    const FIELDS: [(&str, u32); 3] =
        [("uplinks", 2), ("policies", 5), ("packets of guests to the host", Self::ASKED)];
    /// The number of uplinks that have a mark; 0 is none.
    pub const UPLINKS: u32 = (1 << Self::UPLINK_BITS) - 1;

    /// Returns the bits that hold the uplink.
    #[must_use]
    pub fn of_uplinks(self) -> u32 {
        self.uplink(Self::UPLINKS)
    }

    /// Returns the mark of the uplink with this number, of which the lowest bits count.
    #[must_use]
    pub fn uplink(self, number: u32) -> u32 {
        let numbered = (0..Self::UPLINK_BITS).zip(self.places());
        numbered.filter(|(place, _)| number >> place & 1 == 1).map(|(_, bit)| bit).sum()
    }

    /// Returns the bit of packets that a guest sends to an address of the host, which is set before any translation; and of
    /// those from guest to guest that an exposure translates, by which they are routed.
    #[must_use]
    pub fn asked(self) -> u32 {
        self.at(Self::ASKED)
    }

    /// Returns the bit of packets of guests that the table of policies allows, where the rest of the firewall is iptables.
    #[must_use]
    pub fn allowed(self) -> u32 {
        self.at(Self::ALLOWED)
    }

    fn at(self, place: u32) -> u32 {
        (0..).zip(self.places()).find(|(number, _)| *number == place).map_or(0, |(_, bit)| bit)
    }

    fn places(self) -> impl Iterator<Item = u32> {
        (0..u32::BITS).map(|bit| 1 << bit).filter(move |bit| self.0 & bit != 0)
    }
}

impl Default for MarkMask {
    fn default() -> Self {
        Self(0x7f)
    }
}

impl TryFrom<i64> for MarkMask {
    type Error = MarkMaskError;

    fn try_from(number: i64) -> Result<Self, MarkMaskError> {
        let mask = u32::try_from(number).ok();
        let enough = mask.filter(|mask| mask.count_ones() >= Self::BITS).map(Self);
        let bits = mask.map(u32::count_ones);
        enough.ok_or_else(|| MarkMaskError { text: number.to_string(), bits })
    }
}

impl FromStr for MarkMask {
    type Err = MarkMaskError;

    fn from_str(text: &str) -> Result<Self, MarkMaskError> {
        let number = match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        let wrong = |bits| MarkMaskError { text: text.to_owned(), bits };
        Self::try_from(number.map_err(|_no| wrong(None))?).map_err(|refused| wrong(refused.bits))
    }
}

impl fmt::Display for MarkMaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, bits } = self;
        let needed = MarkMask::BITS;
        let Some(bits) = bits else {
            return write!(
                f,
                "{text:?} is not a mark mask; these are 32-bit numbers with at least {needed} bits set, as 0x7f"
            );
        };
        let left_out = MarkMask::FIELDS.iter().filter(|(_, place)| place >= bits);
        let left_out: Vec<_> = left_out.map(|(field, _)| *field).collect();
        write!(
            f,
            "{text:?} has {bits} of the {needed} bits that marks take, as 0x7f has: no room for {}",
            left_out.join(", ")
        )
    }
}

impl fmt::Display for MarkMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uplink_has_the_lowest_bits_of_the_mask() {
        let default = MarkMask::default();
        assert_eq!((default.of_uplinks(), default.uplink(1), default.uplink(6)), (7, 1, 6));
        let spread: MarkMask = "0x80f04100".parse().unwrap();
        assert_eq!(spread.of_uplinks(), 0x0010_4100);
        assert_eq!(
            [1, 2, 3, 4].map(|number| spread.uplink(number)),
            [0x100, 0x4000, 0x4100, 0x10_0000]
        );
        assert_eq!(spread.to_string(), "0x80f04100");
        assert_eq!((default.asked(), spread.asked()), (0x40, 0x8000_0000));
        assert_eq!((default.allowed(), spread.allowed()), (8, 0x20_0000));
    }

    #[test]
    fn a_mask_has_at_least_seven_bits() {
        assert_eq!("127".parse(), Ok(MarkMask::default()));
        let refused = |text: &str| text.parse::<MarkMask>().unwrap_err().to_string();
        let few = "\"0x3f\" has 6 of the 7 bits that marks take, as 0x7f has: no room for packets of guests to the host";
        assert_eq!(refused("0x3f"), few);
        let none = refused("0");
        assert!(
            none.ends_with("no room for uplinks, policies, packets of guests to the host"),
            "{none}"
        );
        for text in ["", "0x", "mask", "-1", "0x1ffffffff"] {
            assert!(refused(text).starts_with(&format!("{text:?} is not")), "{text}");
        }
    }
}

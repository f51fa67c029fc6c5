use std::{fmt, str::FromStr};

/// The limits of one function, which the node holds and the guest cannot lift. `None` is no limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// The rate of what the guest sends, with the headers of Ethernet.
    pub egress: Option<BitRate>,
    /// The rate of what the guest is sent, with the headers of Ethernet.
    pub ingress: Option<BitRate>,
}

impl Limits {
    /// Reports whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Limits {
    /// Writes the limits in one word: those of the fields in their order, without spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word =
            |limit: Option<BitRate>| limit.map(|limit| limit.to_string()).unwrap_or_default();
        let words = [word(self.egress), word(self.ingress)].join(",");
        f.write_str(words.trim_end_matches(','))
    }
}

impl FromStr for Limits {
    type Err = BitRateError;

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, BitRateError> {
        let mut words = text
            .split(',')
            .map(|word| (!word.is_empty()).then(|| word.parse::<BitRate>()).transpose());
        let mut rate = || words.next().transpose().map(Option::flatten);
        let limits = Self { egress: rate()?, ingress: rate()? };
        match words.next() {
            None => Ok(limits),
            Some(_) => Err(BitRateError::syntax(text)),
        }
    }
}

/// A rate in bits a second, which is a whole number of bytes a second: 8kbit to 10Gbit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(u64);

/// The reason why a text is not a [`BitRate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BitRateError {
    /// It is not a number with a unit.
    #[error(
        "{text:?} is not a rate; rates are whole numbers of bit, kbit, Mbit or Gbit a second, such as 100Mbit"
    )]
    Syntax {
        /// The text as given.
        text: String,
        /// The rate that was most likely meant.
        nearest: Option<BitRate>,
    },
    /// It is too small or too large.
    #[error("{text} is out of range; rates are {} to {}", BitRate::MIN, BitRate::MAX)]
    Range {
        /// The text as given.
        text: String,
    },
    /// The kernel counts bytes.
    #[error("{text} is not a whole number of bytes a second")]
    Bytes {
        /// The text as given.
        text: String,
        /// The nearest rate below that is.
        nearest: BitRate,
    },
}

impl BitRateError {
    fn syntax(text: &str) -> Self {
        Self::Syntax { text: text.to_owned(), nearest: meant(text) }
    }

    /// Returns the rate that was most likely meant.
    #[must_use]
    pub const fn nearest(&self) -> Option<BitRate> {
        match self {
            Self::Syntax { nearest, .. } => *nearest,
            Self::Bytes { nearest, .. } => Some(*nearest),
            Self::Range { .. } => None,
        }
    }
}

/// The units, from the largest.
const UNITS: [(&str, u64); 4] =
    [("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];
const BITS: u64 = 8;

impl BitRate {
    /// The lowest rate: less would hold a packet back for seconds.
    pub const MIN: Self = Self(8_000);
    /// The highest rate.
    pub const MAX: Self = Self(10_000_000_000);

    /// Returns the bits a second.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Returns the bytes a second.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 / BITS
    }

    /// Returns the rate of this many bytes a second; `None` if it is out of range.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Option<Self> {
        let rate = Self(bytes.checked_mul(BITS)?);
        (Self::MIN..=Self::MAX).contains(&rate).then_some(rate)
    }
}

impl FromStr for BitRate {
    type Err = BitRateError;

    fn from_str(text: &str) -> Result<Self, BitRateError> {
        let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        let unit = text.get(digits.len()..).unwrap_or_default();
        let unit = UNITS.into_iter().find(|(name, _)| *name == unit);
        let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        let Some((_, unit)) = unit.filter(|_| is_number) else {
            return Err(BitRateError::syntax(text));
        };
        let bits = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        let in_range = |bits: &u64| (Self::MIN.0..=Self::MAX.0).contains(bits);
        let range = || BitRateError::Range { text: text.to_owned() };
        let bits = bits.filter(in_range).ok_or_else(range)?;
        match bits % BITS {
            0 => Ok(Self(bits)),
            rest => {
                let nearest = Self(bits - rest);
                Err(BitRateError::Bytes { text: text.to_owned(), nearest })
            }
        }
    }
}

impl fmt::Display for BitRate {
    /// Writes the rate in the largest unit of which it is a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, unit): &(&str, u64)| self.0.is_multiple_of(*unit);
        let (name, unit) = UNITS.into_iter().find(fits).unwrap_or(("bit", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

/// Returns the rate that a text most likely means: a fraction, another spelling of a unit, or bytes (a capital B).
fn meant(text: &str) -> Option<BitRate> {
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = text.get(digits.len()..)?.trim();
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let prefix = unit.chars().next()?.to_ascii_lowercase();
    let (prefix, rest) = match prefix {
        'k' => (1_000, unit.get(1..)?),
        'm' => (1_000_000, unit.get(1..)?),
        'g' => (1_000_000_000, unit.get(1..)?),
        _ => (1, unit),
    };
    let bits = match rest {
        "B" | "B/s" | "Bps" | "byte" | "bytes" | "Byte" | "Bytes" => BITS,
        _ if ["", "b", "b/s", "bps", "bit", "bits", "bit/s", "ibit"]
            .iter()
            .any(|known| rest.eq_ignore_ascii_case(known)) =>
        {
            1
        }
        _ => return None,
    };
    let unit: u64 = prefix * bits;
    // Nine digits are as exact as the largest unit.
    let fraction = format!("{fraction:0<9}");
    let fraction = fraction.get(..9).filter(|_| fraction.len() == 9)?;
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let part = fraction.parse::<u64>().ok()?.checked_mul(unit)? / 1_000_000_000;
    BitRate::of_bytes(whole.checked_add(part)? / BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written() {
        for (text, bits) in [
            ("8kbit", 8_000),
            ("64kbit", 64_000),
            ("100Mbit", 100_000_000),
            ("1500Mbit", 1_500_000_000),
            ("10Gbit", 10_000_000_000),
            ("8008bit", 8_008),
        ] {
            let rate: BitRate = text.parse().unwrap();
            assert_eq!(
                (rate.bits(), rate.bytes(), rate.to_string()),
                (bits, bits / 8, text.into())
            );
            assert_eq!(BitRate::of_bytes(rate.bytes()), Some(rate));
        }
        assert_eq!("1000Mbit".parse::<BitRate>().unwrap().to_string(), "1Gbit");
        assert_eq!("0100kbit".parse::<BitRate>().unwrap().to_string(), "100kbit");
    }

    #[test]
    fn what_is_no_rate_is_named_with_the_nearest_one() {
        let nearest = |text: &str| {
            let error = text.parse::<BitRate>().unwrap_err();
            (error.nearest().map(|rate| rate.to_string()), error.to_string())
        };
        let form = "is not a rate; rates are whole numbers of bit, kbit, Mbit or Gbit a second, such as 100Mbit";
        for (text, meant) in [
            ("100Mb", Some("100Mbit")),
            ("100mbit", Some("100Mbit")),
            ("100M", Some("100Mbit")),
            ("100Mbps", Some("100Mbit")),
            ("100 Mbit", Some("100Mbit")),
            ("1.5Gbit", Some("1500Mbit")),
            ("10MB", Some("80Mbit")),
            ("10MB/s", Some("80Mbit")),
            ("1KB", Some("8kbit")),
            ("100", None),
            ("", None),
            ("Mbit", None),
            ("-1Mbit", None),
            ("+1Mbit", Some("1Mbit")),
            ("many", None),
            ("1Tbit", None),
            ("100Mbitt", None),
            ("\u{661}Mbit", None),
        ] {
            let expected = (meant.map(str::to_owned), format!("{text:?} {form}"));
            assert_eq!(nearest(text), expected, "{text}");
        }
        for text in
            ["0Mbit", "0bit", "7999bit", "11Gbit", "10000000001bit", "99999999999999999999Gbit"]
        {
            let expected = format!("{text} is out of range; rates are 8kbit to 10Gbit");
            assert_eq!(nearest(text), (None, expected));
        }
        assert_eq!(
            nearest("8001bit"),
            (Some("8kbit".into()), "8001bit is not a whole number of bytes a second".into())
        );
    }

    #[test]
    fn limits_are_one_word() {
        let rate = |text: &str| text.parse().ok();
        for (word, egress, ingress) in [
            ("", None, None),
            ("100Mbit", rate("100Mbit"), None),
            (",1Gbit", None, rate("1Gbit")),
            ("100Mbit,1Gbit", rate("100Mbit"), rate("1Gbit")),
        ] {
            let limits = Limits { egress, ingress };
            assert_eq!((limits.to_string().as_str(), word.parse()), (word, Ok(limits)));
        }
        for other in ["1,2", "100Mbit,,,,,,", "x"] {
            assert!(other.parse::<Limits>().is_err(), "{other}");
        }
    }
}

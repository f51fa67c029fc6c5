use std::{fmt, str::FromStr};

/// A file that the VMM needs: its source, and its checksum if one is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    source: String,
    sha256: Option<Sha256>,
}

/// The reason why a text is not the source of an [`Image`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the path or URL is empty")]
pub struct EmptySource;

impl Image {
    /// Returns the image with this source, an uninterpreted path or URL, and this checksum.
    ///
    /// # Errors
    /// Fails if `source` is empty.
    pub fn new(source: impl Into<String>, sha256: Option<Sha256>) -> Result<Self, EmptySource> {
        let source = source.into();
        if source.is_empty() { Err(EmptySource) } else { Ok(Self { source, sha256 }) }
    }

    /// Returns the path or the URL, which is not empty.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the checksum that the file must have.
    #[must_use]
    pub const fn sha256(&self) -> Option<Sha256> {
        self.sha256
    }
}

/// A checksum (FIPS 180-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

/// The reason why a text is not a [`Sha256`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not 64 hexadecimal digits")]
pub struct Sha256Error {
    /// The text as given.
    pub text: String,
}

impl Sha256 {
    /// Returns the checksum with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl FromStr for Sha256 {
    type Err = Sha256Error;

    fn from_str(text: &str) -> Result<Self, Sha256Error> {
        let wrong = || Sha256Error { text: crate::excerpt::excerpt(text) };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
        let bytes: Vec<u8> = bytes.collect::<Option<_>>().ok_or_else(wrong)?;
        if rest.is_empty() {
            bytes.try_into().map(Self).map_err(|_length| wrong())
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for Sha256 {
    /// Writes the digits in lower case, as sha256sum(1) does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_64_digits() {
        let text = "0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef";
        let sum: Sha256 = text.parse().unwrap();
        assert_eq!(sum.to_string(), text.to_lowercase());
        assert_eq!(sum.bytes()[..2], [0x01, 0x23]);
        for wrong in ["", "00", &"0".repeat(63), &format!("{text}0"), &text.replace('0', "g")] {
            assert!(wrong.parse::<Sha256>().is_err(), "{wrong}");
        }
        assert!("é".repeat(32).parse::<Sha256>().is_err());
    }
}

use std::{
    fmt,
    io::{self, Read},
};

use sha2::{Digest as _, Sha256};

/// The number of bytes read at once.
pub(super) const CHUNK: usize = 128 * 1024;

/// A SHA-256 (FIPS 180-4); prints as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Returns the digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Returns the digest of everything that the reader yields.
    ///
    /// # Errors
    /// Fails if the reader fails.
    pub fn of_reader(reader: impl Read) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        update(&mut hasher, reader)?;
        Ok(Self(hasher.finalize().into()))
    }
}

/// Adds everything that the reader yields.
pub(super) fn update(hasher: &mut Sha256, mut reader: impl Read) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => hasher.update(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_match_the_standard() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_string(), abc);
        assert_eq!(Digest::of_reader(&b"abc"[..]).unwrap().to_string(), abc);
        let long = vec![7; 3 * CHUNK + 1];
        assert_eq!(Digest::of_reader(long.as_slice()).unwrap(), Digest::of(&long));
    }
}

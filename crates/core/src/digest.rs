//! Numbers that names are made of: other contents have another number, also if somebody chooses them.

use sha2::{Digest, Sha256};

/// Returns the first 64 bits of the SHA-256 (FIPS 180-4) of these parts, one after another.
pub(crate) fn of_parts(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> u64 {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    let digest = digest.finalize();
    digest.iter().take(8).fold(0, |number, octet| number << 8 | u64::from(*octet))
}

/// Returns the same of words, none of which has a NUL: each ends with one, so that it matters where a word ends.
pub fn of_words<'w>(words: impl IntoIterator<Item = &'w str>) -> u64 {
    of_parts(words.into_iter().flat_map(|word| [word.as_bytes(), &[0]]))
}

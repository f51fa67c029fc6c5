/// The prefixes of words by which a kernel configures its NIC (`net/ipv4/ipconfig.c`).
const ADDRESS: [&str; 2] = ["ip=", "nfsaddrs="];

/// Words of a kernel's command line: none of them gives the guest an address, and all are on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootArgs(String);

/// The reason why a text is not [`BootArgs`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootArgsError {
    /// A word by which the kernel would configure its NIC.
    #[error(
        "{word:?} would give the guest another address than its slot's, which ip= is set to already"
    )]
    Address {
        /// The word.
        word: String,
    },
    /// A newline, a NUL or another character that ends a line or a string.
    #[error(
        "there is {character:?} at position {position}; a kernel's command line is one line of text"
    )]
    Character {
        /// The first such character.
        character: char,
        /// Its position, counted from 1.
        position: usize,
    },
}

impl BootArgs {
    /// Returns the words as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for BootArgs {
    type Error = BootArgsError;

    fn try_from(text: &str) -> Result<Self, BootArgsError> {
        let unprintable = |&(_, c): &(usize, char)| c.is_control() && c != '\t';
        if let Some((index, character)) = text.chars().enumerate().find(unprintable) {
            return Err(BootArgsError::Character { character, position: index + 1 });
        }
        let address = |word: &&str| {
            let word = word.strip_prefix('"').unwrap_or(word);
            ADDRESS.iter().any(|name| word.starts_with(name))
        };
        match words(text).find(address) {
            Some(word) => Err(BootArgsError::Address { word: crate::excerpt::excerpt(word) }),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// Returns the words of a command line: white space ends one, except between quotes (`next_arg` of the kernel's
/// `lib/cmdline.c`).
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let ends = move |c: char| {
        quoted ^= c == '"';
        !quoted && c.is_ascii_whitespace()
    };
    text.split(ends).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_does_not_get_a_second_address() {
        let refused = |text: &str| BootArgs::try_from(text).unwrap_err().to_string();
        for text in
            ["ip=dhcp", "nfsaddrs=dhcp", "quiet ip=dhcp", "a=\"b c\"\tip=dhcp", "quiet \"ip=dhcp\""]
        {
            assert!(refused(text).ends_with("which ip= is set to already"), "{text}");
        }
        for text in ["", "quiet", "ipv6.disable=1", "x.ip=1", "a=\"b ip=dhcp\"", "\t"] {
            assert_eq!(BootArgs::try_from(text).unwrap().as_str(), text);
        }
        assert_eq!(
            refused("a\nb"),
            "there is '\\n' at position 2; a kernel's command line is one line of text"
        );
        assert!(refused("ab\0").contains("'\\0' at position 3"));
    }
}

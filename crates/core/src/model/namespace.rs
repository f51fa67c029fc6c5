use std::fmt;

/// A network namespace: the file that leads to it, and the number by which the kernel knows it.
///
/// The file may lead to another namespace later, or to none. The number tells them apart: it is that of no other
/// namespace as long as this one exists, and so as long as an interface is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespace {
    /// The path of the file; `None` if no file was named, or its name was lost with the records.
    pub path: Option<NamespacePath>,
    /// The number, as in `net:[4026532567]` (namespaces(7)); `None` until the file was looked at.
    pub id: Option<NamespaceId>,
}

/// The number of a network namespace: the inode number of its file (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId(u32);

impl NamespaceId {
    /// Creates the number. The kernel has none above the range of 32 bits (`ns_alloc_inum` of `include/linux/proc_ns.h`).
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.0)
    }
}

/// The absolute path of a file that leads to a network namespace: 2 to 128 bytes without white space, such as
/// `/run/netns/web` (ip-netns(8)) and `/proc/4711/ns/net`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamespacePath(String);

/// The reason why a text is not a [`NamespacePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not the absolute path of a network namespace; these have up to {} bytes, without white space",
    NamespacePath::MAX_LENGTH
)]
pub struct NamespacePathError {
    text: String,
}

impl NamespacePath {
    /// The longest path, in bytes: it has to fit the alias of an interface, beside the name of its instance.
    pub const MAX_LENGTH: usize = 128;

    /// Returns the path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for NamespacePath {
    type Err = NamespacePathError;

    fn from_str(text: &str) -> Result<Self, NamespacePathError> {
        let unfit = |c: char| c.is_whitespace() || c.is_control();
        let fits = text.starts_with('/')
            && (2..=Self::MAX_LENGTH).contains(&text.len())
            && !text.contains(unfit);
        fits.then(|| Self(text.to_owned()))
            .ok_or_else(|| NamespacePathError { text: crate::excerpt::excerpt(text) })
    }
}

impl fmt::Display for NamespacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_and_one_word() {
        let longest = format!("/{}", "n".repeat(127));
        for path in ["/run/netns/web", "/proc/1/ns/net", &longest] {
            assert_eq!(path.parse::<NamespacePath>().map(|p| p.to_string()), Ok(path.to_owned()));
        }
        for path in ["", "/", "web", "/run/my netns", "/run/a\nb", &format!("{longest}x")] {
            assert!(path.parse::<NamespacePath>().is_err(), "{path:?}");
        }
        assert_eq!(NamespaceId::new(4_026_532_567).to_string(), "net:[4026532567]");
    }
}

use std::fmt;

/// The name of a network interface: 1 to 15 bytes (`IFNAMSIZ` of `<linux/if.h>` less the final NUL), without `/`, `:`
/// and white space, and neither `.` nor `..` (`dev_valid_name` in the kernel). Nor has it a `%`, by which the kernel is
/// asked to choose a name (`dev_prep_valid_name`), and it is neither `all` nor `default`, which are directories of
/// sysctls (`sysctl_dev_name_is_allowed`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

/// A text that cannot be the name of an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an interface name; these have 1 to 15 bytes, without '/', ':', '%' and white space, and are neither all nor \
     default"
)]
pub struct InterfaceNameError {
    text: String,
}

impl InterfaceName {
    /// The longest name, in bytes.
    pub const MAX_LENGTH: usize = 15;

    /// Returns `eth0`, the usual name of the first interface of a container and of a guest.
    #[must_use]
    pub fn eth0() -> Self {
        Self("eth0".to_owned())
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for InterfaceName {
    type Error = InterfaceNameError;

    fn try_from(text: &str) -> Result<Self, InterfaceNameError> {
        let forbidden = |c: char| matches!(c, '/' | ':' | '%' | '\0') || c.is_whitespace();
        if text.is_empty()
            || text.len() > Self::MAX_LENGTH
            || matches!(text, "." | ".." | "all" | "default")
            || text.contains(forbidden)
        {
            return Err(InterfaceNameError { text: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl std::str::FromStr for InterfaceName {
    type Err = InterfaceNameError;

    fn from_str(text: &str) -> Result<Self, InterfaceNameError> {
        Self::try_from(text)
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

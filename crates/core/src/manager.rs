//! The programs that configure a host's interfaces, and the files by which they leave ours alone. Pure.
//!
//! A network manager takes a TAP for a network card: it removes addresses that it does not know, and asks on the TAP
//! for an address and a route.

use std::fmt;

use crate::{address::Slot, model::Owner};

/// The beginning of the line that marks a file as ours; the owner follows.
const MARK: &str = "# riklet-sdn ";

/// A network manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Manager {
    /// systemd-networkd.
    Networkd,
    /// `NetworkManager`.
    NetworkManager,
}

impl Manager {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Networkd, Self::NetworkManager];

    /// Returns the name of the program.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Networkd => "systemd-networkd",
            Self::NetworkManager => "NetworkManager",
        }
    }

    /// Returns the directory for volatile files. A host without it has no such manager.
    #[must_use]
    pub const fn directory(self) -> &'static str {
        match self {
            Self::Networkd => "/run/systemd",
            Self::NetworkManager => "/run/NetworkManager",
        }
    }

    /// Returns the directory and the name of our file below [`Self::directory`].
    ///
    /// The names decide which file wins: systemd-networkd applies the first file by name that matches an interface
    /// (systemd.network(5)), and `NetworkManager` the last file that sets a value (`NetworkManager.conf(5)`).
    #[must_use]
    pub const fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::Networkd => ("network", "0-riklet-sdn.network"),
            Self::NetworkManager => ("conf.d", "zz-riklet-sdn.conf"),
        }
    }

    /// Returns the path of our file.
    #[must_use]
    pub fn path(self) -> String {
        let (directory, name) = self.file();
        format!("{}/{directory}/{name}", self.directory())
    }

    /// Returns the contents of our file.
    #[must_use]
    pub fn text(self, owner: &Owner) -> String {
        let ours = Slot::PREFIX;
        let settings = match self {
            Self::Networkd => format!("[Match]\nName={ours}*\n\n[Link]\nUnmanaged=yes\n"),
            // A later file may replace the list of the first section.
            Self::NetworkManager => format!(
                "[keyfile]\nunmanaged-devices+=interface-name:{ours}*\n\n\
                 [device-riklet-sdn]\nmatch-device=interface-name:{ours}*\nmanaged=0\n"
            ),
        };
        format!("{MARK}{owner}\n# `riklet-sdn down --all --purge` removes this file.\n{settings}")
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Returns the owner that a file names; `None` if it is not ours.
#[must_use]
pub fn owner(text: &str) -> Option<Owner> {
    text.lines().next()?.strip_prefix(MARK)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OwnerId;

    #[test]
    fn a_file_names_its_owner() {
        let mine = Owner::new(OwnerId::new(7), "/run/riklet-sdn");
        for manager in Manager::ALL {
            assert_eq!(owner(&manager.text(&mine)), Some(mine.clone()));
        }
        for foreign in ["", "[Match]\nName=*\n", "# riklet-sdn\n", "\n# riklet-sdn 7 /x\n"] {
            assert_eq!(owner(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn networkd_reads_our_file_before_those_of_others() {
        let (_, ours) = Manager::Networkd.file();
        for other in ["00-all.network", "05-lan.network", "10-x.network", "99-default.network"] {
            assert!(ours < other, "{other}");
        }
    }

    /// Returns the lines that are no comments.
    fn settings(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn packages_install_the_same_files() {
        let packaged = [
            (Manager::Networkd, include_str!("../../../contrib/systemd/0-riklet-sdn.network")),
            (
                Manager::NetworkManager,
                include_str!("../../../contrib/NetworkManager/zz-riklet-sdn.conf"),
            ),
        ];
        for (manager, text) in packaged {
            let ours = manager.text(&Owner::new(OwnerId::new(7), "/run/riklet-sdn"));
            assert_eq!(settings(&ours), settings(text));
        }
    }
}

//! The programs that configure a host's interfaces or own its firewall, and the files that tell them about our
//! interfaces. Pure.
//!
//! A network manager takes a TAP for a network card: it removes addresses that it does not know, and asks on the TAP
//! for an address and a route. A firewalld that owns its table cannot be passed in any other way than by its own
//! configuration.

use std::fmt;

use crate::{
    address::Slot,
    model::{Owner, OwnerId},
};

/// The beginning of the line that marks a file as ours; the owner follows.
const MARK: &str = "# riklet-sdn ";
/// The same in an XML file, whose declaration may be missing, and in which a comment must not have two hyphens.
const XML_MARK: [&str; 2] = ["<?riklet-sdn ", "?>"];

/// A program that has to know about our interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Manager {
    /// systemd-networkd.
    Networkd,
    /// `NetworkManager`.
    NetworkManager,
    /// firewalld.
    Firewalld,
}

/// A file of ours in the configuration of a [`Manager`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ManagerFile {
    /// Makes our interfaces unmanaged for systemd-networkd.
    Networkd,
    /// Makes our interfaces unmanaged for `NetworkManager`.
    NetworkManager,
    /// The zone of our interfaces in firewalld.
    FirewalldZone,
    /// The policy of firewalld for packets from functions.
    FirewalldFrom,
    /// The policy of firewalld for packets to functions.
    FirewalldTo,
}

impl Manager {
    /// Returns the name of the program.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Networkd => "systemd-networkd",
            Self::NetworkManager => "NetworkManager",
            Self::Firewalld => "firewalld",
        }
    }

    /// Returns the directory that our files are in, or below. A host without it has no such program. That of firewalld
    /// is not volatile: it has none that is.
    #[must_use]
    pub const fn directory(self) -> &'static str {
        match self {
            Self::Networkd => "/run/systemd",
            Self::NetworkManager => "/run/NetworkManager",
            Self::Firewalld => "/etc/firewalld",
        }
    }
}

impl ManagerFile {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Networkd,
        Self::NetworkManager,
        Self::FirewalldZone,
        Self::FirewalldFrom,
        Self::FirewalldTo,
    ];

    /// Returns the program that reads the file.
    #[must_use]
    pub const fn manager(self) -> Manager {
        match self {
            Self::Networkd => Manager::Networkd,
            Self::NetworkManager => Manager::NetworkManager,
            Self::FirewalldZone | Self::FirewalldFrom | Self::FirewalldTo => Manager::Firewalld,
        }
    }

    /// Returns the directory below [`Manager::directory`], and the name.
    ///
    /// The names decide which file wins: systemd-networkd applies the first file by name that matches an interface
    /// (systemd.network(5)), and `NetworkManager` the last file that sets a value (`NetworkManager.conf(5)`). In
    /// firewalld they are the names of the zone and the policies (firewalld.zone(5)).
    #[must_use]
    pub const fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Networkd => ("network", "0-riklet-sdn.network"),
            Self::NetworkManager => ("conf.d", "zz-riklet-sdn.conf"),
            Self::FirewalldZone => ("zones", "riklet.xml"),
            Self::FirewalldFrom => ("policies", "riklet-from.xml"),
            Self::FirewalldTo => ("policies", "riklet-to.xml"),
        }
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(self) -> String {
        let (directory, name) = self.place();
        format!("{}/{directory}/{name}", self.manager().directory())
    }

    /// Returns the contents of the file.
    #[must_use]
    pub fn text(self, owner: &Owner) -> String {
        if self.manager() == Manager::Firewalld {
            let [before, after] = XML_MARK;
            return format!("{before}{}{after}\n{}", owner.id(), self.settings());
        }
        let removal = "# `riklet-sdn down --all --purge` removes this file.\n";
        format!("{MARK}{owner}\n{removal}{}", self.settings())
    }

    fn settings(self) -> String {
        let ours = Slot::PREFIX;
        match self {
            Self::Networkd => format!("[Match]\nName={ours}*\n\n[Link]\nUnmanaged=yes\n"),
            // A later file may replace the list of the first section.
            Self::NetworkManager => format!(
                "[keyfile]\nunmanaged-devices+=interface-name:{ours}*\n\n\
                 [device-riklet-sdn]\nmatch-device=interface-name:{ours}*\nmanaged=0\n"
            ),
            Self::FirewalldZone => format!(
                "<zone>\n  <short>Riklet SDN</short>\n  <description>The interfaces of functions. What they may reach is \
                 decided by Riklet SDN; the host itself refuses what is not allowed here.</description>\n  \
                 <interface name=\"{ours}+\"/>\n</zone>\n"
            ),
            Self::FirewalldFrom => policy(
                "from functions",
                "Lets forwarded packets of functions pass.",
                ["riklet", "ANY"],
            ),
            Self::FirewalldTo => policy(
                "to functions",
                "Lets packets for published ports of functions pass.",
                ["ANY", "riklet"],
            ),
        }
    }
}

/// Returns a policy of firewalld that accepts everything from one zone to another (firewalld.policy(5)).
fn policy(short: &str, description: &str, [from, to]: [&str; 2]) -> String {
    format!(
        "<policy target=\"ACCEPT\">\n  <short>Riklet SDN, {short}</short>\n  <description>{description} Riklet SDN \
         decides which there are.</description>\n  <ingress-zone name=\"{from}\"/>\n  <egress-zone name=\"{to}\"/>\n\
         </policy>\n"
    )
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Returns the owner that a file names; `None` if it is not ours.
#[must_use]
pub fn owner(text: &str) -> Option<OwnerId> {
    let first = text.lines().next()?;
    let [before, after] = XML_MARK;
    if let Some(id) = first.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)) {
        return id.parse().ok();
    }
    first.strip_prefix(MARK)?.parse::<Owner>().ok().map(|owner| owner.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mine() -> Owner {
        Owner::new(OwnerId::new(7), "/run/riklet--sdn")
    }

    #[test]
    fn a_file_names_its_owner() {
        for file in ManagerFile::ALL {
            assert_eq!(owner(&file.text(&mine())), Some(mine().id()));
        }
        let foreign = ["", "[Match]\nName=*\n", "# riklet-sdn\n", "\n# riklet-sdn 7 /x\n"];
        for foreign in foreign.into_iter().chain(["<zone>\n", "<?riklet-sdn 7?>\n<zone/>"]) {
            assert_eq!(owner(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn networkd_reads_our_file_before_those_of_others() {
        let (_, ours) = ManagerFile::Networkd.place();
        for other in ["00-all.network", "05-lan.network", "10-x.network", "99-default.network"] {
            assert!(ours < other, "{other}");
        }
    }

    /// Returns the lines that are no comments, declarations or processing instructions.
    fn settings(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("<?")).collect()
    }

    #[test]
    fn packages_install_the_same_files() {
        let packaged = [
            include_str!("../../../contrib/systemd/0-riklet-sdn.network"),
            include_str!("../../../contrib/NetworkManager/zz-riklet-sdn.conf"),
            include_str!("../../../contrib/firewalld/zones/riklet.xml"),
            include_str!("../../../contrib/firewalld/policies/riklet-from.xml"),
            include_str!("../../../contrib/firewalld/policies/riklet-to.xml"),
        ];
        for (file, text) in ManagerFile::ALL.into_iter().zip(packaged) {
            assert_eq!(settings(&file.text(&mine())), settings(text), "{file:?}");
        }
    }
}

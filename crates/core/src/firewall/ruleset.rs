use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::Confinement;
use crate::model::{InterfaceName, Mark, Owner, Pool, Protocol};

/// Who enforces the ruleset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// nf_tables by netlink: the table `inet riklet`.
    Nftables,
    /// `iptables-restore`: the chains `RIKLET*`.
    Iptables(IptablesVariant),
}

/// Which of the two programs that share the name `iptables`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IptablesVariant {
    /// On top of nf_tables (`iptables -V` says `nf_tables`).
    Nft,
    /// On top of x_tables (`iptables -V` says `legacy`, or nothing).
    Legacy,
}

impl Backend {
    /// Every backend there is.
    pub const ALL: [Self; 3] = [
        Self::Nftables,
        Self::Iptables(IptablesVariant::Nft),
        Self::Iptables(IptablesVariant::Legacy),
    ];

    /// The name, as the store, the configuration and the output have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables(IptablesVariant::Nft) => "iptables-nft",
            Self::Iptables(IptablesVariant::Legacy) => "iptables-legacy",
        }
    }

    /// The backend of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.as_str() == name)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the firewall must mean, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// What does not depend on the instances.
    pub base_ruleset: BaseRuleset,
    /// What the instances need.
    pub entries: BTreeSet<Entry>,
}

/// The part of a ruleset that does not depend on the instances:
///
/// * a packet to one of the host's own addresses goes through the exposures, whether it is sent here or
///   arrives; to 127.0.0.0/8 only where it is sent here, or a neighbour on the link would reach what is bound
///   to 127.0.0.1;
/// * from one of our interfaces passes: what is established, what an exposure translated, and what goes from
///   a guest's address out of an uplink; to one of our interfaces: what is established, and what an exposure
///   translated; nothing else from or to our interfaces is forwarded;
/// * masqueraded is: a guest's address out of an uplink; 127.0.0.0/8 into one of our interfaces; a guest that
///   reaches itself (hairpin); nothing else;
/// * a guest does not send to or from 127.0.0.0/8, which `route_localnet` would otherwise let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRuleset {
    /// The guests' addresses.
    pub pool: Pool,
    /// The interfaces of the host's default route; none where it has no default route.
    pub uplinks: BTreeSet<InterfaceName>,
    /// What our own forwarding made possible besides.
    pub confined: Confinement,
    /// The state directory that it belongs to; `None` names none, as earlier versions did.
    pub owner: Option<Owner>,
}

/// The part of a ruleset that an instance needs, in the unit that a backend adds and removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// A port of the host leads to a port of a guest.
    Exposure {
        /// The transport protocol.
        protocol: Protocol,
        /// The address of the host that it is bound to; `None` is every one.
        host_address: Option<IpAddr>,
        /// The host's port, never 0.
        host_port: u16,
        /// The guest's address.
        guest: IpAddr,
        /// The guest's port, never 0.
        guest_port: u16,
    },
    /// What this guest sends to itself by way of the host is masqueraded, or the answer would not come back.
    Hairpin {
        /// The guest's address.
        guest: IpAddr,
    },
}

impl Entry {
    /// The guest that it is for.
    #[must_use]
    pub const fn guest(&self) -> IpAddr {
        match self {
            Self::Exposure { guest, .. } | Self::Hairpin { guest } => *guest,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exposure { protocol, host_address, host_port, guest, guest_port } => {
                write!(f, "{protocol} ")?;
                match host_address {
                    Some(address) => write!(f, "{}", SocketAddr::new(*address, *host_port))?,
                    None => write!(f, "{host_port}")?,
                }
                write!(f, " -> {}", SocketAddr::new(*guest, *guest_port))
            }
            Self::Hairpin { guest } => write!(f, "hairpin {guest}"),
        }
    }
}

/// One transaction: all of it is done, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Whatever of ours there is gives way to this.
    Reset(Ruleset),
    /// Where the skeleton stands: remove entries, then add entries.
    ///
    /// It is refused as a whole where the skeleton is missing, where an entry to be removed is missing, or
    /// where the key of an entry to be added is taken; then what is there is not what the caller believes.
    Delta {
        /// Entries that are there and shall not be.
        remove: BTreeSet<Entry>,
        /// Entries that are not there and shall be.
        add: BTreeSet<Entry>,
        /// The owner of the base ruleset.
        owner: Option<Owner>,
    },
    /// Nothing of ours remains.
    Remove,
}

/// What the firewall has of ours, held against an expected ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallState {
    /// The part that does not depend on instances.
    pub base_ruleset: BaseState,
    /// The entries found. A backend whose rules cannot be read back as entries reports those of the
    /// expected ones that it found, and the rest as `strays`.
    pub entries: BTreeSet<Entry>,
    /// What stands in our chains and is no entry, or no expected one, in the backend's own words.
    pub strays: Vec<String>,
    /// The marks on what was found; none where the table is missing.
    pub marks: BTreeSet<Mark>,
}

impl FirewallState {
    /// There is nothing of ours.
    #[must_use]
    pub const fn absent() -> Self {
        Self {
            base_ruleset: BaseState::Absent,
            entries: BTreeSet::new(),
            strays: vec![],
            marks: BTreeSet::new(),
        }
    }

    /// Why the ruleset is replaced as a whole, one line a reason; none where single entries are all that may
    /// differ.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        let base_ruleset = match &self.base_ruleset {
            BaseState::Absent => vec!["the table is missing".to_owned()],
            BaseState::Intact => vec![],
            BaseState::Altered(lines) => lines.clone(),
        };
        let strays = self.strays.iter().map(|stray| format!("unexpected: {stray}"));
        base_ruleset.into_iter().chain(strays).collect()
    }
}

/// Whether the skeleton stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseState {
    /// There is nothing of ours.
    Absent,
    /// As expected.
    Intact,
    /// Something of ours is there, and it differs: one line a difference.
    Altered(Vec<String>),
}

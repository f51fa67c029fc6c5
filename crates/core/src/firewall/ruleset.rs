use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Confinement;
use crate::{
    flows::Flows,
    model::{
        Bracketed, Egress, Family, FlowLimit, InterfaceName, Ipv6Unsupported, Mark, Owner, Pool,
        PortRange, Protocol, ProxyAddress,
    },
    names::NamesToken,
    reach::Block,
    routing::UplinkMarks,
};

/// A firewall that enforces the ruleset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// nf_tables by netlink: the table `inet riklet`.
    Nftables,
    /// `iptables-restore`: the chains `RIKLET*`.
    Iptables(IptablesVariant),
}

/// A variant of iptables: two programs share the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IptablesVariant {
    /// On top of nf_tables (`iptables -V` says `nf_tables`).
    Nft,
    /// On top of x_tables (`iptables -V` says `legacy`, or nothing).
    Legacy,
}

impl Backend {
    /// All backends.
    pub const ALL: [Self; 3] = [
        Self::Nftables,
        Self::Iptables(IptablesVariant::Nft),
        Self::Iptables(IptablesVariant::Legacy),
    ];

    /// Returns the name, as in the store, the configuration and the output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables(IptablesVariant::Nft) => "iptables-nft",
            Self::Iptables(IptablesVariant::Legacy) => "iptables-legacy",
        }
    }

    /// Returns the backend of this name.
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

/// The meaning of the whole ruleset, without the rules of any backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The part that does not depend on instances.
    pub base_ruleset: BaseRuleset,
    /// The parts that instances need.
    pub entries: BTreeSet<Entry>,
}

/// The reason why a backend has no form of an [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// It has an IPv6 address.
    #[error(transparent)]
    Ipv6(#[from] Ipv6Unsupported),
    /// It stands in a table of nf_tables, whatever the backend is.
    #[error("iptables has no policies of functions")]
    Policy,
}

/// The part of a ruleset that does not depend on instances.
///
/// * Exposures apply to packets for the host's own addresses, whether the host sends them or they arrive. For
///   127.0.0.0/8 they apply only to packets that the host sends: otherwise a neighbour on the link would reach the
///   ports that are published on 127.0.0.1.
/// * Packets from our interfaces are forwarded if they are established, if an exposure translated them, or if they go
///   from a guest's address out of an uplink, as far as [`Egress`] goes. Packets for an address of the host that another
///   program translated are forwarded as well: ports that others publish on the host are published to guests. Packets to a
///   public address are also forwarded out of any other interface that is not ours: the kernel chooses the uplink, and may
///   choose one that came later. Packets to our interfaces are forwarded if they are established, or if an exposure
///   translated them. All other packets from our interfaces are refused, and all others to them dropped.
/// * A guest with a policy of its own ([`Entry::Policy`]) goes as far as that says, where [`Egress`] is asked.
/// * Packets from our interfaces reach the host itself if they are established, if anybody translated them, if they are
///   echo requests, or if they are for a name server, unless [`Egress`] says otherwise.
/// * Masqueraded are packets from a guest's address out of an interface that is not ours, from 127.0.0.0/8 into one of our
///   interfaces, and from a guest to itself (hairpin); nothing else.
/// * TCP connections from and to our interfaces have segments that fit these. Those that are forwarded have segments that
///   fit the routes to both ends.
/// * Connections to guests that an exposure translated, and that come in by an uplink with a mark, are marked. Packets of
///   guests that belong to one have the mark when they are routed.
/// * A packet from our interfaces that begins a flow is dropped if its source has begun as many as [`FlowLimit`] allows, or
///   begins them too fast.
/// * Packets from guests from or to 127.0.0.0/8 are dropped: `route_localnet` would let them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRuleset {
    /// The guests' addresses.
    pub pool: Pool,
    /// The MTU of our interfaces, in bytes.
    pub mtu: u32,
    /// The interfaces of the host's default route; none if it has no default route.
    pub uplinks: BTreeSet<InterfaceName>,
    /// True if guests reach public addresses by any interface that is not ours; false if the uplinks are configured.
    pub any_uplink: bool,
    /// The reach of guests beyond published ports.
    pub egress: Egress,
    /// The flows that each guest may have at a time, of those that it begins.
    pub flows: FlowLimit,
    /// The traffic of others that only our forwarding makes possible.
    pub confined: Confinement,
    /// The marks of uplinks whose answers are routed by them.
    pub marks: UplinkMarks,
    /// The state directory that owns it; `None` names none, as earlier versions did.
    pub owner: Option<Owner>,
}

/// The ranges of IPv4 that are not public: this network, private use, shared address space, loopback, link-local (with
/// the metadata services of clouds), and everything from multicast up (RFC 6890). Ranges for documentation are ordinary
/// addresses here.
pub(crate) const SPECIAL_RANGES: [Ipv4Net; 8] = [
    Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// The range of IPv6 that is public: global unicast (RFC 4291, section 2.4). Everything else is not, such as unique local,
/// link-local and site-local addresses, multicast, and those that lead to IPv4 by a translator (RFC 6052).
pub(crate) const PUBLIC_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// The ranges in it that are not public: those that lead to IPv4 by a tunnel, Teredo (RFC 4380) and 6to4 (RFC 3056).
pub(crate) const SPECIAL_RANGES_V6: [Ipv6Net; 2] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// The reason why an address is not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    /// It is in this range.
    In(IpNet),
    /// It is outside of [`PUBLIC_V6`].
    Outside,
}

impl Special {
    /// Returns the reason why an address is not public; `None` if it is.
    pub(crate) fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => {
                let range = SPECIAL_RANGES.into_iter().find(|range| range.contains(&address));
                range.map(|range| Self::In(range.into()))
            }
            IpAddr::V6(address) if !PUBLIC_V6.contains(&address) => Some(Self::Outside),
            IpAddr::V6(address) => {
                let range = SPECIAL_RANGES_V6.into_iter().find(|range| range.contains(&address));
                range.map(|range| Self::In(range.into()))
            }
        }
    }
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(range) => range.fmt(f),
            Self::Outside => write!(f, "addresses outside of {PUBLIC_V6}"),
        }
    }
}

/// The ports of name servers (RFC 1035, section 4.2).
pub(crate) const NAME_SERVERS: [(Protocol, u16); 2] = [(Protocol::Udp, 53), (Protocol::Tcp, 53)];
/// The port by which mail servers take mail from each other (RFC 5321): what leaves there by a node's address is the
/// node's.
pub(crate) const MAIL: (Protocol, u16) = (Protocol::Tcp, 25);

/// A part of a ruleset that an instance needs: the unit that a backend adds and removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// Leads ports of the host to as many ports of a guest, the first to the first and so on.
    Exposure {
        /// The transport protocol.
        protocol: Protocol,
        /// The address of the host that it is bound to; `None` stands for every address.
        host_address: Option<IpAddr>,
        /// The host's ports.
        host_ports: PortRange,
        /// The guest's address.
        guest: IpAddr,
        /// The guest's ports.
        guest_ports: PortRange,
    },
    /// Masquerades packets that a guest sends to itself by way of the host: otherwise the answers would not come back
    /// the same way.
    Hairpin {
        /// The guest's address.
        guest: IpAddr,
    },
    /// Drops what a guest with a policy begins unless the policy was asked. Only iptables has it: there the policies stand in
    /// a table beside it, whose loss must open nothing.
    Judged {
        /// The guest's address.
        guest: IpAddr,
    },
    /// Gives a guest a reach of its own, beyond what its [`Entry::Reach`] say.
    Policy {
        /// The guest's address.
        guest: IpAddr,
        /// The reach.
        reach: Egress,
    },
    /// Lets a guest begin connections to some destinations, or refuses them, whatever its reach is. No two of one guest and
    /// place overlap.
    Reach {
        /// The guest's address.
        guest: IpAddr,
        /// True if the destination is the host itself, by whichever address; false if packets are forwarded.
        host: bool,
        /// The destinations.
        block: Block,
        /// False if they are refused.
        allowed: bool,
    },
    /// Leads the TCP connections that a guest begins to a port beyond the host to the proxy of its policy.
    Via {
        /// The guest's address.
        guest: IpAddr,
        /// The port that it asks.
        port: u16,
        /// The proxy.
        proxy: ProxyAddress,
    },
    /// Leads a guest's questions for names to the daemon.
    Names {
        /// The guest's address.
        guest: IpAddr,
    },
    /// Lets a guest begin connections to the addresses that the daemon has told it for the names of its policy.
    Pinned {
        /// The guest's address.
        guest: IpAddr,
        /// The token of its names.
        token: NamesToken,
    },
}

impl BaseRuleset {
    /// Returns the largest TCP segment that fits our interfaces, in bytes: an IPv4 header and a TCP header have 20 each
    /// (RFC 9293, section 3.7.1), an IPv6 header has 40.
    #[must_use]
    pub fn segment_size(&self, family: Family) -> u16 {
        let headers = match family {
            Family::V4 => 40,
            Family::V6 => 60,
        };
        u16::try_from(self.mtu.saturating_sub(headers)).unwrap_or(u16::MAX)
    }
}

impl Entry {
    /// Returns the address of the guest that it is for.
    #[must_use]
    pub const fn guest(&self) -> IpAddr {
        match self {
            Self::Exposure { guest, .. }
            | Self::Hairpin { guest }
            | Self::Policy { guest, .. }
            | Self::Judged { guest }
            | Self::Reach { guest, .. }
            | Self::Via { guest, .. }
            | Self::Names { guest }
            | Self::Pinned { guest, .. } => *guest,
        }
    }

    /// Returns its guest if it says what the guest's policy names, and whether that is at the host itself; `None` if it says
    /// something else. Entries with the same are replaced together.
    #[must_use]
    pub const fn named_by_policy(&self) -> Option<(IpAddr, bool)> {
        match *self {
            Self::Reach { guest, host, .. } => Some((guest, host)),
            Self::Pinned { guest, .. } => Some((guest, false)),
            Self::Exposure { .. }
            | Self::Hairpin { .. }
            | Self::Policy { .. }
            | Self::Judged { .. }
            | Self::Via { .. }
            | Self::Names { .. } => None,
        }
    }

    /// Returns the table that it stands in, if the backend is iptables.
    #[must_use]
    pub const fn table(&self) -> EntryTable {
        match self {
            Self::Policy { .. }
            | Self::Reach { .. }
            | Self::Via { .. }
            | Self::Names { .. }
            | Self::Pinned { .. } => EntryTable::Policies,
            Self::Judged { .. } => EntryTable::Mangle,
            Self::Exposure { .. } | Self::Hairpin { .. } => EntryTable::Nat,
        }
    }

    /// Returns the flows that have to be forgotten when the entry is added: a client that keeps its port would go on
    /// talking to the former server, or be refused for as long as it tries.
    ///
    /// With TCP this does not happen: a refusal (RST) ends the flow, and an established connection may stay.
    #[must_use]
    pub fn untranslated(&self) -> Option<Flows> {
        match *self {
            Self::Exposure { protocol, host_address, host_ports, guest, .. }
                if protocol != Protocol::Tcp =>
            {
                let (family, address, ports) = (Family::of(guest), host_address, host_ports);
                Some(Flows::Untranslated { family, protocol, address, ports })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exposure { protocol, host_address, host_ports, guest, guest_ports } => {
                write!(f, "{protocol} ")?;
                if let Some(address) = host_address {
                    write!(f, "{}:", Bracketed(*address))?;
                }
                write!(f, "{host_ports} -> {}:{guest_ports}", Bracketed(*guest))
            }
            Self::Hairpin { guest } => write!(f, "hairpin {guest}"),
            Self::Judged { guest } => write!(f, "policy of {guest}"),
            Self::Policy { guest, reach } => write!(f, "egress {reach} of {guest}"),
            Self::Via { guest, port, proxy } => write!(f, "tcp {guest} -> *:{port} by {proxy}"),
            Self::Names { guest } => write!(f, "questions of {guest} for names"),
            Self::Pinned { guest, token } => write!(f, "allow {guest} -> names {token}"),
            Self::Reach { guest, host, block, allowed } => {
                let verb = if *allowed { "allow" } else { "deny" };
                write!(f, "{verb} {guest} -> {}{block}", if *host { "host " } else { "" })
            }
        }
    }
}

/// A table that has entries where the backend is iptables: each is changed in a transaction of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryTable {
    /// The table of nf_tables with what policies say.
    Policies,
    /// The table mangle of iptables.
    Mangle,
    /// The table nat of iptables.
    Nat,
}

/// A change in one transaction: all of it is done, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Replaces all our objects by this ruleset.
    Reset(Ruleset),
    /// Removes entries, then adds entries. The base ruleset must be in place.
    ///
    /// It is refused as a whole if the base ruleset or an entry to be removed is missing, or if the key of an
    /// entry to be added is taken: then the firewall is not as the caller believes.
    Delta {
        /// The entries to be removed.
        remove: BTreeSet<Entry>,
        /// The entries to be added.
        add: BTreeSet<Entry>,
        /// The owner of the base ruleset.
        owner: Option<Owner>,
    },
    /// Removes all our objects.
    Remove,
}

/// The state of all our objects in the firewall, compared with an expected ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallState {
    /// The part that does not depend on instances.
    pub base_ruleset: BaseState,
    /// The entries that were found.
    pub entries: BTreeSet<Entry>,
    /// Rules or elements that stand among the entries but are none, or are duplicates, in the backend's words.
    pub strays: Vec<String>,
    /// The marks on the found objects; none if there are no objects of ours.
    pub marks: BTreeSet<Mark>,
}

impl FirewallState {
    /// Returns the state of a firewall that has no objects of ours.
    #[must_use]
    pub const fn absent() -> Self {
        Self {
            base_ruleset: BaseState::Absent,
            entries: BTreeSet::new(),
            strays: vec![],
            marks: BTreeSet::new(),
        }
    }

    /// Returns the state of the firewall of which this is the part in iptables, and the other the table of policies beside it.
    #[must_use]
    pub fn beside(mut self, policies: Self) -> Self {
        self.base_ruleset = match (self.base_ruleset, policies.base_ruleset) {
            (BaseState::Absent, BaseState::Absent) => BaseState::Absent,
            (BaseState::Intact, BaseState::Intact) => BaseState::Intact,
            (chains, table) => {
                let lines = |state, missing: &str| match state {
                    BaseState::Absent => vec![missing.to_owned()],
                    BaseState::Intact => vec![],
                    BaseState::Altered(lines) => lines,
                };
                let chains = lines(chains, "our chains of iptables are missing");
                let table = lines(table, "the table of policies is missing");
                BaseState::Altered([chains, table].concat())
            }
        };
        self.entries.extend(policies.entries);
        self.strays.extend(policies.strays);
        self.marks.extend(policies.marks);
        self
    }

    /// Returns the reasons to replace the ruleset as a whole, one a line; none if at most single entries differ.
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

/// The state of the base ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseState {
    /// Missing: the firewall has no objects of ours.
    Absent,
    /// Exactly as expected.
    Intact,
    /// Different from the expected: one line a difference.
    Altered(Vec<String>),
}

use std::fmt;

/// A base chain on the hook `forward` that is not ours, and that a forwarded packet must pass as well:
/// an accept in one table does not override a drop in another (nft(8), "Verdict statements").
///
/// An open gate has a chain `RIKLET-FORWARD` beside the foreign one, jumped to first, that accepts what
/// comes from or goes to one of our interfaces. What of that may pass is decided in our own chains, which
/// the packet passes too; so a gate needs no more than the interfaces' name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForeignChain {
    /// A base chain of nf_tables: of iptables-nft, Docker, ufw, or somebody's own ruleset.
    Nftables {
        /// `ip` or `inet`.
        family: ForeignFamily,
        /// The table.
        table: String,
        /// The base chain.
        chain: String,
    },
    /// The chain FORWARD of the legacy iptables, which nf_tables does not show.
    LegacyIptables,
}

/// The address family of a gate's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForeignFamily {
    /// IPv4 only.
    Ip,
    /// IPv4 and IPv6.
    Inet,
}

/// A gate of the host, as found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignChainState {
    /// Which one.
    pub foreign_chain: ForeignChain,
    /// Whether our traffic passes: our chain is there, complete, and jumped to first.
    pub open: bool,
    /// Whether it has something of ours that closing it would remove (also where it is not `open`).
    pub touched: bool,
}

impl fmt::Display for ForeignFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Inet => "inet",
        })
    }
}

impl fmt::Display for ForeignChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nftables { family, table, chain } => write!(f, "{family} {table} {chain}"),
            Self::LegacyIptables => f.write_str("iptables-legacy filter FORWARD"),
        }
    }
}

use std::fmt;

/// A base chain of somebody else's on the hook `forward`.
///
/// A forwarded packet passes it as well as ours: an accept in one table does not override a drop in another
/// (nft(8), "Verdict statements"). So it gets a passage: a chain [`FORWARD_CHAIN`](super::names::FORWARD_CHAIN)
/// beside it, jumped to first, that accepts everything from and to our interfaces. Our own chains, which the
/// packet passes too, decide what of that may pass.
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

/// The address family of a foreign chain's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForeignFamily {
    /// IPv4 only.
    Ip,
    /// IPv4 and IPv6.
    Inet,
}

/// A foreign forward chain, as found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignChainState {
    /// The chain.
    pub foreign_chain: ForeignChain,
    /// True if our passage is there, complete, and jumped to first, so that our traffic passes.
    pub open: bool,
    /// True if it has something of ours that closing the passage would remove, even if it is not `open`.
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

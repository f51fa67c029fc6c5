use std::{collections::BTreeSet, fmt};

use super::{Backend, IptablesVariant, iptables::Table, names::iptables as names};

/// A base chain of another program on the hook `forward`.
///
/// A forwarded packet passes it as well as ours: an accept in one table does not override a drop in another (nft(8),
/// "Verdict statements"). If it would drop our traffic, it gets a passage ([`super::passage`]): a chain
/// [`PASSAGE_CHAIN`](super::names::PASSAGE_CHAIN) beside it, that accepts everything from and to our interfaces. Our
/// own chains, which the packet also passes, decide which of these packets may pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForeignChain {
    /// A base chain of nf_tables: of iptables-nft, Docker, ufw, or an operator's own ruleset.
    Nftables {
        /// `ip` or `inet`.
        family: ForeignFamily,
        /// The table.
        table: String,
        /// The base chain.
        chain: String,
    },
    /// The chain FORWARD of a table of the legacy iptables, which nf_tables does not show.
    LegacyIptables(Table),
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
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct ForeignChainState {
    /// The chain.
    pub foreign_chain: ForeignChain,
    /// True if our traffic needs a passage.
    pub drops: bool,
    /// True if our objects there are as they should be: each passage that is needed, and nothing else.
    pub open: bool,
    /// True if it has objects of ours.
    pub touched: bool,
    /// True if another process owns the table, so that it cannot be changed (`NFT_TABLE_F_OWNER`).
    pub owned: bool,
    /// The chains and maps of the table that decide about our traffic.
    pub parts: BTreeSet<String>,
}

impl ForeignChain {
    /// Reports whether the backend has its own ruleset in the chain's table.
    #[must_use]
    pub fn is_beside_ruleset_of(&self, backend: Backend) -> bool {
        match (self, backend) {
            (
                Self::Nftables { family: ForeignFamily::Ip, table, .. },
                Backend::Iptables(IptablesVariant::Nft),
            ) => names::OUR_TABLES.contains(&&**table),
            (Self::LegacyIptables(table), Backend::Iptables(IptablesVariant::Legacy)) => {
                Table::OURS.contains(table)
            }
            _ => false,
        }
    }
}

impl ForeignChainState {
    /// Returns the state of a chain whose table has objects of ours, and whose rules were not read.
    #[must_use]
    pub const fn touched(foreign_chain: ForeignChain) -> Self {
        let (drops, open, touched, owned) = (false, false, true, false);
        Self { foreign_chain, drops, open, touched, owned, parts: BTreeSet::new() }
    }

    /// Reports whether the chain drops our traffic, and that cannot be changed.
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.drops && !self.open && self.owned
    }
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
            Self::LegacyIptables(table) => {
                write!(f, "{} {table} {}", names::LEGACY, names::FORWARD)
            }
        }
    }
}

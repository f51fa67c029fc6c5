//! Foreign forward chains in nf_tables, and our passage through them.

use netlink_packet_netfilter::NetfilterProtoFamily;

use super::connection::Connection;
use crate::Refusal;
use riklet_core::firewall::{
    ForeignChainState, ForeignFamily, names,
    nftables::{Chain, foreign_chain},
};

impl Connection {
    /// Reports whether iptables-nft has a chain FORWARD that was never opened.
    pub(super) fn is_shut_by_iptables(&mut self) -> Result<bool, Refusal> {
        let table = foreign_chain::iptables_filter();
        let forward = self.chain(&table, names::iptables::FORWARD)?;
        if !forward.is_some_and(|chain| foreign_chain::filters_forwarded(&chain))
            || self.chain(&table, names::FORWARD_CHAIN)?.is_some()
        {
            return Ok(false);
        }
        Ok(self.table(&table)?.is_some_and(|table| !table.is_owned()))
    }

    /// Returns the foreign chains that drop what is forwarded, and those that have something of ours.
    ///
    /// `iptables_nft_is_ours`: the backend is iptables-nft, which itself keeps what is ours in `ip filter`.
    pub(in super::super) fn foreign_chains(
        &mut self,
        iptables_nft_is_ours: bool,
    ) -> Result<Vec<ForeignChainState>, Refusal> {
        let mut states = Vec::new();
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::Inet] {
            let tables = self.tables(family)?;
            let chains = self.chains(family)?;
            let candidates = foreign_chain::candidates(&tables, &chains, iptables_nft_is_ours);
            let mut found = Vec::new();
            for chain in candidates {
                let passage = chains
                    .iter()
                    .find(|other| other.table == chain.table && other.name == names::FORWARD_CHAIN);
                if passage.is_some() || foreign_chain::drops(chain) {
                    found.push(self.foreign_chain(chain.clone(), passage.cloned())?);
                }
            }
            states.extend(foreign_chain::states(&found));
        }
        Ok(states)
    }

    /// Opens (or repairs) or closes our passage through one chain.
    pub(in super::super) fn set_passage(
        &mut self,
        family: ForeignFamily,
        table: &str,
        chain: &str,
        open: bool,
    ) -> Result<(), Refusal> {
        let table = foreign_chain::table(family, table);
        let Some(found) = self.chain(&table, chain)? else {
            let words = format!("chain {table} {chain}");
            let missing = Refusal { errno: Some(Refusal::ENOENT), words };
            return if open { Err(missing) } else { Ok(()) };
        };
        let passage = self.chain(&table, names::FORWARD_CHAIN)?;
        let found = self.foreign_chain(found, passage)?;
        self.commit(if open { found.open() } else { found.close() })
    }

    fn foreign_chain(
        &mut self,
        chain: Chain,
        passage: Option<Chain>,
    ) -> Result<foreign_chain::FoundChain, Refusal> {
        let rules = self.rules(&chain.table, Some(&chain.name))?;
        let passage = match passage {
            Some(passage) => {
                let rules = self.rules(&passage.table, Some(&passage.name))?;
                Some((passage, rules))
            }
            None => None,
        };
        Ok(foreign_chain::FoundChain { chain, rules, passage })
    }
}

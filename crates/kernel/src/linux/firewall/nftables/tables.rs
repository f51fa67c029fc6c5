//! The tables that iptables-nft creates when it is called.

use std::collections::BTreeSet;

use netlink_packet_netfilter::NetfilterProtoFamily;

use super::connection::Connection;
use crate::Refusal;
use riklet_core::firewall::nftables::{Rule, tables};

impl Connection {
    /// Returns the names of those that exist.
    pub(in super::super) fn implicit_tables(&mut self) -> Result<BTreeSet<String>, Refusal> {
        Ok(tables::implicit(self.tables(NetfilterProtoFamily::IPv4)?))
    }

    /// Returns the names of those that hold more than objects of ours, and of their base chains that do. Reads the rules of
    /// chains only that we jump from.
    pub(in super::super) fn older_tables(&mut self) -> Result<BTreeSet<String>, Refusal> {
        let tables = self.tables(NetfilterProtoFamily::IPv4)?;
        let chains = self.chains(NetfilterProtoFamily::IPv4)?;
        let mut read = Vec::new();
        for (table, chains) in tables::perhaps_ours(&tables, &chains) {
            let rules = self.rules_of(&table, chains, Rule::read)?;
            read.push((table, rules));
        }
        Ok(tables::older(tables, &chains, &read))
    }

    /// Returns the names of those that hold nothing but idle base chains, and of all idle base chains.
    pub(in super::super) fn empty_tables(&mut self) -> Result<BTreeSet<String>, Refusal> {
        let tables = self.tables(NetfilterProtoFamily::IPv4)?;
        let chains = self.chains(NetfilterProtoFamily::IPv4)?;
        Ok(tables::empty(tables, &chains))
    }

    /// Deletes the empty ones, except these.
    pub(in super::super) fn remove_empty_tables(
        &mut self,
        except: &BTreeSet<String>,
    ) -> Result<(), Refusal> {
        let tables = self.tables(NetfilterProtoFamily::IPv4)?;
        let chains = self.chains(NetfilterProtoFamily::IPv4)?;
        self.commit(tables::remove_empty(tables, &chains, except))
    }
}

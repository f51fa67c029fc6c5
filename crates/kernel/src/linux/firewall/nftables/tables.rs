//! The tables that iptables-nft creates when it is called.

use std::collections::BTreeSet;

use netlink_packet_netfilter::NetfilterProtoFamily;

use super::connection::Connection;
use crate::Refusal;
use riklet_core::firewall::nftables::tables;

impl Connection {
    /// Returns the names of those that exist, and of their base chains.
    pub(in super::super) fn implicit_tables(&mut self) -> Result<BTreeSet<String>, Refusal> {
        let tables = self.tables(NetfilterProtoFamily::IPv4)?;
        let chains = self.chains(NetfilterProtoFamily::IPv4)?;
        Ok(tables::implicit(tables, &chains))
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

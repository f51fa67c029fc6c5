//! The addresses that guests were told for names: transactions put them back into the sets that they make anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use netlink_packet_core::NLM_F_DUMP;

use super::{Connection, Nftables, connection::found};
use crate::Refusal;
use riklet_core::{
    firewall::{
        Backend, Entry,
        nftables::{Operation, TableName, element, names},
    },
    names::{Answered, Pin, Pins},
};

/// The sets of guests whose policies have names, before a transaction and after it.
#[derive(Debug)]
pub(super) struct PinnedSets {
    before: Vec<(IpAddr, String)>,
    after: Vec<(IpAddr, String)>,
    /// True if no other guest has such a set.
    is_all: bool,
}

impl PinnedSets {
    /// Returns those of a transaction that replaces a table by one with these entries.
    pub(super) fn of_reset(entries: &BTreeSet<Entry>) -> Self {
        let after: Vec<_> = names::sets(entries).collect();
        Self { before: after.clone(), after, is_all: true }
    }

    /// Returns those of a transaction that removes these entries, and adds others.
    pub(super) fn of_delta(remove: &BTreeSet<Entry>, add: &BTreeSet<Entry>) -> Self {
        let (before, after) = (names::sets(remove).collect(), names::sets(add).collect());
        Self { before, after, is_all: false }
    }
}

impl Nftables {
    /// Lets the guest reach what it is about to be told; false if that is too much, and nothing has changed.
    pub(in crate::linux) fn pin(
        &mut self,
        backend: Backend,
        answered: &Answered<'_>,
    ) -> Result<bool, Refusal> {
        self.connection()?;
        let Self { connection: Some(connection), pins } = self else { return Ok(false) };
        let (mut pins, now) = (pins.lock(), now());
        let Answered { guest, set, name, .. } = *answered;
        if !pins.knows(guest, set) {
            connection.read_pins(&names::table(backend), (guest, set), &mut pins, now)?;
        }
        let Some(new) = pins.of_answer(answered, now) else { return Ok(false) };
        connection.commit(names::pin(backend, set, name, &new))?;
        pins.told(answered, &new, now);
        Ok(true)
    }

    /// Commits a transaction, and with it what guests were told for names. `references` are the references of those chains of
    /// policies that exist.
    pub(super) fn commit_with_pins(
        &mut self,
        table: &TableName,
        sets: &PinnedSets,
        references: &BTreeMap<String, u32>,
        mut operations: Vec<Operation>,
    ) -> Result<(), Refusal> {
        self.connection()?;
        let Self { connection: Some(connection), pins } = self else { return Ok(()) };
        // Nobody pins anything until this is done.
        let (mut pins, now) = (pins.lock(), now());
        let PinnedSets { before, after, is_all } = sets;
        for (guest, set) in before {
            let is_known = if *is_all { pins.has(*guest) } else { pins.knows(*guest, set) };
            if !is_known {
                connection.read_pins(table, (*guest, set), &mut pins, now)?;
            }
        }
        operations.extend(names::put_back(table, after, references, &pins, now));
        connection.commit(operations)?;
        let stay: BTreeSet<_> = after.iter().map(|(guest, _)| *guest).collect();
        for (guest, set) in after {
            pins.settle(*guest, set);
        }
        for (guest, _) in before.iter().filter(|(guest, _)| !stay.contains(guest)) {
            pins.forget(*guest);
        }
        if *is_all {
            pins.retain(&stay);
        }
        Ok(())
    }
}

impl Connection {
    /// Reads what a set of a guest has. One that does not exist changes nothing.
    fn read_pins(
        &mut self,
        table: &TableName,
        (guest, set): (IpAddr, &str),
        pins: &mut Pins,
        now: Instant,
    ) -> Result<(), Refusal> {
        let all = element::get(table, set, &[]);
        let answer = self.socket.query_as(&all, NLM_F_DUMP, names::read);
        if let Some(elements) = found(answer)? {
            let elements: Vec<(Pin, _)> = elements.into_iter().flatten().collect();
            pins.read(guest, set, elements, now);
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "what is left of lifetimes needs a clock")]
fn now() -> Instant {
    Instant::now()
}

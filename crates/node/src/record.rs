//! Records requests within the transaction of their operation.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    IdleEntry, NodeError, Request, Selector, Shadow, UpOptions, Warning, host::Host,
    known::KnownRules, overlap, session::Context, shadow,
};
use crate::store::{self, Phase, Record, Records, Store, StoreError, Tx, Unreadable};
use riklet_core::{
    link::LinkState,
    model::{Exposure, InstanceName, Slot, Workload},
    plan,
    workload::{self, Fragment},
};
use riklet_kernel::{Kernel, process::ProcessId};

/// The change of each slot.
pub(crate) type Changes = BTreeMap<Slot, Change>;

/// The change of one slot: its former record, and its present one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) before: Option<Fragment>,
    pub(crate) after: Option<Fragment>,
    /// The interface of the slot.
    pub(crate) interface: Interface,
}

/// The knowledge about a slot's interface before the kernel is looked at.
#[derive(Debug, Clone, Default)]
pub(crate) enum Interface {
    /// Unknown: the kernel has to be asked.
    #[default]
    Unknown,
    /// The interface does not exist.
    Missing,
    /// The interface exists, in this state.
    Present(Box<LinkState>),
}

/// The changes that a request made in the records.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) records: Vec<Record>,
    /// Unreadable records of instances that are taken down.
    pub(crate) unreadable: Vec<Unreadable>,
    pub(crate) changes: Changes,
    pub(crate) warnings: Vec<Warning>,
}

impl Recorded {
    /// Returns the instances that it is about.
    pub(crate) fn names(&self) -> impl Iterator<Item = &InstanceName> {
        let readable = self.records.iter().map(|record| record.workload.name());
        readable.chain(self.unreadable.iter().map(|unreadable| &unreadable.record.name))
    }
}

impl<K: Kernel> Context<'_, K> {
    /// Records a request. Learns of the rules what it has to know.
    pub(crate) fn record(
        &mut self,
        (host, tx, rules): (&Host, &Tx<'_>, &mut Option<KnownRules>),
        request: &Request,
    ) -> Result<Recorded, NodeError> {
        match request {
            Request::Up(workloads, options) => {
                self.record_up((host, tx, rules), workloads, *options)
            }
            Request::Down(selector) => self.record_down(host, tx, selector, None),
            Request::DownAs(supervisor, selector) => {
                self.record_down(host, tx, selector, Some(*supervisor))
            }
            Request::Withdraw(owned) => {
                for (name, file) in owned {
                    if tx.manifest(name)?.as_ref() != Some(file) {
                        return Err(NodeError::Disowned { name: name.clone(), file: file.clone() });
                    }
                }
                let names = owned.keys().cloned().collect();
                self.record_down(host, tx, &Selector::Named(names), None)
            }
        }
    }

    /// Records each of these workloads in its slot, with its ports.
    pub(crate) fn record_up(
        &mut self,
        (host, tx, rules): (&Host, &Tx<'_>, &mut Option<KnownRules>),
        workloads: &[Workload],
        options: UpOptions,
    ) -> Result<Recorded, NodeError> {
        self.refuse_names(workloads)?;
        let (mut records, mut changes, mut opened) = (vec![], Changes::new(), vec![]);
        let put = tx.put_all(workloads, host.node.pool.capacity())?;
        for (workload, (before, record)) in workloads.iter().zip(put) {
            let taken = |exposure: &Exposure| {
                let (protocol, address) = (exposure.protocol(), exposure.host_address());
                (protocol, address, exposure.host_ports(), exposure.shadow())
            };
            let old = before.iter().flat_map(|before| before.workload.exposures());
            let old: BTreeSet<_> = old.map(taken).collect();
            let new = workload.exposures().iter().filter(|new| !old.contains(&taken(new)));
            opened.extend(new.map(|exposure| (workload.name(), *exposure)));
            let (record, interface) = match before {
                Some(_) => (record, Interface::Unknown),
                None => self.place(host, tx, record)?,
            };
            let before = before.map(|before| fragment(host, &before)).transpose()?;
            let after = Some(fragment(host, &record)?);
            changes.insert(record.slot, Change { before, after, interface });
            records.push(record);
        }
        let shadows = shadow::occupied(self.kernel, rules.as_mut(), &opened)?;
        let refused = |shadow: &&Shadow| options.strict || !shadow.exposure.shadow();
        if let Some(shadow) = shadows.iter().find(refused) {
            return Err(NodeError::Shadows(Box::new(shadow.clone())));
        }
        let absent = shadow::absent(self.kernel, &opened)?;
        let warnings = shadows.into_iter().filter(Shadow::is_effective).map(Warning::Shadows);
        let warnings = warnings.chain(absent.into_iter().map(Warning::AbsentAddress));
        let idle = workloads.iter().flat_map(IdleEntry::of).map(Warning::Idle);
        let warnings = warnings.chain(idle).collect();
        Ok(Recorded { records, changes, warnings, ..Recorded::default() })
    }

    /// Refuses policies with names if nobody answers guests that ask for them.
    fn refuse_names(&self, workloads: &[Workload]) -> Result<(), NodeError> {
        let with_names = workloads.iter().find_map(|workload| {
            let rule = workload.egress()?.names().first()?;
            Some((workload.name(), rule))
        });
        match with_names {
            Some((name, rule))
                if !self.config.answers_names
                    && store::daemon(&self.config.state_dir).is_none() =>
            {
                Err(NodeError::Names { name: name.clone(), rule: rule.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Finds a slot whose interface a new instance may have, and returns the state of that interface.
    ///
    /// A slot is passed over if a foreign interface has its name, if a VMM has its TAP open for another instance, or if a
    /// route of the host to a part of the pool has its addresses. If all others are taken, the instance gets such a slot:
    /// the interface or the route may be gone since.
    fn place(
        &mut self,
        host: &Host,
        tx: &Tx<'_>,
        record: Record,
    ) -> Result<(Record, Interface), NodeError> {
        let (mut record, mut tried) = (record, BTreeSet::new());
        loop {
            let (pool, link) = (host.node.pool, self.kernel.link(&record.slot.interface())?);
            let is_usable = match &link {
                Some(link) => plan::is_usable(link, record.workload.name()),
                None => !overlap::is_taken(self.kernel, self.config, pool, record.slot)?,
            };
            if is_usable || !tried.insert(record.slot) {
                let present = |link| Interface::Present(Box::new(link));
                return Ok((record, link.map_or(Interface::Missing, present)));
            }
            record = tx.pass_over(&record, host.node.pool.capacity())?;
        }
    }

    /// Records that these instances are being taken down. Their slots and ports stay taken until the kernel has none of
    /// their objects.
    fn record_down(
        &mut self,
        host: &Host,
        tx: &Tx<'_>,
        selector: &Selector,
        supervisor: Option<ProcessId>,
    ) -> Result<Recorded, NodeError> {
        let mut recorded = Recorded::default();
        let Records { readable, unreadable } = self.leaving(tx, selector, supervisor)?;
        for unreadable in &unreadable {
            recorded.unreadable.extend(tx.leave_unreadable(unreadable)?);
        }
        for record in readable {
            let before = Some(fragment(host, &record)?);
            recorded.changes.insert(record.slot, Change { before, ..Change::default() });
            recorded.records.extend(tx.set_phase(&record, Phase::Removing)?);
        }
        Ok(recorded)
    }

    /// Returns the records of the instances to take down. Fails if another process than this supervisor runs one of
    /// them.
    pub(crate) fn leaving(
        &mut self,
        store: &Store,
        selector: &Selector,
        supervisor: Option<ProcessId>,
    ) -> Result<Records, NodeError> {
        self.refuse_running(store, selector, supervisor)?;
        let Selector::Named(names) = selector else { return Ok(store.all()?) };
        let mut leaving = Records::default();
        for name in names {
            match store.get(name) {
                Ok(Some(record)) => leaving.readable.push(record),
                Ok(None) => return Err(self.unknown(name, store.nearest(name.as_str())?)),
                Err(StoreError::Unreadable(unreadable)) => leaving.unreadable.push(*unreadable),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(leaving)
    }
}

/// Returns the needs of a recorded instance.
pub(crate) fn fragment(host: &Host, record: &Record) -> Result<Fragment, NodeError> {
    Ok(workload::fragment(&record.workload, record.slot, &host.node)?)
}

/// Returns the needs of all instances that are not being taken down.
pub(crate) fn fragments(
    host: &Host,
    records: &[Record],
) -> Result<BTreeMap<Slot, Arc<Fragment>>, NodeError> {
    let staying = records.iter().filter(|record| record.phase != Phase::Removing);
    staying.map(|record| Ok((record.slot, Arc::new(fragment(host, record)?)))).collect()
}

/// Refuses to leave the host as it was while other instances remain.
pub(crate) fn refuse_remaining(store: &Store, leaving: &Records) -> Result<(), NodeError> {
    let leaving: BTreeSet<_> = leaving.names().collect();
    let all = store.all()?;
    let names: Vec<_> = all.names().filter(|name| !leaving.contains(name)).cloned().collect();
    if names.is_empty() { Ok(()) } else { Err(NodeError::Remaining { names }) }
}

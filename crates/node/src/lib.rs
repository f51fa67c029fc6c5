//! The network of a node that runs functions as microVMs: a TAP for each, and its ports on the host.
//!
//! A node agent embeds this library; the program `riklet-sdn` is its command line. Everything works
//! synchronously, on the network namespace of the calling thread, and needs `CAP_NET_ADMIN`.
//!
//! # In use
//!
//! [`Node`] does what a node agent asks for, in one call each. On an instance's TAP runs whatever VMM the
//! agent starts. `examples/embed` is such an agent.
//!
//! ```
//! use riklet_core::definition::{self, Source};
//! use riklet_kernel::fake::FakeKernel;
//! use riklet_sdn::{Config, Node, Selector, UpOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = r#"{ "apiVersion": "v1", "kind": "Function", "name": "hello",
//!     "spec": { "function": { "exposure": { "port": 8080, "targetPort": 3000 } } } }"#;
//! let workloads = definition::parse(&[Source { name: "hello.json".into(), text: text.into() }])?;
//!
//! # let state_dir = std::env::temp_dir().join(format!("riklet-sdn-tour-{}", std::process::id()));
//! # let made = state_dir.clone();
//! let config = Config { state_dir, ..Config::default() };
//! // `Node::new(config)` is the same on the kernel of this host.
//! let mut node = Node::with_kernel(config, FakeKernel::new());
//!
//! let report = node.up(&workloads, UpOptions::default())?;
//! let hello = &report.instances[0];
//! assert_eq!(hello.interface().to_string(), "rik0");
//! assert_eq!(hello.addresses.v4.guest.to_string(), "10.231.0.2");
//! assert_eq!(hello.exposures()[0].to_string(), "tcp 8080 -> 3000");
//!
//! assert!(node.check()?.is_empty());
//! node.down(&Selector::All, true)?;
//! # std::fs::remove_dir_all(made)?;
//! # Ok(())
//! # }
//! ```
//!
//! # The way through
//!
//! What is decided is decided in pure code; what acts decides nothing.
//!
//! ```text
//! text ── definition::parse ──► Workload ─┐
//!                                store ───┤ a slot: lowest free; a host port has one holder
//!                                         ▼
//!              workload::fragment(workload, slot, node) ──► Fragment { link, addresses, entries }
//!                                         ▼
//!              plan::plan(desired, observed) ──► Plan: steps, which print themselves
//!                                         ▼
//!              Kernel: each step an effect ──► Report { done, failures }
//! ```
//!
//! | crate | what it is |
//! | --- | --- |
//! | [`riklet_core`] | definitions, addresses, the firewall's ruleset, the plan: pure |
//! | [`riklet_kernel`] | the effects on a Linux host, and a kernel in memory that obeys the same laws |
//! | this one | the records ([`store`]), and the operations that put all together ([`Node`]) |
//!
//! # What holds
//!
//! * Bringing up, taking down, repairing and recovering after a crash are one path: the records are changed
//!   in one transaction, then the kernel is converged to them. Every call may be repeated.
//! * A process that is killed anywhere on that path leaves nothing behind that the next call does not finish.
//! * Nothing is touched but what is ours: interfaces `rik<slot>` that bear our alias, our table or chains of
//!   the firewall, and the sysctls that were recorded before they were changed. Taking all down with `purge`
//!   leaves the host as it was.
//! * An operation costs the same with ten instances present and with ten thousand.
//! * What was not done is not reported as done, and one instance's failure does not stop the others.
//! * Any number of processes may call at once.

mod accounts;
mod batch;
mod config;
mod converge;
mod error;
mod host;
mod ownership;
mod rebuild;
mod resident;
mod settle;
mod shadow;
pub mod store;
mod task;
mod view;

use std::collections::{BTreeMap, BTreeSet};

pub use batch::Request;
pub use config::{
    API_SOCKET, Config, ConfigError, ConfigReason, DEFAULT_STATE_DIR, FirewallChoice,
    FirewallChoiceError,
};
pub use error::{Failure, NodeError};
pub use rebuild::{RebuildOptions, Rebuilt};
pub use riklet_core::{ErrorKind, model::Selector};
pub use shadow::Warning;
pub use task::{BackgroundTask, TaskOutcome};
pub use view::{Inspection, Instance, LinkStatus, Listed};

use crate::store::{Phase, Record, ReservedSlot, Store, Tx};
use batch::Recorded;
use converge::{All, Named, Observe};
use host::Host;
use ownership::unless_claimed;
use resident::Resident;
use riklet_core::{
    firewall::Confinement,
    model::{Exposure, InstanceName, Slot, Workload},
    plan::{self, Adoption, LinkDeletion, Observed, Plan, Step},
    workload::{self, Fragment},
};
use riklet_kernel::{Kernel, linux::Linux};
use settle::Look;

/// The network of this node.
#[derive(Debug)]
pub struct Node<K = Linux> {
    config: Config,
    kernel: K,
    /// The database, from one operation to the next.
    store: Option<Store>,
    resident: Option<Resident>,
}

/// What an operation did.
#[derive(Debug, Default)]
pub struct Report {
    /// The instances that were asked for and are as asked.
    pub instances: Vec<Instance>,
    /// What was changed, in order. Empty where everything was as it should be.
    pub done: Vec<Step>,
    /// The instances that were asked for and are not as they should be, and why.
    pub failures: Vec<Failure>,
    /// Those that were not asked for, and are not as they should be either: an earlier operation on them failed,
    /// and this one could not mend it.
    pub others: Vec<Failure>,
    /// What works, and will surprise.
    pub warnings: Vec<Warning>,
}

/// How `up` goes about surprises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpOptions {
    /// Whether a [`Warning`] is an error: then nothing is changed.
    pub strict: bool,
}

/// How the kernel differs from the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// What [`Node::repair`] would do.
    pub plan: Plan,
    /// In what the firewall differs, where that takes more than adding and removing entries.
    pub firewall: Vec<String>,
    /// Instances whose last operation did not come to its end.
    pub unsettled: Vec<(InstanceName, Phase)>,
}

impl Drift {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plan.is_empty() && self.unsettled.is_empty()
    }
}

/// What changes for one slot: what it was recorded with, and what it is recorded with now.
#[derive(Debug, Clone, Default)]
struct Change {
    before: Option<Fragment>,
    after: Option<Fragment>,
}

impl Node<Linux> {
    /// The network of this node: of the network namespace of the calling thread, at each call.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_kernel(config, Linux::new())
    }
}

impl<K: Kernel> Node<K> {
    /// The same on another kernel, as on [`riklet_kernel::fake::FakeKernel`].
    pub fn with_kernel(config: Config, kernel: K) -> Self {
        Self { config, kernel, store: None, resident: None }
    }

    /// The kernel that it works on.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Brings up the network of these workloads, or makes it what a changed definition says. Repetition
    /// changes nothing. Users and groups are recorded by the numbers that the host knows them by now.
    ///
    /// # Errors
    /// Where a workload cannot be recorded (its port is another's, the pool is exhausted, the host knows no user of
    /// that name): then nothing is changed for any of them. What fails later is in [`Report::failures`], or is
    /// [`NodeError::Halted`] where it concerns all; then the records are kept, and [`Self::repair`] or the next
    /// operation tries again.
    pub fn up(&mut self, workloads: &[Workload], options: UpOptions) -> Result<Report, NodeError> {
        self.apply_one(&Request::Up(workloads.to_vec(), options))
    }

    /// What [`Self::up`] would do. Changes nothing.
    ///
    /// # Errors
    /// Where `up` would refuse, or the kernel cannot be read.
    pub fn plan(&mut self, workloads: &[Workload]) -> Result<(Plan, Vec<Warning>), NodeError> {
        let workloads = &accounts::resolved(&mut self.kernel, workloads)?;
        let _lock = self.look_lock()?;
        self.flush()?;
        let mut store = match Store::open_existing(&self.config.state_dir)? {
            Some(store) => store,
            None => Store::in_memory()?,
        };
        let tx = store.transaction()?;
        let interrupted = interrupted(&tx)?;
        let host = self.decide(&tx, false)?;
        if host.first_use {
            self.refuse_unrecorded()?;
        }
        let Recorded { changes, warnings, .. } = self.record(&host, &tx, workloads)?;
        let named = Named::new(&host, &changes).filter(|_| interrupted.is_empty());
        if let Some(plan) = named.map(|n| n.preview(&mut self.kernel)).transpose()?.flatten() {
            return Ok((plan, warnings));
        }
        let all = self.all(&host, &tx, &interrupted, LinkDeletion::Deferred)?;
        Ok((all.preview(&mut self.kernel)?.unwrap_or_default(), warnings))
    }

    /// Takes instances down. With `purge`, and where none remains, what the instances share goes as well, and
    /// the sysctls get their former values: the host is as it was.
    ///
    /// # Errors
    /// Where a name is not recorded, or `purge` is asked for and other instances remain: then nothing is
    /// changed. Failures as with [`Self::up`].
    pub fn down(&mut self, selector: &Selector, purge: bool) -> Result<Report, NodeError> {
        if !purge {
            return self.apply_one(&Request::Down(selector.clone()));
        }
        self.refuse_blank()?;
        if self.is_blank()? {
            self.down_of_nothing(selector)?;
        }
        let _lock = self.lock()?;
        let mut store = self.open_store()?;
        let tx = store.transaction()?;
        let leaving = self.leaving(&tx, selector)?;
        refuse_remaining(&tx, &leaving)?;
        let Some(host) = self.decided(&tx, false)? else {
            self.refuse_unrecorded()?;
            return Ok(Report::default());
        };
        for record in &leaving {
            tx.set_phase(record, Phase::Removing)?;
        }
        let nothing = host.removed();
        let all = All::nothing(&nothing);
        let found = unless_claimed(self.look_at_all(&all))?;
        tx.commit()?;
        nothing.warn_of_inheritance();
        self.purge(&mut store, &all, found?)
    }

    /// How the kernel differs from the records. Changes nothing.
    ///
    /// # Errors
    /// Where the store or the kernel cannot be read.
    pub fn check(&mut self) -> Result<Drift, NodeError> {
        let _lock = self.look_lock()?;
        self.flush()?;
        let store = Store::open_existing(&self.config.state_dir)?;
        let host = match &store {
            Some(store) => self.decided(store, true)?,
            None => None,
        };
        let (Some(store), Some(host)) = (store, host) else {
            let plan = Plan { claims: self.claims_of_unrecorded()?, ..Plan::default() };
            return Ok(Drift { plan, firewall: vec![], unsettled: vec![] });
        };
        let all = self.all(&host, &store, &interrupted(&store)?, LinkDeletion::Deferred)?;
        let observed = all.look(&mut self.kernel)?;
        let unsettled = store.unsettled()?.into_iter();
        let unsettled = unsettled.map(|r| (r.workload.name().clone(), r.phase)).collect();
        let plan = plan::plan(&all.desired(), &observed);
        Ok(Drift { plan, firewall: observed.firewall.differences(), unsettled })
    }

    /// Returns what the host sends on only because functions are up, and nothing drops as long as no daemon runs: packets
    /// that come in by an uplink. Nothing that goes back that way is sent on.
    ///
    /// # Errors
    /// Where the records or the kernel cannot be read.
    pub fn left_open(&mut self) -> Result<Confinement, NodeError> {
        let _lock = self.look_lock()?;
        let Some(store) = Store::open_existing(&self.config.state_dir)? else {
            return Ok(Confinement::default());
        };
        let host = self.decided(&store, true)?;
        Ok(host.map(|host| host.forwarding.open).unwrap_or_default())
    }

    /// Makes the kernel what the records say: what drifted comes back, what leaked goes.
    ///
    /// # Errors
    /// As with [`Self::up`].
    pub fn repair(&mut self) -> Result<Report, NodeError> {
        self.refuse_blank()?;
        let _lock = self.lock()?;
        self.mend(&BTreeSet::new(), Adoption::Nothing)
    }

    /// The same, under the lock that the caller has. Slots that were just `recovered` from what the kernel has
    /// go on as they are: no operation of theirs was interrupted.
    fn mend(
        &mut self,
        recovered: &BTreeSet<Slot>,
        adoption: Adoption,
    ) -> Result<Report, NodeError> {
        let mut store = self.open_store()?;
        let tx = store.transaction()?;
        let Some(host) = self.decided(&tx, true)? else {
            self.refuse_unrecorded()?;
            return Ok(Report::default());
        };
        let interrupted = interrupted(&tx)?.difference(recovered).copied().collect();
        let all = self.all(&host, &tx, &interrupted, LinkDeletion::Immediate)?.adopting(adoption);
        let found = self.look_at_all(&all)?;
        host.record(&tx)?;
        tx.commit()?;
        let look = Look::All(all, found);
        let settled = self.settle(&mut store, &host, look, &interrupted, &[])?;
        self.keep_store(store);
        Ok(settled.report())
    }

    /// All that there shall be by the records. A process that stays may leave to its chores what is theirs.
    fn all<'a>(
        &self,
        host: &'a Host,
        store: &Store,
        interrupted: &BTreeSet<Slot>,
        deletion: LinkDeletion,
    ) -> Result<All<'a>, NodeError> {
        let mut busy = self.resident.as_ref().map(Resident::busy).cloned().unwrap_or_default();
        if self.resident.is_some() && deletion == LinkDeletion::Deferred {
            busy.extend(store.spares(ReservedSlot::Draining)?);
        }
        let records = store.all()?;
        let leaving = records.iter().filter(|record| record.phase == Phase::Removing);
        let mut leaving: BTreeSet<_> = leaving.map(|record| record.slot).collect();
        leaving.extend(store.spares(ReservedSlot::Draining)?);
        let mut fragments = fragments(host, &records)?;
        for slot in store.spares(ReservedSlot::Ready)? {
            fragments.insert(slot, workload::spare(slot, &host.node)?);
        }
        let mut draining = BTreeSet::new();
        for spare in [ReservedSlot::Creating, ReservedSlot::Draining] {
            draining.extend(store.spares(spare)?.into_iter().filter(|slot| !busy.contains(slot)));
        }
        let all = All::new(host, fragments, interrupted).with_leaving(leaving);
        Ok(all.with_spares(draining, busy))
    }

    /// Records the workloads, and says what that changes and shadows.
    fn record(
        &mut self,
        host: &Host,
        tx: &Tx<'_>,
        workloads: &[Workload],
    ) -> Result<Recorded, NodeError> {
        let mut changes = BTreeMap::new();
        let mut records = Vec::new();
        let mut opened = Vec::new();
        let put = tx.put_all(workloads, host.node.pool.capacity())?;
        for (workload, (before, record)) in workloads.iter().zip(put) {
            let old: &[Exposure] = before.as_ref().map_or(&[], |b| b.workload.exposures());
            let new = workload.exposures().iter().filter(|exposure| !old.contains(exposure));
            opened.extend(new.map(|exposure| (workload.name(), *exposure)));
            let before = before.map(|before| fragment(host, &before)).transpose()?;
            changes.insert(record.slot, Change { before, after: Some(fragment(host, &record)?) });
            records.push(record);
        }
        Ok(Recorded { records, changes, warnings: self.shadowed(&opened)? })
    }

    fn leaving(&self, tx: &Tx<'_>, selector: &Selector) -> Result<Vec<Record>, NodeError> {
        let Selector::Named(names) = selector else { return Ok(tx.all()?) };
        let find = |name: &InstanceName| match tx.get(name)? {
            Some(record) => Ok(record),
            None => Err(self.unknown(name, tx.nearest(name.as_str())?)),
        };
        names.iter().map(find).collect()
    }

    fn unknown(&self, name: &InstanceName, nearest: Option<InstanceName>) -> NodeError {
        let state_dir = self.config.state_dir.clone();
        NodeError::Unknown { name: name.clone(), nearest, state_dir }
    }

    /// Removes all that is ours. Every record is being removed.
    fn purge(
        &mut self,
        store: &mut Store,
        nothing: &All<'_>,
        found: Observed,
    ) -> Result<Report, NodeError> {
        let outcome = nothing.converge(&mut self.kernel, found)?.unwrap_or_default();
        if let Some((step, source)) = outcome.halted {
            return Err(NodeError::Halted { step: Box::new(step), source });
        }
        let tx = store.transaction()?;
        for record in tx.all()? {
            tx.remove(&record)?;
        }
        for spare in ReservedSlot::ALL {
            tx.spares(spare)?.into_iter().try_for_each(|slot| tx.free_spare(slot, spare))?;
        }
        tx.clear_settings()?;
        tx.forget_sysctls()?;
        tx.commit()?;
        Ok(Report { done: outcome.done, ..Report::default() })
    }
}

/// What an instance needs, as recorded.
fn fragment(host: &Host, record: &Record) -> Result<Fragment, NodeError> {
    Ok(workload::fragment(&record.workload, record.slot, &host.node)?)
}

/// The slots of the instances whose last operation did not come to its end.
fn interrupted(store: &Store) -> Result<BTreeSet<Slot>, NodeError> {
    Ok(store.unsettled()?.iter().map(|record| record.slot).collect())
}

/// What all instances that shall stay need.
fn fragments(host: &Host, records: &[Record]) -> Result<BTreeMap<Slot, Fragment>, NodeError> {
    let staying = records.iter().filter(|record| record.phase != Phase::Removing);
    staying.map(|record| Ok((record.slot, fragment(host, record)?))).collect()
}

fn refuse_remaining(tx: &Tx<'_>, leaving: &[Record]) -> Result<(), NodeError> {
    let leaving: BTreeSet<_> = leaving.iter().map(|record| record.workload.name()).collect();
    let names = tx.all()?.into_iter().map(|record| record.workload.name().clone());
    let names: Vec<_> = names.filter(|name| !leaving.contains(name)).collect();
    if names.is_empty() { Ok(()) } else { Err(NodeError::Remaining { names }) }
}

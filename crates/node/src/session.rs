//! Begins an operation, in one place: takes the lock, opens the records and begins the transaction.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Config, NodeError,
    cache::{Cache, HostVersion},
    host::{Host, Interfaces, Survey},
};
use crate::store::{
    LOCK_TIMEOUT, Lock, Records, Reopened, ReservedSlot, Setting, Store, StoreError, Tx,
};
use riklet_core::model::{InstanceName, Slot};
use riklet_kernel::Kernel;

/// The time that a process which only shows something waits for the lock.
const GLANCE_PATIENCE: Duration = Duration::from_secs(1);
/// The time that an ending process waits for the lock.
const PATIENCE: Duration = Duration::from_secs(3);

/// The operations of a node, before any of them holds the lock. Each is in the file of its name.
#[derive(Debug)]
pub(crate) struct Operations<'n, K> {
    pub(crate) context: Context<'n, K>,
    store: &'n mut Option<Store>,
}

/// The means of an operation besides the records.
#[derive(Debug)]
pub(crate) struct Context<'n, K> {
    pub(crate) config: &'n Config,
    pub(crate) kernel: &'n mut K,
    pub(crate) cache: &'n mut Cache,
}

/// An operation that may change the node. It holds the lock alone.
#[derive(Debug)]
pub(crate) struct Session<'s, K> {
    pub(crate) context: Context<'s, K>,
    pub(crate) store: &'s mut Store,
    pub(crate) lock: Lock,
}

/// An operation that changes nothing. It holds the lock along with others of its kind.
#[derive(Debug)]
pub(crate) struct Reading<'s, K> {
    pub(crate) context: Context<'s, K>,
    /// `None` if nothing was ever recorded.
    pub(crate) store: Option<&'s mut Store>,
    _lock: Option<Lock>,
}

/// A view for reading on a node that was used.
#[derive(Debug)]
pub(crate) struct Used<'r, 's, K> {
    pub(crate) store: &'r Store,
    pub(crate) host: Arc<Host>,
    pub(crate) context: &'r mut Context<'s, K>,
}

impl<'n, K: Kernel> Operations<'n, K> {
    pub(crate) fn new(
        config: &'n Config,
        kernel: &'n mut K,
        store: &'n mut Option<Store>,
        cache: &'n mut Cache,
    ) -> Self {
        Self { context: Context { config, kernel, cache }, store }
    }

    /// Waits until no other process is at work, nor any program that a killed process left behind. Creates the state
    /// directory and the records if they are missing, unless objects on the host belong to other records.
    pub(crate) fn session(&mut self) -> Result<Session<'_, K>, NodeError> {
        self.refuse_blank()?;
        let lock = self.context.lock()?;
        self.context.kernel.start_operation()?;
        let context = self.context.reborrow();
        let store = open(self.store, &context)?;
        Ok(Session { context, store, lock })
    }

    /// Waits until no process changes anything, and commits deferred outcomes. Creates nothing.
    pub(crate) fn reading(&mut self) -> Result<Reading<'_, K>, NodeError> {
        let lock = match self.context.cache.lent_lock() {
            Some(lock) => Some(lock),
            None => Lock::shared_within(&self.context.config.state_dir, LOCK_TIMEOUT)?,
        };
        self.context.kernel.start_operation()?;
        self.flush()?;
        let context = self.context.reborrow();
        let store = open_existing(self.store, &context)?;
        Ok(Reading { context, store, _lock: lock })
    }

    /// Waits as [`Self::reading`] does, but not for long: what is shown then may be in the middle of a change by another
    /// process. Commits nothing; [`Cache::as_committed`] has the deferred outcomes.
    pub(crate) fn glance(&mut self) -> Result<Reading<'_, K>, NodeError> {
        let dir = &self.context.config.state_dir;
        let lock = match self.context.cache.lent_lock() {
            Some(lock) => Some(lock),
            None => match Lock::shared_within(dir, GLANCE_PATIENCE) {
                Err(StoreError::Busy { .. }) => None,
                lock => lock?,
            },
        };
        let context = self.context.reborrow();
        let store = open_existing(self.store, &context)?;
        Ok(Reading { context, store, _lock: lock })
    }

    /// Refuses the first use of these records if objects on the host belong to other records. Creates nothing.
    pub(crate) fn refuse_blank(&mut self) -> Result<(), NodeError> {
        // If this cannot be found out, opening the database will report why.
        let dir = &self.context.config.state_dir;
        let exists = || Store::exists(dir).unwrap_or(true);
        if self.store.is_some() || exists() {
            return Ok(());
        }
        let claims = self.context.claims_of_unrecorded()?;
        // If another process created the records meanwhile, the claims may be its own: the session looks again, under
        // the lock.
        if exists() { Ok(()) } else { self.context.refuse(claims) }
    }

    /// Reports whether nothing was ever recorded here. Creates nothing.
    pub(crate) fn is_blank(&mut self) -> Result<bool, NodeError> {
        Ok(open_existing(self.store, &self.context)?.is_none())
    }

    /// Commits deferred outcomes, if there are any.
    pub(crate) fn flush(&mut self) -> Result<(), NodeError> {
        if !self.context.cache.has_deferred() {
            return Ok(());
        }
        let tx = open(self.store, &self.context)?.transaction()?;
        self.context.cache.write_deferred(&tx)?;
        self.context.commit(tx)
    }

    /// Returns the records as they are, without deferred outcomes, and without waiting for other processes.
    pub(crate) fn records(&mut self) -> Result<&Store, NodeError> {
        Ok(open(self.store, &self.context)?)
    }

    /// Returns the slots of instances that are gone, and that the records, as they are, still have.
    pub(crate) fn deferred_removals(&mut self) -> Result<BTreeSet<Slot>, NodeError> {
        let store = open(self.store, &self.context)?;
        Ok(self.context.cache.deferred_removals(store)?)
    }

    /// Does some work, and once more with the room that is kept if the file system of the records is full. Also returns
    /// whether that was given up.
    pub(crate) fn with_room<T>(
        &mut self,
        work: impl Fn(&mut Self) -> Result<T, NodeError>,
    ) -> (Result<T, NodeError>, bool) {
        match work(self) {
            Err(full) if full.is_full() => {
                if self.records().is_ok_and(|records| records.make_room().is_err()) {
                    return (Err(full), true);
                }
                (work(self), true)
            }
            done => (done, false),
        }
    }

    /// Gives up the room that is kept if the file system of the records lacks room: before some work, so that its report
    /// has all of it. Returns whether it did.
    pub(crate) fn make_room(&mut self) -> bool {
        // If they cannot be opened or written, the work says so.
        let store = open_existing(self.store, &self.context).ok().flatten();
        store.filter(|store| store.lacks_room()).is_some_and(|store| store.make_room().is_ok())
    }

    /// Closes the records, which are about to be moved.
    pub(crate) fn let_go_of_records(&mut self) {
        *self.store = None;
    }

    /// Reverts what only a process that is notified of changes may have set, commits deferred outcomes, and closes the
    /// records.
    pub(crate) fn close(&mut self) -> Result<(), NodeError> {
        let deaf = self.stop_watching();
        self.flush()?;
        open(self.store, &self.context)?;
        self.store.take().map_or(Ok(()), Store::close)?;
        deaf
    }

    fn stop_watching(&mut self) -> Result<(), NodeError> {
        if !self.context.cache.stop_watching() {
            return Ok(());
        }
        let _lock = match self.context.lock_within(PATIENCE) {
            Err(NodeError::Store(busy @ StoreError::Busy { .. })) => {
                tracing::warn!("{busy}: the next operation lifts the confinement");
                return Ok(());
            }
            lock => lock?,
        };
        let mut session = self.session()?;
        let (tx, context) = session.begin()?;
        tx.forget_setting(Setting::Watcher)?;
        context.commit(tx)?;
        session.heal(&BTreeSet::new()).map(drop)
    }
}

impl<'s, K: Kernel> Session<'s, K> {
    /// Begins the transaction of the operation, and writes deferred outcomes in it.
    pub(crate) fn begin(&mut self) -> Result<(Tx<'_>, &mut Context<'s, K>), NodeError> {
        let tx = self.store.transaction()?;
        self.context.cache.write_deferred(&tx)?;
        Ok((tx, &mut self.context))
    }
}

impl<'s, K: Kernel> Reading<'s, K> {
    /// Returns the view for reading; `None` if the node was not used yet.
    pub(crate) fn used(
        &mut self,
        interfaces: Interfaces,
    ) -> Result<Option<Used<'_, 's, K>>, NodeError> {
        let Some(store) = self.store.as_deref() else { return Ok(None) };
        let host = self.context.decided(store, interfaces)?;
        Ok(host.map(|host| Used { store, host, context: &mut self.context }))
    }
}

impl<K: Kernel> Context<'_, K> {
    /// Returns the decisions for the node, and the state of the host; `None` if the node was not used yet.
    pub(crate) fn decided(
        &mut self,
        store: &Store,
        interfaces: Interfaces,
    ) -> Result<Option<Arc<Host>>, NodeError> {
        let before = self.host_version(store, interfaces)?;
        if let Some(known) = before.and_then(|version| self.cache.host(version)) {
            return Ok(Some(known));
        }
        let survey = self.survey(interfaces);
        let host = Host::decided(self.kernel, self.config, store, survey)?.map(Arc::new);
        if let (Some(version), Some(host)) = (self.host_version(store, interfaces)?, &host)
            && before == Some(version)
        {
            self.cache.keep_host(version, host);
        }
        Ok(host)
    }

    /// Returns the version of everything that decides about the host; `None` if it has to be looked at.
    fn host_version(
        &mut self,
        store: &Store,
        interfaces: Interfaces,
    ) -> Result<Option<HostVersion>, NodeError> {
        if interfaces == Interfaces::Listed || !self.cache.is_kept() {
            return Ok(None);
        }
        let Some(of_kernel) = self.kernel.host_version()? else { return Ok(None) };
        Ok(Some((of_kernel, store.settings_version()?)))
    }

    /// Returns the same as [`Self::decided`], but refuses the host if the node was not used yet and objects belong to
    /// other records.
    pub(crate) fn decided_or_unclaimed(
        &mut self,
        store: &Store,
        interfaces: Interfaces,
    ) -> Result<Option<Arc<Host>>, NodeError> {
        let host = self.decided(store, interfaces)?;
        if host.is_none() {
            self.refuse_unrecorded()?;
        }
        Ok(host)
    }

    /// Returns the same as [`Self::decided`], but decides if nothing is decided yet. [`Host::record`] records the
    /// decisions.
    pub(crate) fn decide(
        &mut self,
        store: &Store,
        interfaces: Interfaces,
    ) -> Result<Arc<Host>, NodeError> {
        if let Some(host) = self.decided(store, interfaces)? {
            return Ok(host);
        }
        let survey = self.survey(interfaces);
        let host = Host::decide(self.kernel, self.config, store, survey)?;
        if host.first_use {
            self.refuse_unrecorded()?;
        }
        Ok(host.into())
    }

    /// Returns how an operation of this process looks at the host.
    pub(crate) fn survey(&self, interfaces: Interfaces) -> Survey {
        Survey { interfaces, watcher: self.cache.watcher() }
    }

    /// Returns the slots whose last operation was not completed: the next operation has to look at them.
    pub(crate) fn interrupted(&mut self, store: &Store) -> Result<BTreeSet<Slot>, NodeError> {
        let abandoned = self.abandoned(store)?;
        let Records { readable, unreadable } = store.unsettled()?;
        let leaving = unreadable.into_iter().map(|unreadable| unreadable.slot);
        let unsettled = readable
            .iter()
            .filter(|record| !self.cache.is_broken(record) && !self.cache.awaits_flows(record));
        Ok(unsettled.map(|record| record.slot).chain(leaving).chain(abandoned).collect())
    }

    /// Returns the reserved slots whose TAPs a daemon was about to create or to delete when it ended: nobody else
    /// completes that.
    fn abandoned(&mut self, store: &Store) -> Result<Vec<Slot>, NodeError> {
        if self.cache.announces_itself() {
            // A daemon looks at everything when it starts.
            return Ok(vec![]);
        }
        let mut slots = store.reserved(ReservedSlot::Draining)?;
        slots.extend(store.reserved(ReservedSlot::Creating)?);
        if slots.is_empty() {
            return Ok(slots);
        }
        let daemon = store.setting(Setting::Watcher)?.and_then(|daemon| daemon.parse().ok());
        match daemon {
            Some(daemon) if self.kernel.is_alive(daemon)? => Ok(vec![]),
            _ => Ok(slots),
        }
    }

    /// Commits a transaction that [`Session::begin`] began.
    pub(crate) fn commit(&mut self, tx: Tx<'_>) -> Result<(), NodeError> {
        tx.commit()?;
        self.cache.forget_deferred();
        Ok(())
    }

    pub(crate) fn unknown(&self, name: &InstanceName, nearest: Option<InstanceName>) -> NodeError {
        let state_dir = self.config.state_dir.clone();
        NodeError::Unknown { name: name.clone(), nearest, state_dir }
    }

    /// Takes the lock, or shares it with a background task of this process.
    pub(crate) fn lock(&mut self) -> Result<Lock, NodeError> {
        self.lock_within(LOCK_TIMEOUT)
    }

    /// Takes the lock as [`Self::lock`] does, but waits no longer than `limit`.
    fn lock_within(&mut self, limit: Duration) -> Result<Lock, NodeError> {
        let lent = self.cache.lent_lock();
        let take = || Lock::exclusive_within(&self.config.state_dir, limit);
        let lock = lent.map_or_else(take, Ok)?;
        self.lend(&lock);
        Ok(lock)
    }

    fn lend(&mut self, lock: &Lock) {
        self.kernel.share_lock(lock.share());
        self.cache.lend(lock);
    }

    fn reborrow(&mut self) -> Context<'_, K> {
        Context { config: self.config, kernel: self.kernel, cache: self.cache }
    }
}

/// Returns the instances whose last operation was not completed. One that waits for a task which forgets flows will be.
pub(crate) fn unsettled(store: &Store, cache: &Cache) -> Result<Records, NodeError> {
    let mut records = store.unsettled()?;
    records.readable.retain(|record| !cache.awaits_flows(record));
    Ok(records)
}

/// Opens the records, unless they are open, and creates them if they are missing.
fn open<'s, K>(
    store: &'s mut Option<Store>,
    context: &Context<'_, K>,
) -> Result<&'s mut Store, NodeError> {
    reopen_lost(store, context)?;
    let opened = if let Some(opened) = store.take() {
        opened
    } else {
        let opened = Store::open(&context.config.state_dir)?;
        opened.keep_room();
        context.cache.kept_open(opened)?
    };
    Ok(store.insert(opened))
}

/// Opens the records, unless they are open; `None` if they are missing.
fn open_existing<'s, K>(
    store: &'s mut Option<Store>,
    context: &Context<'_, K>,
) -> Result<Option<&'s mut Store>, NodeError> {
    reopen_lost(store, context)?;
    if store.is_none() {
        let existing = Store::open_existing(&context.config.state_dir)?;
        *store = existing.map(|existing| context.cache.kept_open(existing)).transpose()?;
    }
    Ok(store.as_mut())
}

/// Reopens records whose file was set aside or removed, or that cannot be written for no known reason. Removed records are
/// written again: while this process has them open, all of them still exist.
fn reopen_lost<K>(store: &mut Option<Store>, context: &Context<'_, K>) -> Result<(), NodeError> {
    drop(store.take_if(|store| store.is_current() && store.is_stuck()));
    let Some(former) = store.take_if(|store| !store.is_current()) else { return Ok(()) };
    match former.reopen(&context.config.state_dir) {
        Ok(Reopened::Restored(restored)) => {
            context.cache.note_restored();
            *store = Some(context.cache.kept_open(restored)?);
        }
        Ok(Reopened::Replaced(other)) => *store = Some(context.cache.kept_open(other)?),
        Ok(Reopened::Unused) => {}
        Err(failed) => {
            let (former, error) = *failed;
            *store = Some(former);
            return Err(error.into());
        }
    }
    Ok(())
}

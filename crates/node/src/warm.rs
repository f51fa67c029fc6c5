use std::collections::{BTreeMap, BTreeSet};

use super::{
    BackgroundTask, Begun, Config, Drift, FlowOutcome, Inspection, ListedInstance, Node, NodeError,
    RebuildOptions, Rebuilt, Report, Request, Selector, Shadow, TaskOutcome, UpOptions, Warning,
    cache::Cache, session::Operations,
};
use crate::store::{Journal, ReservedSlot, Store};
use riklet_core::{
    model::{InstanceName, Slot, Workload},
    plan::{Adoption, Plan},
};
use riklet_kernel::{Kernel, process::ProcessId};

/// The network of this node, for a long-lived process with a thread for slow work.
///
/// It differs from a [`Node`] in the work that an operation defers:
///
/// * `down` sets TAPs down, and leaves deleting them to a [`BackgroundTask`] ([`Self::drain`]). TAPs for new instances
///   are created in advance by another ([`Self::reserve`]).
/// * The outcome of an operation is committed with the next one, or by [`Self::flush`]: an operation is one transaction
///   then. If the process is killed before, the operation counts as interrupted, and the next one looks at it.
/// * An instance that cannot be repaired does not make every operation look at everything.
#[derive(Debug)]
pub struct WarmNode<K> {
    node: Node<K>,
    cache: Cache,
    /// True if the room that is kept on the file system of the records was needed, and is not kept again yet.
    gave_up_room: bool,
}

impl<K: Kernel> WarmNode<K> {
    /// Creates the network of this node on this kernel.
    pub fn new(config: Config, kernel: K) -> Self {
        Self {
            node: Node::with_kernel(config, kernel),
            cache: Cache::deferring(),
            gave_up_room: false,
        }
    }

    /// Returns the kernel that it works on.
    pub fn kernel(&mut self) -> &mut K {
        self.node.kernel()
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.node.config()
    }

    /// Does these requests, as [`Node::apply`]. If the file system of the records is full, the room that is kept there is
    /// for those that take instances down.
    pub fn apply(&mut self, requests: &[Request]) -> Vec<Result<Report, NodeError>> {
        self.begin_with_room(requests).into_iter().flatten().collect()
    }

    /// Does these requests as [`Self::apply`], but leaves the flows that have to be forgotten to tasks: for each, the
    /// kernel looks through all tracked connections. [`Self::finish_flows`] takes the outcomes of the tasks, in their order.
    ///
    /// An answer with a [ticket](Report::ticket) holds once its task is done. A request that meets an unfinished task is
    /// held back: it is for the same instance, or publishes a port whose flows the task forgets. It has no answer, and has to
    /// be asked again.
    pub fn begin(&mut self, requests: &[Request]) -> Begun {
        self.cache.flow_tasks.begin();
        let answers = self.begin_with_room(requests);
        Begun { answers, tasks: self.cache.flow_tasks.take() }
    }

    /// Notes the outcome of a task that forgets flows. If it failed, the instances that wait for it count as interrupted: the
    /// next operation looks at them. Their slots, and those whose flows it forgot, can be used again.
    pub fn finish_flows(&mut self, outcome: &FlowOutcome) {
        self.cache.finish_flows(outcome.ticket(), outcome.error().is_none());
    }

    fn begin_with_room(&mut self, requests: &[Request]) -> Vec<Option<Result<Report, NodeError>>> {
        let mut answers = self.operations().begin(requests);
        for (request, answer) in requests.iter().zip(&mut answers) {
            let is_full = matches!(answer, Some(Err(error)) if error.is_full());
            if request.down().is_some() && is_full {
                let again = self.with_room(|operations| {
                    operations.begin(std::slice::from_ref(request)).pop().flatten().transpose()
                });
                *answer = again.transpose();
            }
        }
        answers
    }

    /// Brings up the network of these workloads, as [`Node::up`].
    ///
    /// # Errors
    /// Fails as that method does.
    pub fn up(&mut self, workloads: &[Workload], options: UpOptions) -> Result<Report, NodeError> {
        self.operations().up(workloads, options)
    }

    /// Takes instances down, as [`Node::down`].
    ///
    /// # Errors
    /// Fails as that method does.
    pub fn down(&mut self, selector: &Selector, purge: bool) -> Result<Report, NodeError> {
        let request = Request::Down(selector.clone());
        self.gave_up_room |= purge && self.operations().make_room();
        self.with_room(|operations| operations.down(&request, purge))
    }

    /// Takes instances down for the supervisor of their runs, as [`Node::down_as`].
    ///
    /// # Errors
    /// Fails as that method does.
    pub fn down_as(
        &mut self,
        supervisor: ProcessId,
        selector: &Selector,
        purge: bool,
    ) -> Result<Report, NodeError> {
        let request = Request::DownAs(supervisor, selector.clone());
        self.with_room(|operations| operations.down(&request, purge))
    }

    /// Returns the plan of bringing these workloads up, as [`Node::plan`].
    ///
    /// # Errors
    /// Fails as that method does.
    pub fn plan(&mut self, workloads: &[Workload]) -> Result<(Plan, Vec<Warning>), NodeError> {
        self.operations().plan(workloads)
    }

    /// Compares the kernel with the records, as [`Node::check`]. Work that is left to background tasks is not drift.
    ///
    /// # Errors
    /// Fails as that method does.
    pub fn check(&mut self) -> Result<Drift, NodeError> {
        self.operations().check()
    }

    /// Changes the kernel to what the records say, as [`Node::repair`].
    ///
    /// # Errors
    /// Fails as that method does.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "a path to the method would hold for one lifetime only"
    )]
    pub fn repair(&mut self) -> Result<Report, NodeError> {
        self.with_room(|operations| operations.repair())
    }

    /// Keeps the records open, with or without anything in them: returns `false`. [`Node::remove_blank`] is for processes that end.
    ///
    /// # Errors
    /// Never fails.
    pub fn remove_blank(&mut self) -> Result<bool, NodeError> {
        Ok(false)
    }

    /// Changes the kernel to what the records say for these slots, and for the objects that all instances share: the
    /// firewall's base ruleset, the foreign chains, the sysctls. If that is not enough, it does what [`Self::repair`]
    /// does.
    ///
    /// # Errors
    /// Fails as [`Node::up`] does.
    pub fn heal(&mut self, slots: &BTreeSet<Slot>) -> Result<Report, NodeError> {
        self.with_room(|operations| operations.heal(slots))
    }

    /// Rebuilds the records from the interfaces' aliases, as [`Node::rebuild`].
    ///
    /// # Errors
    /// Fails as that method does.
    pub fn rebuild(&mut self, options: RebuildOptions) -> Result<Rebuilt, NodeError> {
        self.operations().rebuild(options, Adoption::Lost)
    }

    /// Takes over the objects of the records in another state directory, as [`Node::adopt`].
    ///
    /// # Errors
    /// Fails as that method does.
    pub fn adopt(&mut self) -> Result<Rebuilt, NodeError> {
        self.operations().rebuild(RebuildOptions::default(), Adoption::All)
    }

    /// Lists the recorded instances, as [`Node::list`].
    ///
    /// # Errors
    /// Fails as that method does.
    pub fn list(&mut self) -> Result<Vec<ListedInstance>, NodeError> {
        self.operations().list()
    }

    /// Returns one recorded instance, as [`Node::inspect`].
    ///
    /// # Errors
    /// Fails as that method does.
    pub fn inspect(&mut self, name: &InstanceName) -> Result<Inspection, NodeError> {
        self.operations().inspect(name)
    }

    /// Decides for a node that has not been used yet, so that slots can be reserved before its first instance.
    ///
    /// # Errors
    /// Fails if the decisions cannot be made or recorded. [`Self::repair`] then creates what all instances share.
    pub fn initialize(&mut self) -> Result<(), NodeError> {
        self.operations().initialize()
    }

    /// Reserves up to `count` slots, and returns the task that creates their TAPs; `None` if there is none to reserve,
    /// the node has not been used yet, or its firewall has to be repaired first. [`Self::finish`] takes the outcome of
    /// the task.
    ///
    /// # Errors
    /// Fails if the records cannot be changed.
    pub fn reserve(&mut self, count: usize) -> Result<Option<BackgroundTask>, NodeError> {
        self.operations().reserve(count)
    }

    /// Returns the task that deletes the TAPs of the draining slots; `None` if a task already works on each of them.
    /// [`Self::finish`] takes its outcome.
    ///
    /// # Errors
    /// Fails if the records cannot be read.
    pub fn drain(&mut self) -> Result<Option<BackgroundTask>, NodeError> {
        self.operations().drain()
    }

    /// Records the outcome of a background task. Slots whose TAPs could not be created are not reserved again by this
    /// process.
    ///
    /// # Errors
    /// Fails if the records cannot be changed: then [`Self::repair`] finds the task undone.
    pub fn finish(&mut self, outcome: &TaskOutcome) -> Result<(), NodeError> {
        self.with_room(|operations| operations.finish(outcome))
    }

    /// Records which definition file asks for each of these names from now on, or that none does. Returns the names that
    /// nothing was recorded for: an instance of that name is up, and no file owns it.
    ///
    /// # Errors
    /// Fails if the records cannot be written; then nothing is changed.
    pub fn set_manifests(
        &mut self,
        changes: &BTreeMap<InstanceName, Option<String>>,
    ) -> Result<BTreeSet<InstanceName>, NodeError> {
        self.operations().set_manifests(changes)
    }

    /// Reads the records.
    ///
    /// # Errors
    /// Fails if they cannot be opened.
    pub fn look_at_records<T>(&mut self, look: impl FnOnce(&Store) -> T) -> Result<T, NodeError> {
        let mut operations = self.operations();
        operations.flush()?;
        Ok(look(operations.records()?))
    }

    /// Returns the changes by others after the one of this number, for the one who announces them. Reads the records as
    /// they are, and commits nothing.
    ///
    /// # Errors
    /// Fails if the records cannot be read.
    pub fn changes_after(&mut self, number: u64) -> Result<Journal, NodeError> {
        Ok(self.operations().records()?.changes_after(number)?)
    }

    /// Returns what may surprise users of recorded instances, as [`Node::warnings`].
    ///
    /// # Errors
    /// Fails as that method does.
    pub fn warnings(&mut self) -> Result<Vec<Warning>, NodeError> {
        self.operations().warnings()
    }

    /// Returns the local processes whose packets recorded exposures take. Costs as much as there are local sockets, and not
    /// as there are records.
    ///
    /// # Errors
    /// Fails if the records or the kernel cannot be read.
    pub fn shadowed_processes(&mut self) -> Result<Vec<Shadow>, NodeError> {
        self.operations().shadowed_processes()
    }

    /// Returns how many slots instances hold, and how many are reserved, by state. A deferred outcome counts as
    /// committed, and is not committed for this.
    ///
    /// # Errors
    /// Fails if the records cannot be read.
    pub fn counts(&mut self) -> Result<(u32, BTreeMap<ReservedSlot, usize>), NodeError> {
        self.operations().counts()
    }

    /// Returns how many slots are reserved, by state. Costs as much as there are of them.
    ///
    /// # Errors
    /// Fails if the records cannot be read.
    pub fn reserved(&mut self) -> Result<BTreeMap<ReservedSlot, usize>, NodeError> {
        Ok(self.operations().reserved()?.1)
    }

    /// Returns whether an operation found the records removed, and wrote them again, since the last call. While a
    /// process has them open, all of them still exist.
    #[must_use]
    pub fn take_restored(&mut self) -> bool {
        self.cache.take_restored()
    }

    /// Returns whether the outcome of an operation is not committed yet.
    #[must_use]
    pub fn has_deferred(&self) -> bool {
        self.cache.has_deferred()
    }

    /// Returns the number of slots that this process began to drain, and that [`Self::finish`] was not told of yet.
    #[must_use]
    pub fn draining(&self) -> usize {
        self.cache.draining()
    }

    /// Commits the outcomes of earlier operations.
    ///
    /// # Errors
    /// Fails if the records cannot be written.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "a path to the method would hold for one lifetime only"
    )]
    pub fn flush(&mut self) -> Result<(), NodeError> {
        self.with_room(|operations| operations.flush())?;
        if self.gave_up_room
            && let Ok(records) = self.operations().records()
        {
            records.keep_room();
            self.gave_up_room = false;
        }
        Ok(())
    }

    /// Commits the outcomes of earlier operations, reverts what only a process that is notified of changes may have
    /// set, and closes the records.
    ///
    /// # Errors
    /// Fails if the records cannot be written, or the kernel refuses; then the next operation takes it back.
    pub fn close(&mut self) -> Result<(), NodeError> {
        self.operations().close()
    }

    fn operations(&mut self) -> Operations<'_, K> {
        self.node.operations(&mut self.cache)
    }

    /// Does some work, and once more with the room that is kept if the file system of the records is full.
    fn with_room<T>(
        &mut self,
        work: impl Fn(&mut Operations<'_, K>) -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        let (done, gave_up_room) = self.operations().with_room(work);
        self.gave_up_room |= gave_up_room;
        done
    }
}

impl<K: Kernel> Operations<'_, K> {
    fn set_manifests(
        &mut self,
        changes: &BTreeMap<InstanceName, Option<String>>,
    ) -> Result<BTreeSet<InstanceName>, NodeError> {
        let mut session = self.session()?;
        let (tx, context) = session.begin()?;
        let mut refused = BTreeSet::new();
        for (name, file) in changes {
            if file.is_some() && tx.manifest(name)?.is_none() && tx.is_recorded(name)? {
                refused.insert(name.clone());
            } else {
                tx.set_manifest(name, file.as_deref())?;
            }
        }
        context.commit(tx)?;
        Ok(refused)
    }

    fn counts(&mut self) -> Result<(u32, BTreeMap<ReservedSlot, usize>), NodeError> {
        let (removed, reserved) = self.reserved()?;
        Ok((self.records()?.count()?.saturating_sub(removed), reserved))
    }

    /// Returns how many instances are gone that the records still have, and the reserved slots with those of these.
    fn reserved(&mut self) -> Result<(u32, BTreeMap<ReservedSlot, usize>), NodeError> {
        let removed = self.deferred_removals()?;
        let mut reserved = self.records()?.count_reserved()?;
        if !removed.is_empty() {
            *reserved.entry(ReservedSlot::Draining).or_default() += removed.len();
        }
        Ok((u32::try_from(removed.len()).unwrap_or(u32::MAX), reserved))
    }
}

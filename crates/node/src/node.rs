use super::{
    Config, Drift, Inspection, ListedInstance, NodeError, RebuildOptions, Rebuilt, Report, Request,
    Selector, UpOptions, UplinkFlaw, Warning,
    cache::Cache,
    explain::{Explained, Question},
    session::Operations,
};
use crate::{
    store::{self, Lock, Store},
    uplinks,
};
use riklet_core::{
    firewall::Confinement,
    model::{InstanceName, Workload},
    plan::{Adoption, Plan},
};
use riklet_kernel::{Kernel, linux::Linux, process::ProcessId};

/// The network of this node.
///
/// Each operation is complete when it returns. A long-lived process with a thread for slow work uses a
/// [`WarmNode`](crate::WarmNode) instead.
#[derive(Debug)]
pub struct Node<K = Linux> {
    pub(crate) config: Config,
    pub(crate) kernel: K,
    /// The database, open from one operation to the next.
    store: Option<Store>,
}

impl Node<Linux> {
    /// Creates the network of this node. Each call works on the network namespace of the calling thread.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_kernel(config, Linux::new())
    }
}

impl<K: Kernel> Node<K> {
    /// Creates the same on another kernel, such as [`riklet_kernel::fake::FakeKernel`].
    pub fn with_kernel(config: Config, kernel: K) -> Self {
        Self { config, kernel, store: None }
    }

    /// Returns the kernel that it works on.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Brings up the network of these workloads, or changes it as a changed definition requires. Repetition changes
    /// nothing. Users and groups are recorded by their present numbers.
    ///
    /// # Errors
    /// Fails if a workload cannot be recorded (another instance has its port, the pool is exhausted, the host knows no
    /// user of that name): then nothing is changed for any of them. Later failures are in [`Report::failures`], or is
    /// [`NodeError::Halted`] if it concerns all instances; then the records are kept, and [`Self::repair`] or the next
    /// operation tries again.
    pub fn up(&mut self, workloads: &[Workload], options: UpOptions) -> Result<Report, NodeError> {
        self.operations(&mut Cache::default()).up(workloads, options)
    }

    /// Takes instances down. With `purge`, and if none remains, the objects that all instances share are removed as
    /// well, and the sysctls get their former values: the host is as it was.
    ///
    /// # Errors
    /// Fails if a name is not recorded, one of them is running, or `purge` is asked for and other instances remain:
    /// then nothing is changed. Later failures are reported as by [`Self::up`].
    pub fn down(&mut self, selector: &Selector, purge: bool) -> Result<Report, NodeError> {
        let request = Request::Down(selector.clone());
        self.with_room(|operations| operations.down(&request, purge))
    }

    /// Takes instances down as [`Self::down`], for the supervisor of their runs, which do not prevent it.
    ///
    /// # Errors
    /// Fails as [`Self::down`] does; also if another process supervises one of them.
    pub fn down_as(
        &mut self,
        supervisor: ProcessId,
        selector: &Selector,
        purge: bool,
    ) -> Result<Report, NodeError> {
        let request = Request::DownAs(supervisor, selector.clone());
        self.with_room(|operations| operations.down(&request, purge))
    }

    /// Does these requests with the same result as one after another, and answers each as [`Self::up`] and
    /// [`Self::down`] would. Requests that do not depend on each other are done together.
    pub fn apply(&mut self, requests: &[Request]) -> Vec<Result<Report, NodeError>> {
        let cache = &mut Cache::default();
        let mut operations = self.operations(cache);
        if requests.iter().any(|request| request.down().is_some()) {
            operations.make_room();
        }
        operations.apply(requests)
    }

    /// Returns the plan of [`Self::up`] and its warnings. Changes nothing.
    ///
    /// # Errors
    /// Fails if `up` would refuse, or the kernel cannot be read.
    pub fn plan(&mut self, workloads: &[Workload]) -> Result<(Plan, Vec<Warning>), NodeError> {
        self.look(|mut operations| operations.plan(workloads))
    }

    /// Compares the kernel with the records. Changes nothing.
    ///
    /// # Errors
    /// Fails if the store or the kernel cannot be read.
    pub fn check(&mut self) -> Result<Drift, NodeError> {
        self.look(|mut operations| operations.check())
    }

    /// Explains the way of one packet: each chain that decides about it, where it ends, and what stops it although the rules
    /// let it pass. Changes nothing, and sends nothing. Reads all rules of others that packets of guests pass.
    ///
    /// # Errors
    /// Fails if no instance is up, a function of the question is not recorded, or the records or the kernel cannot be read.
    pub fn explain(&mut self, question: &Question) -> Result<Explained, NodeError> {
        self.operations(&mut Cache::default()).explain(question)
    }

    /// Returns what may surprise users of recorded instances, and is no drift, as [`Drift::warnings`].
    ///
    /// # Errors
    /// Fails if the store or the kernel cannot be read.
    pub fn warnings(&mut self) -> Result<Vec<Warning>, NodeError> {
        self.operations(&mut Cache::default()).warnings()
    }

    /// Returns the pairs of other interfaces between which the host forwards packets only because functions are up, and
    /// which nothing drops while no daemon runs.
    ///
    /// # Errors
    /// Fails if the records or the kernel cannot be read.
    pub fn left_open(&mut self) -> Result<Confinement, NodeError> {
        self.operations(&mut Cache::default()).left_open()
    }

    /// Returns what keeps clients at the host's uplinks from being answered, whether functions are up or not.
    ///
    /// # Errors
    /// Fails if the kernel cannot be read.
    pub fn uplink_flaws(&mut self) -> Result<Vec<UplinkFlaw>, NodeError> {
        uplinks::look_at_flaws(&mut self.kernel, &self.config)
    }

    /// Changes the kernel to what the records say: repairs what drifted, and removes what leaked.
    ///
    /// # Errors
    /// Fails as [`Self::up`] does.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "a path to the method would hold for one lifetime only"
    )]
    pub fn repair(&mut self) -> Result<Report, NodeError> {
        self.with_room(|operations| operations.repair())
    }

    /// Closes the records, and removes them if there is nothing in them and nobody else has them open. Returns whether they
    /// were removed. The next operation opens or creates them. Repetition changes nothing more.
    ///
    /// # Errors
    /// Fails if the records cannot be read or removed; then they stay, at least in part, and are removed on repetition.
    pub fn remove_blank(&mut self) -> Result<bool, NodeError> {
        self.store = None;
        Ok(store::remove_blank(&self.config.state_dir)?)
    }

    /// Sets a damaged database aside, records every interface of ours that is not recorded, and repairs. The fields of
    /// a definition that neither its exposures nor its TAP show are lost with such a database: the kernel does not know
    /// them.
    ///
    /// # Errors
    /// Fails if something belongs to the records in another state directory; then nothing is changed. Also fails if the
    /// state directory cannot be used, no known pool has the interfaces' addresses, or, without
    /// [`RebuildOptions::force`], the database is newer or another program's, and as [`Self::repair`] does.
    pub fn rebuild(&mut self, options: RebuildOptions) -> Result<Rebuilt, NodeError> {
        self.operations(&mut Cache::default()).rebuild(options, Adoption::Lost)
    }

    /// Takes over the objects of the records in another state directory, as [`Self::rebuild`] does for lost records.
    /// All of them bear our mark afterwards. Connections stay. The other records are copied to a file
    /// `riklet-sdn.db.adopted-<n>` beside them and emptied, except for their runs; their operations are refused while
    /// ours has objects on the host. Other records that cannot be found or written stay, with a warning in the log.
    ///
    /// A TAP that a VMM has open stays with its instance: if our records have another instance in its slot, that one is
    /// a failure of the report.
    ///
    /// # Errors
    /// Fails as [`Self::rebuild`] does, but not for objects of other records; also if our pool is not theirs.
    pub fn adopt(&mut self) -> Result<Rebuilt, NodeError> {
        self.operations(&mut Cache::default()).rebuild(RebuildOptions::default(), Adoption::All)
    }

    /// Lists the recorded instances, ordered by name. Those whose record cannot be read are left out, and warned of; see
    /// [`Self::check`].
    ///
    /// # Errors
    /// Fails if the store or the kernel cannot be read; also if nothing was recorded here, and objects on the host belong
    /// to the records in another state directory or to lost ones.
    pub fn list(&mut self) -> Result<Vec<ListedInstance>, NodeError> {
        self.look(|mut operations| operations.list())
    }

    /// Returns one recorded instance, and its state in the kernel.
    ///
    /// # Errors
    /// Fails if no instance of this name is recorded, and otherwise as [`Self::list`] does.
    pub fn inspect(&mut self, name: &InstanceName) -> Result<Inspection, NodeError> {
        self.look(|mut operations| operations.inspect(name))
    }

    /// Refuses to begin with a state directory that has no records, if objects on the host belong to other records. Every
    /// operation does so as well; this one creates nothing, not even for a moment.
    ///
    /// # Errors
    /// Fails if it refuses, or the kernel cannot be read.
    pub fn refuse_first_use(&mut self) -> Result<(), NodeError> {
        self.operations(&mut Cache::default()).refuse_blank()
    }

    /// Does some work that takes instances down or repairs them, with the room that is kept if the file system of the
    /// records is full.
    fn with_room<T>(
        &mut self,
        work: impl Fn(&mut Operations<'_, K>) -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        let cache = &mut Cache::default();
        let mut operations = self.operations(cache);
        operations.make_room();
        operations.with_room(work).0
    }

    /// Returns the operations of a node that remembers this from earlier ones.
    /// Looks at the node; once more if another process has begun to use the state directory meanwhile. As long as there is no
    /// lock, a look finds what that process made, and not its records.
    fn look<T>(
        &mut self,
        look: impl Fn(Operations<'_, K>) -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        let has_lock = Lock::exists(&self.config.state_dir);
        let found = look(self.operations(&mut Cache::default()));
        if has_lock || !Lock::exists(&self.config.state_dir) {
            return found;
        }
        look(self.operations(&mut Cache::default()))
    }

    pub(crate) fn operations<'n>(&'n mut self, cache: &'n mut Cache) -> Operations<'n, K> {
        Operations::new(&self.config, &mut self.kernel, &mut self.store, cache)
    }
}

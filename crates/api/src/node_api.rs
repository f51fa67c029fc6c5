use riklet_core::model::{InstanceName, Selector, Workload};

use super::{
    ApiError, Check, Health, InspectionDocument, ListEntry, Notification, PlanDocument,
    RebuiltDocument, ReportDocument, Token, Topic,
};

/// The operations of a node. Their results are documents.
///
/// Three types implement it: the node in this process, the engine of the daemon, and the client of a daemon. They give
/// the same answers, and refuse with the same [`ApiError`]. Exceptions are documented at the methods.
///
/// Each call may be repeated. A call that ends with an error before anything was recorded has changed nothing. A later
/// failure is reported in [`ReportDocument::failures`], and the next operation, or [`Self::repair`], tries again.
pub trait NodeApi {
    /// Brings up the network of these workloads, or updates it to a changed definition. Refuses
    /// exposures that would take the packets of others, unless they say `shadow: true`; with `strict`, these as well.
    ///
    /// # Errors
    /// Fails if one of them cannot be recorded; none is recorded then.
    fn up(&mut self, workloads: &[Workload], strict: bool) -> Result<ReportDocument, ApiError>;

    /// Takes instances down. With `purge`, also removes everything that all instances share; if all instances are
    /// selected, also forgets the ended runs.
    ///
    /// # Errors
    /// Fails without any change if one of them is not recorded or is running, or if `purge` would break others that remain.
    fn down(&mut self, selector: &Selector, purge: bool) -> Result<ReportDocument, ApiError>;

    /// Lists the recorded instances by name, with the state of each interface.
    ///
    /// # Errors
    /// Fails if the records or the kernel cannot be read.
    fn list(&mut self) -> Result<Vec<ListEntry>, ApiError>;

    /// Describes one instance.
    ///
    /// # Errors
    /// Fails if it is not recorded, or the records or the kernel cannot be read.
    fn inspect(&mut self, name: &InstanceName) -> Result<InspectionDocument, ApiError>;

    /// Returns the changes that [`Self::up`] would make. Changes nothing.
    ///
    /// # Errors
    /// Fails if `up` would refuse, or the kernel cannot be read.
    fn plan(&mut self, workloads: &[Workload]) -> Result<PlanDocument, ApiError>;

    /// Compares the kernel with the records, and looks for runs whose supervisor has died. Changes nothing.
    ///
    /// # Errors
    /// Fails if the records, the kernel or `/proc` cannot be read.
    fn check(&mut self) -> Result<Check, ApiError>;

    /// Cleans up lost runs, whose supervisor has died, then makes the kernel match the records.
    ///
    /// # Errors
    /// Fails if a process cannot be ended, or a step that concerns all instances is refused. Earlier steps stay done.
    fn repair(&mut self) -> Result<ReportDocument, ApiError>;

    /// Verifies the database. If it is damaged, or with `force`, sets it aside and records the interfaces anew from
    /// their aliases. Then repairs.
    ///
    /// # Errors
    /// A daemon refuses, since it has the database open. Otherwise where the records cannot be written, or as
    /// [`Self::repair`].
    fn rebuild(&mut self, force: bool) -> Result<RebuiltDocument, ApiError>;

    /// Takes over the functions of another state directory, and records them here.
    ///
    /// # Errors
    /// Fails as [`Self::rebuild`] does. A daemon takes functions over only when it is started with `--adopt`.
    fn adopt(&mut self) -> Result<RebuiltDocument, ApiError>;

    /// Returns the state of the daemon; `None` if this is not a daemon.
    ///
    /// # Errors
    /// Fails if the daemon does not answer.
    fn health(&mut self) -> Result<Option<Health>, ApiError>;

    /// Returns the events of a topic that the daemon remembers, oldest first; with `since`, those after the event of this token, and
    /// first how many of these are not remembered any more. With `follow`, new events come after these, until the daemon
    /// ends.
    ///
    /// # Errors
    /// Fails if there is no daemon, or it does not answer.
    fn events(
        &mut self,
        topic: Topic,
        follow: bool,
        since: Option<Token>,
    ) -> Result<Notifications, ApiError>;
}

/// A stream of events.
pub type Notifications = Box<dyn Iterator<Item = Result<Notification, ApiError>>>;

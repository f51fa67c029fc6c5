//! The node in this process, as a [`NodeApi`].

use std::path::Path;

use riklet_api::{
    ApiError, Check, ErrorKind, Health, HttpStatus, InspectionDocument, ListEntry, NodeApi,
    Notifications, PlanDocument, RebuiltDocument, ReportDocument, Token, Topic, epoch_millis,
};
use riklet_core::model::{InstanceName, Selector, Workload};
use riklet_kernel::linux::Linux;
use riklet_sdn::{
    Config, Node, NodeError, NodeOperations, RebuildOptions, UpOptions, store::Store,
};
use riklet_vmm::runs::{self, Orphans, RunState};

use super::{documents, problems, wall_clock};

/// The node in this process, with its runs.
///
/// The command line uses it when no daemon listens, and the daemon's engine has one, so both answer through the same
/// code.
#[derive(Debug)]
pub struct LocalNode<N = Node<Linux>> {
    pub(crate) node: N,
}

impl<N: NodeOperations> LocalNode<N> {
    /// Creates the API of this node.
    #[must_use]
    pub const fn new(node: N) -> Self {
        Self { node }
    }

    /// Returns the node.
    pub const fn node(&mut self) -> &mut N {
        &mut self.node
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.node.config()
    }

    /// Takes instances down, with everything that all share. `forget_runs` is the rest of a `down` with `purge`.
    ///
    /// # Errors
    /// Fails as [`NodeApi::down`] does.
    pub fn purge(&mut self, selector: &Selector) -> Result<ReportDocument, ApiError> {
        document(self.node.down(selector, true))
    }

    /// Cleans up these lost runs, then repairs. [`Orphans::take_over`] is the first part of a `repair`.
    ///
    /// # Errors
    /// Fails as [`NodeApi::repair`] does.
    pub fn repair_with(&mut self, orphans: Orphans) -> Result<ReportDocument, ApiError> {
        let repaired = runs::repair(&mut self.node, orphans, epoch_millis(wall_clock()));
        let repaired = repaired.map_err(|error| problems::run(&error))?;
        Ok(documents::repaired(&repaired))
    }
}

impl<N: NodeOperations> NodeApi for LocalNode<N> {
    fn up(&mut self, workloads: &[Workload], strict: bool) -> Result<ReportDocument, ApiError> {
        let report = self.node.up(workloads, UpOptions::default().strict(strict));
        if report.is_err() {
            // If it was the first, it leaves no empty database behind. Its own error says more than that of a removal.
            let _stays = self.node.remove_blank();
        }
        document(report)
    }

    fn down(&mut self, selector: &Selector, purge: bool) -> Result<ReportDocument, ApiError> {
        if purge {
            let report = self.purge(selector)?;
            forget_runs(&self.config().state_dir, selector)?;
            self.node.remove_blank().map_err(|error| problems::node(&error))?;
            return Ok(report);
        }
        document(self.node.down(selector, false))
    }

    fn list(&mut self) -> Result<Vec<ListEntry>, ApiError> {
        let listed = self.node.list().map_err(|error| problems::node(&error))?;
        let mut listed: Vec<_> = listed.iter().map(documents::listed).collect();
        let store = Store::open_existing(&self.config().state_dir);
        let lost = match store.map_err(|error| problems::store(&error))? {
            Some(store) => runs::lost(&store).map_err(|error| problems::run(&error))?,
            None => vec![],
        };
        for entry in &mut listed {
            if lost.iter().any(|run| run.name.as_str() == entry.instance.name) {
                RunState::Lost.as_str().clone_into(&mut entry.link);
            }
        }
        Ok(listed)
    }

    fn inspect(&mut self, name: &InstanceName) -> Result<InspectionDocument, ApiError> {
        let found = self.node.inspect(name).map_err(|error| problems::node(&error))?;
        Ok(documents::inspection(&found))
    }

    fn plan(&mut self, workloads: &[Workload]) -> Result<PlanDocument, ApiError> {
        let planned = self.node.plan(workloads).map_err(|error| problems::node(&error))?;
        Ok(documents::plan(&planned.0, &planned.1))
    }

    fn check(&mut self) -> Result<Check, ApiError> {
        let (drift, lost) = runs::check(&mut self.node).map_err(|error| problems::run(&error))?;
        Ok(documents::check(&drift, lost.into_iter().map(|run| run.name.to_string())))
    }

    fn repair(&mut self) -> Result<ReportDocument, ApiError> {
        let orphans = Orphans::take_over(&self.config().state_dir);
        self.repair_with(orphans.map_err(|error| problems::run(&error))?)
    }

    fn rebuild(&mut self, force: bool) -> Result<RebuiltDocument, ApiError> {
        let rebuilt = self
            .node
            .rebuild(RebuildOptions::default().force(force))
            .map_err(|error| problems::node(&error))?;
        runs::recover(&self.config().state_dir).map_err(|error| problems::run(&error))?;
        Ok(documents::rebuilt(&rebuilt))
    }

    fn adopt(&mut self) -> Result<RebuiltDocument, ApiError> {
        let adopted = self.node.adopt().map_err(|error| problems::node(&error))?;
        Ok(documents::rebuilt(&adopted))
    }

    fn health(&mut self) -> Result<Option<Health>, ApiError> {
        Ok(None)
    }

    fn events(
        &mut self,
        _topic: Topic,
        _follow: bool,
        _since: Option<Token>,
    ) -> Result<Notifications, ApiError> {
        let detail = format!("no daemon listens on {}", self.config().socket().display());
        let error = ApiError::new(HttpStatus::ServiceUnavailable, ErrorKind::Failed, detail);
        Err(error.with_hint("start one with `riklet-sdn serve`".to_owned()))
    }
}

/// Describes the outcome of an operation.
pub(crate) fn document(
    outcome: Result<riklet_sdn::Report, NodeError>,
) -> Result<ReportDocument, ApiError> {
    outcome.map(|report| documents::report(&report)).map_err(|error| problems::node(&error))
}

/// Forgets the ended runs, if all instances were taken down with everything that they shared. The time depends on the
/// number of logs.
pub(crate) fn forget_runs(state_dir: &Path, selector: &Selector) -> Result<(), ApiError> {
    match selector {
        Selector::All => runs::forget_ended(state_dir).map_err(|error| problems::run(&error)),
        Selector::Named(_) => Ok(()),
    }
}

//! The engine as a [`NodeApi`], for threads: each call blocks until its reply.

use riklet_api::{
    ApiError, Check, Health, InspectionDocument, ListEntry, NodeApi, Notification, Notifications,
    PlanDocument, RebuiltDocument, ReportDocument, Token, Topic, database_is_open,
};
use riklet_core::model::{InstanceName, Selector, Workload};
use riklet_sdn::{NodeError, Request, UpOptions, store::Store};
use riklet_vmm::runs::Orphans;
use tokio::sync::broadcast::error::RecvError;

use super::Engine;
use crate::{
    documents,
    events::{Event, EventKind, Subscription},
    local::{document, forget_runs},
    problems,
};

impl NodeApi for Engine {
    fn up(&mut self, workloads: &[Workload], strict: bool) -> Result<ReportDocument, ApiError> {
        document(
            self.change(Request::Up(workloads.to_vec(), UpOptions::default().strict(strict)))
                .wait()?,
        )
    }

    fn down(&mut self, selector: &Selector, purge: bool) -> Result<ReportDocument, ApiError> {
        if !purge {
            return document(self.change(Request::Down(selector.clone())).wait()?);
        }
        let wanted = selector.clone();
        let purged = self.alone(move |node| {
            let owned = node.node.look_at_records(Store::manifests)??;
            Ok((owned, node.purge(&wanted)))
        });
        let (owned, report) = purged.wait()?.map_err(|error: NodeError| problems::node(&error))?;
        let report = report?;
        if !owned.is_empty() {
            let text = "the functions of definition files come back once a file that defines them changes, or the \
                        daemon starts anew";
            self.events.say(EventKind::Manifest, None, text.to_owned());
        }
        forget_runs(&self.config.state_dir, selector).map(|()| report)
    }

    fn list(&mut self) -> Result<Vec<ListEntry>, ApiError> {
        self.with(NodeApi::list).wait()?
    }

    fn inspect(&mut self, name: &InstanceName) -> Result<InspectionDocument, ApiError> {
        let name = name.clone();
        self.with(move |node| node.inspect(&name)).wait()?
    }

    fn plan(&mut self, workloads: &[Workload]) -> Result<PlanDocument, ApiError> {
        let workloads = workloads.to_vec();
        self.with(move |node| node.plan(&workloads)).wait()?
    }

    fn check(&mut self) -> Result<Check, ApiError> {
        self.check_anew().wait()?
    }

    /// Ends the VMMs of lost runs on the calling thread, so that nobody else waits for that.
    fn repair(&mut self) -> Result<ReportDocument, ApiError> {
        let orphans = Orphans::take_over(&self.config.state_dir);
        let orphans = orphans.map_err(|error| problems::run(&error))?;
        self.alone(move |node| node.repair_with(orphans)).wait()?
    }

    fn rebuild(&mut self, _force: bool) -> Result<RebuiltDocument, ApiError> {
        Err(database_is_open(&self.config.socket()))
    }

    fn adopt(&mut self) -> Result<RebuiltDocument, ApiError> {
        Err(database_is_open(&self.config.socket()))
    }

    fn health(&mut self) -> Result<Option<Health>, ApiError> {
        Ok(Some(documents::health(self.counts().wait()?, None)))
    }

    fn events(
        &mut self,
        topic: Topic,
        follow: bool,
        since: Option<Token>,
    ) -> Result<Notifications, ApiError> {
        let subscription = self.events.listen_to(topic, since);
        let Subscription { missed, remembered, mut coming, .. } = subscription;
        let missed = (missed != Some(0)).then_some(Ok(Notification::Missed(missed)));
        let remembered = remembered.into_iter().map(|event| Ok(notification(&event)));
        let first = missed.into_iter().chain(remembered);
        if !follow {
            return Ok(Box::new(first));
        }
        let coming = std::iter::from_fn(move || match coming.blocking_recv() {
            Ok(event) => Some(Ok(notification(&event))),
            Err(RecvError::Lagged(count)) => Some(Ok(Notification::Missed(Some(count)))),
            Err(RecvError::Closed) => None,
        });
        Ok(Box::new(first.chain(coming)))
    }
}

fn notification(event: &Event) -> Notification {
    match event.kind {
        EventKind::Missed(count) => Notification::Missed(count),
        _ => Notification::Event(event.into()),
    }
}

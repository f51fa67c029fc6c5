//! Plans and checks without changing anything.

use std::collections::BTreeSet;

use super::{
    Drift, NodeError, Shadow, UpOptions, Warning, accounts,
    converge::View,
    host::Interfaces,
    record::Recorded,
    session::{Operations, Reading, Used, unsettled},
    shadow,
    views::{FullView, ScopedView},
};
use crate::store::{Phase, Record, Records, Store};
use riklet_core::{
    firewall::Confinement,
    model::Workload,
    plan::{self, Plan},
};
use riklet_kernel::Kernel;

/// Returns what may surprise users of these records.
fn warnings(
    kernel: &mut impl Kernel,
    store: &Store,
    records: &[Record],
) -> Result<Vec<Warning>, NodeError> {
    let shadows = shadow::shadowed_processes(kernel, store)?;
    let (translations, absent) = shadow::shadowed_translations(kernel, records)?;
    let shadows = shadows.into_iter().chain(translations).map(Warning::Shadows);
    Ok(shadows.chain(absent.into_iter().map(Warning::AbsentAddress)).collect())
}

impl<K: Kernel> Operations<'_, K> {
    pub(crate) fn plan(
        &mut self,
        workloads: &[Workload],
    ) -> Result<(Plan, Vec<Warning>), NodeError> {
        let workloads = &accounts::resolved(self.context.kernel, workloads)?;
        let mut reading = self.reading()?;
        let mut nothing_recorded;
        let store = if let Some(store) = reading.store.take() {
            store
        } else {
            nothing_recorded = Store::in_memory()?;
            &mut nothing_recorded
        };
        let context = &mut reading.context;
        // This transaction is never committed.
        let tx = store.transaction()?;
        let interrupted = unsettled(&tx, context.cache)?.slots().collect::<BTreeSet<_>>();
        let host = context.decide(&tx, Interfaces::Recorded)?;
        let mut rules = context.known_rules(&tx, &host)?;
        let Recorded { changes, warnings, .. } =
            context.record_up((&host, &tx, &mut rules), workloads, UpOptions::default())?;
        let scoped = ScopedView::new(&host, &changes).filter(|_| interrupted.is_empty());
        if let Some(view) = scoped.map(|view| view.with_rules(rules.as_ref()))
            && let Some(plan) = view.preview(context.kernel)?
        {
            return Ok((plan, warnings));
        }
        let deletion = context.cache.link_deletion();
        let full = FullView::new(&host, &tx, context.cache, &interrupted, deletion)?;
        Ok((full.preview(context.kernel)?.unwrap_or_default(), warnings))
    }

    pub(crate) fn check(&mut self) -> Result<Drift, NodeError> {
        let mut reading = self.reading()?;
        let Some(Used { store, host, context }) = reading.used(Interfaces::Listed)? else {
            let claims = reading.context.claims_of_unrecorded()?;
            let plan = Plan { claims, ..Plan::default() };
            return Ok(Drift { plan, firewall: vec![], unsettled: vec![], warnings: vec![] });
        };
        let deletion = context.cache.link_deletion();
        let unsettled = unsettled(store, context.cache)?;
        let interrupted = unsettled.slots().collect();
        let view = FullView::new(&host, store, context.cache, &interrupted, deletion)?;
        let observed = view.look(context.kernel)?;
        let Records { readable, unreadable } = unsettled;
        let unsettled = readable.iter().map(|r| (r.workload.name().clone(), r.phase));
        let leaving = unreadable.into_iter().map(|u| (u.record.name, Phase::Removing));
        let unsettled = unsettled.chain(leaving).collect();
        let plan = plan::plan(&view.desired(), &observed);
        let warnings = warnings(context.kernel, store, &store.all()?.readable)?;
        Ok(Drift { plan, firewall: observed.firewall.differences(), unsettled, warnings })
    }

    pub(crate) fn warnings(&mut self) -> Result<Vec<Warning>, NodeError> {
        let mut reading = self.reading()?;
        let Reading { context, store: Some(store), .. } = &mut reading else { return Ok(vec![]) };
        let records = store.all()?.readable;
        warnings(context.kernel, store, &records)
    }

    pub(crate) fn shadowed_processes(&mut self) -> Result<Vec<Shadow>, NodeError> {
        let mut reading = self.reading()?;
        let Reading { context, store: Some(store), .. } = &mut reading else { return Ok(vec![]) };
        shadow::shadowed_processes(context.kernel, store)
    }

    pub(crate) fn left_open(&mut self) -> Result<Confinement, NodeError> {
        let mut reading = self.reading()?;
        let used = reading.used(Interfaces::Listed)?;
        Ok(used.map(|used| used.host.left_open()).unwrap_or_default())
    }
}

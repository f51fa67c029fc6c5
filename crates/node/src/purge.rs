//! Restores the host to its former state.

use std::sync::Arc;

use super::{
    NodeError, Report, Selector,
    converge::{Outcome, View},
    host::Interfaces,
    ownership::unless_claimed,
    record::refuse_remaining,
    session::{Operations, Session},
    views::FullView,
};
use crate::store::{JournalKind, Phase, Records, ReservedSlot, Setting};
use riklet_kernel::{Kernel, process::ProcessId};

impl<K: Kernel> Operations<'_, K> {
    /// Takes the last instances down, and removes the objects that all instances share.
    pub(crate) fn purge(
        &mut self,
        selector: &Selector,
        supervisor: Option<ProcessId>,
    ) -> Result<Report, NodeError> {
        if self.is_blank()? {
            self.refuse_blank()?;
            return self.context.down_of_nothing(selector);
        }
        self.session()?.purge(selector, supervisor)
    }
}

impl<K: Kernel> Session<'_, K> {
    fn purge(
        &mut self,
        selector: &Selector,
        supervisor: Option<ProcessId>,
    ) -> Result<Report, NodeError> {
        // Record.
        let (tx, context) = self.begin()?;
        let leaving = context.leaving(&tx, selector, supervisor)?;
        refuse_remaining(&tx, &leaving)?;
        let Some(host) = context.decided_or_unclaimed(&tx, Interfaces::Recorded)? else {
            return Ok(Report::default());
        };
        for record in &leaving.readable {
            tx.set_phase(record, Phase::Removing)?;
        }
        for unreadable in &leaving.unreadable {
            tx.leave_unreadable(unreadable)?;
        }
        let host = Arc::unwrap_or_clone(host).removed();
        let view = FullView::nothing(&host);
        let found = unless_claimed(context.look_at_all(&view))?;
        context.commit(tx)?;
        host.warn_of_inheritance();

        // Plan and apply.
        let outcome = view.converge(context.kernel, found?)?.unwrap_or_default();
        let Outcome { done, halted, .. } = outcome;
        if let Some((step, source)) = halted {
            return Err(NodeError::Halted { step: Box::new(step), source });
        }

        // Commit.
        let (tx, context) = self.begin()?;
        let Records { readable, unreadable } = tx.all()?;
        for record in &readable {
            tx.remove(record)?;
        }
        for unreadable in &unreadable {
            tx.remove_unreadable(unreadable)?;
        }
        for state in ReservedSlot::ALL {
            tx.reserved(state)?.into_iter().try_for_each(|slot| tx.free_reserved(slot, state))?;
        }
        // A daemon that stays is still notified of what others change.
        let watcher = tx.setting(Setting::Watcher)?;
        let watcher = watcher.and_then(|text| Some((text.parse().ok()?, text)));
        tx.clear_settings()?;
        if let Some((process, text)) = watcher
            && context.kernel.is_alive(process)?
        {
            tx.set_setting(Setting::Watcher, &text)?;
        }
        tx.forget_sysctls()?;
        // No other process announces this, whichever does it.
        tx.announce(JournalKind::Down, None, "all taken down")?;
        context.commit(tx)?;
        Ok(Report { done, ..Report::default() })
    }
}

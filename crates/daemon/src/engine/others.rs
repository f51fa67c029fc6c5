//! Publishes the changes that other processes make, by the journal of the records.

use std::time::Duration;

use super::core::Core;
use riklet_sdn::store::{self, JournalEntry, JournalKind};

/// The pause between looks at the journal if the kernel does not wake the engine for it.
pub(super) const JOURNAL_INTERVAL: Duration = Duration::from_secs(1);

impl Core {
    /// Publishes the changes that other processes have made since the last call; `false` if there are none. An operation
    /// of the engine is published after this: what it follows on was announced before its lock was free.
    pub(super) fn hear_others(&mut self) -> bool {
        if !self.journal.has_changed() {
            return false;
        }
        match self.local.node.changes_after(self.heard) {
            Ok(journal) => {
                self.heard = journal.last;
                if journal.missed != Some(0) {
                    self.names.changed(None);
                    self.events.missed(journal.missed);
                }
                let any = !journal.entries.is_empty();
                self.others_worked |= any;
                for entry in journal.entries {
                    self.hear(entry);
                }
                any
            }
            Err(error) => {
                self.events.error(&error);
                false
            }
        }
    }

    /// Publishes who changed our part of the firewall, unless it was another process of ours. Such a process holds the lock
    /// until it has written the journal.
    pub(super) fn notice(&mut self) {
        if !self.causes.is_empty() {
            let is_at_work = store::lock_holder(&self.local.node.config().state_dir).is_some();
            if self.hear_others() {
                // All that is in the journal was notified before.
                self.listen();
            }
            if self.others_worked {
                self.causes.clear();
            } else if is_at_work {
                return;
            }
            for cause in std::mem::take(&mut self.causes) {
                self.events.noticed(&cause);
            }
        }
        self.others_worked = false;
    }

    fn hear(&mut self, entry: JournalEntry) {
        // One that was taken down again meanwhile is only named.
        let is_recorded = matches!(entry.kind, JournalKind::Up | JournalKind::Failed);
        let name = entry.name.as_ref().filter(|_| is_recorded);
        let found = name.and_then(|name| self.local.node.inspect(name).ok());
        self.names.changed(entry.name.clone().map(|name| [name].into()));
        self.events.heard(entry, found.as_ref());
    }
}

//! Publishes the changes that other processes make, by the journal of the records.

use std::time::Duration;

use super::core::Core;
use riklet_sdn::store::{JournalEntry, JournalKind};

/// The pause between looks at the journal if the kernel does not wake the engine for it.
pub(super) const JOURNAL_INTERVAL: Duration = Duration::from_secs(1);

impl Core {
    /// Publishes the changes that other processes have made since the last call. An operation of the engine is published
    /// after this: what it follows on was announced before its lock was free.
    pub(super) fn hear_others(&mut self) {
        if !self.journal.has_changed() {
            return;
        }
        match self.local.node.changes_after(self.heard) {
            Ok(journal) => {
                self.heard = journal.last;
                if journal.missed != Some(0) {
                    self.events.missed(journal.missed);
                }
                for entry in journal.entries {
                    self.hear(entry);
                }
            }
            Err(error) => self.events.error(&error),
        }
    }

    fn hear(&mut self, entry: JournalEntry) {
        // One that was taken down again meanwhile is only named.
        let is_up = entry.kind == JournalKind::Up;
        let instance = is_up.then(|| self.local.node.inspect(&entry.name).ok()).flatten();
        self.events.heard(entry, instance.as_ref().map(|found| &found.instance));
    }
}

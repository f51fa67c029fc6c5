//! The journal: changes that the daemon announces to its watchers although another process made them.
//!
//! A change is written here in the transaction that records it, so that neither is there without the other. Who follows
//! the journal is woken by a file beside the database ([`JournalFollower`]).

use std::{
    fs::OpenOptions,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use rusqlite::Row;
use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};

use super::{Store, StoreError, Tx, key, sql};
use riklet_core::model::InstanceName;

/// The number of entries that are kept.
const KEPT: u64 = 1000;
/// The number of entries after which the oldest are removed.
const PRUNED: u64 = 100;
/// The file that is closed after each change of the journal.
pub(super) const WAKE: &str = "journal";

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum JournalKind {
    /// An instance's network was brought up, or changed.
    Up,
    /// An instance's network was taken down.
    Down,
    /// An instance is not as it should be.
    Failed,
    /// Drift was repaired.
    Repaired,
    /// A run began.
    Started,
    /// The published ports of a run answer.
    Ready,
    /// A run was asked to stop.
    Stopping,
    /// A run has ended.
    Ended,
    /// A run was lost: its supervisor died, and what it left was cleared away.
    Lost,
}

impl JournalKind {
    const ALL: [Self; 9] = [
        Self::Up,
        Self::Down,
        Self::Failed,
        Self::Repaired,
        Self::Started,
        Self::Ready,
        Self::Stopping,
        Self::Ended,
        Self::Lost,
    ];

    /// Returns the kind as a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Failed => "failed",
            Self::Repaired => "repaired",
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
            Self::Lost => "lost",
        }
    }
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalEntry {
    /// The kind.
    pub kind: JournalKind,
    /// The instance; `None` if the change concerns all of them.
    pub name: Option<InstanceName>,
    /// A description, if there is more to say than the kind.
    pub text: String,
}

/// The changes since an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Journal {
    /// The changes, oldest first.
    pub entries: Vec<JournalEntry>,
    /// The number of changes that are not kept any more; `None` if nobody knows, because there are other records now.
    pub missed: Option<u64>,
    /// The number of the last change.
    pub last: u64,
}

impl Store {
    /// Returns the number of the last change; 0 if there was none.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn last_change(&self) -> Result<u64, StoreError> {
        let last = self.row("read the journal", sql::LAST_CHANGE, [], |row| row.get(0))?;
        Ok(last.flatten().unwrap_or_default())
    }

    /// Returns the changes after the one of this number.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn changes_after(&self, number: u64) -> Result<Journal, StoreError> {
        let operation = "read the journal";
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        let rows: Vec<(u64, String, Option<String>, String)> =
            self.rows(operation, sql::CHANGES, [number], read)?;
        let Some((first, ..)) = rows.first() else {
            // A later number was written between the two statements, and is read by the next call.
            let last = self.last_change()?.min(number);
            let missed = (last == number).then_some(0);
            return Ok(Journal { entries: vec![], missed, last });
        };
        let missed = Some(first - number - 1);
        let last = rows.last().map_or(number, |(last, ..)| *last);
        let mut entries = Vec::new();
        for (_, kind, name, text) in rows {
            // A later version may have other kinds.
            let known = JournalKind::ALL.into_iter().find(|known| known.as_str() == kind);
            if let Some(kind) = known {
                let name = name.map(|name| self.name(operation, &name)).transpose()?;
                entries.push(JournalEntry { kind, name, text });
            }
        }
        Ok(Journal { entries, missed, last })
    }

    /// Wakes those who follow the journal. They look again after a while if this fails.
    pub(super) fn wake_followers(&self) {
        if self.file.is_some()
            && let Some(dir) = self.path.parent()
            && let Err(error) = touch(&dir.join(WAKE))
        {
            tracing::debug!(%error, "cannot wake those who follow the journal");
        }
    }
}

impl Tx<'_> {
    /// Announces a change of this instance, or of all: it is in the journal once the transaction is committed.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn announce(
        &self,
        kind: JournalKind,
        name: Option<&InstanceName>,
        text: &str,
    ) -> Result<(), StoreError> {
        let operation = "write the journal";
        let (workload, ordinal) = name.map(key).unzip();
        let params = (kind.as_str(), workload, ordinal, text);
        let number = self.row(operation, sql::ANNOUNCE, params, |row| row.get(0))?;
        self.wakes.set(true);
        let number: u64 = number.unwrap_or_default();
        if number.is_multiple_of(PRUNED) {
            self.execute(operation, sql::PRUNE_CHANGES, [number.saturating_sub(KEPT)])?;
        }
        Ok(())
    }
}

/// Is woken when another process, or this one, has written the journal.
#[derive(Debug)]
pub struct JournalFollower {
    path: PathBuf,
    /// `None` if the kernel has no more watches (inotify(7)): then it has to be looked at from time to time.
    changes: Option<OwnedFd>,
}

impl JournalFollower {
    /// Starts to follow the journal of the records in this directory. Creates the file that wakes it.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let mut follower = Self { path: dir.join(WAKE), changes: None };
        follower.watch();
        follower
    }

    /// Returns the descriptor that is readable once the journal has changed; `None` if nothing wakes this follower.
    #[must_use]
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.changes.as_ref().map(AsFd::as_fd)
    }

    /// Returns whether the journal may have changed since the last call.
    pub fn has_changed(&mut self) -> bool {
        let Some(notifications) = &self.changes else { return true };
        let mut events = [0; 4096];
        let (mut changed, mut gone) = (false, false);
        loop {
            match rustix::io::read(notifications, &mut events) {
                Ok(length) if length > 0 => {
                    changed = true;
                    gone |= events.get(..length).is_none_or(reports_removal);
                }
                Err(Errno::INTR) => {}
                _ => break,
            }
        }
        if gone {
            self.watch();
        }
        changed
    }

    /// Watches the file, and creates it if somebody removed it.
    fn watch(&mut self) {
        let watched = touch(&self.path).and_then(|()| {
            let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            // Removing an open file is reported as a change of its number of links.
            let wanted = WatchFlags::CLOSE_WRITE | WatchFlags::MOVE_SELF | WatchFlags::ATTRIB;
            inotify::add_watch(&changes, &self.path, wanted)?;
            Ok(changes)
        });
        if let Err(error) = &watched {
            let path = self.path.display();
            tracing::warn!(%error, "cannot watch {path}: changes by other processes are seen late");
        }
        self.changes = watched.ok();
    }
}

/// Returns whether one of these events of inotify(7) is another than the end of writing: the file is not the one of that
/// name any more.
fn reports_removal(events: &[u8]) -> bool {
    /// The fixed part of `struct inotify_event`: `wd`, `mask`, `cookie`, `len`. A watched file has no name after it.
    const LENGTH: usize = 16;
    events.chunks(LENGTH).any(|event| {
        let mask = event.get(4..8).and_then(|mask| mask.try_into().ok()).map(u32::from_ne_bytes);
        mask.is_none_or(|mask| mask & WatchFlags::CLOSE_WRITE.bits() == 0)
    })
}

/// Opens the file for writing and closes it, which its watchers are told of.
fn touch(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(drop)
}

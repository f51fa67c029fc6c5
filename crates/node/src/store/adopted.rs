//! Empties records whose objects on the host another state directory took over.

use std::path::{Path, PathBuf};

use super::{Setting, Store, StoreError, file};
use riklet_core::model::{Owner, OwnerId};

impl Store {
    /// Empties the records in this directory, if they are those of this owner, after copying them to the first free
    /// name `riklet-sdn.db.adopted-<n>`. Returns the path of the copy; `None` if there are no such records, or they
    /// were empty.
    ///
    /// Afterwards the directory is as before its first use, except for its runs, whose processes are still its own. Stopped before its end, it leaves at most a copy.
    ///
    /// # Errors
    /// Fails if the records cannot be read, copied or written. They are whole then.
    pub(crate) fn give_up(dir: &Path, owner: OwnerId) -> Result<Option<PathBuf>, StoreError> {
        let Some(mut store) = Self::open_existing(dir)? else { return Ok(None) };
        let recorded = store.setting(Setting::Owner)?.and_then(|text| text.parse::<Owner>().ok());
        if recorded.is_none_or(|recorded| recorded.id() != owner) || !store.is_used()? {
            return Ok(None);
        }
        let copy = file::free_name(&store.path, "adopted")?;
        store.copy_to(&copy)?;
        let tx = store.transaction()?;
        tx.empty()?;
        tx.commit()?;
        Ok(Some(copy))
    }
}

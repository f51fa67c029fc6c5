//! The records, as `doctor` sees them, and what keeps it from comparing them with the kernel.

use std::{path::Path, time::Duration};

use riklet_core::{
    firewall::Backend,
    model::{Egress, Pool},
};
use riklet_sdn::{
    Config, decided_by,
    store::{self, Store, StoreError},
};

use super::finding::Finding;
use crate::error::chain;

/// The longest wait for an operation in progress. `doctor` is asked when something is wrong, and must not hang on that.
const PATIENCE: Duration = Duration::from_secs(3);

const WITHOUT_HINT: &str =
    "mend that; another state directory does not have the functions that are up";

/// The records of the node. They are opened once: each opening may wait for a transaction of another process.
pub(super) struct Records {
    store: Result<Option<Store>, StoreError>,
    /// The error of an operation that does not end.
    kept: Option<StoreError>,
}

impl Records {
    pub(super) fn open(config: &Config) -> Self {
        let store = Store::open_existing(&config.state_dir);
        let waited = store::await_rest(&config.state_dir, PATIENCE).err();
        Self { store, kept: waited.filter(|error| matches!(error, StoreError::Busy { .. })) }
    }

    /// Reports whether no operation is in progress that a comparison with the kernel would have to wait for.
    pub(super) fn are_at_rest(&self) -> bool {
        self.kept.is_none() && !matches!(self.store, Err(StoreError::Busy { .. }))
    }

    fn store(&self) -> Option<&Store> {
        self.store.as_ref().ok()?.as_ref()
    }

    /// Returns the backend and the pool that the node has used since its first instance.
    pub(super) fn decided(&self) -> Option<(Backend, Pool)> {
        let (backend, pool) = decided_by(self.store()?).ok()??;
        Some((backend, pool.without_v6()))
    }

    /// Returns the reach of the node's guests, if it was set.
    pub(super) fn egress(&self) -> Option<Egress> {
        self.store()?.egress().ok()?
    }

    /// Returns the findings about the records themselves.
    pub(super) fn findings(&self, state_dir: &Path) -> Vec<Finding> {
        let count = |store: &Option<Store>| store.as_ref().map(Store::count).transpose();
        let counted = match &self.store {
            Ok(store) => {
                count(store).map_err(|error| (chain(&error), error.hint(), error.is_permission()))
            }
            Err(error) => Err((chain(error), error.hint(), error.is_permission())),
        };
        let dir = state_dir.display();
        let found = match counted {
            Ok(None) => Finding::ok("records", format!("none yet in {dir}")),
            Ok(Some(count)) => Finding::ok("records", format!("{count} in {dir}")),
            Err((words, _, true)) => Finding::unseen("records", words),
            Err((words, hint, false)) => {
                Finding::fail("records", words, hint.unwrap_or_else(|| WITHOUT_HINT.to_owned()))
            }
        };
        [found].into_iter().chain(self.kept.as_ref().map(kept)).collect()
    }
}

/// Returns the finding about an operation that does not end. A process that is stopped does not go on by itself.
fn kept(busy: &StoreError) -> Finding {
    let found = format!("functions are not compared with the records: {}", chain(busy));
    let advice = busy.hint().unwrap_or_default();
    match busy {
        StoreError::Busy { holder: Some(holder), .. } if holder.is_stopped => {
            Finding::fail("lock", found, advice)
        }
        _ => Finding::note("lock", found, advice),
    }
}

//! Follows the supervisors of runs, by a descriptor for each (`pidfd_open(2)`), and clears away a run whose supervisor
//! dies. The daemon is the parent of none of them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::broadcast::error::RecvError, time::sleep};

use super::ends::Ends;
use crate::{
    engine::Engine,
    events::{EventKind, Events, Subscription},
    offload::offload,
    wall_clock,
};
use riklet_api::{chain, epoch_millis};
use riklet_core::model::{InstanceName, Selector};
use riklet_kernel::process::ProcessId;
use riklet_sdn::{NodeError, Request, store::Store};
use riklet_vmm::runs::{self, Orphan, RunError};

/// The pause before another attempt, if a process cannot be followed or cleared away.
const RETRY: Duration = Duration::from_secs(10);

/// The runs that are followed. Clones share them.
#[derive(Debug, Clone)]
struct Followed {
    engine: Engine,
    events: Events,
    state_dir: PathBuf,
    ends: Ends,
    supervisors: Arc<Mutex<BTreeSet<(InstanceName, ProcessId)>>>,
}

/// Follows all runs, until the daemon ends.
pub(super) async fn follow(engine: Engine, events: Events) {
    let state_dir = engine.config().state_dir.clone();
    let Subscription { mut coming, .. } = events.listen(None);
    let ends = match Ends::start() {
        Ok(ends) => ends,
        Err(error) => return events.error(&error),
    };
    let followed = Followed { engine, events, state_dir, ends, supervisors: Arc::default() };
    followed.follow_all().await;
    loop {
        match coming.recv().await {
            Ok(event) if event.kind == EventKind::Started => {
                let Some(name) = event.name.clone() else { continue };
                followed
                    .follow_some(move |store| Ok(store.run(&name)?.into_iter().collect()))
                    .await;
            }
            Ok(event) if matches!(event.kind, EventKind::Missed(_)) => followed.follow_all().await,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => followed.follow_all().await,
            Err(RecvError::Closed) => return,
        }
    }
}

impl Followed {
    async fn follow_all(&self) {
        self.follow_some(|store| Ok(store.runs_under_way()?)).await;
    }

    /// Follows the runs that this call finds in the records, unless they are followed already.
    async fn follow_some(
        &self,
        find: impl Fn(&Store) -> Result<Vec<riklet_sdn::store::Run>, RunError> + Send + Clone + 'static,
    ) {
        let found = loop {
            let (state_dir, find) = (self.state_dir.clone(), find.clone());
            let found = offload(move || match Store::open_existing(&state_dir)? {
                Some(store) => find(&store),
                None => Ok(vec![]),
            });
            match found.await {
                Ok(Ok(found)) => break found,
                Ok(Err(error)) => return self.events.error(&error),
                Err(refused) => self.events.error(&refused),
            }
            sleep(RETRY).await;
        };
        for run in found.into_iter().filter(|run| run.end.is_none()) {
            let mut supervisors = self.supervisors.lock().unwrap_or_else(PoisonError::into_inner);
            if supervisors.insert((run.name.clone(), run.supervisor)) {
                tokio::spawn(self.clone().follow_one(run.name, run.supervisor));
            }
        }
    }

    /// Waits for the end of a supervisor, and clears its run away if the supervisor has not recorded the end.
    async fn follow_one(self, name: InstanceName, supervisor: ProcessId) {
        while let Err(error) = self.ends.of(supervisor).await {
            tracing::warn!("cannot follow the supervisor of {name}: {error}");
            sleep(RETRY).await;
        }
        let mut said = String::new();
        while let Err(error) = self.clear(&name).await {
            let words = chain(&error);
            if said != words {
                self.events.say(EventKind::Error, Some(&name), words.clone());
                said = words;
            }
            sleep(RETRY).await;
        }
        let mut supervisors = self.supervisors.lock().unwrap_or_else(PoisonError::into_inner);
        supervisors.remove(&(name, supervisor));
    }

    async fn clear(&self, name: &InstanceName) -> Result<(), RunError> {
        let Some(orphan) = blocking(&self.state_dir, name, Orphan::take_over).await? else {
            return Ok(());
        };
        let selector = Selector::Named([name.clone()].into());
        let down = Request::DownAs(orphan.supervisor(), selector);
        let down = match self.engine.change(down).await {
            Ok(Err(NodeError::Unknown { .. })) => Ok(()),
            Ok(done) => done.map(drop),
            // The next daemon finds the run lost again.
            Err(_gone) => return Ok(()),
        };
        let (is_down, now) = (down.is_ok(), epoch_millis(wall_clock()));
        let image_dir = self.engine.config().vmm.image_dir.clone();
        let release = move |dir: &Path, name: &InstanceName| {
            runs::remove_copies(&image_dir, name);
            orphan.release(dir, is_down, now)
        };
        blocking(&self.state_dir, name, release).await?;
        Ok(down?)
    }
}

/// Makes a call on a thread that may block.
async fn blocking<T: Send + 'static>(
    state_dir: &Path,
    name: &InstanceName,
    call: impl FnOnce(&Path, &InstanceName) -> Result<T, RunError> + Send + 'static,
) -> Result<T, RunError> {
    let (dir, name) = (state_dir.to_owned(), name.clone());
    let of_run = name.clone();
    let done = offload(move || call(&dir, &name)).await;
    done.unwrap_or_else(|source| {
        Err(RunError::Process { operation: "look at", name: of_run, source })
    })
}

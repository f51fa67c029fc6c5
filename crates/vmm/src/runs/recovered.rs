//! Runs whose records were lost. Every process of a VMM has a mark in its environment that names its run.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{RunError, directory, marks_of_all, process_error};
use riklet_core::model::{InstanceName, Vmm};
use riklet_kernel::process::{self, Marked, ProcessId};
use riklet_sdn::store::Store;

/// Records the runs that are under way and of which no run is recorded, if their instance is recorded. Their supervisors
/// go on as if nothing had been lost. Returns their names. When a run became ready is not known any more: it counts as ready
/// from its beginning. Looks at every process.
///
/// # Errors
/// Fails if `/proc` cannot be read, or the records cannot be read or changed. Nothing is recorded then.
pub fn recover(state_dir: &Path) -> Result<Vec<InstanceName>, RunError> {
    let Some(mut store) = Store::open_existing(state_dir)? else { return Ok(vec![]) };
    let all = marks_of_all(state_dir);
    let mut found: Vec<_> =
        process::marked_with(&all).into_iter().filter_map(|found| guest(found, &all)).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    let tx = store.transaction()?;
    let mut recovered = Vec::new();
    for Guest { name, supervisor, vmm, process } in found {
        let is_alive = supervisor.is_alive();
        let is_alive = is_alive.map_err(|source| process_error("look at", &name, source))?;
        if is_alive && tx.get(&name)?.is_some() && tx.run(&name)?.is_none() {
            tx.begin_run(&name, vmm.as_str(), supervisor, began(state_dir, &name))?;
            tx.set_run_process(&name, supervisor, process)?;
            tx.set_run_ready(&name, supervisor, None)?;
            recovered.push(name);
        }
    }
    tx.commit()?;
    Ok(recovered)
}

/// A process that a supervisor started.
struct Guest {
    name: InstanceName,
    supervisor: ProcessId,
    vmm: Vmm,
    process: ProcessId,
}

/// Returns the VMM that a process is, unless the VMM, or a wrapper of it, has started the process. Earlier versions wrote no
/// name of the VMM into its mark: then it cannot be controlled.
fn guest(marked: Marked, all: &str) -> Option<Guest> {
    let Marked { process, parent, mark, .. } = marked;
    let mut parts = mark.strip_prefix(all)?.split(':');
    let (name, supervisor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let vmm = Vmm::from_name(parts.next()?)?;
    (parent == ProcessId::pid(supervisor)).then_some(Guest { name, supervisor, vmm, process })
}

/// Returns the time of the beginning of a run, in milliseconds since 1970: that of its directory, or now.
#[expect(clippy::disallowed_methods, reason = "the time of a run")]
fn began(state_dir: &Path, name: &InstanceName) -> u64 {
    let made = std::fs::metadata(directory(state_dir, name)).and_then(|found| found.modified());
    let made = made.unwrap_or_else(|_unknown| SystemTime::now());
    let since = made.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

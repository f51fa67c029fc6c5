//! The limit of the runs that clients of the socket may have at a time. Memory and processors are the operator's.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use riklet_api::{ApiError, ErrorKind, HttpStatus};
use riklet_core::model::InstanceName;
use riklet_sdn::{Config, store::Store};

/// The directory of one file for each run that a client started, in the state directory: a later daemon counts them too.
const STARTED: &str = "member-runs";

/// The names that are being started. A request counts them together with those that run.
static STARTING: Mutex<BTreeSet<InstanceName>> = Mutex::new(BTreeSet::new());

/// The names of one request, which count until this is dropped, and after that if they run.
#[derive(Debug)]
pub(super) struct Admitted {
    names: Vec<InstanceName>,
}

/// Admits runs of these names, if there are not too many then. Costs as much as the limit.
///
/// # Errors
/// Fails if there would be too many, or the records or the directory cannot be used.
pub(super) fn admit(config: &Config, names: Vec<InstanceName>) -> Result<Admitted, ApiError> {
    let mut starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = config.state_dir.join(STARTED);
    let failed = |error: &dyn std::error::Error| {
        let detail = format!("cannot count the runs of clients: {}", riklet_api::chain(error));
        ApiError::new(HttpStatus::InternalServerError, ErrorKind::Failed, detail)
    };
    let mut all = running(config, &directory).map_err(|error| failed(&*error))?;
    all.extend(starting.iter().cloned());
    all.extend(names.iter().cloned());
    let limit = config.member_runs;
    if u32::try_from(all.len()).map_or(true, |count| count > limit) {
        let detail = format!("clients of the daemon's socket may have {limit} runs at a time");
        let error = ApiError::new(HttpStatus::TooManyRequests, ErrorKind::Failed, detail);
        let hint = "stop one (`riklet-sdn ps` shows them), or have root set `member_runs` of the daemon's configuration";
        return Err(error.with_hint(hint.to_owned()));
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    let noted = made.and_then(|()| {
        names.iter().try_for_each(|name| File::create(file(&directory, name)).map(drop))
    });
    noted.map_err(|error| failed(&error))?;
    starting.extend(names.iter().cloned());
    Ok(Admitted { names })
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        starting.retain(|name| !self.names.contains(name));
    }
}

/// Returns the runs that clients started and that have not ended, and forgets the others.
fn running(
    config: &Config,
    directory: &Path,
) -> Result<BTreeSet<InstanceName>, Box<dyn std::error::Error>> {
    let files = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        files => files?,
    };
    let Some(store) = Store::open_existing(&config.state_dir)? else { return Ok(BTreeSet::new()) };
    let mut found = BTreeSet::new();
    for entry in files {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()?.parse::<InstanceName>().ok());
        let run = name.as_ref().map(|name| store.run(name)).transpose()?.flatten();
        match name.filter(|_| run.is_some_and(|run| run.end.is_none())) {
            Some(name) => drop(found.insert(name)),
            None => forget(&path)?,
        }
    }
    Ok(found)
}

fn file(directory: &Path, name: &InstanceName) -> PathBuf {
    directory.join(name.as_str())
}

#[expect(clippy::disallowed_methods, reason = "the file is this module's own")]
fn forget(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

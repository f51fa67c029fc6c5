//! Waits for a lock with a limit, although flock(2) has none.
//!
//! A thread waits for a lock in the kernel's queue, on behalf of whoever in this process wants it. It ends when the lock
//! is granted, and lets it go at once if nobody wants it any more. So a lock that another process never gives back keeps
//! one thread, however often it is asked for.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{fs::flock, io::Errno};

use super::lock::Access;
use riklet_kernel::process::LockHolder;

/// The interval at which the holder is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The end of a wait.
#[derive(Debug)]
pub(super) enum Waited {
    /// The lock is taken, by this open file.
    Granted(OwnedFd),
    /// The limit has passed, or the process that holds the lock is stopped.
    InVain(Option<LockHolder>),
}

type Key = (PathBuf, Access);

/// The waits in progress.
static WAITS: Mutex<BTreeMap<Key, Arc<Wait>>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
struct Wait {
    since: Instant,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The number of those who want the lock.
    wanted: usize,
    has_ended: bool,
    granted: Option<io::Result<OwnedFd>>,
}

/// Waits for a lock that was not to be had at once. The limit counts from when the wait in progress began, if there is
/// one: who comes later waits for one more look only. Says after the first look whom it waits for.
pub(super) fn wait(
    path: &Path,
    file: OwnedFd,
    access: Access,
    limit: Duration,
) -> io::Result<Waited> {
    let mut file = Some(file);
    loop {
        let (wait, is_new) = join(path, access, &mut file)?;
        if let Some(waited) = wait.end(path, limit, is_new)? {
            return Ok(waited);
        }
        // The lock was granted to another part of this process, which has given it back or will.
        if file.is_none() {
            let mut options = OpenOptions::new();
            file = Some(options.read(true).write(access == Access::Exclusive).open(path)?.into());
        }
    }
}

/// Joins the wait in progress, or begins one with this file.
fn join(path: &Path, access: Access, file: &mut Option<OwnedFd>) -> io::Result<(Arc<Wait>, bool)> {
    let key = (path.to_owned(), access);
    let mut waits = lock(&WAITS);
    if let Some(wait) = waits.get(&key) {
        lock(&wait.state).wanted += 1;
        return Ok((Arc::clone(wait), false));
    }
    let file = file.take().ok_or(io::ErrorKind::NotFound)?;
    let state = Mutex::new(State { wanted: 1, ..State::default() });
    let wait = Arc::new(Wait { since: now(), state, ended: Condvar::new() });
    let of_thread = (Arc::clone(&wait), key.clone());
    thread::Builder::new().name("lock".to_owned()).spawn(move || {
        let (wait, key) = of_thread;
        wait.be_granted(file, &key);
    })?;
    waits.insert(key, Arc::clone(&wait));
    Ok((wait, true))
}

impl Wait {
    /// Waits in the kernel's queue, on a thread of its own.
    fn be_granted(&self, file: OwnedFd, key: &Key) {
        let granted = loop {
            match flock(&file, key.1.waiting()) {
                Err(Errno::INTR) => {}
                granted => break granted,
            }
        };
        // Nobody joins from here on.
        lock(&WAITS).remove(key);
        let mut state = lock(&self.state);
        state.has_ended = true;
        if state.wanted > 0 {
            state.granted = Some(granted.map(|()| file).map_err(io::Error::from));
        }
        self.ended.notify_all();
    }

    /// Waits for the end. Returns `None` if another part of this process got the lock.
    fn end(&self, path: &Path, limit: Duration, is_new: bool) -> io::Result<Option<Waited>> {
        let deadline = (self.since + limit).max(now() + LOOK.min(limit));
        let mut state = lock(&self.state);
        let mut looks = 0;
        loop {
            let left = deadline.saturating_duration_since(now()).min(LOOK);
            let waited = self.ended.wait_timeout_while(state, left, |state| !state.has_ended);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.has_ended {
                state.wanted -= 1;
                return Ok(state.granted.take().transpose()?.map(Waited::Granted));
            }
            looks += 1;
            let holder = LockHolder::of(&[path]).or_else(|| LockHolder::with_open(path));
            let is_stopped = holder.as_ref().is_some_and(|holder| holder.is_stopped);
            if is_stopped && looks > 1 || now() >= deadline {
                state.wanted -= 1;
                return Ok(Some(Waited::InVain(holder)));
            }
            if let Some(holder) = holder.filter(|_| is_new && looks == 1) {
                tracing::warn!("waiting for {holder}: it holds {}", path.display());
            }
        }
    }
}

/// Waits as long as this holds, but no longer than `limit`.
pub(super) fn wait_while(limit: Duration, holds: impl Fn() -> bool) {
    const PAUSE: Duration = Duration::from_millis(1);
    let deadline = now() + limit;
    while holds() && now() < deadline {
        pause(PAUSE);
    }
}

#[expect(clippy::disallowed_methods, reason = "/proc/locks does not say when it changes")]
fn pause(time: Duration) {
    thread::sleep(time);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "a time limit needs a clock")]
fn now() -> Instant {
    Instant::now()
}

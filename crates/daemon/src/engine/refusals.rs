//! Hears of what guests are refused, on a thread of its own: many refusals do not delay the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::events::Events;
use riklet_kernel::{
    KernelError,
    linux::refusals::{Heard, Refusals},
};
use riklet_sdn::store::{Store, StoreError};

/// The time after which the kernel is asked again, if another process listens.
const RETRY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// The number of attempts after which it is said that nothing is heard: a daemon that ended lately may still listen.
const ATTEMPTS: u32 = 5;

/// The thread. It ends after this is dropped.
#[derive(Debug)]
pub(super) struct RefusalThread {
    _end: UnixStream,
}

impl RefusalThread {
    /// Starts the thread, in the network namespace of the calling one.
    pub(super) fn start(state_dir: PathBuf, events: Events) -> io::Result<Self> {
        let (end, ended) = UnixStream::pair()?;
        let thread = thread::Builder::new().name("refusals".to_owned());
        thread.spawn(move || run(&state_dir, &events, &ended))?;
        Ok(Self { _end: end })
    }
}

fn run(state_dir: &Path, events: &Events, ended: &UnixStream) {
    let mut failed = 0_u32;
    loop {
        let error = match Refusals::listen() {
            Ok(mut refusals) => {
                failed = 0;
                match hear(&mut refusals, state_dir, events, ended) {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        failed = failed.saturating_add(1);
        if failed == ATTEMPTS {
            events.error(&error);
        }
        match poll(&mut [PollFd::new(ended, PollFlags::IN)], Some(&RETRY)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Publishes what is heard, until the end.
fn hear(
    refusals: &mut Refusals,
    state_dir: &Path,
    events: &Events,
    ended: &UnixStream,
) -> Result<(), KernelError> {
    loop {
        let files = [refusals.as_fd(), ended.as_fd()];
        let mut files = files.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut files, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Ok(()),
        }
        let [_, end] = &files;
        if !end.revents().is_empty() {
            return Ok(());
        }
        if let Err(error) = publish(refusals.read()?, state_dir, events) {
            tracing::debug!(%error, "cannot tell whose packets were refused");
        }
    }
}

/// Publishes what was heard. The database is opened each time, so that it can be removed in between. If it cannot be read,
/// packets are published without the name of the function.
fn publish(heard: Heard, state_dir: &Path, events: &Events) -> Result<(), StoreError> {
    let slots: BTreeSet<_> = heard.packets.iter().filter_map(|(_, slot)| *slot).collect();
    let names = Store::open_existing(state_dir)
        .and_then(|store| store.map(|store| store.instances_of(&slots)).transpose());
    let (names, result) = match names {
        Ok(names) => (names.unwrap_or_default(), Ok(())),
        Err(error) => (BTreeMap::new(), Err(error)),
    };
    for (packet, slot) in heard.packets {
        let name = slot.and_then(|slot| names.get(&slot).cloned());
        events.refused(name, packet);
    }
    if heard.lost {
        events.refusals_missed();
    }
    result
}

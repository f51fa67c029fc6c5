//! Hears of what guests are refused, on a thread of its own: many refusals do not delay the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use rustix::event::Timespec;

use super::ended::{Ended, Thread};
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

/// Starts the thread, in the network namespace of the calling one.
pub(super) fn start(state_dir: PathBuf, events: Events) -> io::Result<Thread> {
    Thread::start("refusals", move |ended| run(&state_dir, &events, ended))
}

fn run(state_dir: &Path, events: &Events, ended: &Ended) {
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
        if ended.within(RETRY) {
            return;
        }
    }
}

/// Publishes what is heard, until the end.
fn hear(
    refusals: &mut Refusals,
    state_dir: &Path,
    events: &Events,
    ended: &Ended,
) -> Result<(), KernelError> {
    loop {
        if ended.before(&*refusals, None) {
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

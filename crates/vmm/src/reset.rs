//! Hears from a VMM that its guest resets, as a kernel does after a panic.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    cloud_hypervisor, driver,
    qmp::{Event, Qmp, QmpError},
};
use riklet_core::model::Vmm;
use riklet_kernel::{process::ProcessId, threads};

/// The time limit of an answer of QEMU.
const ANSWER: Duration = Duration::from_secs(5);
/// The pause before the next attempt to reach a QEMU that was just started.
const PAUSE: Duration = Duration::from_millis(5);
/// The time that a reader gets to read the last events of a VMM that has ended.
const LAST_EVENTS: Duration = Duration::from_secs(1);
/// The longest wait for one event. It is repeated until QEMU ends.
const EVENT: Duration = Duration::from_hours(24);

/// The report of a VMM that its guest reset.
#[derive(Debug)]
pub(super) struct Reset {
    reported: Arc<AtomicBool>,
    /// Closed once QEMU's events have ended.
    events: Option<Receiver<()>>,
}

impl Reset {
    /// Begins to read the events of a VMM that was just started, if it has a socket for them.
    ///
    /// # Errors
    /// Fails if the host has no thread left to read them.
    pub(super) fn watch(vmm: Vmm, process: ProcessId, socket: &Path) -> io::Result<Self> {
        let reported = Arc::new(AtomicBool::new(false));
        let mut events = None;
        if vmm == Vmm::Qemu {
            let (at_end, ends) = mpsc::channel();
            let (socket, reported) = (driver::events_socket(socket), Arc::clone(&reported));
            threads::start("events", move || read_events(&socket, process, &reported, at_end))?;
            events = Some(ends);
        }
        Ok(Self { reported, events })
    }

    /// Returns what looks at the lines of the VMM's standard error. Cloud Hypervisor, which would boot its guest again, is
    /// killed at a reset.
    pub(super) fn reader(&self, vmm: Vmm, process: ProcessId) -> impl FnMut(&str) + Send + 'static {
        let reported = Arc::clone(&self.reported);
        move |line: &str| {
            if vmm == Vmm::CloudHypervisor && cloud_hypervisor::is_reset(line) {
                reported.store(true, Ordering::Relaxed);
                if let Err(error) = process.signal(Signal::KILL) {
                    tracing::warn!(%error, "cannot end a Cloud Hypervisor whose guest resets");
                }
            }
        }
    }

    /// Tells whether the VMM, which has ended, reported a reset.
    pub(super) fn was_reported(&self) -> bool {
        if let Some(events) = &self.events {
            // It is closed when all events were read.
            let _closed = events.recv_timeout(LAST_EVENTS);
        }
        self.reported.load(Ordering::Relaxed)
    }
}

/// Reads QEMU's events until it ends. `_at_end` is dropped then.
fn read_events(socket: &Path, process: ProcessId, reported: &AtomicBool, _at_end: Sender<()>) {
    let mut qmp = loop {
        let Ok(Some(user)) = process.user() else { return };
        match Qmp::connect_to(socket, user, ANSWER) {
            Ok(qmp) => break qmp,
            Err(QmpError::Connect { .. }) if process.is_alive().unwrap_or(false) => pause(),
            // It has ended, or is no QEMU. Its exit status tells more.
            Err(_) => return,
        }
    };
    while let Ok(event) = qmp.next_event(EVENT) {
        if let Some(Event::Shutdown { guest: true, reason }) = event
            && matches!(reason.as_str(), "guest-reset" | "guest-panic")
        {
            reported.store(true, Ordering::Relaxed);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing tells when a server begins to listen")]
fn pause() {
    thread::sleep(PAUSE);
}

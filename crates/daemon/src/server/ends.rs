//! Waits for the ends of processes, however many there are: one thread, which epoll(7) wakes.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use riklet_kernel::process::ProcessId;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::Errno,
};
use tokio::sync::oneshot;

/// The largest number of ends that are handled at once.
const BATCH_SIZE: usize = 64;

/// The processes whose ends are awaited. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Ends(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// Closing a file ends its part in the epoll.
    files: BTreeMap<u64, (OwnedFd, oneshot::Sender<()>)>,
}

impl Ends {
    /// Starts the thread, which ends with this process.
    pub(super) fn start() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let ends = Self(Arc::new(Shared { epoll, waiting: Mutex::default() }));
        let shared = Arc::clone(&ends.0);
        thread::Builder::new().name("ends".to_owned()).spawn(move || shared.wait())?;
        Ok(ends)
    }

    /// Waits until this process has ended.
    pub(super) async fn of(&self, process: ProcessId) -> io::Result<()> {
        let Some(file) = process.open()? else { return Ok(()) };
        let (sender, ended) = oneshot::channel();
        {
            let mut waiting = self.0.waiting();
            let number = waiting.next;
            let data = EventData::new_u64(number);
            epoll::add(&self.0.epoll, &file, data, EventFlags::IN | EventFlags::ONESHOT)?;
            waiting.next += 1;
            waiting.files.insert(number, (file, sender));
        }
        let _thread_is_gone = ended.await;
        Ok(())
    }
}

impl Shared {
    fn wait(&self) {
        let mut events = Vec::with_capacity(BATCH_SIZE);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    tracing::error!("cannot wait for the ends of processes: {errno}");
                    // Whoever waits looks itself.
                    self.waiting().files.clear();
                    return;
                }
            }
            for event in events.drain(..) {
                let ended = self.waiting().files.remove(&event.data.u64());
                if let Some((_file, sender)) = ended {
                    let _nobody_waits = sender.send(());
                }
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

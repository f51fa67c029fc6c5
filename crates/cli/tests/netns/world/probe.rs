//! A client that connects again and again, and takes note of when it could not.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::{Namespace, background::Background};

/// Between two connections.
const PAUSE: Duration = Duration::from_millis(1);
/// After so long a connection counts as refused.
const PATIENCE: Duration = Duration::from_millis(100);

/// The client. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Probe {
    heard: Arc<Mutex<Heard>>,
    _thread: Background,
}

/// What it saw.
#[derive(Debug, Default, Clone)]
pub(crate) struct Heard {
    /// How many connections came about.
    pub(crate) connected: usize,
    /// How many did not, and why the last one.
    pub(crate) refused: usize,
    pub(crate) why: String,
    /// The longest time between two that came about.
    pub(crate) gap: Duration,
    last: Option<Instant>,
}

impl Probe {
    /// Connects to this address from now on.
    #[expect(clippy::disallowed_methods, reason = "it measures")]
    pub(crate) fn start(namespace: &Namespace, target: impl Into<SocketAddr>) -> Self {
        let target = target.into();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let notes = Arc::clone(&heard);
        // A thread stays in the namespace that it was begun in.
        let thread = namespace.run(|| {
            Background::start(move |stop| {
                while stop.goes_on() {
                    let connected = TcpStream::connect_timeout(&target, PATIENCE);
                    let now = Instant::now();
                    let mut notes = notes.lock().expect("no panic");
                    match connected {
                        Ok(_) => {
                            notes.connected += 1;
                            let gap = notes.last.map(|last| now.duration_since(last));
                            notes.gap = notes.gap.max(gap.unwrap_or_default());
                            notes.last = Some(now);
                        }
                        Err(error) => {
                            notes.refused += 1;
                            notes.why = error.to_string();
                        }
                    }
                    drop(notes);
                    thread::sleep(PAUSE);
                }
            })
        });
        Self { heard, _thread: thread }
    }

    /// Waits until `more` further connections came about.
    #[track_caller]
    pub(crate) fn wait_for(&self, more: usize, within: Duration) {
        let before = self.look().connected;
        super::wait_for("connections to come about again", within, || {
            (self.look().connected >= before + more).then_some(())
        });
    }

    /// Begins to measure gaps anew.
    pub(crate) fn forget_gaps(&self) {
        self.heard.lock().expect("no panic").gap = Duration::ZERO;
    }

    pub(crate) fn look(&self) -> Heard {
        self.heard.lock().expect("no panic").clone()
    }
}

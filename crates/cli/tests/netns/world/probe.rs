//! A client that connects repeatedly, and records when it could not.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::{Namespace, background::Background};

/// The pause between two connections, unless another is chosen.
const PAUSE: Duration = Duration::from_millis(1);
/// The time after which a connection counts as refused.
const PATIENCE: Duration = Duration::from_millis(100);

/// A client that connects repeatedly. Dropping this stops it.
#[derive(Debug)]
pub(crate) struct Probe {
    heard: Arc<Mutex<Heard>>,
    _thread: Background,
}

/// The results that a probe has recorded.
#[derive(Debug, Default, Clone)]
pub(crate) struct Heard {
    /// The number of connections that were established.
    pub(crate) connected: usize,
    /// The number of connections that failed.
    pub(crate) refused: usize,
    pub(crate) why: String,
    /// The longest time between two established connections.
    pub(crate) gap: Duration,
    last: Option<Instant>,
}

impl Probe {
    /// Starts a client that connects to this address from now on.
    pub(crate) fn start(namespace: &Namespace, target: impl Into<SocketAddr>) -> Self {
        Self::every(PAUSE, namespace, target)
    }

    /// Starts a client that connects to this address from now on, with pauses.
    #[expect(clippy::disallowed_methods, reason = "it measures")]
    pub(crate) fn every(
        pause: Duration,
        namespace: &Namespace,
        target: impl Into<SocketAddr>,
    ) -> Self {
        let target = target.into();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let notes = Arc::clone(&heard);
        // A thread stays in the namespace in which it was started.
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
                    thread::sleep(pause);
                }
            })
        });
        Self { heard, _thread: thread }
    }

    /// Waits until `more` further connections are established.
    #[track_caller]
    pub(crate) fn wait_for(&self, more: usize, within: Duration) {
        let before = self.look().connected;
        super::wait_for("connections to come about again", within, || {
            (self.look().connected >= before + more).then_some(())
        });
    }

    /// Starts measuring gaps from now on.
    pub(crate) fn forget_gaps(&self) {
        self.heard.lock().expect("no panic").gap = Duration::ZERO;
    }

    pub(crate) fn look(&self) -> Heard {
        self.heard.lock().expect("no panic").clone()
    }
}

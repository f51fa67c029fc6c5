//! The resolver of guests whose policies have names, on a thread of its own.
//!
//! The firewall leads what such a guest asks its gateway to one socket of the loopback. An allowed name is asked for at an
//! upstream, and its addresses are let through before the guest is told of them; any other name is refused.
//!
//! | file | what |
//! | --- | --- |
//! | `message` | the messages: what is asked, what is answered (pure) |
//! | `guests` | whose policy counts, and what was let through |
//! | `upstream` | asking the upstream resolvers |

mod guests;
mod message;
mod upstream;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use hickory_proto::op::Message;
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc},
    task::{JoinSet, LocalSet},
    time::{sleep, timeout},
};

use self::{
    guests::{Guest, Guests},
    message::Question,
    upstream::{HostResolvers, Silent},
};
use crate::events::Events;
use riklet_core::{
    model::{Family, InstanceName, Selector},
    names::{self, Answered, RESOLVER},
};
use riklet_kernel::{
    KernelError, Routes,
    linux::{Linux, pins::SharedPins},
};
use riklet_sdn::{Report, Request};

/// The time after which the socket is opened again, if another process has it.
const RETRY: Duration = Duration::from_secs(1);
/// The number of attempts after which it is said that names are not answered: a daemon that ended lately may have it still.
const ATTEMPTS: u32 = 5;
/// The room for questions that wait to be read, in bytes.
const ROOM: usize = 4 * 1024 * 1024;
/// The most questions that are answered at a time, of all guests.
const MOST_AT_ONCE: usize = 4096;
/// The longest question, in bytes; more of one by UDP is cut off.
const LONGEST: usize = 1500;
/// The most connections by TCP, those of one guest, and the time that each has for its next question.
const MOST_CONNECTIONS: usize = 512;
const MOST_CONNECTIONS_OF_GUEST: u32 = 4;
const IDLE: Duration = Duration::from_secs(5);

pub(crate) use guests::to_come;
#[cfg(any(test, fuzzing))]
pub(crate) use message::fuzz;

/// The names of functions whose records may have changed; `None` for all.
type Changed = Option<BTreeSet<InstanceName>>;

/// The resolver's thread. It ends after this is dropped.
#[derive(Debug)]
pub(crate) struct Resolver {
    changes: mpsc::UnboundedSender<Changed>,
}

impl Resolver {
    /// Starts the thread, in the network namespace of the calling one.
    pub(crate) fn start(state_dir: PathBuf, events: Events, pins: SharedPins) -> io::Result<Self> {
        let (changes, notes) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("names".to_owned());
        thread.spawn(move || {
            let server = Rc::new(Server {
                guests: Guests::new(state_dir),
                upstreams: HostResolvers::default(),
                silent: Silent::default(),
                kernel: RefCell::new(Linux::new().with_pins(&pins)),
                at_once: Arc::new(Semaphore::new(MOST_AT_ONCE)),
                connections: RefCell::default(),
                events,
            });
            LocalSet::new().block_on(&runtime, server.run(notes));
        })?;
        Ok(Self { changes })
    }

    /// Notes that the records of these functions may have changed, or of all of them, before anybody who asked for it is
    /// answered.
    pub(crate) fn changed(&self, names: Changed) {
        let _it_has_ended = self.changes.send(names);
    }

    /// Notes what a request has changed.
    pub(crate) fn changed_by(&self, request: &Request, report: &Report) {
        self.changed(match request.taken_down() {
            None => Some(report.instances.iter().map(|instance| instance.name().clone()).collect()),
            Some(Selector::Named(names)) => Some(names),
            Some(Selector::All) => None,
        });
    }
}

/// The sockets that questions come by.
struct Sockets {
    udp: Rc<UdpSocket>,
    tcp: TcpListener,
}

impl Sockets {
    async fn open() -> io::Result<Self> {
        let udp = UdpSocket::bind(SocketAddr::from(RESOLVER)).await?;
        sockopt::set_socket_recv_buffer_size_force(&udp, ROOM)?;
        let tcp = TcpListener::bind(SocketAddr::from(RESOLVER)).await?;
        Ok(Self { udp: Rc::new(udp), tcp })
    }
}

/// The state of the resolver. Everything runs on one thread.
struct Server {
    guests: Guests,
    upstreams: HostResolvers,
    silent: Silent,
    kernel: RefCell<Linux>,
    at_once: Arc<Semaphore>,
    /// The connections by TCP of each guest that has any.
    connections: RefCell<BTreeMap<IpAddr, u32>>,
    events: Events,
}

impl Server {
    /// Answers until the engine ends.
    async fn run(self: Rc<Self>, mut notes: mpsc::UnboundedReceiver<Changed>) {
        let mut failed = 0_u32;
        let sockets = loop {
            match Sockets::open().await {
                Ok(sockets) => break sockets,
                Err(error) => {
                    failed = failed.saturating_add(1);
                    if failed == ATTEMPTS {
                        let (address, port) = RESOLVER;
                        let text = format!(
                            "cannot answer guests that ask for names: {address}:{port}: {error}"
                        );
                        self.events.error(&io::Error::other(text));
                    }
                }
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                change = notes.recv() => match change {
                    Some(names) => self.guests.changed(names.as_ref()),
                    None => return,
                },
            }
        };
        self.serve(&sockets, notes).await;
    }

    async fn serve(
        self: &Rc<Self>,
        sockets: &Sockets,
        mut notes: mpsc::UnboundedReceiver<Changed>,
    ) {
        let mut tasks = JoinSet::new();
        let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut buffer = [0; LONGEST];
        loop {
            tokio::select! {
                // What changed before a question counts for it.
                biased;
                change = notes.recv() => match change {
                    Some(names) => self.guests.changed(names.as_ref()),
                    None => return,
                },
                Some(_ended) = tasks.join_next() => {}
                accepted = sockets.tcp.accept() => {
                    let Ok((stream, from)) = accepted else { continue };
                    let Ok(turn) = Arc::clone(&connections).try_acquire_owned() else { continue };
                    let server = Rc::clone(self);
                    tasks.spawn_local(async move {
                        let _turn = turn;
                        server.by_tcp(stream, from).await;
                    });
                }
                received = sockets.udp.recv_from(&mut buffer) => {
                    let Ok((length, from)) = received else { continue };
                    let message = buffer.get(..length).unwrap_or_default().to_vec();
                    let (server, socket) = (Rc::clone(self), Rc::clone(&sockets.udp));
                    // Beyond this number they are dropped: each guest's share is limited before.
                    let Ok(turn) = Arc::clone(&self.at_once).try_acquire_owned() else { continue };
                    tasks.spawn_local(async move {
                        let _turn = turn;
                        if let Some(answer) = server.by_udp(&message, from).await {
                            // The guest may be gone.
                            let _lost = socket.send_to(&answer, from).await;
                        }
                    });
                }
            }
        }
    }
}

impl Server {
    async fn by_udp(&self, bytes: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
        match Question::read(bytes) {
            Ok(question) => {
                let answer = self.answer(&question, from.ip()).await;
                question.by_udp(&answer)
            }
            Err(answer) => answer,
        }
    }

    /// Answers the questions of a connection, one after another, until the guest ends it or takes too long.
    async fn by_tcp(&self, mut stream: TcpStream, from: SocketAddr) {
        let count = {
            let mut connections = self.connections.borrow_mut();
            let count = connections.entry(from.ip()).or_default();
            *count += 1;
            *count
        };
        if count <= MOST_CONNECTIONS_OF_GUEST {
            while let Ok(Ok(message)) = timeout(IDLE, upstream::read(&mut stream, LONGEST)).await {
                let answer = match Question::read(&message) {
                    Ok(question) => self.answer(&question, from.ip()).await.to_vec().ok(),
                    Err(answer) => answer,
                };
                let Some(answer) = answer else { break };
                if !matches!(timeout(IDLE, upstream::write(&mut stream, &answer)).await, Ok(Ok(())))
                {
                    break;
                }
            }
        }
        let mut connections = self.connections.borrow_mut();
        if let Some(count) = connections.get_mut(&from.ip()) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&from.ip());
            }
        }
    }

    /// Returns the answer for the guest of this address. What it says is let through by then.
    async fn answer(&self, question: &Question, from: IpAddr) -> Message {
        let IpAddr::V4(address) = from else { return question.refused() };
        let guest = match self.guests.get(address) {
            Ok(Some(guest)) => guest,
            Ok(None) => return question.refused(),
            Err(error) => {
                tracing::warn!(%error, %from, "cannot tell which names a guest may ask for");
                return question.failed();
            }
        };
        let answer = self.answer_to(question, &guest).await;
        self.events.metrics().asked(&guest.name, message::outcome(&answer));
        answer
    }

    /// Returns the answer for a guest whose policy has names.
    async fn answer_to(&self, question: &Question, guest: &Rc<Guest>) -> Message {
        let name = question.name().filter(|name| guest.names.allows(name));
        let Some(name) = name else {
            self.tell(guest, || {
                format!("{}: network.egress.allow has no such name", question.words())
            });
            return question.refused();
        };
        // Everything else than addresses is of no use.
        let Some(family) = question.family() else { return question.nothing() };
        match self.has(guest, family) {
            Ok(true) => self.resolve(question, guest, (&name, family)).await,
            // A guest that asks for both is not to wait for addresses that lead it nowhere.
            Ok(false) => question.nothing(),
            Err(error) => {
                tracing::warn!(%error, "cannot tell whether a guest has IPv6");
                question.failed()
            }
        }
    }

    /// Returns the answer of an upstream to a guest's question for the addresses of this family of an allowed name.
    async fn resolve(
        &self,
        question: &Question,
        guest: &Rc<Guest>,
        (name, family): (&str, Family),
    ) -> Message {
        let Some(_open) = guest.open() else { return question.failed() };
        let servers = guest.dns.clone().unwrap_or_else(|| self.upstreams.get());
        let Some(found) = self.silent.ask(question, &servers).await else {
            return question.failed();
        };
        let addresses = match self.public(guest, &found.addresses) {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::warn!(%error, "cannot tell which addresses are the host's");
                return question.failed();
            }
        };
        if addresses.len() < found.addresses.len() {
            self.tell(guest, || {
                format!("{}: an answer with an address that is not public", question.words())
            });
            if addresses.is_empty() {
                return without_addresses(question);
            }
        }
        let lifetimes =
            addresses.iter().map(|(address, seconds)| (*address, names::lifetime(*seconds)));
        let Some((end, set)) = guest.end(family) else { return question.nothing() };
        let answered = Answered {
            guest: end,
            set,
            allowed: &guest.names,
            name,
            addresses: &lifetimes.collect::<Vec<_>>(),
        };
        let pinned = self.kernel.borrow_mut().pin(guest.backend, &answered);
        match pinned {
            Ok(true) => question.found_answer(*found, &addresses, names::told),
            Ok(false) => {
                self.tell(guest, || {
                    format!("{}: more addresses than are let through at a time", question.words())
                });
                question.failed()
            }
            Err(error) => {
                tracing::warn!(%error, function = %guest.name, "a name is not answered");
                question.failed()
            }
        }
    }

    /// Reports whether a guest has addresses of this family.
    fn has(&self, guest: &Guest, family: Family) -> Result<bool, KernelError> {
        match (family, &guest.v6) {
            (Family::V4, _) => Ok(true),
            (Family::V6, Some(v6)) => self.kernel.borrow_mut().is_local(v6.host.into()),
            (Family::V6, None) => Ok(false),
        }
    }

    /// Returns those of the addresses that are neither special, nor of guests, nor the host's own.
    fn public(
        &self,
        guest: &Guest,
        found: &[(IpAddr, u32)],
    ) -> Result<Vec<(IpAddr, u32)>, KernelError> {
        let mut kernel = self.kernel.borrow_mut();
        let mut public = Vec::new();
        for &(address, seconds) in found {
            if names::is_public(address, guest.pool) && !kernel.is_local(address)? {
                public.push((address, seconds));
            }
        }
        Ok(public)
    }

    /// Publishes a refusal, unless there were many lately.
    fn tell(&self, guest: &Guest, text: impl FnOnce() -> String) {
        if guest.may_tell() {
            self.events.name_refused(guest.name.clone(), text());
        }
    }
}

/// Returns the answer to a question whose addresses all lead elsewhere than to the public.
///
/// Programs that ask for both families take a refusal of one for a failure of both (getaddrinfo(3) of musl), and many names
/// have private addresses of IPv6 beside public ones of IPv4.
fn without_addresses(question: &Question) -> Message {
    match question.family() {
        Some(Family::V6) => question.nothing(),
        _ => question.refused(),
    }
}

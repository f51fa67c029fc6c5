//! Waits until functions are ready: by default, until each port of their TCP exposures accepts a connection from this node,
//! and until each TAP is open.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    iter::{Flatten, Peekable},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    ops::RangeInclusive,
    option,
    path::Path,
    time::{Duration, Instant},
};

use riklet_core::model::{Exposure, Protocol, Ready, Vmm};
use riklet_kernel::Kernel;
use riklet_sdn::{Instance, Node};

use super::{
    SupervisorError,
    error::{ConsoleEnd, Played},
    guests::{Ended, Event, RunningGuests},
};
use crate::{console, runs};

/// The time limit of the first attempts; that of the later ones follows. A packet that arrived before the guest had
/// its address is only sent again after a second, so a new attempt is faster.
const FIRST_ATTEMPT: Duration = Duration::from_millis(20);
const LAST_ATTEMPT: Duration = Duration::from_millis(500);
/// The pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(2);
/// The most ports of one range that are asked before the others are looked at.
const PORTS_AT_ONCE: usize = 64;
/// The most bytes of an answer that are shown.
const MAX_BODY: u64 = 4096;

pub(super) enum Outcome {
    Ready(Readiness),
    /// The supervisor shall stop.
    Stopped,
    /// A VMM ended first.
    Ended(Ended),
}

/// The answers of the published ports, and their times.
#[derive(Debug)]
pub struct Readiness {
    /// The answer of the first port of each TCP exposure that was waited for, in the order of [`tcp_exposures`].
    pub answers: Vec<PortAnswer>,
    /// The time at which every guest had answered something, if only with a refusal.
    pub booted: Instant,
    /// The time at which every exposure had accepted.
    pub accepted: Instant,
    /// False if nothing was waited for, so that nobody knows whether the guests answer.
    pub awaited: bool,
}

/// The answer of one published port.
#[derive(Debug)]
pub struct PortAnswer {
    /// The address that answered.
    pub target: SocketAddr,
    /// The built-in guest's description of itself; `None` for any other guest.
    pub body: Option<String>,
}

/// The stage that an exposure has reached.
#[derive(Clone, Copy)]
enum Waiting {
    Carrier,
    Guest,
    Port,
}

/// The extent of the wait.
#[derive(Clone, Copy)]
pub(super) struct Wait {
    /// Waits for nothing.
    pub(super) nothing: bool,
    /// The time limit, as the error names it.
    pub(super) limit: Duration,
    pub(super) deadline: Instant,
}

/// An exposure whose ports are not all ready yet, or an instance whose carrier is awaited.
struct Pending<'a> {
    instance: &'a Instance,
    exposure: Option<&'a Exposure>,
    /// The ports of the exposure that have not answered.
    ports: Ports,
    builtin: bool,
    attempt: Duration,
    waiting: Waiting,
    answer: Option<PortAnswer>,
    done: bool,
}

/// Waits until everything is ready that the definitions say is waited for. Calls `said` whenever this changes: what the first of
/// those waits for that are not ready, and the number of the others.
pub(super) fn wait<K: Kernel>(
    node: &mut Node<K>,
    guests: &mut RunningGuests<'_>,
    instances: &[Played<'_>],
    wait: Wait,
    mut said: impl FnMut(&str, usize),
) -> Result<Outcome, SupervisorError> {
    let mut all: Vec<_> = instances
        .iter()
        .filter(|_| !wait.nothing)
        .flat_map(|played| awaited(played.0).map(|exposure| Pending::new(*played, exposure)))
        .collect();
    let (mut booted, mut last) = (None, None);
    loop {
        for pending in all.iter_mut().filter(|pending| !pending.done) {
            pending.look(node)?;
        }
        if all.iter().all(|pending| matches!(pending.waiting, Waiting::Port)) {
            booted.get_or_insert_with(super::now);
        }
        if all.iter().all(|pending| pending.done) {
            let accepted = super::now();
            let awaited = !all.is_empty();
            let answers = all.into_iter().filter_map(|pending| pending.answer).collect();
            let booted = booted.unwrap_or(accepted);
            return Ok(Outcome::Ready(Readiness { answers, booted, accepted, awaited }));
        }
        let mut missing = all.iter().filter(|pending| !pending.done);
        let short =
            |first: &Pending<'_>| format!("{}: {}", first.instance.name(), first.waits_for());
        let now = missing.next().map(|first| (short(first), missing.count()));
        if last != now {
            if let Some((first, others)) = &now {
                said(first, *others);
            }
            last = now;
        }
        match guests.wait(node, Some(PAUSE))? {
            Some(Event::Stop) => return Ok(Outcome::Stopped),
            Some(Event::Ended(ended)) => return Ok(Outcome::Ended(ended)),
            None if super::now() < wait.deadline => {}
            None => return Err(not_ready(&node.config().state_dir, &all, wait.limit)),
        }
    }
}

/// Returns what is awaited of an instance: exposures whose ports shall accept, and `None` for the carrier. An instance
/// without any exposure is ready with its carrier.
fn awaited(instance: &Instance) -> impl Iterator<Item = Option<&Exposure>> {
    let signs = || instance.exposures().iter().map(Exposure::ready);
    let carrier = instance.exposures().is_empty() || signs().any(|ready| ready == Ready::Carrier);
    let answering = instance.exposures().iter().filter(|exposure| exposure.ready() == Ready::Tcp);
    answering.map(Some).chain(carrier.then_some(None))
}

/// Returns the error about those that are not ready, with the ends of their consoles.
fn not_ready(state_dir: &Path, all: &[Pending<'_>], limit: Duration) -> SupervisorError {
    /// The number of lines that are shown.
    const LINES: usize = 5;
    /// The part of the log that these are looked for in, in bytes.
    const TAIL: u64 = 8192;
    let missing = || all.iter().filter(|pending| !pending.done);
    let waited = missing().map(Pending::describe).collect();
    let names: BTreeSet<_> = missing().map(|pending| pending.instance.name()).collect();
    let consoles = names.into_iter().map(|name| ConsoleEnd {
        name: name.clone(),
        lines: console::last_lines(&runs::log(state_dir, name), LINES, TAIL),
    });
    SupervisorError::NotReady { waited, limit, consoles: consoles.collect() }
}

/// Returns the TCP exposures of these instances.
pub fn tcp_exposures<'a>(
    instances: &'a [(&'a Instance, Vmm)],
) -> impl Iterator<Item = (&'a Instance, &'a Exposure, Vmm)> {
    let all = instances
        .iter()
        .flat_map(|(instance, vmm)| instance.exposures().iter().map(move |e| (*instance, e, *vmm)));
    all.filter(|(_, exposure, _)| exposure.protocol() == Protocol::Tcp)
}

/// The host ports of an exposure, in ascending order.
type Ports = Peekable<Flatten<option::IntoIter<RangeInclusive<u16>>>>;

impl<'a> Pending<'a> {
    fn new((instance, vmm): Played<'a>, exposure: Option<&'a Exposure>) -> Self {
        let ports = exposure.map(Exposure::host_ports).map(|ports| ports.first()..=ports.last());
        Self {
            instance,
            exposure,
            ports: ports.into_iter().flatten().peekable(),
            builtin: vmm == Vmm::Builtin,
            attempt: FIRST_ATTEMPT,
            waiting: Waiting::Carrier,
            answer: None,
            done: false,
        }
    }

    /// Checks the progress of this exposure. A packet sent before the guest has opened its TAP would be lost.
    fn look<K: Kernel>(&mut self, node: &mut Node<K>) -> Result<(), SupervisorError> {
        let link = node.kernel().link(&self.instance.interface())?;
        if !link.is_some_and(|link| link.carrier) {
            self.waiting = Waiting::Carrier;
            return Ok(());
        }
        let Some(exposure) = self.exposure else {
            self.waiting = Waiting::Port;
            self.done = true;
            return Ok(());
        };
        for _ in 0..PORTS_AT_ONCE {
            let Some(&port) = self.ports.peek() else { break };
            let Some((target, body)) = self.ask(exposure, port) else { break };
            self.ports.next();
            self.answer.get_or_insert(PortAnswer { target, body });
        }
        self.done = self.ports.peek().is_none();
        self.attempt = (self.attempt * 3 / 2).min(LAST_ATTEMPT);
        Ok(())
    }

    /// Returns the answer of one port; `None` if there is none.
    fn ask(&mut self, exposure: &Exposure, port: u16) -> Option<(SocketAddr, Option<String>)> {
        let (attempt, builtin) = (self.attempt, self.builtin);
        first_answer(&targets(self.instance, exposure, port), |target| {
            let answer = ask(target, attempt, builtin);
            let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if answer.as_ref().err().is_none_or(refused) {
                self.waiting = Waiting::Port;
            } else if matches!(self.waiting, Waiting::Carrier) {
                self.waiting = Waiting::Guest;
            }
            answer.ok()
        })
    }

    fn describe(&self) -> String {
        let Self { instance, exposure, .. } = self;
        let what = self.waits_for();
        let single = |exposure: &Exposure| exposure.host_ports().is_single();
        let port = self.ports.clone().next().filter(|_| !exposure.is_none_or(single));
        let port = port.map(|port| format!(", port {port}")).unwrap_or_default();
        let exposure = exposure.map(|exposure| format!(" ({exposure}{port})")).unwrap_or_default();
        format!("{}{exposure}: {what}", instance.name())
    }

    /// Returns what is missing at this stage.
    fn waits_for(&self) -> String {
        match self.waiting {
            Waiting::Carrier => {
                format!("nothing has opened {} (it has no carrier)", self.instance.interface())
            }
            Waiting::Guest => {
                format!("the guest at {} does not answer", self.instance.addresses.v4.guest)
            }
            Waiting::Port => "the guest refuses connections to its port".to_owned(),
        }
    }
}

/// Returns the addresses at which the node itself reaches a port of an exposure. If lo is down, 127.0.0.1 is unreachable, but
/// the address of the node's own TAP is reachable.
fn targets(instance: &Instance, exposure: &Exposure, port: u16) -> Vec<SocketAddr> {
    let addresses = match exposure.host_address() {
        Some(address) => vec![address],
        None => {
            [Ipv4Addr::LOCALHOST.into()].into_iter().chain(instance.addresses.hosts()).collect()
        }
    };
    addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()
}

/// Returns the first target that answers, and its answer. A guest may come up between two probes, so after a later
/// target has answered the earlier ones are tried again.
fn first_answer<T>(
    targets: &[SocketAddr],
    mut ask: impl FnMut(SocketAddr) -> Option<T>,
) -> Option<(SocketAddr, T)> {
    let mut first = |targets: &[SocketAddr]| {
        let mut targets = targets.iter().enumerate();
        targets.find_map(|(index, target)| Some((index, *target, ask(*target)?)))
    };
    let (index, target, answer) = first(targets)?;
    let earlier = targets.get(..index).and_then(first);
    Some(earlier.map_or((target, answer), |(_, target, answer)| (target, answer)))
}

/// Connects and, if `http` is set, asks the guest for its description.
fn ask(target: SocketAddr, limit: Duration, http: bool) -> io::Result<Option<String>> {
    let mut stream = TcpStream::connect_timeout(&target, limit)?;
    if !http {
        return Ok(None);
    }
    stream.set_read_timeout(Some(LAST_ATTEMPT))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_BODY).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").filter(|(head, _)| head.contains(" 200 "));
    let body = body.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Some(body.1.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_that_starts_during_a_probe_is_found_at_the_first_address() {
        let [here, there] = [1, 2].map(|last| SocketAddr::from(([127, 0, 0, last], 80)));
        let answers_at = |times: usize, only: Option<SocketAddr>| {
            let mut asked = Vec::new();
            let answer = first_answer(&[here, there], |target| {
                asked.push(target);
                (asked.len() > times && only.is_none_or(|only| only == target)).then_some(())
            });
            (answer.map(|(target, ())| target), asked)
        };
        assert_eq!(answers_at(0, None), (Some(here), vec![here]));
        assert_eq!(answers_at(1, None), (Some(here), vec![here, there, here]));
        assert_eq!(answers_at(0, Some(there)), (Some(there), vec![here, there, here]));
        assert_eq!(answers_at(2, None), (None, vec![here, there]));
    }
}

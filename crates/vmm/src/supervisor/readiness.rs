//! Waits until functions are ready: until each of their TCP exposures accepts a connection from this node.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use riklet_core::model::{Exposure, Protocol, Vmm};
use riklet_kernel::Kernel;
use riklet_sdn::{Instance, Node};

use super::{
    SupervisorError,
    error::Played,
    guests::{Ended, Event, RunningGuests},
};

/// The time limit of the first attempts; that of the later ones follows. A packet that arrived before the guest had
/// its address is only sent again after a second, so a new attempt is faster.
const FIRST_ATTEMPT: Duration = Duration::from_millis(20);
const LAST_ATTEMPT: Duration = Duration::from_millis(500);
/// The pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(2);
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
    /// The answer of each TCP exposure, in the order of [`tcp_exposures`].
    pub answers: Vec<PortAnswer>,
    /// The time at which every guest had answered something, if only with a refusal.
    pub booted: Instant,
    /// The time at which every exposure had accepted.
    pub accepted: Instant,
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

/// An exposure that is not ready yet, or an instance without a TCP exposure, whose carrier is awaited.
struct Pending<'a> {
    instance: &'a Instance,
    exposure: Option<&'a Exposure>,
    builtin: bool,
    attempt: Duration,
    waiting: Waiting,
    answer: Option<PortAnswer>,
    done: bool,
}

/// Waits until every TCP exposure answers, and every TAP has been opened.
pub(super) fn wait<K: Kernel>(
    node: &mut Node<K>,
    guests: &mut RunningGuests<'_>,
    instances: &[Played<'_>],
    limit: Duration,
) -> Result<Outcome, SupervisorError> {
    let deadline = super::now() + limit;
    let pending = |(instance, exposure, vmm)| Pending {
        instance,
        exposure,
        builtin: vmm == Vmm::Builtin,
        attempt: FIRST_ATTEMPT,
        waiting: Waiting::Carrier,
        answer: None,
        done: false,
    };
    let published =
        tcp_exposures(instances).map(|(instance, exposure, vmm)| (instance, Some(exposure), vmm));
    let is_published =
        |instance: &Instance| tcp_exposures(instances).any(|(other, ..)| other == instance);
    let others = instances.iter().filter(|(instance, _)| !is_published(instance));
    let others = others.map(|(instance, vmm)| (*instance, None, *vmm));
    let mut all: Vec<_> = published.chain(others).map(pending).collect();
    let mut booted = None;
    loop {
        for pending in all.iter_mut().filter(|pending| !pending.done) {
            pending.look(node)?;
        }
        if all.iter().all(|pending| matches!(pending.waiting, Waiting::Port)) {
            booted.get_or_insert_with(super::now);
        }
        if all.iter().all(|pending| pending.done) {
            let accepted = super::now();
            let answers = all.into_iter().filter_map(|pending| pending.answer).collect();
            let booted = booted.unwrap_or(accepted);
            return Ok(Outcome::Ready(Readiness { answers, booted, accepted }));
        }
        match guests.wait(node, Some(PAUSE))? {
            Some(Event::Stop) => return Ok(Outcome::Stopped),
            Some(Event::Ended(ended)) => return Ok(Outcome::Ended(ended)),
            None if super::now() < deadline => {}
            None => {
                let missing = all.iter().filter(|pending| !pending.done);
                let waited = missing.map(Pending::describe).collect();
                return Err(SupervisorError::NotReady { waited, limit });
            }
        }
    }
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

impl Pending<'_> {
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
        let (attempt, builtin) = (self.attempt, self.builtin);
        let answer = first_answer(&targets(self.instance, exposure), |target| {
            let answer = ask(target, attempt, builtin);
            let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if answer.as_ref().err().is_none_or(refused) {
                self.waiting = Waiting::Port;
            } else if matches!(self.waiting, Waiting::Carrier) {
                self.waiting = Waiting::Guest;
            }
            answer.ok()
        });
        self.done = answer.is_some();
        self.answer = answer.map(|(target, body)| PortAnswer { target, body });
        self.attempt = (self.attempt * 3 / 2).min(LAST_ATTEMPT);
        Ok(())
    }

    fn describe(&self) -> String {
        let Self { instance, exposure, .. } = self;
        let exposure = exposure.map(|exposure| format!(" ({exposure})")).unwrap_or_default();
        let what = match self.waiting {
            Waiting::Carrier => {
                format!("nothing has opened {} (it has no carrier)", instance.interface())
            }
            Waiting::Guest => {
                format!("the guest at {} does not answer", instance.addresses.v4.guest)
            }
            Waiting::Port => "the guest refuses connections to its port".to_owned(),
        };
        format!("{}{exposure}: {what}", instance.name())
    }
}

/// Returns the addresses at which the node itself reaches an exposure. If lo is down, 127.0.0.1 is unreachable, but
/// the address of the node's own TAP is reachable.
fn targets(instance: &Instance, exposure: &Exposure) -> Vec<SocketAddr> {
    let port = exposure.host_ports().first();
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

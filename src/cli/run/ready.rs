use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use riklet_sdn::{
    kernel::Kernel,
    model::{Exposure, Protocol},
    sdn::{Instance, Sdn, SdnError},
};

use super::guests::{Event, Guests};
use crate::cli::error::CliError;

/// How long one attempt may take, and how long to wait before the next.
const ATTEMPT: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(2);

pub(super) enum Outcome {
    /// Where each TCP exposure answered, in the order of [`exposures`].
    Ready(Vec<SocketAddr>),
    /// A signal came first.
    Stopped,
}

/// Waits until every TCP exposure answers a request from this node.
pub(super) fn wait<K: Kernel>(
    sdn: &mut Sdn<K>,
    instances: &[Instance],
    guests: &mut Guests,
    seconds: u16,
) -> Result<Outcome, CliError> {
    let deadline = super::now() + Duration::from_secs(seconds.into());
    let mut answers = Vec::new();
    let mut missing: Vec<_> = exposures(instances).collect();
    missing.reverse();
    while let Some((instance, exposure)) = missing.last() {
        // Before the guest has its TAP open, the first packet would be lost, and sent again after a second.
        let mut targets = targets(instance, exposure).into_iter();
        let attached = has_carrier(sdn, instance)?;
        if let Some(target) = targets.find(|target| attached && answers_at(*target)) {
            answers.push(target);
            missing.pop();
            continue;
        }
        match guests.wait(Some(PAUSE))? {
            Some(Event::Signal) => return Ok(Outcome::Stopped),
            Some(Event::Ended { name, status }) => {
                return Err(CliError::GuestEnded { name, status });
            }
            None if super::now() < deadline => {}
            None => {
                let waited = missing.iter().rev();
                let waited = waited.map(|(i, e)| format!("{} ({e})", i.name())).collect();
                return Err(CliError::NotReady { waited, seconds });
            }
        }
    }
    Ok(Outcome::Ready(answers))
}

/// What the builtin guest speaks HTTP at.
fn exposures(instances: &[Instance]) -> impl Iterator<Item = (&Instance, &Exposure)> {
    let all = instances.iter().flat_map(|i| i.exposures().iter().map(move |e| (i, e)));
    all.filter(|(_, exposure)| exposure.protocol() == Protocol::Tcp)
}

/// Where the node itself reaches an exposure. 127.0.0.1 is out of reach where lo is down, and an address of
/// the node's own TAP is not.
fn targets(instance: &Instance, exposure: &Exposure) -> Vec<SocketAddr> {
    let port = exposure.host_ports().first();
    let addresses = match exposure.host_address() {
        Some(address) => vec![address],
        None => vec![Ipv4Addr::LOCALHOST, instance.addresses.host],
    };
    addresses.into_iter().map(|address| SocketAddr::new(IpAddr::V4(address), port)).collect()
}

fn has_carrier<K: Kernel>(sdn: &mut Sdn<K>, instance: &Instance) -> Result<bool, CliError> {
    let link = sdn.kernel().link(&instance.interface()).map_err(SdnError::from)?;
    Ok(link.is_some_and(|link| link.carrier))
}

fn answers_at(target: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&target, ATTEMPT)?;
        stream.set_read_timeout(Some(ATTEMPT))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        std::io::Result::Ok(status.ends_with(b"200"))
    };
    ask().unwrap_or(false)
}

/// The address that other machines reach the node by, as far as it can be told.
pub(super) fn uplink_address<K: Kernel>(sdn: &mut Sdn<K>) -> Result<Option<Ipv4Addr>, CliError> {
    let uplinks = sdn.kernel().uplinks().map_err(SdnError::from)?;
    for uplink in uplinks {
        let link = sdn.kernel().link(&uplink).map_err(SdnError::from)?;
        if let Some(address) = link.and_then(|link| link.addresses.first().copied()) {
            return Ok(Some(address.addr()));
        }
    }
    Ok(None)
}

/// What a user can try: on this node, and from elsewhere.
pub(super) fn urls(
    instances: &[Instance],
    answers: &[SocketAddr],
    elsewhere: Option<Ipv4Addr>,
) -> Vec<String> {
    let here = answers.iter().map(|target| format!("http://{target}/"));
    let there = exposures(instances).filter(|(_, exposure)| exposure.host_address().is_none());
    let there = there.filter_map(|(_, exposure)| {
        Some(format!("http://{}:{}/", elsewhere?, exposure.host_ports().first()))
    });
    here.chain(there).collect()
}

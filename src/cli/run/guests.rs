use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Child,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use ipnet::Ipv4Net;
use riklet_sdn::{
    model::{Addresses, Exposure},
    process,
    sdn::Instance,
    vmm::builtin::Guest,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::error::CliError;

/// The child processes, and the signals that end them.
pub(crate) struct Guests {
    signals: UnixStream,
    running: Vec<Running>,
}

struct Running {
    name: String,
    child: Child,
    /// Readable once the child has ended (`pidfd_open(2)`).
    ended: OwnedFd,
}

/// What ends `run`.
pub(crate) enum Event {
    /// SIGINT or SIGTERM.
    Signal,
    /// A guest that nobody asked to end.
    Ended { name: String, status: String },
}

impl Guests {
    /// None yet. From now on SIGINT and SIGTERM are events.
    pub(crate) fn watching_signals() -> Result<Self, CliError> {
        let failed = |source| CliError::Signals { source };
        let (signals, write) = UnixStream::pair().map_err(failed)?;
        for signal in [SIGINT, SIGTERM] {
            let write = write.try_clone().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal, write).map_err(failed)?;
        }
        Ok(Self { signals, running: vec![] })
    }

    /// Starts the guest of an instance.
    pub(crate) fn start(&mut self, instance: &Instance) -> Result<(), CliError> {
        let name = instance.name().to_string();
        let child = spawn(instance);
        let (child, ended) =
            child.map_err(|source| CliError::StartGuest { name: name.clone(), source })?;
        self.running.push(Running { name, child, ended });
        Ok(())
    }

    /// Waits for an event; `None` where there was none in this time.
    pub(crate) fn wait(&mut self, limit: Option<Duration>) -> Result<Option<Event>, CliError> {
        let failed = |source: io::Error| CliError::Signals { source };
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.running.iter().map(|r| PollFd::new(&r.ended, PollFlags::IN)));
        match poll(&mut fds, limit.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            result => result.map_err(|errno| failed(errno.into()))?,
        };
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.first() == Some(&true) {
            return Ok(Some(Event::Signal));
        }
        let ended = self.running.iter_mut().zip(ready.into_iter().skip(1)).find(|(_, r)| *r);
        let Some((running, _)) = ended else { return Ok(None) };
        let status = running.child.wait().map_err(failed)?;
        Ok(Some(Event::Ended { name: running.name.clone(), status: status.to_string() }))
    }

    /// Ends them all, and waits until they are gone: their TAPs are free then.
    pub(crate) fn end(&mut self) {
        for running in &mut self.running {
            let ended = running.child.kill().and_then(|()| running.child.wait());
            if let Err(error) = ended {
                tracing::warn!(guest = running.name, %error, "cannot end the guest");
            }
        }
        self.running.clear();
    }
}

fn spawn(instance: &Instance) -> io::Result<(Child, OwnedFd)> {
    let program = std::env::current_exe()?;
    let guest = guest_of(instance)?.to_argument();
    let child = process::spawn(program.as_os_str(), &["guest".to_owned(), guest])?;
    let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    Ok((child, ended))
}

fn guest_of(instance: &Instance) -> io::Result<Guest> {
    let address = Ipv4Net::new(instance.addresses.guest, Addresses::PREFIX_LENGTH);
    let ports = |exposure: &Exposure| {
        let protocol = exposure.protocol();
        exposure.guest_ports().iter().map(move |port| (protocol, port))
    };
    Ok(Guest {
        name: instance.name().clone(),
        interface: instance.interface(),
        address: address.map_err(io::Error::other)?,
        gateway: instance.addresses.host,
        mac: instance.guest_mac(),
        mtu: instance.mtu,
        ports: instance.exposures().iter().flat_map(ports).collect(),
    })
}

/// Ctrl-C reaches the guest's process too: it leaves it to its parent to end it.
pub(crate) fn ignore_interrupts() -> Result<(), CliError> {
    let ignored = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGINT, ignored).map_err(|source| CliError::Signals { source })?;
    Ok(())
}

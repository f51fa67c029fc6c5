use std::{collections::BTreeSet, net::IpAddr};

use crate::{KernelError, process::ProcessId, sealed::Sealed};
use riklet_core::{
    firewall::IptablesVariant,
    model::{AccountName, InterfaceName, NamespaceId, NamespacePath, PortRange, Protocol},
};

/// A local process that listens on a port that an exposure wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The local address; `None` stands for every address.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// The process, as `name (pid 123)`; `None` if it is in another PID namespace or has ended.
    pub process: Option<String>,
}

/// A port on which a local socket accepts packets: the protocol, its address (`None` stands for every address), and the port.
pub type ListeningPort = (Protocol, Option<IpAddr>, u16);

/// A kind of account that a host knows by name and by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccountKind {
    /// A user (passwd(5)).
    User,
    /// A group (group(5)).
    Group,
}

impl std::fmt::Display for AccountKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::User => "user",
            Self::Group => "group",
        })
    }
}

/// Facts about the host, which are only read.
pub trait HostFacts: Sealed {
    /// Returns the local sockets that clash with one of these (protocol, address, port), as bind(2) would
    /// find; an address of `None` stands for every address.
    ///
    /// # Errors
    /// Fails if `/proc/net` cannot be read.
    fn listeners(
        &mut self,
        wanted: &BTreeSet<(Protocol, Option<IpAddr>, PortRange)>,
    ) -> Result<Vec<Listener>, KernelError>;

    /// Returns the ports on which local sockets accept IPv4, each with its address; `None` stands for every address. Asks
    /// for no process.
    ///
    /// # Errors
    /// Fails if `/proc/net` cannot be read.
    fn listening_ports(&mut self) -> Result<BTreeSet<ListeningPort>, KernelError>;

    /// Returns the process that has this TAP open, as `name (pid 123)`. Looks at no more than this number of processes, the
    /// newest first, and returns `None` if it is none of them, or hidden from us. Costs as much as these have descriptors:
    /// ask it only of a TAP that is known to be open.
    fn tap_user(&mut self, tap: &InterfaceName, processes: usize) -> Option<String>;

    /// Returns the IPv4 name servers of the host in its order, except those that are the host itself.
    ///
    /// # Errors
    /// Fails if resolv.conf(5) exists and cannot be read.
    fn resolvers(&mut self) -> Result<Vec<IpAddr>, KernelError>;

    /// Returns the number of a user or a group, or `None` if the host knows no such name.
    ///
    /// # Errors
    /// Fails if the host's sources of names (nsswitch.conf(5)) do not answer.
    fn account(
        &mut self,
        kind: AccountKind,
        name: &AccountName,
    ) -> Result<Option<u32>, KernelError>;

    /// Returns the number of the network namespace that a file leads to.
    ///
    /// # Errors
    /// Fails if the file cannot be opened, if it leads to no network namespace, and if that is the node's own.
    fn namespace(&mut self, path: &NamespacePath) -> Result<NamespaceId, KernelError>;

    /// Returns whether a process runs. A process that has ended does not, even if its parent has not waited for it yet.
    ///
    /// # Errors
    /// Fails if `/proc` cannot be read.
    fn is_alive(&mut self, process: ProcessId) -> Result<bool, KernelError>;

    /// Returns the variant of the host's program `iptables`, or `None` if there is no such program.
    ///
    /// # Errors
    /// Fails if the program cannot be run or fails.
    fn iptables(&mut self) -> Result<Option<IptablesVariant>, KernelError>;
}

use std::fmt;

use ipnet::IpNet;

use super::AccountKind;
use riklet_core::{
    firewall::{EntryError, ForeignChain, iptables},
    manager::ManagerFile,
    model::{AccountName, InterfaceName, Ipv6Unsupported, NamespacePath},
    routing::{RoutingRule, UplinkRoute},
};

/// A refusal by the kernel, or by a program that speaks to it, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number (errno(3)), if there is one.
    pub errno: Option<i32>,
    /// The extended acknowledgement of netlink, or what a program wrote to its standard error; may be empty.
    pub words: String,
}

impl Refusal {
    /// `EPERM`: the caller lacks a capability.
    pub const EPERM: i32 = 1;
    /// `ENOENT`: the named object does not exist.
    pub const ENOENT: i32 = 2;
    /// `EBUSY`: the object is in use.
    pub const EBUSY: i32 = 16;
    /// `EEXIST`: the object exists already.
    pub const EEXIST: i32 = 17;
    /// `ENODEV`: no such interface.
    pub const ENODEV: i32 = 19;
    /// `EROFS`: the file system is mounted read-only.
    pub const EROFS: i32 = 30;

    /// Returns a refusal with an error number and nothing more.
    #[must_use]
    pub const fn errno(errno: i32) -> Self {
        Self { errno: Some(errno), words: String::new() }
    }

    /// Returns a refusal with words only.
    #[must_use]
    pub fn words(words: impl Into<String>) -> Self {
        Self { errno: None, words: words.into() }
    }

    /// Reports whether a capability is missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        // EPERM, EACCES
        matches!(self.errno, Some(1 | 13))
    }

    /// Reports whether the file system is mounted read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.errno == Some(Self::EROFS)
    }

    /// Reports whether iptables-nft refuses a table because of rules that only `nft` can write. It has no error
    /// number for that, so its words decide.
    #[must_use]
    pub fn is_incompatible(&self) -> bool {
        iptables::is_incompatible(&self.words)
    }
}

impl From<Ipv6Unsupported> for Refusal {
    fn from(error: Ipv6Unsupported) -> Self {
        Self::words(error.to_string())
    }
}

impl From<EntryError> for Refusal {
    fn from(error: EntryError) -> Self {
        Self::words(error.to_string())
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::errno(errno),
            None => Self::words(error.to_string()),
        }
    }
}

impl From<rustix::io::Errno> for Refusal {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::errno(errno.raw_os_error())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.errno, self.words.trim()) {
            (Some(errno), "") => std::io::Error::from_raw_os_error(errno).fmt(f),
            (Some(errno), words) => {
                write!(f, "{words}: {}", std::io::Error::from_raw_os_error(errno))
            }
            (None, "") => f.write_str("no reason given"),
            (None, words) => f.write_str(words),
        }
    }
}

impl std::error::Error for Refusal {}

/// A failed operation on the system: its object, and the refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message; `source` is the kernel's own words")]
#[non_exhaustive]
pub enum KernelError {
    #[error("cannot read interface {name}")]
    ReadLink { name: InterfaceName, source: Refusal },
    #[error("cannot listen to the kernel's notifications")]
    Listen { source: Refusal },
    #[error("cannot hear of what guests are refused")]
    ListenToRefusals { source: Refusal },
    #[error("cannot let a guest reach the addresses of a name")]
    Pin { source: Refusal },
    #[error("cannot count what guests are refused")]
    CountRefusals { source: Refusal },
    #[error("cannot answer guests that ask for their configuration")]
    Questions { source: Refusal },
    #[error("cannot list the connections that are tracked")]
    ListFlows { source: Refusal },
    #[error("cannot list the interfaces")]
    ListLinks { source: Refusal },
    #[error("cannot create TAP {name}: {step}")]
    CreateLink { name: InterfaceName, step: &'static str, source: Refusal },
    #[error("cannot create {name} with {interface} as its other end: {step}")]
    CreateVeth {
        name: InterfaceName,
        interface: InterfaceName,
        step: &'static str,
        source: Refusal,
    },
    #[error("cannot look at {interface}, the other end of {name}")]
    ReadPeer { name: InterfaceName, interface: InterfaceName, source: Refusal },
    #[error("cannot use the network namespace {path}")]
    Namespace { path: NamespacePath, source: Refusal },
    #[error("cannot configure {name}: {part}")]
    ConfigureLink { name: InterfaceName, part: &'static str, source: Refusal },
    #[error("cannot limit the traffic of {name}: {part}")]
    Shape { name: InterfaceName, part: &'static str, source: Refusal },
    #[error("cannot give TAP {name} to its {kind}")]
    SetOwner { name: InterfaceName, kind: AccountKind, source: Refusal },
    #[error("cannot delete {name}")]
    DeleteLink { name: InterfaceName, source: Refusal },
    #[error("cannot remove address {address} from {name}")]
    RemoveAddress { name: InterfaceName, address: IpNet, source: Refusal },
    #[error("cannot take {name} down")]
    DrainLink { name: InterfaceName, source: Refusal },
    #[error("cannot delete the interfaces that were taken down")]
    DeleteLinks { source: Refusal },
    #[error("cannot read the firewall ({backend})")]
    ReadFirewall { backend: &'static str, source: Refusal },
    #[error("the firewall ({backend}) refused the change")]
    ChangeFirewall { backend: &'static str, source: Refusal },
    #[error("cannot list the chains on the hook forward")]
    ListForeignChains { source: Refusal },
    #[error("cannot change the foreign chain {foreign_chain}")]
    SetPassage { foreign_chain: ForeignChain, source: Refusal },
    #[error("cannot delete connection tracking entries")]
    ForgetFlows { source: Refusal },
    #[error("cannot read sysctl {name}")]
    ReadSysctl { name: String, source: Refusal },
    #[error("cannot set sysctl {name} to {value}{}", is(present.as_deref()))]
    SetSysctl { name: String, present: Option<String>, value: String, source: Refusal },
    #[error("cannot change {}, which tells {} about our interfaces", file.path(), file.manager())]
    ManagerFile { file: ManagerFile, source: Refusal },
    #[error("cannot add the routing rule {rule}")]
    AddRule { rule: Box<RoutingRule>, source: Refusal },
    #[error("cannot remove the routing rule {rule}")]
    RemoveRule { rule: Box<RoutingRule>, source: Refusal },
    #[error("cannot add the route {route}")]
    AddRoute { route: UplinkRoute, source: Refusal },
    #[error("cannot remove the route {route}")]
    RemoveRoute { route: UplinkRoute, source: Refusal },
    #[error("cannot look up the host's routes")]
    Routes { source: Refusal },
    #[error("cannot list the listening sockets")]
    Listeners { source: Refusal },
    #[error("cannot read {path}")]
    Resolvers { path: &'static str, source: Refusal },
    #[error("cannot look up the {kind} {name}")]
    Account { kind: AccountKind, name: AccountName, source: Refusal },
    #[error("cannot look at the process {pid}")]
    Process { pid: u32, source: Refusal },
    #[error("cannot run {program}")]
    Program { program: String, source: Refusal },
}

impl KernelError {
    /// Returns the refusal, in the kernel's own words.
    #[must_use]
    pub const fn refusal(&self) -> &Refusal {
        match self {
            Self::ReadLink { source, .. }
            | Self::ReadPeer { source, .. }
            | Self::Listen { source }
            | Self::ListenToRefusals { source }
            | Self::Pin { source }
            | Self::CountRefusals { source }
            | Self::Questions { source }
            | Self::ListFlows { source }
            | Self::ListLinks { source }
            | Self::CreateLink { source, .. }
            | Self::CreateVeth { source, .. }
            | Self::Namespace { source, .. }
            | Self::ConfigureLink { source, .. }
            | Self::Shape { source, .. }
            | Self::SetOwner { source, .. }
            | Self::DeleteLink { source, .. }
            | Self::RemoveAddress { source, .. }
            | Self::DrainLink { source, .. }
            | Self::DeleteLinks { source }
            | Self::ReadFirewall { source, .. }
            | Self::ChangeFirewall { source, .. }
            | Self::ListForeignChains { source }
            | Self::SetPassage { source, .. }
            | Self::ForgetFlows { source }
            | Self::ReadSysctl { source, .. }
            | Self::SetSysctl { source, .. }
            | Self::ManagerFile { source, .. }
            | Self::AddRule { source, .. }
            | Self::RemoveRule { source, .. }
            | Self::AddRoute { source, .. }
            | Self::RemoveRoute { source, .. }
            | Self::Routes { source }
            | Self::Listeners { source }
            | Self::Resolvers { source, .. }
            | Self::Account { source, .. }
            | Self::Process { source, .. }
            | Self::Program { source, .. } => source,
        }
    }
}

fn is(present: Option<&str>) -> String {
    present.map(|present| format!(" (it is {present})")).unwrap_or_default()
}

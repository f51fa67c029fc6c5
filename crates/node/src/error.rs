use std::path::PathBuf;

use ipnet::IpNet;

use super::{Occupant, Shadow};
use crate::store::{REBUILD, Run, StoreError, rebuild_one};
use riklet_core::{
    ErrorKind,
    firewall::Backend,
    model::{
        AccountName, InstanceName, InterfaceName, NameRule, NamespaceId, NamespacePath, Pool, Slot,
    },
    plan::{Claim, ForeignLink, Holder, Obstacle, Step},
    routing::HostRoute,
    switch,
    workload::FragmentError,
};
use riklet_kernel::{AccountKind, KernelError, Refusal, process::LockHolder};

/// The reason why an operation was not done, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The records cannot be read or changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel cannot be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A step that concerns all instances was refused. The steps before it stay done.
    #[error("stopped at this step:\n{step}")]
    Halted {
        /// The step.
        step: Box<Step>,
        /// The cause.
        source: KernelError,
    },
    /// No instance of this name is recorded.
    #[error("no instance named {name} is recorded")]
    Unknown {
        /// The name.
        name: InstanceName,
        /// The recorded name that is most like it.
        nearest: Option<InstanceName>,
        /// The state directory that was searched.
        state_dir: PathBuf,
    },
    /// No instance is up, so that nothing of ours decides about packets.
    #[error("no function is up: nothing of ours decides about packets")]
    NothingUp,
    /// A packet of IPv6 is asked about, and an instance has no address of IPv6.
    #[error("{name} has no address of IPv6")]
    WithoutIpv6 {
        /// The instance.
        name: InstanceName,
    },
    /// An instance is running, and cannot be run once more.
    #[error("{name} is already running: {vmm}, process {pid}")]
    AlreadyRunning {
        /// The instance.
        name: InstanceName,
        /// The VMM.
        vmm: String,
        /// The number of the VMM's process, or of its supervisor's.
        pid: u32,
    },
    /// An instance is running: taking its network down is for its supervisor.
    #[error("cannot take {name} down while it runs: {vmm}, process {pid}")]
    Running {
        /// The instance.
        name: InstanceName,
        /// The VMM.
        vmm: String,
        /// The number of the VMM's process, or of its supervisor's.
        pid: u32,
    },
    /// The host cannot be left as it was while instances remain.
    #[error("--purge removes what all instances share, but these remain: {}", list(names))]
    Remaining {
        /// The instances that were not named.
        names: Vec<InstanceName>,
    },
    /// An exposure would take the packets of a local process, or of a translation of another program.
    #[error("cannot expose {} for {}: it would shadow {}", .0.exposure, .0.name, .0.occupant)]
    Shadows(Box<Shadow>),
    /// The configuration differs from the decision of the first use.
    #[error(
        "{what} is configured as {configured}, and this node has used {recorded} since its first instance"
    )]
    Decided {
        /// `firewall`, `pool`, `uplink`, `mtu`, `mark-mask`, `egress`, `flows` or `ipv6`.
        what: &'static str,
        /// The configured value.
        configured: String,
        /// The value in use.
        recorded: String,
    },
    /// A configured uplink does not exist. Nothing was changed.
    #[error("the uplink {name} does not exist")]
    NoUplink {
        /// The name.
        name: InterfaceName,
    },
    /// `iptables` is configured, and the host does not have the program.
    #[error("firewall is configured as iptables, but the program iptables is missing")]
    NoIptables,
    /// IPv6 is on, and the backend of the node's firewall has no rules for it.
    #[error(
        "ipv6 needs the firewall nftables, and this node has {backend}, whose rules are for IPv4 only"
    )]
    Ipv6 {
        /// The backend.
        backend: Backend,
    },
    /// The pool overlaps a route of the host.
    #[error("the pool {pool} overlaps the host's route to {route}")]
    PoolOverlaps {
        /// The pool.
        pool: Pool,
        /// The route.
        route: Box<HostRoute>,
    },
    /// A decision recorded at the first use cannot be understood.
    #[error("the recorded {what} is not valid: {value:?}")]
    Setting {
        /// `firewall` or `pool`.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// The records hold what cannot be.
    #[error(transparent)]
    Fragment(#[from] FragmentError),
    /// A policy allows names, and no daemon answers guests that ask for them. Nothing was changed.
    #[error(
        "{name}: network.egress.allow has {rule}, a name, and no daemon runs to answer what the guest asks for it"
    )]
    Names {
        /// The instance.
        name: InstanceName,
        /// The first of the names.
        rule: NameRule,
    },
    /// A definition names a user or a group that the host does not know.
    #[error("{name}: spec.function.execution.{kind}: this host knows no {kind} {account}")]
    UnknownAccount {
        /// The instance.
        name: InstanceName,
        /// User or group.
        kind: AccountKind,
        /// The name that is not known.
        account: AccountName,
    },
    /// The file of a pod's namespace leads to another one than the definition names.
    #[error("{name}: {path} leads to {found}, not to {wanted}")]
    OtherNamespace {
        /// The instance.
        name: InstanceName,
        /// The file.
        path: NamespacePath,
        /// The namespace of the definition.
        wanted: NamespaceId,
        /// The namespace that it leads to.
        found: NamespaceId,
    },
    /// A definition file does not own an instance that is to go with it. Nothing was changed.
    #[error("{file} no longer owns {name}")]
    Disowned {
        /// The instance.
        name: InstanceName,
        /// The file.
        file: String,
    },
    /// Something on the host belongs to records that this state directory does not have. Nothing was changed.
    #[error("{}", claimed(claims))]
    Claimed {
        /// The claimed objects.
        claims: Vec<Claim>,
        /// The state directory in use.
        state_dir: PathBuf,
    },
    /// A daemon has the database open that is to be replaced. Nothing was changed.
    #[error("the database in {} is open in the daemon: {daemon}", state_dir.display())]
    Open {
        /// The state directory.
        state_dir: PathBuf,
        /// The daemon.
        daemon: LockHolder,
    },
    /// Interfaces of ours have addresses of no pool that is known.
    #[error("{interface} has the address {address}, which is in no known pool")]
    UnknownPool {
        /// The interface.
        interface: String,
        /// Its address.
        address: IpNet,
    },
}

/// The reason why one instance is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError {
    /// Nothing can be done for it.
    #[error(transparent)]
    Blocked(#[from] Obstacle),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// One instance that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is not up")]
#[non_exhaustive]
pub struct Failure {
    /// The instance.
    pub name: InstanceName,
    /// Its slot.
    pub slot: Slot,
    /// The cause.
    #[source]
    pub error: InstanceError,
}

impl NodeError {
    /// Creates the refusal to run what this run plays already.
    #[must_use]
    pub fn already_running(run: &Run) -> Self {
        let (name, vmm) = (run.name.clone(), run.vmm.clone());
        Self::AlreadyRunning { name, vmm, pid: run.process.unwrap_or(run.supervisor).pid() }
    }

    /// Creates the refusal to take down what this run plays.
    #[must_use]
    pub fn running(run: &Run) -> Self {
        let (name, vmm) = (run.name.clone(), run.vmm.clone());
        Self::Running { name, vmm, pid: run.process.unwrap_or(run.supervisor).pid() }
    }

    /// Reports whether the file system of the records is full.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_full())
    }

    /// Returns the kind of answer that it needs.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Kernel(source) | Self::Halted { source, .. } => kernel_kind(source),
            Self::NoIptables => ErrorKind::Host,
            Self::Store(source) if source.is_permission() => ErrorKind::Host,
            Self::Decided { .. }
            | Self::Fragment(FragmentError::Policy { .. } | FragmentError::NoNamespace { .. })
            | Self::Names { .. }
            | Self::OtherNamespace { .. }
            | Self::NoUplink { .. }
            | Self::PoolOverlaps { .. }
            | Self::UnknownAccount { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Failed,
        }
    }

    /// Reports whether the records are corrupt.
    pub(crate) const fn is_unsound(&self) -> bool {
        match self {
            Self::Store(source) => source.is_corrupt(),
            Self::Fragment(FragmentError::Policy { .. } | FragmentError::NoNamespace { .. }) => {
                false
            }
            Self::Setting { .. } | Self::Fragment(_) => true,
            _ => false,
        }
    }

    /// Reports whether a retry may succeed once the operations under way are complete: a port or a slot is still held.
    pub(crate) fn is_contended(&self) -> bool {
        matches!(self, Self::Store(StoreError::PortTaken { .. })) || self.is_exhausted()
    }

    /// Returns whether every slot is taken. Those of instances that are gone become free once their TAPs are.
    #[must_use]
    pub const fn is_exhausted(&self) -> bool {
        matches!(self, Self::Store(StoreError::PoolExhausted { .. }))
    }

    /// Returns a hint, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(source) => source.hint(),
            Self::Kernel(source) | Self::Halted { source, .. } => kernel_hint(source),
            Self::Unknown { nearest: Some(nearest), .. } => {
                Some(format!("did you mean {nearest}?"))
            }
            Self::Unknown { nearest: None, state_dir, .. } => {
                Some(format!("`riklet-sdn list` shows what {} records", state_dir.display()))
            }
            Self::AlreadyRunning { name, .. } => Some(format!("`riklet-sdn stop {name}` ends it")),
            Self::Running { name, .. } => {
                Some(format!("`riklet-sdn stop {name}` ends it, and takes its network down"))
            }
            Self::Remaining { .. } => Some("use `riklet-sdn down --all --purge`".to_owned()),
            Self::WithoutIpv6 { .. } => {
                Some("`riklet-sdn doctor` says whether functions have IPv6".to_owned())
            }
            Self::NothingUp => Some("`riklet-sdn up` brings functions up".to_owned()),
            Self::Shadows(shadow) => Some(shadow_hint(shadow)),
            Self::Decided {
                what: what @ ("uplink" | "mtu" | "mark-mask" | "egress" | "flows" | "ipv6"),
                configured,
                ..
            } => {
                let value = configured.replace(' ', ",");
                Some(format!("`riklet-sdn repair --{what} {value}` changes it for all functions"))
            }
            Self::Names { .. } => Some("start one with `riklet-sdn serve`".to_owned()),
            Self::NoUplink { .. } => Some("`ip link` lists the interfaces of this host".to_owned()),
            Self::Decided { .. } => Some(
                "take all instances down with `riklet-sdn down --all --purge`; the next `up` decides anew"
                    .to_owned(),
            ),
            Self::NoIptables => Some("install iptables, or set firewall to nftables".to_owned()),
            Self::PoolOverlaps { .. } => Some("set pool to a range that no route covers".to_owned()),
            Self::Claimed { claims, .. } => claims.first().map(claim_hint),
            Self::Open { daemon, .. } => Some(format!(
                "end it first (`systemctl stop riklet-sdn`, or `kill {}`)", daemon.pid
            )),
            Self::Disowned { .. } => None,
            Self::OtherNamespace { .. } => {
                Some("leave `namespaceId` out, or give the file of that namespace".to_owned())
            }
            Self::Fragment(FragmentError::NoNamespace { .. }) => Some(
                "give one by `--netns PATH`, or as `spec.pod.namespace` in the definition".to_owned(),
            ),
            Self::UnknownPool { .. } => Some("set pool to the range that was in use".to_owned()),
            Self::UnknownAccount { kind: AccountKind::User, account, .. } => {
                Some(format!("`useradd --system {account}`, or write a number"))
            }
            Self::UnknownAccount { kind: AccountKind::Group, account, .. } => {
                Some(format!("`groupadd --system {account}`, or write a number"))
            }
            Self::Ipv6 { .. } => Some(
                "set firewall to nftables (`--firewall nftables`), for a node with functions after \
                 `riklet-sdn down --all --purge`"
                    .to_owned(),
            ),
            Self::Fragment(FragmentError::Policy { .. }) => Some(
                "`modprobe nf_tables`, or run a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET".to_owned(),
            ),
            Self::Setting { .. } | Self::Fragment(_) => Some(REBUILD.to_owned()),
        }
    }
}

/// Returns what helps where an exposure would take the packets of somebody else.
fn shadow_hint(Shadow { exposure, occupant, .. }: &Shadow) -> String {
    let end = match occupant {
        Occupant::Process(_) => "end that process",
        Occupant::Translation(_) => "have that program publish another port",
    };
    let insist = if exposure.shadow() {
        "leave --strict out"
    } else {
        "write `shadow: true` in the exposure to take its packets"
    };
    format!("choose another port, {end}, or {insist}")
}

impl Failure {
    /// Returns the kind of answer that it needs.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &self.error {
            InstanceError::Kernel(source) => kernel_kind(source),
            InstanceError::Blocked(_) => ErrorKind::Failed,
        }
    }

    /// Returns a hint, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match &self.error {
            InstanceError::Kernel(source) => kernel_hint(source),
            InstanceError::Blocked(Obstacle::Foreign(ForeignLink { name, .. })) => Some(format!(
                "rename or delete {name} (`ip link delete {name}`), then `riklet-sdn repair`",
            )),
            InstanceError::Blocked(Obstacle::Unreadable(record)) => Some(rebuild_one(&record.name)),
            InstanceError::Blocked(Obstacle::InUse { .. } | Obstacle::Unrecorded { .. }) => {
                Some(STOP_VMM.to_owned())
            }
        }
    }
}

const STOP_VMM: &str = "stop the VMM that has it open, then `riklet-sdn repair`";

/// The error numbers with which a kernel without the feature answers: ENOENT, ENXIO and ENODEV for a device,
/// EPROTONOSUPPORT, EOPNOTSUPP and EAFNOSUPPORT for a netlink family.
const MISSING: [i32; 6] = [2, 6, 19, 93, 95, 97];

fn kernel_kind(error: &KernelError) -> ErrorKind {
    let refusal = error.refusal();
    if matches!(error, KernelError::Namespace { .. }) && !refusal.is_permission() {
        return ErrorKind::Invalid;
    }
    if refusal.is_permission() || refusal.is_read_only() || lacks(error).is_some() {
        ErrorKind::Host
    } else {
        ErrorKind::Failed
    }
}

fn kernel_hint(error: &KernelError) -> Option<String> {
    if let KernelError::SetSysctl { name, value, source, .. } = error
        && source.is_read_only()
    {
        let name = switch::inherited(name).unwrap_or_else(|| name.clone());
        return Some(format!("`sysctl -w {name}={value}` where /proc/sys can be written"));
    }
    if let KernelError::CreateVeth { step: "namespace", source, .. } = error {
        let text = if source.is_permission() {
            "network namespaces are entered with the capability CAP_SYS_ADMIN: `riklet-sdn repair --no-daemon` \
             as root does it beside a daemon without"
        } else {
            "bring it up in the namespace where it is now, or take it down"
        };
        return Some(text.to_owned());
    }
    if error.refusal().is_permission() {
        return Some("run it as root, or with the capability CAP_NET_ADMIN".to_owned());
    }
    if error.refusal().is_incompatible() {
        return Some(
            "rules that only `nft` can write stand in a table of iptables: take them out; a node that has not \
             been used yet can do without iptables (`--firewall nftables`)"
                .to_owned(),
        );
    }
    if let KernelError::SetOwner { source, .. } = error
        && source.errno == Some(Refusal::EBUSY)
    {
        return Some(STOP_VMM.to_owned());
    }
    if matches!(error, KernelError::Namespace { .. }) {
        let text = "`ip netns` and `lsns --type net` list those that there are; what `ip netns` calls NAME is \
                    /run/netns/NAME";
        return Some(text.to_owned());
    }
    lacks(error).map(|what| format!("the host lacks {what}; `riklet-sdn doctor` says more"))
}

/// Returns the part of the host that is missing, if that is the reason.
fn lacks(error: &KernelError) -> Option<&'static str> {
    let refusal = error.refusal();
    let errno = refusal.errno.filter(|errno| MISSING.contains(errno))?;
    match error {
        KernelError::CreateLink { .. } if refusal.words == "/dev/net/tun" => {
            Some("/dev/net/tun (kernel module tun)")
        }
        KernelError::ReadSysctl { .. } => Some("/proc (proc(5), mounted)"),
        KernelError::ReadFirewall { .. } | KernelError::ChangeFirewall { .. } if errno != 2 => {
            Some("nf_tables (kernel module nf_tables)")
        }
        _ => None,
    }
}

fn claimed(claims: &[Claim]) -> String {
    let first = claims.first().map(ToString::to_string).unwrap_or_default();
    match claims.len().saturating_sub(1) {
        0 => first,
        more => format!("{first} (and {more} more)"),
    }
}

fn claim_hint(claim: &Claim) -> String {
    match &claim.holder {
        Holder::Lost => "`riklet-sdn repair --rebuild` records it anew".to_owned(),
        // A long path was shortened from the front, and does not begin with a slash.
        Holder::Other { directory: Some(directory) } if directory.starts_with('/') => format!(
            "use `--state-dir {directory}`, or take it over with `riklet-sdn repair --adopt`"
        ),
        Holder::Other { .. } => {
            "use the --state-dir that it was made with, or take it over with `riklet-sdn repair --adopt`"
                .to_owned()
        }
    }
}

fn list(names: &[InstanceName]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<_> = names.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

//! The execution of a function's microVM, as its definition describes it. Nothing is decided yet.

use std::{fmt, net::IpAddr};

use super::{Account, BootArgs, Image, Memory};

/// The execution of a function in a microVM. `None` is left open by the definition: only `run` decides it.
///
/// [`Self::conflicts`] finds nothing in the execution of a [`super::Function`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Execution {
    /// The VMM that runs it.
    pub vmm: Option<Vmm>,
    /// The guest's kernel.
    pub kernel: Option<Image>,
    /// The guest's first file system, in memory.
    pub initrd: Option<Image>,
    /// The guest's root file system.
    pub rootfs: Option<Image>,
    /// True if the guest may not write to its root file system.
    pub read_only: Option<bool>,
    /// The number of processors.
    pub vcpus: Option<Vcpus>,
    /// The memory.
    pub memory: Option<Memory>,
    /// Additions to the kernel command line.
    pub boot_args: Option<BootArgs>,
    /// The accelerator that executes the guest's instructions.
    pub accelerator: Option<Accelerator>,
    /// The user that the VMM runs as, and that owns the TAP.
    pub user: Option<Account>,
    /// The group that the VMM runs as, and that owns the TAP.
    pub group: Option<Account>,
    /// True if other functions may have the same user.
    pub shared_user: Option<bool>,
    /// The number of queue pairs of the TAP and the guest's NIC.
    pub queues: Option<Queues>,
    /// The name servers that the guest asks; empty stands for none, and `None` for those of the host.
    pub dns: Option<Dns>,
}

/// Two settings that exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExecutionConflict {
    /// Only QEMU has more than one accelerator.
    #[error("{vmm} has no choice of accelerators; qemu has")]
    Accelerator {
        /// The VMM that is named.
        vmm: Vmm,
    },
    /// Firecracker opens its TAP without `IFF_MULTI_QUEUE`, which a TAP of several queues refuses.
    #[error(
        "firecracker opens one queue of a TAP, not {queues}; qemu and cloud-hypervisor open several"
    )]
    Queues {
        /// The number that is asked for.
        queues: Queues,
    },
}

impl Execution {
    /// Returns the parts that exclude each other.
    pub fn conflicts(&self) -> impl Iterator<Item = ExecutionConflict> + use<> {
        let accelerator = match (self.vmm, self.accelerator) {
            (Some(vmm), Some(_)) if vmm != Vmm::Qemu => {
                Some(ExecutionConflict::Accelerator { vmm })
            }
            _ => None,
        };
        let queues = match (self.vmm, self.queues) {
            (Some(Vmm::Firecracker), Some(queues)) if queues.get() > 1 => {
                Some(ExecutionConflict::Queues { queues })
            }
            _ => None,
        };
        accelerator.into_iter().chain(queues)
    }
}

/// A virtual machine monitor, or the built-in guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vmm {
    /// <https://firecracker-microvm.github.io>.
    Firecracker,
    /// <https://www.qemu.org>.
    Qemu,
    /// <https://www.cloudhypervisor.org>.
    CloudHypervisor,
    /// The built-in guest, which stands in for a microVM.
    Builtin,
}

impl Vmm {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Firecracker, Self::Qemu, Self::CloudHypervisor, Self::Builtin];

    /// Returns the name in definitions and output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Builtin => "builtin",
        }
    }

    /// Returns the VMM of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vmm| vmm.as_str() == name)
    }
}

impl fmt::Display for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An accelerator that executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Accelerator {
    /// The processor, by `/dev/kvm`.
    Kvm,
    /// QEMU's translator, on any host.
    Tcg,
}

impl Accelerator {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Kvm, Self::Tcg];

    /// Returns the name in definitions and for QEMU.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A number that is out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{found} is out of range: 1 to {most}")]
pub struct OutOfRange {
    /// The number as given.
    pub found: i64,
    /// The largest that is allowed.
    pub most: u8,
}

fn counted(found: i64, most: u8) -> Result<u8, OutOfRange> {
    let number = u8::try_from(found).ok().filter(|number| (1..=most).contains(number));
    number.ok_or(OutOfRange { found, most })
}

/// The number of processors of a guest, 1 to [`Vcpus::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vcpus(u8);

impl Vcpus {
    /// The most that Firecracker allows (`vcpu_count` of its API).
    pub const MAX: u8 = 32;

    /// Returns this number of them.
    ///
    /// # Errors
    /// Fails if it is not 1 to [`Self::MAX`].
    pub fn new(count: i64) -> Result<Self, OutOfRange> {
        counted(count, Self::MAX).map(Self)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Vcpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of queue pairs of a TAP, 1 to [`Queues::MAX`]. One pair serves one processor of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queues(u8);

impl Queues {
    /// The kernel has up to 256 (`MAX_TAP_QUEUES` of `drivers/net/tun.c`); each costs the VMM a descriptor, and
    /// the guest memory and two interrupts.
    pub const MAX: u8 = 16;

    /// Returns this number of them.
    ///
    /// # Errors
    /// Fails if it is not 1 to [`Self::MAX`].
    pub fn new(count: i64) -> Result<Self, OutOfRange> {
        counted(count, Self::MAX).map(Self)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The servers that a guest asks for names: at most [`Dns::MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns(Vec<IpAddr>);

/// The reason why some addresses are no [`Dns`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found} servers; a kernel takes at most {} by ip=", Dns::MAX)]
pub struct TooManyServers {
    /// The number given.
    pub found: usize,
}

impl Dns {
    /// The largest number of servers, for which the kernel's argument `ip=` has room.
    pub const MAX: usize = 2;

    /// Returns the servers, in the order in which they are asked.
    #[must_use]
    pub fn servers(&self) -> &[IpAddr] {
        &self.0
    }
}

impl TryFrom<Vec<IpAddr>> for Dns {
    type Error = TooManyServers;

    fn try_from(servers: Vec<IpAddr>) -> Result<Self, TooManyServers> {
        let found = servers.len();
        if found <= Self::MAX { Ok(Self(servers)) } else { Err(TooManyServers { found }) }
    }
}

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::{KernelError, sealed::Sealed};
use riklet_core::{
    link::{HostInterface, LinkSpec, LinkState, PeerState, Tap},
    model::{InterfaceName, Slot},
    shaping::Twin,
    small::SmallSet,
};

/// Network interfaces: reads them, creates TAPs, and configures them (rtnetlink(7), `/dev/net/tun`).
///
/// Interfaces are deleted by [`LinkDeletion`].
pub trait Links: Sealed {
    /// Returns the interface of this name, ours or not, or `None` if there is none. The cost does not depend on the
    /// number of interfaces.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn link(&mut self, name: &InterfaceName) -> Result<Option<LinkState>, KernelError>;

    /// Returns the state of the other end of a veth as specified, from inside of its namespace; `None` if the link is no veth,
    /// or no interface there has the name and is its other end. Costs the same whatever else is in the namespace.
    ///
    /// # Errors
    /// Fails if the namespace is gone, another one is at its path, or this process may not enter it.
    fn peer(&mut self, spec: &LinkSpec) -> Result<Option<PeerState>, KernelError>;

    /// Returns every interface named `rik<digits>`, ours or not.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn links(&mut self) -> Result<Vec<LinkState>, KernelError>;

    /// Returns the interfaces of the host that do not have such a name, without the loopback.
    ///
    /// # Errors
    /// Fails if the kernel does not answer, or `/proc/sys` cannot be read.
    fn host_interfaces(&mut self) -> Result<BTreeMap<InterfaceName, HostInterface>, KernelError>;

    /// Returns the twins of interfaces, by slot, whether the interfaces exist or not. Interfaces of others that have such
    /// a name are left out.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    fn twins(&mut self) -> Result<BTreeMap<Slot, Twin>, KernelError>;

    /// Creates a persistent TAP that has everything in the specification except for its limits ([`Self::shape`]), and
    /// sets it up.
    ///
    /// The TAP becomes persistent last: a failure, or the end of this process half-way, leaves nothing.
    ///
    /// # Errors
    /// Fails with `EBUSY` or `EEXIST` if an interface of that name exists, as it does on repetition, and if
    /// the kernel refuses a part.
    fn create_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError>;

    /// Configures an existing interface as the specification says, except for its user and group
    /// ([`Self::set_owner`]), its limits, if it has the guard, and for what is fixed when a TAP is created. Addresses that the specification
    /// does not name stay.
    ///
    /// This is not a transaction: if a part is refused, the parts before it stay. Repetition changes
    /// nothing more.
    ///
    /// # Errors
    /// Fails with `ENODEV` if the interface does not exist, and if the kernel refuses a part.
    fn configure_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError>;

    /// Limits the traffic of an existing interface as the specification says, in place of any limits that it has. A bucket
    /// that exists is changed: packets that wait in it stay.
    ///
    /// This is not a transaction: if a part is refused, the parts before it stay. Repetition changes
    /// nothing more.
    ///
    /// # Errors
    /// Fails with `ENODEV` if the interface does not exist, with `EEXIST` if another interface has the name of
    /// its twin, and if the kernel refuses a part, or has no such part (`CONFIG_NET_SCH_TBF`, `CONFIG_IFB`,
    /// `CONFIG_NET_CLS_BPF`, `CONFIG_NET_ACT_MIRRED`).
    fn shape(&mut self, spec: &LinkSpec) -> Result<(), KernelError>;

    /// Sets the aliases of existing interfaces, many in one `send`, and returns an error for each interface
    /// whose alias was not set. The failure of one does not affect the others; repetition changes nothing
    /// more.
    ///
    /// The error of an interface that does not exist is `ENODEV`.
    fn set_aliases(
        &mut self,
        aliases: &BTreeMap<InterfaceName, String>,
    ) -> BTreeMap<InterfaceName, KernelError>;

    /// Sets the user and the group of a TAP, as far as `tap` names them. The TAP is opened for this, and has
    /// a carrier meanwhile.
    ///
    /// If the group is refused, the user stays set. Repetition changes nothing more.
    ///
    /// # Errors
    /// Fails with `ENODEV` if the TAP does not exist, and with `EBUSY` if a process has it open (a TAP with
    /// several queues can be opened by more than one).
    fn set_owner(&mut self, name: &InterfaceName, tap: &Tap) -> Result<(), KernelError>;

    /// Removes an address from an interface.
    ///
    /// # Errors
    /// Fails with `EADDRNOTAVAIL` if the interface does not have the address, as on repetition, and if the
    /// kernel refuses.
    fn remove_address(&mut self, link: &InterfaceName, address: IpNet) -> Result<(), KernelError>;
}

/// Deletion of interfaces: immediate for one, deferred for many.
///
/// Deleting an interface takes about 20 ms, since the kernel waits for a grace period of RCU. Deferred
/// deletion pays that once for many: [`Self::drain_links`] stops them, [`Self::delete_links`] deletes them
/// together.
pub trait LinkDeletion: Sealed {
    /// Deletes an interface. Succeeds if it does not exist, and so on repetition.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    fn delete_link(&mut self, name: &InterfaceName) -> Result<(), KernelError>;

    /// Removes these addresses from these interfaces, sets the interfaces down and moves them to
    /// [`DRAINING_GROUP`](riklet_core::link::DRAINING_GROUP). Interfaces that do not exist are skipped.
    /// Repetition changes nothing more.
    ///
    /// The addresses go first because each takes its own routes along. For an interface that goes down with
    /// addresses, the kernel walks all routes of the host (`fib_flush` in `net/ipv4/fib_frontend.c`): 0.3 ms
    /// with 6,000 routes, against a constant 0.09 ms.
    ///
    /// # Errors
    /// Fails if the kernel refuses an interface; the others are drained all the same.
    fn drain_links(
        &mut self,
        links: &BTreeMap<InterfaceName, SmallSet<IpNet>>,
    ) -> Result<(), KernelError>;

    /// Takes TAPs that no process has open out of service: packets from them are not forwarded any more, and they move to
    /// [`DRAINING_GROUP`](riklet_core::link::DRAINING_GROUP). Interfaces that do not exist are skipped. Repetition
    /// changes nothing more.
    ///
    /// They are not set down: for each interface that goes down, the kernel looks through all tracked connections
    /// (`masq_device_event` in `net/netfilter/nf_nat_masquerade.c`).
    ///
    /// # Errors
    /// Fails if the kernel refuses an interface; the others are taken out of service all the same.
    fn retire_links(&mut self, names: &BTreeSet<InterfaceName>) -> Result<(), KernelError>;

    /// Deletes these interfaces together. Interfaces that do not exist are skipped, and so all of them on
    /// repetition.
    ///
    /// # Errors
    /// Fails if the kernel refuses; then an interface that can be named may be deleted or not.
    fn delete_links(&mut self, names: &BTreeSet<InterfaceName>) -> Result<(), KernelError>;
}

//! The one seam to everything outside: links, addresses, neighbours, firewall, flows, sysctls.
//!
//! [`linux::Linux`] is the real one; [`fake::FakeKernel`] obeys the same laws in memory.

mod error;
pub mod fake;
pub mod linux;
pub mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::Weak,
};

use ipnet::Ipv4Net;

pub use error::{KernelError, Refusal};

use riklet_core::{
    firewall::{
        Backend, BaseRuleset, Change, Entry, FirewallState, ForeignChain, ForeignChainState,
        Ruleset,
    },
    flows::Flows,
    link::{LinkSpec, LinkState, Tap},
    model::{AccountName, InterfaceName, Protocol},
};

/// A local process that listens where an exposure shall be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The local address; `None` is every one.
    pub address: Option<Ipv4Addr>,
    /// The port.
    pub port: u16,
    /// The process, as `name (pid 123)`; `None` where it is in another PID namespace or has gone.
    pub process: Option<String>,
}

/// What a host knows by name and by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccountKind {
    /// passwd(5).
    User,
    /// group(5).
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

/// Every effect on the system, and every look at it.
///
/// Each effect is small enough that it is either done or not, except where its documentation says what
/// partial failure leaves; each may be repeated. Nothing here decides.
pub trait Kernel {
    /// Lets the programs that changes are made with keep this lock, as long as somebody holds it and they
    /// run: one of them may outlive this process, where it is killed, and its change must not come to pass
    /// in the midst of the next process' work.
    fn share_lock(&mut self, lock: Weak<OwnedFd>);

    /// The interface of this name, whoever's it is; `None` where there is none. Costs the same however
    /// many there are.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    fn link(&mut self, name: &InterfaceName) -> Result<Option<LinkState>, KernelError>;

    /// All interfaces named `rik<digits>`, whoever's they are.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    fn links(&mut self) -> Result<Vec<LinkState>, KernelError>;

    /// Creates a persistent TAP with everything the specification says, up. Killed half-way, it leaves
    /// nothing: the TAP becomes persistent last.
    ///
    /// # Errors
    /// Where an interface of that name exists (`EBUSY` or `EEXIST`), or the kernel refuses a part.
    fn create_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError>;

    /// Gives existing interfaces their aliases, all in one `send`, and answers for each.
    ///
    /// # Errors
    /// Where an interface is gone (`ENODEV`), or the kernel refuses; the others have theirs all the same.
    fn set_aliases(
        &mut self,
        aliases: &BTreeMap<InterfaceName, String>,
    ) -> BTreeMap<InterfaceName, KernelError>;

    /// Makes an existing interface what the specification says, except for what only [`Self::set_owner`] and
    /// another interface can. Not a transaction: what comes before the refused part stays. Addresses that are
    /// not in the specification stay too.
    ///
    /// # Errors
    /// Where the interface is gone (`ENODEV`), or the kernel refuses a part.
    fn configure_link(&mut self, spec: &LinkSpec) -> Result<(), KernelError>;

    /// Gives a TAP to the user and the group that it shall have; what it shall not have stays. Opens the TAP
    /// for that: it has a carrier meanwhile.
    ///
    /// # Errors
    /// Where the TAP is gone (`ENODEV`), or somebody has it open (`EBUSY`; a TAP of several queues can be
    /// opened all the same). The user may have changed, and the group not.
    fn set_owner(&mut self, name: &InterfaceName, tap: &Tap) -> Result<(), KernelError>;

    /// Deletes an interface; one that is gone already is none. Costs some 20 ms: many are better condemned.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn delete_link(&mut self, name: &InterfaceName) -> Result<(), KernelError>;

    /// Removes an address of an interface.
    ///
    /// # Errors
    /// Where the kernel refuses, as for an address that is not there (`EADDRNOTAVAIL`).
    fn remove_address(&mut self, link: &InterfaceName, address: Ipv4Net)
    -> Result<(), KernelError>;

    /// Takes these addresses of interfaces away, sets the interfaces down and moves them to [`DRAINING_GROUP`](riklet_core::link::DRAINING_GROUP). One that
    /// is gone already is none.
    ///
    /// With its address the routes of an interface go one by one. Without that, each interface that goes down has the
    /// kernel look at every route of the host (`fib_flush` of `net/ipv4/fib_frontend.c`): 0.3 ms with 6,000 of them, and
    /// 0.09 ms like this, however many there are.
    ///
    /// # Errors
    /// Where the kernel refuses one; the others are condemned all the same.
    fn drain_links(
        &mut self,
        links: &BTreeMap<InterfaceName, BTreeSet<Ipv4Net>>,
    ) -> Result<(), KernelError>;

    /// Deletes every interface of [`DRAINING_GROUP`](riklet_core::link::DRAINING_GROUP); none there is no error.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn delete_draining_links(&mut self) -> Result<(), KernelError>;

    /// Whether the skeleton and these entries stand, as far as can be told without listing what belongs to
    /// others. A backend for which that is not possible answers `true`: its [`Change::Delta`] finds out.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    fn probe_firewall(
        &mut self,
        backend: Backend,
        base_ruleset: &BaseRuleset,
        entries: &BTreeSet<Entry>,
    ) -> Result<bool, KernelError>;

    /// Everything of ours in the firewall, held against what is expected.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    fn firewall(
        &mut self,
        backend: Backend,
        expected: &Ruleset,
    ) -> Result<FirewallState, KernelError>;

    /// Applies one transaction.
    ///
    /// # Errors
    /// Where it was refused; then nothing has changed. (iptables: nothing in the table that refused, and
    /// nothing in those after it; filter comes before nat, and jumps come last.)
    fn change_firewall(&mut self, backend: Backend, change: &Change) -> Result<(), KernelError>;

    /// The tables that calling this backend may create by itself, of those that exist: iptables-nft makes
    /// the tables `ip filter`, `ip nat`, `ip raw` and `ip mangle` with their empty base chains as they are first
    /// named.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    fn firewall_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError>;

    /// Those of these tables that hold nothing but empty base chains with policy accept.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    fn empty_tables(&mut self, backend: Backend) -> Result<BTreeSet<String>, KernelError>;

    /// Deletes the [`Self::empty_tables`], except those named.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn remove_empty_tables(
        &mut self,
        backend: Backend,
        except: &BTreeSet<String>,
    ) -> Result<(), KernelError>;

    /// The gates of the host that matter beside this backend's own chains.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    fn foreign_chains(&mut self, backend: Backend) -> Result<Vec<ForeignChainState>, KernelError>;

    /// Opens or closes one gate, in one transaction. Opening an open gate mends it; closing a closed one,
    /// or one whose table is gone, does nothing.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn set_passage(&mut self, foreign_chain: &ForeignChain, open: bool) -> Result<(), KernelError>;

    /// Deletes entries of the connection tracking table, so that these flows start anew.
    ///
    /// # Errors
    /// Where the kernel refuses; flows before the refused ones are forgotten.
    fn forget_flows(&mut self, flows: &BTreeSet<Flows>) -> Result<(), KernelError>;

    /// A value below `/proc/sys`, by its name with dots; `None` where there is no such name. Dots within an
    /// interface name are written as slashes, as in sysctl(8).
    ///
    /// # Errors
    /// Where it cannot be read.
    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError>;

    /// Sets a value below `/proc/sys`.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError>;

    /// All sysctls that setting `net.ipv4.ip_forward` to 1 changes, with their present values:
    /// it resets the `forwarding` of every interface and turns `accept_redirects` off
    /// (`inet_forward_change` in the kernel; Documentation/networking/ip-sysctl.rst).
    ///
    /// # Errors
    /// Where they cannot be read.
    fn forwarding_sysctls(&mut self) -> Result<BTreeMap<String, String>, KernelError>;

    /// The interfaces that a packet to the Internet leaves by, now; none where there is no such route.
    /// One look-up, however many routes there are.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    fn uplinks(&mut self) -> Result<BTreeSet<InterfaceName>, KernelError>;

    /// The IPv4 routes of the main table, default routes included.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    fn routes(&mut self) -> Result<Vec<Ipv4Net>, KernelError>;

    /// Local processes that listen on one of these ports (and the address, where it is bound).
    ///
    /// # Errors
    /// Where `/proc/net` cannot be read.
    fn listeners(
        &mut self,
        wanted: &BTreeSet<(Protocol, Option<Ipv4Addr>, u16)>,
    ) -> Result<Vec<Listener>, KernelError>;

    /// The servers that the host asks for names, in that order, by IPv4 and without those that are the host
    /// itself; none where it has no others.
    ///
    /// # Errors
    /// Where resolv.conf(5) is there and cannot be read.
    fn resolvers(&mut self) -> Result<Vec<Ipv4Addr>, KernelError>;

    /// The number of a user or a group; `None` where the host knows no such name.
    ///
    /// # Errors
    /// Where the host's sources of names (nsswitch.conf(5)) do not answer.
    fn account(
        &mut self,
        kind: AccountKind,
        name: &AccountName,
    ) -> Result<Option<u32>, KernelError>;

    /// The iptables that the host has: which variant `iptables` is; `None` where there is no such program.
    ///
    /// # Errors
    /// Where the program is there and does not say.
    fn iptables(&mut self) -> Result<Option<riklet_core::firewall::IptablesVariant>, KernelError>;
}

//! The guests that ask for names: their policies, and what they were told.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    rc::Rc,
    time::Instant,
};

use crate::now;
use riklet_core::{
    firewall::{Backend, nftables::names::set_of},
    model::{Dns, Family, InstanceName, Pool, Workload},
    names::{self, AllowedNames},
    reach,
};
use riklet_sdn::{
    NodeError, decided_by,
    store::{Record, Store},
};

/// The most questions of one guest that are open at upstreams.
const MOST_OPEN: u32 = 16;
/// The refusals of one guest that are told of in a second, and in a burst.
const TOLD: (f64, f64) = (1.0, 10.0);

/// A guest whose policy has names.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) name: InstanceName,
    address: Ipv4Addr,
    /// The set of the firewall for the addresses that it is told: another one with each policy.
    set: String,
    /// The same for addresses of IPv6; `None` if the node never had any.
    pub(super) v6: Option<GuestV6>,
    pub(super) names: AllowedNames,
    /// The servers of its definition, which are asked instead of the host's.
    pub(super) dns: Option<Vec<IpAddr>>,
    pub(super) backend: Backend,
    pub(super) pool: Pool,
    open: Cell<u32>,
    /// The refusals that may be told of, as of a time.
    to_tell: Cell<(f64, Option<Instant>)>,
}

/// The part of a guest that counts for IPv6, if it has any.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GuestV6 {
    /// The host's end of its link, which the host has as long as the guest has IPv6.
    pub(super) host: Ipv6Addr,
    guest: Ipv6Addr,
    set: String,
}

/// A place among the open questions of a guest.
#[derive(Debug)]
pub(super) struct Open(Rc<Guest>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

impl Guest {
    /// Takes a place among its open questions; `None` if it has too many.
    pub(super) fn open(self: &Rc<Self>) -> Option<Open> {
        if self.open.get() >= MOST_OPEN {
            return None;
        }
        self.open.set(self.open.get() + 1);
        Some(Open(Rc::clone(self)))
    }

    /// Reports whether one more refusal is to be told of.
    pub(super) fn may_tell(&self) -> bool {
        let (rate, burst) = TOLD;
        let ((left, since), now) = (self.to_tell.get(), now());
        let passed = since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
        let left = (left + passed * rate).min(burst);
        let may = left >= 1.0;
        self.to_tell.set((if may { left - 1.0 } else { left }, Some(now)));
        may
    }

    /// Returns its address of this family, and the set of the firewall for what it is told there.
    pub(super) fn end(&self, family: Family) -> Option<(IpAddr, &str)> {
        match family {
            Family::V4 => Some((self.address.into(), &self.set)),
            Family::V6 => self.v6.as_ref().map(|v6| (v6.guest.into(), &*v6.set)),
        }
    }

    /// Reports whether nothing that counts differs.
    fn is_as(&self, other: &Self) -> bool {
        (&self.set, &self.v6, &self.names, &self.dns, self.backend, self.pool)
            == (&other.set, &other.v6, &other.names, &other.dns, other.backend, other.pool)
            && (&self.name, self.address) == (&other.name, other.address)
    }
}

/// The guests that asked for names, as far as the records are as they were then.
#[derive(Debug)]
pub(super) struct Guests {
    state_dir: PathBuf,
    known: RefCell<BTreeMap<Ipv4Addr, Rc<Guest>>>,
    /// Those whose records may have changed.
    stale: RefCell<BTreeSet<Ipv4Addr>>,
}

impl Guests {
    pub(super) fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, known: RefCell::default(), stale: RefCell::default() }
    }

    /// Returns the guest of this address; `None` if its policy has no names. Reads the records if they may have changed since
    /// it last asked.
    pub(super) fn get(&self, address: Ipv4Addr) -> Result<Option<Rc<Guest>>, NodeError> {
        let known = self.known.borrow().get(&address).cloned();
        if let Some(known) = known.filter(|_| !self.stale.borrow().contains(&address)) {
            return Ok(Some(known));
        }
        let read = read(&self.state_dir, address)?.map(Rc::new);
        self.stale.borrow_mut().remove(&address);
        let mut all = self.known.borrow_mut();
        let Some(read) = read else {
            all.remove(&address);
            return Ok(None);
        };
        let same = all.get(&address).filter(|known| known.is_as(&read)).cloned();
        let guest = same.unwrap_or(read);
        all.insert(address, Rc::clone(&guest));
        Ok(Some(guest))
    }

    /// Notes that the records of these functions, or of all, may have changed.
    pub(super) fn changed(&self, names: Option<&BTreeSet<InstanceName>>) {
        let known = self.known.borrow();
        let concerned =
            known.iter().filter(|(_, guest)| names.is_none_or(|names| names.contains(&guest.name)));
        self.stale.borrow_mut().extend(concerned.map(|(address, _)| *address));
    }
}

/// Reads a guest. The database is opened each time, so that it can be removed in between.
fn read(state_dir: &Path, address: Ipv4Addr) -> Result<Option<Guest>, NodeError> {
    let Some(store) = Store::open_existing(state_dir)? else { return Ok(None) };
    let Some((backend, pool)) = decided_by(&store)? else { return Ok(None) };
    let Some(slot) = pool.slot_of_guest(address.into()) else { return Ok(None) };
    let Some(Record { workload, .. }) = store.present(slot)? else { return Ok(None) };
    let Some(policy) = workload.egress() else { return Ok(None) };
    let Some(own) = set(&workload, address.into()) else { return Ok(None) };
    let v6 = pool.addresses(slot).and_then(|addresses| addresses.v6).and_then(|ends| {
        let set = set(&workload, ends.guest.into())?;
        Some(GuestV6 { host: ends.host, guest: ends.guest, set })
    });
    let (_, burst) = TOLD;
    Ok(Some(Guest {
        name: workload.name().clone(),
        address,
        set: own,
        v6,
        names: AllowedNames::of(policy),
        dns: workload.execution().dns.as_ref().map(Dns::servers).map(<[IpAddr]>::to_vec),
        backend,
        pool,
        open: Cell::new(0),
        to_tell: Cell::new((burst, None)),
    }))
}

/// Returns the set of the firewall for what a guest is told at this address; `None` if its policy has no names.
fn set(workload: &Workload, guest: IpAddr) -> Option<String> {
    let policy = workload.egress().filter(|policy| policy.has_names())?;
    let mut entries = reach::entries(policy, guest);
    entries.extend(names::entries(workload.name(), policy, guest));
    set_of(guest, &entries)
}

/// Returns the guests that these workloads have already, each with the set for what it will be told and the names to come. New
/// ones were told nothing yet.
pub(crate) fn to_come(
    store: &Store,
    workloads: Vec<&Workload>,
) -> Result<Vec<(IpAddr, String, AllowedNames)>, NodeError> {
    let mut found = Vec::new();
    let Some((_, pool)) = decided_by(store)? else { return Ok(found) };
    for workload in workloads {
        let Some(record) = store.get(workload.name())? else { continue };
        let guests = pool.addresses(record.slot).into_iter().flat_map(|all| all.guests());
        found.extend(guests.filter_map(|guest| {
            Some((guest, set(workload, guest)?, AllowedNames::of(workload.egress()?)))
        }));
    }
    Ok(found)
}

//! The guests that ask for names: their policies, and what they were told.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

use crate::now;
use riklet_core::{
    firewall::{Backend, nftables::names::set_of},
    model::{Dns, InstanceName, Pool, Protocol},
    names::{self, AllowedNames, Pin},
    reach,
};
use riklet_sdn::store::{Record, Setting, Store, StoreError};

/// The most questions of one guest that are open at upstreams.
const MOST_OPEN: u32 = 16;
/// The most addresses with ports that one guest is let through to by names at a time.
const MOST_PINS: usize = 4096;
/// The refusals of one guest that are told of in a second, and in a burst.
const TOLD: (f64, f64) = (1.0, 10.0);

/// A guest whose policy has names.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) name: InstanceName,
    /// The set of the firewall for the addresses that it is told: another one with each policy.
    pub(super) set: String,
    /// The same for addresses of IPv6; `None` if the node never had any.
    pub(super) v6: Option<GuestV6>,
    pub(super) names: AllowedNames,
    /// The servers of its definition, which are asked instead of the host's.
    pub(super) dns: Option<Vec<IpAddr>>,
    pub(super) backend: Backend,
    pub(super) pool: Pool,
    open: Cell<u32>,
    /// The addresses that it is let through to, and until when.
    pinned: RefCell<BTreeMap<(IpAddr, Protocol, u16), Instant>>,
    /// The refusals that may be told of, as of a time.
    to_tell: Cell<(f64, Option<Instant>)>,
}

/// What counts of IPv6 for a guest, if it has any.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GuestV6 {
    /// The host's end of its link, which the host has as long as the guest has IPv6.
    pub(super) host: Ipv6Addr,
    pub(super) set: String,
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

    /// Returns the pins of these addresses, each with its lifetime, at these places; `None` if the guest has too many. A
    /// lifetime that ends later already is not made shorter.
    pub(super) fn pins(
        &self,
        addresses: &[(IpAddr, Duration)],
        places: &BTreeSet<(Protocol, u16)>,
    ) -> Option<Vec<Pin>> {
        let now = now();
        let mut pinned = self.pinned.borrow_mut();
        pinned.retain(|_, until| *until > now);
        let keys = addresses.iter().flat_map(|&(address, lifetime)| {
            let key = move |&(protocol, port)| ((address, protocol, port), lifetime);
            places.iter().map(key)
        });
        // Those that find no room are not kept either: whoever answers for a name could go on with new ones.
        let new = keys.clone().filter(|(key, _)| !pinned.contains_key(key)).count();
        if pinned.len().saturating_add(new) > MOST_PINS {
            return None;
        }
        let pin = |((address, protocol, port), lifetime)| {
            let until = pinned.entry((address, protocol, port)).or_insert(now);
            *until = (*until).max(now + lifetime);
            let lifetime = until.saturating_duration_since(now);
            ((address, protocol, port), Pin { address, protocol, port, lifetime })
        };
        // The kernel refuses to renew one twice, and some servers name an address twice.
        Some(keys.map(pin).collect::<BTreeMap<_, _>>().into_values().collect())
    }

    /// Reports whether nothing that counts differs.
    fn is_as(&self, other: &Self) -> bool {
        (&self.set, &self.v6, &self.names, &self.dns, self.backend, self.pool)
            == (&other.set, &other.v6, &other.names, &other.dns, other.backend, other.pool)
            && self.name == other.name
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
    pub(super) fn get(&self, address: Ipv4Addr) -> Result<Option<Rc<Guest>>, StoreError> {
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
fn read(state_dir: &Path, address: Ipv4Addr) -> Result<Option<Guest>, StoreError> {
    let Some(store) = Store::open_existing(state_dir)? else { return Ok(None) };
    let pool = store.setting(Setting::Pool)?.and_then(|pool| pool.parse::<Pool>().ok());
    let backend = store.setting(Setting::Backend)?;
    let backend = backend.and_then(|backend| Backend::from_name(&backend));
    let (Some(pool), Some(backend)) = (pool, backend) else { return Ok(None) };
    let range = store.setting(Setting::PoolV6)?.and_then(|range| range.parse().ok());
    let pool = range.and_then(|range| pool.with_v6(range).ok()).unwrap_or(pool);
    let Some(slot) = pool.slot_of_guest(address) else { return Ok(None) };
    let Some(Record { workload, .. }) = store.present(slot)? else { return Ok(None) };
    let Some(policy) = workload.egress() else { return Ok(None) };
    let set = |guest: IpAddr| {
        let mut entries = reach::entries(policy, guest);
        entries.extend(names::entries(workload.name(), policy, guest));
        set_of(guest, &entries)
    };
    let Some(own) = set(address.into()) else { return Ok(None) };
    let v6 = pool.addresses(slot).and_then(|addresses| addresses.v6);
    let v6 = v6.and_then(|ends| Some(GuestV6 { host: ends.host, set: set(ends.guest.into())? }));
    let (_, burst) = TOLD;
    Ok(Some(Guest {
        name: workload.name().clone(),
        set: own,
        v6,
        names: AllowedNames::new(policy.names()),
        dns: workload.execution().dns.as_ref().map(Dns::servers).map(<[IpAddr]>::to_vec),
        backend,
        pool,
        open: Cell::new(0),
        pinned: RefCell::default(),
        to_tell: Cell::new((burst, None)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_without_room_are_not_kept() {
        let guest = Guest {
            name: "web".parse().unwrap(),
            set: String::new(),
            v6: None,
            names: AllowedNames::default(),
            dns: None,
            backend: Backend::Nftables,
            pool: "10.231.0.0/16".parse().unwrap(),
            open: Cell::new(0),
            pinned: RefCell::default(),
            to_tell: Cell::new((0.0, None)),
        };
        let places = [(Protocol::Tcp, 443)].into();
        let pin = |numbers: std::ops::Range<u32>, seconds| {
            let lifetime = Duration::from_secs(seconds);
            let addresses = numbers.map(|number| (Ipv4Addr::from(number).into(), lifetime));
            guest.pins(&addresses.collect::<Vec<_>>(), &places)
        };
        let most = u32::try_from(MOST_PINS).unwrap();
        assert_eq!(pin(0..most, 3600).unwrap().len(), MOST_PINS);
        assert_eq!(pin(most..most + 1, 60), None);
        // One that is there is no new one, and keeps the longer of its lifetimes.
        let [again] = &*pin(0..1, 60).unwrap() else { panic!() };
        assert!(again.lifetime > Duration::from_mins(50), "{again:?}");
        // So it is with one that an answer has twice.
        let twice = [1, 3].map(|hours| (Ipv4Addr::from(0).into(), Duration::from_hours(hours)));
        let [again] = &*guest.pins(&twice, &places).unwrap() else { panic!() };
        assert!(again.lifetime > Duration::from_hours(2), "{again:?}");
        assert_eq!(guest.pinned.borrow().len(), MOST_PINS);
    }
}

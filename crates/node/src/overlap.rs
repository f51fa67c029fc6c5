//! Routes of the host to addresses of a pool.
//!
//! The kernel decides which route a packet takes, so it is asked. Routes are listed only where nothing else finds those
//! to parts of a pool: before a pool is decided for good, and by `doctor`. A route that comes later is found when a slot
//! is taken.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{Ipv4AddrRange, Ipv4Net};

use super::{Config, NodeError};
use riklet_core::{
    model::{Pool, Slot},
    routing::HostRoute,
};
use riklet_kernel::{KernelError, Routes};

/// The prefix length of the route to a guest. A route that is as long or longer is preferred.
const OF_SLOT: u8 = 30;

/// Returns a route of the host, other than ours, that takes packets to addresses of this pool. Default routes, and the
/// halves of one that a VPN sets, do not count.
///
/// Asks for one address first. If no route covers the pool, lists all routes, and asks for the networks of those that
/// lie within it.
///
/// # Errors
/// Fails if the kernel does not answer.
pub fn overlapping_route(
    kernel: &mut impl Routes,
    pool: Pool,
) -> Result<Option<HostRoute>, KernelError> {
    let first = pool.addresses(Slot::new(0)).map(|addresses| addresses.v4.guest);
    if let Some(route) = first.map(|guest| taken_by(kernel, pool, guest)).transpose()?.flatten() {
        return Ok(Some(route));
    }
    let listed = kernel.routes()?.into_iter();
    for route in listed.filter(|route| is_foreign(route) && pool.overlaps(route.destination)) {
        let IpAddr::V4(network) = route.destination.network() else { continue };
        if let Some(found) = taken_by(kernel, pool, network)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Chooses the configured pool, even if it overlaps a route of the host, or else the first candidate that overlaps
/// none.
pub(crate) fn choose_pool(kernel: &mut impl Routes, config: &Config) -> Result<Pool, NodeError> {
    if let Some(pool) = config.pool {
        if let Some(route) = overlapping_route(kernel, pool)? {
            tracing::warn!(
                "the pool {pool} overlaps the host's route to {route}: addresses there that guests \
                 get are theirs"
            );
        }
        return Ok(pool);
    }
    let mut overlap = None;
    for pool in Pool::candidates() {
        match overlapping_route(kernel, pool)? {
            None => return Ok(pool),
            Some(route) => {
                overlap =
                    overlap.or(Some(NodeError::PoolOverlaps { pool, route: Box::new(route) }));
            }
        }
    }
    Err(overlap.unwrap_or(NodeError::Setting { what: "pool", value: String::new() }))
}

/// Reports whether a route of the host to a part of the pool has the addresses of this slot, which has no interface
/// yet. If the pool is configured, only a route that would be preferred to the guest's counts, to any address of the
/// slot's network. So does a router in that network: the host would not reach it any more.
///
/// A route that covers the whole pool does not count: no other slot would be better.
pub(crate) fn is_taken(
    kernel: &mut impl Routes,
    config: &Config,
    pool: Pool,
    slot: Slot,
) -> Result<bool, KernelError> {
    let Some(addresses) = pool.addresses(slot) else { return Ok(false) };
    if config.pool.is_none() {
        let route = taken_by(kernel, pool, addresses.v4.guest)?;
        return Ok(route.is_some_and(|r| r.destination.prefix_len() > pool.v4().prefix_len()));
    }
    let Ok(network) = Ipv4Net::new(addresses.v4.guest, OF_SLOT) else { return Ok(false) };
    let mut is_covered = false;
    for address in Ipv4AddrRange::new(network.network(), network.broadcast()) {
        let Some(route) = taken_by(kernel, pool, address)? else { continue };
        if route.destination.prefix_len() >= OF_SLOT {
            return Ok(true);
        }
        is_covered = true;
    }
    // A router is on a link of the host, to which a route leads.
    Ok(is_covered && kernel.gateways()?.iter().any(|gateway| network.contains(gateway)))
}

/// Returns the route to an address of the pool, if it is one of others that leads to a particular network.
fn taken_by(
    kernel: &mut impl Routes,
    pool: Pool,
    address: Ipv4Addr,
) -> Result<Option<HostRoute>, KernelError> {
    let route = kernel.route_to(address.into())?;
    Ok(route.filter(|route| is_foreign(route) && pool.overlaps(route.destination)))
}

fn is_foreign(route: &HostRoute) -> bool {
    let interface = route.interface.as_ref();
    interface.is_none_or(|name| Slot::of_interface(name.as_str()).is_none())
}

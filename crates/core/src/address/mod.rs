//! Addresses of interfaces and guests, which a slot determines, for both families. Pure.
//!
//! A node has a [`Pool`], and each [`Slot`] of it an interface, MAC addresses and [`Addresses`]. Every slot has IPv4
//! addresses; it has IPv6 addresses if the pool has a range for them.

mod ends;
mod gateway;
mod interface;
mod mac;
mod mtu;
mod pool;
mod slot;

pub use ends::{Addresses, Bracketed, Ends, Family, Ipv6Unsupported, is_of_a_host};
pub use gateway::{GATEWAY_LINK_LOCAL, GATEWAY_MAC};
pub use interface::{InterfaceName, InterfaceNameError};
pub use mac::MacAddress;
pub use mtu::{Mtu, MtuError};
pub use pool::{Pool, PoolError};
pub use slot::Slot;

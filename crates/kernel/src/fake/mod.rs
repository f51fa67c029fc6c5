//! A kernel in memory that obeys the laws of the real one.
//!
//! Names are unique, an object that does not exist cannot be removed, a firewall transaction is all or
//! nothing, and a netlink batch is not. [`Fault`] makes it refuse an effect, or stop the caller at one as
//! SIGKILL would.

mod conntrack;
mod firewall;
mod host;
mod links;
mod managers;
mod routes;
mod sysctls;
mod system;
#[cfg(test)]
mod tests;

pub use system::{FakeKernel, Fault, Stopped, System};

//! The real kernel.

mod link;
mod link_state;
#[cfg(test)]
mod namespace;
mod netlink;
mod route;
mod sysctl;
pub mod tap;

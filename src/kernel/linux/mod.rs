//! The real kernel.

mod conntrack;
mod iptables;
mod link;
mod link_state;
mod listeners;
#[cfg(test)]
mod namespace;
mod netlink;
mod route;
mod sysctl;
pub mod tap;
mod nftables;

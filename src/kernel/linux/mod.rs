//! The real kernel.

mod iptables;
mod netlink;

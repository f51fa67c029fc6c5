//! The real kernel.

mod netlink;
mod nftables;

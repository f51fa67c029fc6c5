//! The real kernel.

mod netlink;

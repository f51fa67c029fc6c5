//! Running an instance: what a VMM needs to attach to it, and a guest that needs no VMM.

pub mod attachment;
pub mod builtin;
pub mod qemu;
pub mod qmp;

//! Running an instance: what a VMM needs to attach to it, the drivers of VMMs, and a guest that needs no VMM.

pub mod attachment;
pub mod builtin;
pub mod http;
pub mod version;

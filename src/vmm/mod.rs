//! Running an instance: what a VMM needs to attach to it, the drivers of VMMs, and a guest that needs no VMM.

pub mod api;
pub mod attachment;
pub mod builtin;
pub mod cloud_hypervisor;
pub mod console;
pub mod firecracker;
pub mod http;
pub mod machine;
pub mod version;

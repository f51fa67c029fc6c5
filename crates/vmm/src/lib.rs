//! Running an instance: what a VMM needs to attach to it, the drivers of VMMs, and a guest that needs no VMM.

pub mod api;
pub mod attachment;
pub mod choose;
pub mod cloud_hypervisor;
pub mod console;
pub mod driver;
pub mod firecracker;
#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, reason = "it fails by a panic")]
pub mod fuzz;
pub mod handle;
pub mod image;
pub mod launch;
pub mod machine;
pub mod qemu;
pub mod qmp;
pub mod runs;
pub mod supervisor;
pub mod version;

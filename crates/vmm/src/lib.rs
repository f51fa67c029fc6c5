//! Runs instances: the settings that attach a VMM to an instance, the drivers of VMMs, and their supervisor.

pub mod api;
pub mod attachment;
pub mod cgroup;
pub mod choose;
pub mod cloud_hypervisor;
pub mod console;
pub mod detach;
pub mod driver;
pub mod firecracker;
#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, reason = "it fails by a panic")]
pub mod fuzz;
pub mod handle;
pub mod host_accounts;
pub mod image;
pub mod launch;
pub mod machine;
pub mod qemu;
pub mod qmp;
mod reset;
pub mod runs;
mod same_file;
pub mod slot_user;
pub mod supervisor;
pub mod version;

//! Tests the drivers of VMMs against simulated API servers, which check every request against the description of the
//! VMM's API. Two environment variables use the real things instead:
//!
//! | variable | what it names |
//! | --- | --- |
//! | `FIRECRACKER_BIN` | a `firecracker`: the driver is shown to speak to it, and says its version |
//! | `RIKLET_VMM_API_DIR` | a directory with `firecracker-api.yaml` and `cloud-hypervisor-api.yaml`, as their projects publish them: the tests' own descriptions are shown to be the same |
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the harness is test code too, outside of functions marked as tests"
)]

mod cloud_hypervisor;
mod description;
mod directory;
mod faults;
mod firecracker;
mod http;
mod machine;
mod played;
mod server;

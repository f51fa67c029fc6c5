//! The network of a node that runs functions as microVMs.

pub mod definition;
pub mod firewall;
pub mod kernel;
pub mod model;
mod nearest;
pub mod network;
pub mod plan;
pub mod process;
pub mod sdn;
pub mod store;
pub mod vmm;

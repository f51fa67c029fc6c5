//! The network of a node that runs functions as microVMs.

pub mod firewall;
pub mod kernel;
pub mod model;
pub mod network;
pub mod plan;
pub mod process;
pub mod vmm;

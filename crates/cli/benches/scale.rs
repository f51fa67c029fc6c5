//! From one function to ten thousand, all through the API of `riklet-sdn serve`, on nftables where nothing else is said.

pub(crate) mod flush;
pub(crate) mod growth;
mod guest;
mod kernel;
mod offload;
pub(crate) mod runs;
pub(crate) mod single;
pub(crate) mod thousands;
pub(crate) mod throughput;
mod world;

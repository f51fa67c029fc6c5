//! Measures from one function to ten thousand, through the API of `riklet-sdn serve`, on nftables unless noted
//! otherwise.

pub(crate) mod flush;
pub(crate) mod growth;
mod guest;
mod kernel;
mod offload;
pub(crate) mod runs;
pub(crate) mod single;
pub(crate) mod thousands;
pub(crate) mod throughput;
pub(crate) mod tracked;
mod world;

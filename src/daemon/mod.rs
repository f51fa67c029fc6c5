//! The daemon: what `riklet-sdn serve` is made of.
//!
//! ```text
//!  clients ──► server (HTTP on a unix socket, async) ──► engine (one thread) ──► Sdn ──► kernel
//!                                                          │  ▲ notifications
//!                                                          ▼  │
//!                                                        worker (one thread): TAPs made in advance, and deleted
//! ```

pub mod engine;
pub mod events;
pub mod manifests;
pub mod metrics;
pub mod server;

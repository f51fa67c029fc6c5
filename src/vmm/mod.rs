//! What runs an instance at the guest's end of a TAP.

pub mod builtin;

//! Entries of the connection tracking table, by what they have in common.

use std::net::IpAddr;

use crate::{address::Family, model::Protocol};

/// Entries of the connection tracking table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flows {
    /// Everything that was sent by this guest, or translated to it.
    Guest {
        /// The guest's address.
        guest: IpAddr,
    },
    /// Flows that an exposure translated, from this port of the host to this port of this guest. Flows that another port
    /// of the host leads there are not included.
    Exposed {
        /// The transport protocol.
        protocol: Protocol,
        /// The address of the host that it was sent to; `None` is every one.
        host_address: Option<IpAddr>,
        /// The host's port.
        host_port: u16,
        /// The guest's address.
        guest: IpAddr,
        /// The guest's port.
        guest_port: u16,
    },
    /// Flows sent to this port and not translated at all: those of clients that were there before the exposure.
    /// Flows that somebody else translates or masquerades stay.
    Untranslated {
        /// The family of the destination.
        family: Family,
        /// The transport protocol.
        protocol: Protocol,
        /// The destination address; `None` is every one of the family.
        address: Option<IpAddr>,
        /// The destination port.
        port: u16,
    },
}

impl Flows {
    /// Returns the family of their packets.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::Guest { guest } | Self::Exposed { guest, .. } => Family::of(*guest),
            Self::Untranslated { family, .. } => *family,
        }
    }
}

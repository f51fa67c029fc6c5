use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Something that the daemon did, or another process on the same records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The position of the event: who asks for the events since this one gets those that followed.
    pub token: String,
    /// The time, in milliseconds since 1970.
    pub at_ms: u64,
    /// A function is `up`, `down` or `failed`; its run is `started`, `ready`, `stopping`, `ended` or `lost`. For the node:
    /// `noticed` (somebody else changed something), `repaired`, `backing-off`, `manifest` or `error`. In the stream of
    /// refused packets: `refused`.
    pub kind: String,
    /// The function that it concerns; null if it concerns several, or none.
    pub name: Option<String>,
    /// One or more lines of text.
    pub text: String,
    /// The packet, in an event of kind `refused`; missing in others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedDocument>,
}

/// A refused packet of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RefusedDocument {
    /// The rule that refused it: `policy` (the function's policy denies it), `default` (it is beyond the default of the
    /// policy), `egress` (it is beyond that of the node), `mail`, `host`, `guest` (another guest), `spoofed`, `loopback`,
    /// `multicast`, `broadcast`, `invalid` (part of no connection), `flow-rate`, `flows` or `short` (too short for ports).
    pub rule: String,
    /// The protocol: `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, or its number.
    pub protocol: String,
    /// The source address.
    pub source: String,
    /// The destination address, after anybody's translation.
    pub destination: String,
    /// The destination port; null if the protocol has none, or the packet ends before it.
    pub port: Option<u16>,
}

/// A sort of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Topic {
    /// Changes that the daemon made, or another process on the same records.
    #[default]
    Changes,
    /// Refused packets of functions.
    Refusals,
}

/// An item of a stream of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// An event.
    Event(Event),
    /// The number of events that are not told, because the reader is too slow or too late; `None` if nobody knows.
    Missed(Option<u64>),
}

/// Returns a time as documents and records have it: in milliseconds since 1970.
#[must_use]
pub fn epoch_millis(at: SystemTime) -> u64 {
    let passed = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}

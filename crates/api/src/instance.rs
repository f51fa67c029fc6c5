use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use riklet_core::{definition, model::Bracketed};

/// A recorded instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = Instance))]
#[serde(rename_all = "camelCase")]
pub struct InstanceDocument {
    /// The name, unique on the node.
    pub name: String,
    /// The kind of workload.
    pub kind: String,
    /// The number of its slot.
    pub slot: u16,
    /// The node's end of the link: a TAP, or an end of a veth.
    pub interface: String,
    /// The same, by its former name.
    pub tap: String,
    /// `up`; `pending` or `removing` while the last operation on it is not complete, as after an interruption.
    pub phase: String,
    /// The guest's end of the link.
    pub guest: LinkEnd,
    /// The host's end of the link.
    pub host: LinkEnd,
    /// The prefix length of both IPv4 addresses.
    pub prefix_length: u8,
    /// The MTU of the link in bytes.
    pub mtu: u32,
    /// The ports of the host that lead to the guest.
    pub exposures: Vec<ExposureDocument>,
}

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LinkEnd {
    /// The IPv4 address.
    #[cfg_attr(feature = "schema", schema(value_type = String, format = "ip"))]
    pub address: IpAddr,
    /// The IPv6 address, if the link has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = "ipv6"))]
    pub address6: Option<Ipv6Addr>,
    /// The MAC address.
    pub mac: String,
}

/// An exposure, with the fields of a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = Exposure))]
#[serde(rename_all = "camelCase")]
pub struct ExposureDocument {
    /// The port of the host.
    pub port: Ports,
    /// The port of the guest.
    pub target_port: Ports,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `NodePort`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The only address of the host at which it is reachable; if absent, every address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = "ip"))]
    pub host_address: Option<IpAddr>,
    /// The sign by which a run takes it for ready, if the definition names one: `tcp`, `carrier` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// True if it takes packets from local processes and from translations of other programs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

/// A port, or a range of ports such as `8000-8010`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Ports {
    /// A single port.
    One(u16),
    /// A range of ports.
    Range(String),
}

/// An instance, and the state of its interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ListEntry {
    /// The instance.
    #[serde(flatten)]
    pub instance: InstanceDocument,
    /// `attached` (a VMM has the TAP open, or both ends of the veth are up), `ready`, `down` or `missing`; `lost` if the
    /// supervisor of its run has died.
    pub link: String,
}

/// An instance, and everything known about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = Inspection))]
pub struct InspectionDocument {
    /// The instance.
    #[serde(flatten)]
    pub instance: InstanceDocument,
    /// `attached` (a VMM has the TAP open, or both ends of the veth are up), `ready`, `down` or `missing`.
    pub link: String,
    /// True if the firewall has its exposures and its policy.
    pub exposed: bool,
    /// The differences between the interface and what it should be.
    pub drift: Vec<String>,
    /// The parts that the network namespace of a pod lacks, as text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inside: Vec<String>,
    /// The definition.
    #[cfg_attr(feature = "schema", schema(value_type = Object))]
    pub definition: Value,
}

impl From<&riklet_core::model::Exposure> for ExposureDocument {
    fn from(exposure: &riklet_core::model::Exposure) -> Self {
        let ports = |range: riklet_core::model::PortRange| {
            if range.count() == 1 {
                Ports::One(range.first())
            } else {
                Ports::Range(range.to_string())
            }
        };
        Self {
            port: ports(exposure.host_ports()),
            target_port: ports(exposure.guest_ports()),
            protocol: exposure.protocol().as_str().to_uppercase(),
            kind: definition::EXPOSURE_TYPE.to_owned(),
            host_address: exposure.host_address(),
            ready: exposure.named_ready().map(|ready| ready.as_str().to_owned()),
            shadow: exposure.shadow(),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(port) => port.fmt(f),
            Self::Range(range) => range.fmt(f),
        }
    }
}

impl fmt::Display for ExposureDocument {
    /// Formats as [`riklet_core::model::Exposure`] does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.protocol.to_lowercase())?;
        if let Some(address) = self.host_address {
            write!(f, "{}:", Bracketed(address))?;
        }
        write!(f, "{} -> {}", self.port, self.target_port)
    }
}

use serde::{Deserialize, Serialize};

/// The settings that the daemon works with: recorded ones, or else those of its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = Settings))]
#[serde(rename_all = "camelCase")]
pub struct SettingsDocument {
    /// The firewall's backend; `auto` if it was not decided yet.
    pub firewall: String,
    /// The pool, if it was decided or set.
    pub pool: Option<String>,
    /// The uplinks, if they were set.
    pub uplinks: Option<Vec<String>>,
    /// The MTU of the TAPs in bytes, if it was set.
    pub mtu: Option<u32>,
    /// The bits of marks that are used.
    pub mark_mask: String,
    /// The reach of guests beyond published ports: `internet`, `all` or `none`.
    pub egress: String,
    /// The flows that each guest may begin and have at a time: a number, or `unlimited`.
    pub flows: String,
    /// IPv6 for guests: `on` or `off`.
    pub ipv6: String,
}

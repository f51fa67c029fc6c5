//! The uplinks, the MTU, the mask of marks, the reach of guests, the limit of their flows and the choice of IPv6 that a user has set. They are recorded when they are first set, so that a later command without
//! the flag keeps them. Only an operation that looks at everything changes them.

use std::{collections::BTreeSet, fmt::Display, str::FromStr};

use super::{Config, NodeError, host::Interfaces};
use crate::store::{Setting, Settings, Tx};
use riklet_core::model::{Egress, FlowLimit, InterfaceName, Ipv6, MarkMask, Mtu};
use riklet_kernel::Links;

/// The settings of a user, as they are for an operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Choices {
    /// `None` for those of the default route.
    pub(crate) uplinks: Option<BTreeSet<InterfaceName>>,
    /// `None` for that of the uplinks.
    pub(crate) mtu: Option<Mtu>,
    pub(crate) mark_mask: MarkMask,
    pub(crate) egress: Egress,
    pub(crate) flows: FlowLimit,
    pub(crate) ipv6: Ipv6,
    /// The settings to record, since they are new.
    news: Vec<(Setting, String)>,
}

impl Choices {
    /// Returns the choices of the configuration, or else the recorded ones.
    ///
    /// # Errors
    /// Fails if both are there and differ, unless the operation looks at all `interfaces`; also if a new uplink does not
    /// exist.
    pub(crate) fn resolve(
        kernel: &mut impl Links,
        config: &Config,
        settings: &Settings,
        interfaces: Interfaces,
    ) -> Result<Self, NodeError> {
        let mut news = Vec::new();
        // A node that is in use has the defaults that nobody has set.
        let is_used = settings.get(Setting::Backend).is_some();
        let default = |setting| match setting {
            Setting::MarkMask if is_used => Some(MarkMask::default().to_string()),
            Setting::Egress if is_used => Some(Egress::default().to_string()),
            Setting::Flows if is_used => Some(FlowLimit::default().to_string()),
            Setting::Ipv6 if is_used => Some(Ipv6::default().to_string()),
            _ => None,
        };
        let mut resolve = |setting, what, configured: Option<String>| {
            let recorded = settings.get(setting).map(str::to_owned);
            let recorded = recorded.or_else(|| default(setting).filter(|_| configured.is_some()));
            match (configured, recorded) {
                (Some(configured), Some(recorded)) if configured != recorded => {
                    if interfaces == Interfaces::Recorded {
                        return Err(NodeError::Decided { what, configured, recorded });
                    }
                    news.push((setting, configured.clone()));
                    Ok(Some(configured))
                }
                (Some(configured), None) => {
                    news.push((setting, configured.clone()));
                    Ok(Some(configured))
                }
                (_, recorded) => Ok(recorded),
            }
        };
        let names = config.uplinks.as_ref().map(joined);
        let names = resolve(Setting::Uplinks, "uplink", names)?;
        let mtu = resolve(Setting::Mtu, "mtu", config.mtu.map(|mtu| mtu.bytes().to_string()))?;
        let mask = config.mark_mask.map(|mask| mask.to_string());
        let mask = resolve(Setting::MarkMask, "mark-mask", mask)?;
        let egress = config.egress.map(|egress| egress.to_string());
        let egress = resolve(Setting::Egress, "egress", egress)?;
        let flows = config.flows.map(|flows| flows.to_string());
        let flows = resolve(Setting::Flows, "flows", flows)?;
        let ipv6 = config.ipv6.map(|choice| choice.to_string());
        let ipv6 = resolve(Setting::Ipv6, "ipv6", ipv6)?;
        let uplinks = names.map(|names| read_all(&names)).transpose()?;
        if news.iter().any(|(setting, _)| *setting == Setting::Uplinks) {
            for name in uplinks.iter().flatten() {
                if kernel.link(name)?.is_none() {
                    return Err(NodeError::NoUplink { name: name.clone() });
                }
            }
        }
        let mtu = mtu.map(|mtu| read("mtu", &mtu)).transpose()?;
        let mask = mask.map(|mask| read("mark-mask", &mask)).transpose()?;
        let egress = egress.map(|egress| read("egress", &egress)).transpose()?;
        let flows = flows.map(|flows| read("flows", &flows)).transpose()?.unwrap_or_default();
        let ipv6 = ipv6.map(|choice| read("ipv6", &choice)).transpose()?.unwrap_or_default();
        let (mark_mask, egress) = (mask.unwrap_or_default(), egress.unwrap_or_default());
        Ok(Self { uplinks, mtu, mark_mask, egress, flows, ipv6, news })
    }

    /// Reports whether there are new settings.
    pub(crate) const fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Records the new settings.
    pub(crate) fn record(&self, tx: &Tx<'_>) -> Result<(), NodeError> {
        Ok(self.news.iter().try_for_each(|(setting, value)| tx.set_setting(*setting, value))?)
    }
}

/// Returns the names as one text: no name has a space (`dev_valid_name` of the kernel).
fn joined<T: Display>(names: &BTreeSet<T>) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn read_all(names: &str) -> Result<BTreeSet<InterfaceName>, NodeError> {
    names.split_whitespace().map(|name| read("uplink", name)).collect()
}

fn read<T: FromStr>(what: &'static str, value: &str) -> Result<T, NodeError> {
    value.parse().map_err(|_wrong| NodeError::Setting { what, value: value.to_owned() })
}

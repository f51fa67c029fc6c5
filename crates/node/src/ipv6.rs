//! The decision about IPv6 for guests: whether the host has what it takes, and from which range the addresses are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ipnet::Ipv6Net;

use super::{
    NodeError,
    choices::Choices,
    host::{HostInterfaces, Survey, look_at_forwarding},
};
use crate::store::{Setting, Settings, Store, Tx};
use riklet_core::{
    firewall::Backend,
    forwarding::{Forwarding, OFF, ON, Recorded},
    model::{Family, InterfaceName, Ipv6, Pool},
    switch,
};
use riklet_kernel::{KernelError, Links, Sysctls};

/// The least MTU of a link with IPv6 (RFC 8200, section 5).
const LEAST_MTU: u32 = 1280;

/// The reason why guests get no IPv6 although that is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// The kernel has no IPv6.
    Absent,
    /// It is turned off for the whole host.
    Disabled,
    /// The kernel forwards packets of IPv6 for all interfaces or for none, and does not.
    Forwarding,
    /// The MTU of the TAPs is too small.
    Mtu(u32),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("this kernel has no IPv6"),
            Self::Disabled => {
                write!(f, "this host has turned IPv6 off ({} is 1)", switch::ALL_DISABLED_V6)
            }
            Self::Forwarding => write!(
                f,
                "this host does not forward IPv6, and a kernel before 6.17 cannot do so for single interfaces; \
                 to forward for all of them, set {} to 1",
                switch::ALL_FORWARDING_V6
            ),
            Self::Mtu(mtu) => {
                write!(f, "IPv6 needs an MTU of {LEAST_MTU} bytes, and TAPs have {mtu}")
            }
        }
    }
}

/// The state of the host's switches, and the MTU of TAPs.
#[derive(Debug, Clone, Copy)]
struct Sight<'a> {
    disabled: Option<&'a str>,
    forwards: bool,
    /// True if interfaces have switches of their own.
    has_switches: bool,
    mtu: u32,
}

impl Sight<'_> {
    fn lack(self) -> Option<Lack> {
        match self {
            Self { disabled: None, .. } => Some(Lack::Absent),
            Self { disabled: Some(disabled), .. } if disabled != OFF => Some(Lack::Disabled),
            Self { forwards: false, has_switches: false, .. } => Some(Lack::Forwarding),
            Self { mtu, .. } if mtu < LEAST_MTU => Some(Lack::Mtu(mtu)),
            _ => None,
        }
    }
}

/// Returns the recorded range of IPv6; `None` if none was ever chosen.
fn recorded_range(settings: &Settings) -> Result<Option<Ipv6Net>, NodeError> {
    let read = |range: &str| range.parse().map_err(|_syntax| wrong_range(range.to_owned()));
    settings.get(Setting::PoolV6).map(read).transpose()
}

/// Returns the pool with the recorded range of IPv6, if one was ever chosen.
pub(crate) fn with_recorded_range(pool: Pool, settings: &Settings) -> Result<Pool, NodeError> {
    recorded_range(settings)?.map_or(Ok(pool), |range| with_range(pool, range))
}

/// Returns the pool with this range of IPv6.
pub(crate) fn with_range(pool: Pool, range: Ipv6Net) -> Result<Pool, NodeError> {
    pool.with_v6(range).map_err(|_unfit| wrong_range(range.to_string()))
}

fn wrong_range(value: String) -> NodeError {
    NodeError::Setting { what: "range of IPv6", value }
}

/// The part of a host that concerns IPv6.
#[derive(Debug, Clone)]
pub(crate) struct HostIpv6 {
    /// The range of the guests' addresses; `None` if they have IPv4 only.
    pub(crate) range: Option<Ipv6Net>,
    /// The desired values of sysctls.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// The decision about forwarding, and the parts of it to record.
    pub(crate) forwarding: Forwarding,
    /// True if the range is not recorded yet.
    must_record: bool,
    /// True if the host forwards as a whole.
    globally: bool,
    recorded: Recorded,
}

impl HostIpv6 {
    /// Decides, given the uplinks and whether a process hears of changes.
    ///
    /// # Errors
    /// Fails if IPv6 is on and the backend has no rules for it.
    pub(crate) fn look(
        kernel: &mut (impl Links + Sysctls),
        (choices, settings, store): (&Choices, &Settings, &Store),
        (backend, mtu): (Backend, u32),
        (uplinks, heard): (&BTreeSet<InterfaceName>, bool),
        survey: Survey,
    ) -> Result<(Self, Option<HostInterfaces>), NodeError> {
        let neighbours = settings.get(Setting::NeighboursV6);
        let recorded = Recorded::new(Family::V6, store.recorded_sysctls()?, neighbours);
        if choices.ipv6 == Ipv6::On && backend != Backend::Nftables {
            return Err(NodeError::Ipv6 { backend });
        }
        let globally = choices.ipv6 == Ipv6::On
            && kernel.sysctl(switch::ALL_FORWARDING_V6)?.as_deref() == Some(ON);
        if choices.ipv6 == Ipv6::Off || is_lacking(kernel, globally, mtu)? {
            return Ok((Self::without(kernel, globally, recorded)?, None));
        }
        let known = recorded_range(settings)?;
        let must_record = known.is_none();
        let range = match known {
            Some(range) => range,
            None => store.random_range()?,
        };
        let (forwarding, listed) =
            look_at_forwarding(kernel, &recorded, globally, uplinks, heard, survey)?;
        let on = |name| (switch::of(Family::V6, name), ON.to_owned());
        let sysctls = forwarding.needed.iter().map(on).collect();
        let range = Some(range);
        Ok((Self { range, sysctls, forwarding, must_record, globally, recorded }, listed))
    }

    /// Returns the part of a host whose guests have IPv4 only. The interfaces that forwarded because of us do so no longer.
    fn without(
        kernel: &mut impl Sysctls,
        globally: bool,
        recorded: Recorded,
    ) -> Result<Self, KernelError> {
        let (mut sysctls, mut forwarding) = (BTreeMap::new(), Forwarding::default());
        for name in recorded.switched() {
            let switch = switch::of(Family::V6, &name);
            if kernel.sysctl(&switch)?.as_deref() == Some(ON) {
                sysctls.insert(switch, OFF.to_owned());
            } else {
                forwarding.forgotten.insert(switch);
            }
        }
        let (range, must_record) = (None, false);
        Ok(Self { range, sysctls, forwarding, must_record, globally, recorded })
    }

    /// Returns the sysctls that are restored once no object of ours remains.
    pub(crate) fn restored(&self) -> impl Iterator<Item = (String, String)> {
        let restored = self.recorded.switched().filter(|_| !self.globally);
        restored.map(|name| (switch::of(Family::V6, &name), OFF.to_owned()))
    }

    /// Reports whether [`Self::record`] would write anything.
    pub(crate) fn has_news(&self) -> bool {
        let Forwarding { switched, forgotten, neighbours, .. } = &self.forwarding;
        self.must_record || neighbours.is_some() || !(switched.is_empty() && forgotten.is_empty())
    }

    /// Records the decisions, and the settings that are about to be changed and must be restored.
    pub(crate) fn record(&self, tx: &Tx<'_>) -> Result<(), NodeError> {
        if let Some(range) = self.range.filter(|_| self.must_record) {
            tx.set_setting(Setting::PoolV6, &range.to_string())?;
        }
        for name in &self.forwarding.forgotten {
            tx.forget_sysctl(name)?;
        }
        for name in &self.forwarding.switched {
            tx.record_sysctl(&switch::of(Family::V6, name), OFF)?;
        }
        if let Some(neighbours) = &self.forwarding.neighbours {
            tx.set_setting(Setting::NeighboursV6, neighbours)?;
        }
        Ok(())
    }
}

/// Reports whether the host lacks what IPv6 takes, and says what.
fn is_lacking(kernel: &mut impl Sysctls, forwards: bool, mtu: u32) -> Result<bool, KernelError> {
    let disabled = kernel.sysctl(switch::ALL_DISABLED_V6)?;
    let has_switches = kernel.sysctl(switch::ALL_FORCE_FORWARDING)?.is_some();
    let lack = Sight { disabled: disabled.as_deref(), forwards, has_switches, mtu }.lack();
    if let Some(lack) = lack {
        tracing::warn!("functions have IPv4 only: {lack}");
    }
    Ok(lack.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_get_ipv6_where_the_host_has_what_it_takes() {
        let whole = Sight { disabled: Some("0"), forwards: false, has_switches: true, mtu: 1280 };
        assert_eq!(whole.lack(), None);
        assert_eq!(Sight { forwards: true, has_switches: false, ..whole }.lack(), None);
        let lacks = |sight: Sight<'_>| sight.lack().unwrap().to_string();
        assert_eq!(lacks(Sight { disabled: None, ..whole }), "this kernel has no IPv6");
        assert_eq!(
            lacks(Sight { disabled: Some("1"), ..whole }),
            "this host has turned IPv6 off (net.ipv6.conf.all.disable_ipv6 is 1)"
        );
        assert_eq!(
            lacks(Sight { has_switches: false, ..whole }),
            "this host does not forward IPv6, and a kernel before 6.17 cannot do so for single interfaces; to \
             forward for all of them, set net.ipv6.conf.all.forwarding to 1"
        );
        let small = lacks(Sight { mtu: 1279, ..whole });
        assert_eq!(small, "IPv6 needs an MTU of 1280 bytes, and TAPs have 1279");
    }
}

use std::fmt;

use ipnet::IpNet;

use super::way::LONGEST_DEFAULT;
use crate::address::{Addresses, Family};

/// The mark of our rules and routes: their protocol (`FRA_PROTOCOL`, `rtm_protocol`), an `R`. Nobody in the list of
/// iproute2 (`rt_protos`) has it.
pub const PROTOCOL: u8 = b'R';
/// `RT_TABLE_MAIN` and `RT_TABLE_LOCAL` of `<linux/rtnetlink.h>`.
pub const MAIN: u32 = 254;
const LOCAL: u32 = 255;
/// A routing rule (ip-rule(8)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingRule {
    /// The priority: rules are tried from the lowest on.
    pub priority: u32,
    /// The program that made it ([`PROTOCOL`] is ours); 0 if that is unknown.
    pub protocol: u8,
    /// The family of the packets that it is for.
    pub family: Family,
    /// The sources that it is for; `None` is any.
    pub from: Option<IpNet>,
    /// The destinations that it is for; `None` is any.
    pub to: Option<IpNet>,
    /// The value of these bits of the packet's mark, and the bits; `None` is any.
    pub mark: Option<(u32, u32)>,
    /// True if it is for packets of the host itself only (`iif lo`). The kernel looks the way back to a source up as one of
    /// these.
    pub from_host: bool,
    /// True if it has other conditions as well.
    pub narrowed: bool,
    /// The table that it looks up; `None` if it refuses packets, or goes on at another rule.
    pub table: Option<u32>,
    /// True if it refuses packets, and says so (`prohibit`).
    pub prohibits: bool,
    /// Routes whose prefix is not longer than this are passed over.
    pub suppressed: Option<u32>,
}

impl RoutingRule {
    /// Reports whether it is one of ours.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL
    }

    /// Reports whether it leads each packet to the pool to the routes of guests.
    pub(super) fn leads_to_guests(&self, pool: IpNet) -> bool {
        self.table == Some(MAIN)
            && !self.narrowed
            && !self.from_host
            && (self.from, self.mark) == (None, None)
            && self.to.is_none_or(|to| to.contains(&pool))
            && self.suppressed.is_none_or(|length| length < to_guest(self.family))
    }

    /// Reports whether it may lead a packet to the pool elsewhere.
    #[must_use]
    pub fn may_take(&self, pool: IpNet) -> bool {
        self.to.is_none_or(|to| meets(to, pool)) && !matches!(self.table, Some(MAIN | LOCAL))
    }

    /// Reports whether it may lead a packet from one guest to another.
    pub(super) fn may_lead_within(&self, pool: IpNet) -> bool {
        self.from.is_none_or(|from| meets(from, pool))
            && self.to.is_none_or(|to| meets(to, pool))
            && (self.mark.is_none() || self.narrowed)
            && self.table.is_some_and(|table| table != LOCAL)
            && !self.from_host
    }

    /// Reports whether it may lead answers from the pool to the default route of a table, whatever uplink was asked.
    /// Rules for particular destinations or marks, and rules that refuse packets, are the administrator's decision.
    pub(super) fn may_take_answers(&self, pool: IpNet) -> bool {
        self.from.is_none_or(|from| meets(from, pool))
            && self.to.is_none_or(|to| to.prefix_len() <= LONGEST_DEFAULT)
            && (self.mark.is_none() || self.narrowed)
            && self.table.is_some_and(|table| table != LOCAL)
    }
}

/// Returns the prefix length of the routes to guests.
fn to_guest(family: Family) -> u32 {
    match family {
        Family::V4 => Addresses::PREFIX_LENGTH.into(),
        Family::V6 => Addresses::PREFIX_LENGTH_V6.into(),
    }
}

fn meets(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

impl fmt::Display for RoutingRule {
    /// Writes the rule as ip-rule(8) shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: from ", self.priority)?;
        match self.from {
            Some(from) => from.fmt(f)?,
            None => f.write_str("all")?,
        }
        self.to.map_or(Ok(()), |to| write!(f, " to {to}"))?;
        self.mark.map_or(Ok(()), |(mark, mask)| write!(f, " fwmark {mark:#x}/{mask:#x}"))?;
        f.write_str(if self.from_host { " iif lo" } else { "" })?;
        f.write_str(if self.prohibits { " prohibit" } else { "" })?;
        match self.table {
            Some(MAIN) => f.write_str(" lookup main")?,
            Some(table) => write!(f, " lookup {table}")?,
            None => {}
        }
        self.suppressed.map_or(Ok(()), |length| write!(f, " suppress_prefixlength {length}"))
    }
}

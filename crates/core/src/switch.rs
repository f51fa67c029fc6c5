//! The names of the sysctls that we read or write (Documentation/networking/ip-sysctl.rst).

use crate::model::{Family, InterfaceName, Slot};

/// The sysctl by which the host as a whole forwards IPv4 packets. A change sets the switches of all interfaces to the
/// same value, including those of future interfaces (`inet_forward_change` in `net/ipv4/devinet.c`).
pub const IP_FORWARD: &str = "net.ipv4.ip_forward";

/// The sysctl by which the host as a whole forwards IPv6 packets. We never write it: the host would lose the default routes
/// that it learned from router advertisements (`addrconf_fixup_forwarding` in `net/ipv6/addrconf.c`).
///
/// The same happens if the switch `forwarding` of one interface is set, whichever: so we do not write that either.
pub const ALL_FORWARDING_V6: &str = "net.ipv6.conf.all.forwarding";

/// The sysctl by which a host takes no part in IPv6. Missing if the kernel has no IPv6.
pub const ALL_DISABLED_V6: &str = "net.ipv6.conf.all.disable_ipv6";

/// The sysctl that a kernel has if its interfaces can forward IPv6 packets by a switch of their own (since Linux 6.17).
pub const ALL_FORCE_FORWARDING: &str = "net.ipv6.conf.all.force_forwarding";

const BEGIN: &str = "net.ipv4.conf.";
const END: &str = ".forwarding";
const BEGIN_V6: &str = "net.ipv6.conf.";
const END_V6: &str = ".force_forwarding";

/// Returns the switch of one interface: whether packets that come in by it may be sent on.
#[must_use]
pub fn forwarding(interface: &InterfaceName) -> String {
    // A slash stands for a dot in the name of an interface, as in sysctl(8).
    format!("{BEGIN}{}{END}", interface.as_str().replace('.', "/"))
}

/// Returns the switch of one interface for packets of this family. For IPv6 that is `force_forwarding`, since
/// `forwarding` of an interface forwards nothing while that of `all` is 0.
#[must_use]
pub fn of(family: Family, interface: &InterfaceName) -> String {
    match family {
        Family::V4 => forwarding(interface),
        Family::V6 => format!("{BEGIN_V6}{}{END_V6}", interface.as_str().replace('.', "/")),
    }
}

/// Returns the interface that a switch for packets of this family is of; `None` if the sysctl is another, or that of all
/// interfaces (`all`) or of future interfaces (`default`).
#[must_use]
pub fn interface_of(family: Family, sysctl: &str) -> Option<InterfaceName> {
    let (begin, end) = match family {
        Family::V4 => (BEGIN, END),
        Family::V6 => (BEGIN_V6, END_V6),
    };
    let name = sysctl.strip_prefix(begin)?.strip_suffix(end)?;
    let name = Some(name).filter(|name| !matches!(*name, "all" | "default"))?;
    InterfaceName::try_from(&*name.replace('/', ".")).ok()
}

/// Returns the sysctls that keep an interface from learning routes from its guest, by router advertisements and redirects.
#[must_use]
pub fn learned_routes_v6(interface: &str) -> [String; 2] {
    ["accept_ra", "accept_redirects"].map(|name| format!("{BEGIN_V6}{interface}.{name}"))
}

/// Returns the sysctl by which an interface checks the sources of packets; `all` is that of all interfaces.
#[must_use]
pub fn rp_filter(interface: &str) -> String {
    format!("{BEGIN}{}.rp_filter", interface.replace('.', "/"))
}

/// Returns the interface that a switch is of; `None` if the sysctl is another, or that of all interfaces (`all`) or of
/// future interfaces (`default`).
#[must_use]
pub fn interface(sysctl: &str) -> Option<InterfaceName> {
    interface_of(Family::V4, sysctl)
}

/// Returns the switch that keeps an interface out of IPv6. An interface begins with the value of `default`.
#[must_use]
pub fn disable_ipv6(interface: &str) -> String {
    format!("net.ipv6.conf.{interface}.disable_ipv6")
}

/// Returns the sysctl that a new TAP takes this switch from (that of `default`), to be set if the switch itself cannot
/// be. `None` for other sysctls.
#[must_use]
pub fn inherited(sysctl: &str) -> Option<String> {
    let name = sysctl.strip_prefix("net.ipv6.conf.")?.strip_suffix(".disable_ipv6")?;
    Slot::of_interface(name).map(|_| disable_ipv6("default"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_of_an_interface_leads_back_to_it() {
        for name in ["eth0", "eth0.100", "a-b"] {
            let name = InterfaceName::try_from(name).unwrap();
            assert_eq!(interface(&forwarding(&name)), Some(name.clone()));
            let v6 = of(Family::V6, &name);
            assert_eq!((interface(&v6), interface_of(Family::V6, &v6)), (None, Some(name)));
        }
        assert_eq!(interface_of(Family::V6, ALL_FORCE_FORWARDING), None);
        for other in
            [IP_FORWARD, "net.ipv4.conf.all.forwarding", "net.ipv4.conf.default.forwarding"]
        {
            assert_eq!(interface(other), None);
        }
    }

    #[test]
    fn only_the_switch_of_a_tap_is_inherited() {
        assert_eq!(inherited(&disable_ipv6("rik7")), Some(disable_ipv6("default")));
        assert_eq!(inherited(&disable_ipv6("eth0")), None);
        assert_eq!(inherited(IP_FORWARD), None);
    }
}

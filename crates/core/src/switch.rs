//! The names of the sysctls that we read or write (Documentation/networking/ip-sysctl.rst).

use crate::model::{InterfaceName, Slot};

/// The sysctl by which the host as a whole forwards IPv4 packets. A change sets the switches of all interfaces to the
/// same value, including those of future interfaces (`inet_forward_change` in `net/ipv4/devinet.c`).
pub const IP_FORWARD: &str = "net.ipv4.ip_forward";

const BEGIN: &str = "net.ipv4.conf.";
const END: &str = ".forwarding";

/// Returns the switch of one interface: whether packets that come in by it may be sent on.
#[must_use]
pub fn forwarding(interface: &InterfaceName) -> String {
    // A slash stands for a dot in the name of an interface, as in sysctl(8).
    format!("{BEGIN}{}{END}", interface.as_str().replace('.', "/"))
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
    let name = sysctl.strip_prefix(BEGIN)?.strip_suffix(END)?;
    let name = Some(name).filter(|name| !matches!(*name, "all" | "default"))?;
    InterfaceName::try_from(&*name.replace('/', ".")).ok()
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
            assert_eq!(interface(&forwarding(&name)), Some(name));
        }
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

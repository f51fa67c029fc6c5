//! What a VMM needs to attach a guest to its TAP, in each VMM's own words. Pure.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::{
    model::{Addresses, InstanceName, InterfaceName, MacAddress},
    sdn::Instance,
};

/// The guest's own name of its NIC.
pub(super) const GUEST_INTERFACE: &str = "eth0";

/// An instance as its VMM sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The instance's name.
    pub name: InstanceName,
    /// The TAP.
    pub interface: InterfaceName,
    /// The guest's address, in a /30.
    pub guest: Ipv4Addr,
    /// The host's address: the guest's gateway.
    pub host: Ipv4Addr,
    /// The MAC address that the guest's NIC must have.
    pub guest_mac: MacAddress,
    /// The MTU in bytes.
    pub mtu: u32,
}

impl Attachment {
    /// The attachment of this instance.
    #[must_use]
    pub fn of(instance: &Instance) -> Self {
        Self {
            name: instance.name().clone(),
            interface: instance.interface(),
            guest: instance.addresses.guest,
            host: instance.addresses.host,
            guest_mac: instance.guest_mac(),
            mtu: instance.mtu,
        }
    }
}

/// The `network-interfaces` of a Firecracker configuration file (`NetworkInterface` of its API).
#[must_use]
pub fn firecracker(attachment: &Attachment) -> Value {
    json!([firecracker_interface(attachment)])
}

/// One `NetworkInterface` of Firecracker's API, with the fields that every version has.
pub(super) fn firecracker_interface(attachment: &Attachment) -> Value {
    json!({
        "iface_id": GUEST_INTERFACE,
        "host_dev_name": attachment.interface.as_str(),
        "guest_mac": attachment.guest_mac.to_string(),
    })
}

/// The argument of a Linux kernel that configures its NIC before anything runs, without resolvers.
#[must_use]
pub fn boot_args(attachment: &Attachment) -> String {
    ip_argument(attachment, &[])
}

/// The argument of a Linux kernel that configures its NIC before anything runs
/// (Documentation/admin-guide/nfs/nfsroot.rst): client, no server, gateway, netmask, host name, device, no
/// autoconfiguration, and up to two resolvers, which the guest finds in `/proc/net/pnp`.
///
/// The host name is the part of the instance's name before the first `.`: the kernel would take what follows
/// as the NIS domain.
pub(super) fn ip_argument(attachment: &Attachment, dns: &[Ipv4Addr]) -> String {
    let Attachment { name, guest, host, .. } = attachment;
    let host_name = name.as_str().split('.').next().unwrap_or_default();
    let netmask = Addresses::NETMASK;
    let address = format!("ip={guest}::{host}:{netmask}:{host_name}:{GUEST_INTERFACE}:off");
    dns.iter().take(2).fold(address, |argument, resolver| format!("{argument}:{resolver}"))
}

/// The arguments of QEMU: the TAP exists, so no script makes or ends it; `vnet_hdr` is what it was made with.
#[must_use]
pub fn qemu(attachment: &Attachment) -> Vec<String> {
    let Attachment { interface, guest_mac, mtu, .. } = attachment;
    vec![
        "-netdev".to_owned(),
        format!("tap,id={GUEST_INTERFACE},ifname={interface},script=no,downscript=no"),
        "-device".to_owned(),
        format!("virtio-net-pci,netdev={GUEST_INTERFACE},mac={guest_mac},host_mtu={mtu}"),
    ]
}

/// Variables of a POSIX shell, one a line. No value needs quotes: names, addresses and numbers only.
#[must_use]
pub fn env(attachment: &Attachment) -> String {
    let Attachment { name, interface, guest, host, guest_mac, mtu } = attachment;
    let netmask = Addresses::NETMASK;
    format!(
        "RIKLET_NAME={name}\nRIKLET_TAP={interface}\nRIKLET_GUEST_ADDRESS={guest}\n\
         RIKLET_GUEST_MAC={guest_mac}\nRIKLET_GATEWAY={host}\nRIKLET_NETMASK={netmask}\n\
         RIKLET_MTU={mtu}\n"
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Pool, Slot};

    pub(in crate::vmm) fn attachment() -> Attachment {
        let slot = Slot::new(1);
        let addresses = "10.231.0.0/16".parse::<Pool>().unwrap().addresses(slot).unwrap();
        Attachment {
            name: "hello.v2".parse().unwrap(),
            interface: slot.interface(),
            guest: addresses.guest,
            host: addresses.host,
            guest_mac: slot.guest_mac(),
            mtu: 1400,
        }
    }

    #[test]
    fn each_vmm_gets_its_own_words() {
        let attachment = attachment();
        assert_eq!(
            firecracker(&attachment).to_string(),
            r#"[{"guest_mac":"06:52:49:4b:00:01","host_dev_name":"rik1","iface_id":"eth0"}]"#
        );
        assert_eq!(
            qemu(&attachment).join(" "),
            "-netdev tap,id=eth0,ifname=rik1,script=no,downscript=no \
             -device virtio-net-pci,netdev=eth0,mac=06:52:49:4b:00:01,host_mtu=1400"
        );
        assert_eq!(
            boot_args(&attachment),
            "ip=10.231.0.6::10.231.0.5:255.255.255.252:hello:eth0:off"
        );
        assert!(env(&attachment).contains("RIKLET_GATEWAY=10.231.0.5\n"));
    }

    #[test]
    fn the_kernel_takes_two_resolvers() {
        let dns = [1, 2, 3].map(|octet| Ipv4Addr::new(9, 9, 9, octet));
        assert!(ip_argument(&attachment(), &dns).ends_with(":eth0:off:9.9.9.1:9.9.9.2"));
        assert!(ip_argument(&attachment(), &dns[..1]).ends_with(":eth0:off:9.9.9.1"));
    }
}

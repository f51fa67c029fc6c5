//! Attachments: everything that a VMM needs to attach a guest to its TAP, in the format of each VMM. Pure.

use std::net::IpAddr;

use serde_json::{Value, json};

use riklet_core::address::GATEWAY_LINK_LOCAL;
use riklet_core::lease::Lease;
use riklet_core::model::{
    Addresses, Dns, EgressPolicy, Ends, InstanceName, InterfaceName, MacAddress, Queues,
};
use riklet_sdn::Instance;

/// The name of the NIC inside the guest.
pub(super) const GUEST_INTERFACE: &str = "eth0";
/// Tells udev in the guest to leave that name alone.
const KEEP_NAMES: &str = "net.ifnames=0";
/// The MTU that a guest uses if nobody tells it another.
pub(super) const ETHERNET_MTU: u32 = 1500;

/// An instance as its VMM sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The instance's name.
    pub name: InstanceName,
    /// The TAP.
    pub interface: InterfaceName,
    /// The addresses of the guest, and those of the host, which are its gateways.
    pub addresses: Addresses,
    /// The MAC address that the guest's NIC must have.
    pub guest_mac: MacAddress,
    /// The MTU in bytes.
    pub mtu: u32,
    /// The number of queue pairs that the TAP is opened with; at least one.
    pub queues: u8,
    /// The servers that the guest asks for names, at most [`Dns::MAX`].
    pub dns: Vec<IpAddr>,
}

impl Attachment {
    /// Returns the attachment of this instance. If its definition names no DNS servers, uses the first of the host's
    /// `resolvers` (`HostFacts::resolvers` of the kernel). If its policy has names, its gateway is the one server: the daemon
    /// asks the others.
    #[must_use]
    pub fn of(instance: &Instance, resolvers: &[IpAddr]) -> Self {
        let execution = instance.workload.execution();
        let gateway = [IpAddr::from(instance.addresses.v4.host)];
        let servers = if instance.workload.egress().is_some_and(EgressPolicy::has_names) {
            &gateway
        } else {
            execution.dns.as_ref().map_or(resolvers, Dns::servers)
        };
        Self {
            name: instance.name().clone(),
            interface: instance.interface(),
            addresses: instance.addresses,
            guest_mac: instance.guest_mac(),
            mtu: instance.mtu,
            queues: execution.queues.map_or(1, Queues::get),
            dns: servers.iter().take(Dns::MAX).copied().collect(),
        }
    }

    /// Returns the host name of the guest: the part of the instance's name before the first `.`, since what follows would be
    /// taken for a domain.
    #[must_use]
    pub fn host_name(&self) -> &str {
        self.name.as_str().split('.').next().unwrap_or_default()
    }

    /// Returns what the guest is told if it asks for its configuration, on a host that has a default route of IPv6 or not.
    #[must_use]
    pub fn lease(&self, routed_v6: bool) -> Lease {
        Lease {
            mac: self.guest_mac,
            addresses: self.addresses,
            mtu: self.mtu,
            host_name: self.host_name().to_owned(),
            resolvers: self.dns.clone(),
            routed_v6,
        }
    }
}

/// Returns the warning for a guest that is told no name server, if this is one.
#[must_use]
pub fn without_resolver(attachment: &Attachment) -> Option<String> {
    attachment.dns.is_empty().then(|| {
        format!(
            "{} is told no name server: the host names none that a guest can reach; set `dns` in its definition",
            attachment.name
        )
    })
}

/// Returns the `network-interfaces` of a Firecracker configuration file (`NetworkInterface` of its API). An MTU that
/// is not Ethernet's is included, as a field that versions before 1.16 refuse.
#[must_use]
pub fn firecracker(attachment: &Attachment) -> Value {
    let mut interface = firecracker_interface(attachment);
    if attachment.mtu != ETHERNET_MTU {
        interface["mtu"] = attachment.mtu.into();
    }
    json!([interface])
}

/// Returns one `NetworkInterface` of Firecracker's API, with only the fields that every version has.
pub(super) fn firecracker_interface(attachment: &Attachment) -> Value {
    json!({
        "iface_id": GUEST_INTERFACE,
        "host_dev_name": attachment.interface.as_str(),
        "guest_mac": attachment.guest_mac.to_string(),
    })
}

/// Returns the arguments with which a Linux kernel configures its NIC before anything runs
/// (Documentation/admin-guide/nfs/nfsroot.rst): client, no server, gateway, netmask, host name, device, no
/// autoconfiguration, and the DNS servers. A kernel without `CONFIG_IP_PNP`, such as Debian's, leaves this to the
/// guest's first program. The argument covers IPv4 only, also for the DNS servers.
///
/// `net.ifnames=0` keeps the NIC's name: otherwise systemd-udevd renames `eth0` to a name such as `ens1`
/// (systemd.net-naming-scheme(7)), and a first program that looks for the device of `ip=` finds none.
///
/// The host name is [`Attachment::host_name`]: the kernel would take what follows a `.` as the NIS domain.
#[must_use]
pub fn boot_args(attachment: &Attachment) -> String {
    let Attachment { addresses, dns, .. } = attachment;
    let Ends { host, guest } = addresses.v4;
    let host_name = attachment.host_name();
    let netmask = Addresses::NETMASK;
    let ip = format!("ip={guest}::{host}:{netmask}:{host_name}:{GUEST_INTERFACE}:off");
    let servers = dns.iter().filter(|server| server.is_ipv4());
    servers.fold(format!("{KEEP_NAMES} {ip}"), |words, server| format!("{words}:{server}"))
}

/// Returns the network configuration of cloud-init, version 2
/// (<https://cloudinit.readthedocs.io/en/latest/reference/network-config-format-v2.html>), for an image that a kernel
/// argument does not reach: the file `network-config` of its data source `NoCloud`. The NIC is found by its MAC address.
#[must_use]
pub fn cloud_init(attachment: &Attachment) -> Value {
    let Attachment { addresses, guest_mac, mtu, dns, .. } = attachment;
    let Ends { host, guest } = addresses.v4;
    let mut nic = json!({
        "match": { "macaddress": guest_mac.to_string() },
        "set-name": GUEST_INTERFACE,
        "addresses": [format!("{guest}/{}", Addresses::PREFIX_LENGTH)],
        "routes": [{ "to": "0.0.0.0/0", "via": host }],
        "mtu": mtu,
    });
    if let Some(Ends { guest, .. }) = addresses.v6 {
        let all = [addresses.v4.guest.into(), guest.into()].map(Addresses::network);
        nic["addresses"] = all.map(|network| network.to_string()).to_vec().into();
        // The same gateway on every node: a snapshot keeps it.
        nic["routes"] = json!([
            { "to": "0.0.0.0/0", "via": host },
            { "to": "::/0", "via": GATEWAY_LINK_LOCAL },
        ]);
        // The address and the route are here.
        nic["accept-ra"] = false.into();
    }
    if !dns.is_empty() {
        nic["nameservers"] = json!({ "addresses": dns });
    }
    json!({ "version": 2, "ethernets": { GUEST_INTERFACE: nic } })
}

/// Returns the attachment as variables of a POSIX shell, one a line. No value needs quotes: they are names, addresses
/// and numbers only.
#[must_use]
pub fn env(attachment: &Attachment) -> String {
    let Attachment { name, interface, addresses, guest_mac, mtu, .. } = attachment;
    let Ends { host, guest } = addresses.v4;
    let netmask = Addresses::NETMASK;
    let v6 = addresses.v6.map(|Ends { guest, .. }| {
        let guest = Addresses::network(guest.into());
        format!("RIKLET_GUEST_ADDRESS6={guest}\nRIKLET_GATEWAY6={GATEWAY_LINK_LOCAL}\n")
    });
    format!(
        "RIKLET_NAME={name}\nRIKLET_TAP={interface}\nRIKLET_GUEST_ADDRESS={guest}\n\
         RIKLET_GUEST_MAC={guest_mac}\nRIKLET_GATEWAY={host}\nRIKLET_NETMASK={netmask}\n\
         RIKLET_MTU={mtu}\n{}",
        v6.unwrap_or_default()
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use riklet_core::model::{Execution, Function, Limits, Pool, Slot, Workload};
    use riklet_sdn::store::Phase;

    pub(crate) fn attachment() -> Attachment {
        let slot = Slot::new(1);
        let addresses = "10.231.0.0/16".parse::<Pool>().unwrap().addresses(slot).unwrap();
        Attachment {
            name: "hello.v2".parse().unwrap(),
            interface: slot.interface(),
            addresses,
            guest_mac: slot.guest_mac(),
            mtu: 1400,
            queues: 1,
            dns: vec![],
        }
    }

    #[test]
    fn resolvers_come_from_the_definition_or_else_the_host() {
        let servers: Vec<_> = (1..=3).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        let attached = |dns: Option<&[IpAddr]>| {
            let dns = dns.map(|servers| Dns::try_from(servers.to_vec()).unwrap());
            let execution = Execution { queues: Queues::new(4).ok(), dns, ..Execution::default() };
            let function = Function {
                name: "hello".parse().unwrap(),
                execution,
                exposures: vec![],
                egress: None,
                limits: Limits::default(),
            };
            let slot = Slot::new(0);
            let workload = Workload::Function(function);
            let addresses = "10.231.0.0/16".parse::<Pool>().unwrap().addresses(slot).unwrap();
            let instance = Instance::new(workload, slot, Phase::Up, addresses, 1500);
            Attachment::of(&instance, &servers)
        };
        assert_eq!(attached(None).queues, 4);
        assert_eq!(attached(None).dns, servers[..2]);
        assert_eq!(attached(Some(&servers[2..])).dns, servers[2..]);
        assert!(attached(Some(&[])).dns.is_empty(), "none is none");
    }

    #[test]
    fn a_guest_with_names_asks_its_gateway() {
        let allow = vec!["api.example.com:443".parse().unwrap()];
        let policy = EgressPolicy::new(None, vec![], vec![]).with_names(allow);
        let dns = Dns::try_from(vec![IpAddr::from([192, 0, 2, 53])]).unwrap();
        let function = Function {
            name: "hello".parse().unwrap(),
            execution: Execution { dns: Some(dns), ..Execution::default() },
            exposures: vec![],
            egress: Some(policy),
            limits: Limits::default(),
        };
        let slot = Slot::new(1);
        let addresses = "10.231.0.0/16".parse::<Pool>().unwrap().addresses(slot).unwrap();
        let workload = Workload::Function(function);
        let instance = Instance::new(workload, slot, Phase::Up, addresses, 1500);
        assert_eq!(Attachment::of(&instance, &[]).dns, [IpAddr::from([10, 231, 0, 5])]);
    }

    #[test]
    fn attachment_is_rendered_in_each_vmms_format() {
        let attachment = attachment();
        assert_eq!(
            firecracker(&attachment).to_string(),
            r#"[{"guest_mac":"06:52:49:4b:00:01","host_dev_name":"rik1","iface_id":"eth0","mtu":1400}]"#
        );
        assert_eq!(
            firecracker(&Attachment { mtu: 1500, ..attachment.clone() }).to_string(),
            r#"[{"guest_mac":"06:52:49:4b:00:01","host_dev_name":"rik1","iface_id":"eth0"}]"#
        );
        assert_eq!(
            boot_args(&attachment),
            "net.ifnames=0 ip=10.231.0.6::10.231.0.5:255.255.255.252:hello:eth0:off"
        );
        assert_eq!(
            cloud_init(&attachment).to_string(),
            r#"{"ethernets":{"eth0":{"addresses":["10.231.0.6/30"],"match":{"macaddress":"06:52:49:4b:00:01"},"mtu":1400,"routes":[{"to":"0.0.0.0/0","via":"10.231.0.5"}],"set-name":"eth0"}},"version":2}"#
        );
        let dns = vec![[192, 0, 2, 53].into(), [198, 51, 100, 53].into()];
        let with_dns = cloud_init(&Attachment { dns: dns.clone(), ..attachment.clone() });
        let servers = &with_dns["ethernets"]["eth0"]["nameservers"]["addresses"];
        assert_eq!(*servers, json!(["192.0.2.53", "198.51.100.53"]));
        assert_eq!(
            boot_args(&Attachment { dns, ..attachment.clone() }),
            "net.ifnames=0 ip=10.231.0.6::10.231.0.5:255.255.255.252:hello:eth0:off:192.0.2.53:198.51.100.53"
        );
        assert!(env(&attachment).contains("RIKLET_GATEWAY=10.231.0.5\n"));
    }
}

//! Pods with IPv6: the end in the namespace has the address of the slot, and the gateway's link-local address as its router.

use serde_json::json;

use super::{CLIENT, FAR, FIRST, NODE_LAN, NODE_UPLINK, TARGET, address_of, with};
use crate::{
    pods::pod,
    world::{
        Namespace,
        function::exposure,
        traffic::{assert_tcp_closed, tcp_ask, tcp_server},
        transport::Transport::Tcp,
    },
};

#[test]
fn a_pod_is_published_and_reaches_the_internet() {
    let world = with();
    let [first, second] = ["first", "second"].map(|name| {
        let container = Namespace::new();
        // Whoever makes a namespace may have turned IPv6 off in it.
        container.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        let exposures = if name == "first" { vec![exposure(Tcp, FIRST, TARGET)] } else { vec![] };
        let mut definition = pod(name, &exposures);
        definition["spec"]["pod"]["namespace"] = json!(container.path());
        world.riklet(&["up", "-"], &definition.to_string()).success();
        let address = address_of(&world, name).expect("an address of IPv6");
        (tcp_server(&container, (address, TARGET)), container, address)
    });
    let (_server, container, address) = &first;
    let asked = tcp_ask(&world.client, (NODE_LAN, FIRST)).expect("the published port answers");
    assert_eq!((asked.client.ip(), asked.server), (CLIENT.into(), (*address, TARGET).into()));
    tcp_ask(&second.1, (NODE_LAN, FIRST)).expect("it answers a pod");
    let far = tcp_server(&world.internet, (FAR, 443));
    let seen = tcp_ask(container, far.address).expect("the Internet answers");
    assert_eq!(seen.client.ip(), NODE_UPLINK);
    assert_tcp_closed(container, (second.2, TARGET));
    assert_eq!(world.riklet(&["check"], "").success(), "");
    let inspected = || world.riklet(&["inspect", "first"], "").success();
    assert!(!inspected().contains("lacks"), "{}", inspected());
    container.tool(&["ip", "-6", "address", "delete", &format!("{address}/127"), "dev", "eth0"]);
    container.tool(&["ip", "-6", "route", "delete", "default"]);
    let said = inspected();
    assert!(said.contains(&format!("address {address}/127")), "{said}");
    assert!(said.contains("default route via fe80::1"), "{said}");
}

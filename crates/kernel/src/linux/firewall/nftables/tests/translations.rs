//! Translations of others, as the tools of the host write them.

use std::net::IpAddr;

use super::*;
use crate::linux::firewall::foreign_translations::Translations;

fn find(address: Option<&str>, ports: &str) -> Vec<String> {
    let address = address.map(|address| address.parse::<IpAddr>().unwrap());
    let wanted = [(Protocol::Tcp, address, ports.parse().unwrap())].into();
    let mut kernel = Nftables::default();
    let mut known = Translations::read(&mut kernel).unwrap();
    let found = known.search(&mut kernel, &wanted).unwrap();
    // The second answer is from memory.
    assert_eq!(known.search(&mut kernel, &wanted).unwrap(), found);
    // A single search leaves out rules for other ports.
    let once = Translations::read(&mut kernel).unwrap().search_once(&mut kernel, &wanted);
    assert_eq!(once.unwrap(), found);
    found.iter().map(ToString::to_string).collect()
}

fn by(chain: &str, ports: &str) -> Vec<String> {
    vec![format!("the chain {chain}, which translates tcp {ports}")]
}

#[test]
fn rules_of_iptables_are_read() {
    in_namespace(|| {
        iptables("-t nat -N DOCKER");
        iptables("-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER");
        iptables("-t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER");
        for rule in [
            "! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80",
            "-p tcp -m multiport --dports 90,100:110 -j REDIRECT --to-ports 1",
            "-p udp -m udp --dport 200 -j DNAT --to-destination 172.17.0.2:80",
            "-d 192.0.2.7/32 -p tcp -m tcp --dport 300:400 -j DNAT --to-destination 172.17.0.2",
            "-d 10.0.0.0/8 -p tcp -m tcp --dport 500 -j DNAT --to-destination 172.17.0.2",
            "-p tcp -m tcp ! --dport 600 -j REDIRECT --to-ports 1",
            "-p tcp -j REDIRECT --to-ports 1",
        ] {
            iptables(&format!("-t nat -A DOCKER {rule}"));
        }
        let chain = "ip nat DOCKER";
        assert_eq!(find(None, "80"), by(chain, "port 80"));
        assert_eq!(find(None, "85-95"), by(chain, "port 90"));
        assert_eq!(find(Some("192.0.2.1"), "105"), by(chain, "port 105 of 192.0.2.1"));
        assert_eq!(find(None, "350"), by(chain, "port 350 of 192.0.2.7"));
        assert_eq!(find(Some("10.1.2.3"), "500"), by(chain, "port 500 of 10.1.2.3"));
        for (address, ports) in [
            (None, "91-99"),
            (None, "200"),
            (Some("192.0.2.1"), "350"),
            (Some("192.0.2.1"), "500"),
            (None, "600"),
            (None, "1000"),
        ] {
            assert_eq!(find(address, ports), [""; 0], "{ports}");
        }
    });
}

#[test]
fn rules_maps_and_sets_of_nft_are_read() {
    in_namespace(|| {
        nft("table inet theirs {
               set nodes { type ipv4_addr; elements = { 192.0.2.7, 192.0.2.8 }; }
               set odd { type inet_service; flags interval; elements = { 20-25, 30 }; }
               chain deep { meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.1.0.1, 1 : 10.1.0.2 }; }
               map ways { type inet_proto . inet_service : verdict; elements = { tcp . 40 : goto deep, udp . 41 : goto deep }; }
               chain services {
                 tcp dport 10 redirect to :3128
                 tcp dport @odd dnat ip to 10.0.0.1
                 ip daddr @nodes meta l4proto . th dport vmap @ways
                 dnat ip to tcp dport map { 50 : 10.0.0.1, 51 : 10.0.0.2 }
                 ip daddr 198.51.100.0/24 tcp dport 60 dnat ip to 10.0.0.1
                 ip6 daddr 2001:db8::1 tcp dport 70 dnat ip6 to 2001:db8::2
                 tcp dport != 22 redirect to :15001
                 tcp dport >= 60000 tcp dport <= 60010 redirect to :1
               }
               chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump services; }
               chain postrouting { type nat hook postrouting priority srcnat; tcp dport 80 masquerade; }
               chain forward { type filter hook forward priority filter; tcp dport 81 accept; }
             }");
        let chain = "inet theirs services";
        assert_eq!(find(None, "10"), by(chain, "port 10"));
        assert_eq!(find(None, "24-29"), by(chain, "ports 24-25"));
        assert_eq!(find(Some("192.0.2.7"), "40"), by("inet theirs deep", "port 40 of 192.0.2.7"));
        assert_eq!(find(None, "40").len(), 2, "one for each address");
        assert_eq!(find(None, "51"), by(chain, "port 51"));
        assert_eq!(find(Some("198.51.100.9"), "60"), by(chain, "port 60 of 198.51.100.9"));
        assert_eq!(find(None, "60005"), by(chain, "port 60005"));
        for (address, ports) in [
            (None, "11-19"),
            (Some("192.0.2.1"), "40-41"),
            (None, "41"),
            (Some("192.0.2.1"), "60"),
            (None, "70"),
            (None, "80-81"),
            (None, "59999"),
        ] {
            assert_eq!(find(address, ports), [""; 0], "{ports}");
        }
    });
}

#[test]
fn our_rules_are_no_translations() {
    in_namespace(|| {
        let mut kernel = Nftables::default();
        kernel
            .apply(&Change::Reset(Ruleset {
                base_ruleset: base_ruleset(),
                entries: [exposure(8080, 2)].into(),
            }))
            .unwrap();
        iptables("-t nat -N RIKLET");
        iptables("-t nat -A PREROUTING -j RIKLET");
        iptables(
            "-t nat -A RIKLET -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.231.0.2:80",
        );
        assert_eq!(find(None, "8080"), [""; 0]);
    });
}

/// Returns the ports that others translate, as text; `None` if they are too many.
fn ports() -> Option<String> {
    let mut kernel = Nftables::default();
    let found = Translations::read(&mut kernel).unwrap().ports(&mut kernel).unwrap();
    found.map(|ports| ports.to_string())
}

#[test]
fn all_translated_ports_are_found_without_being_asked_for() {
    in_namespace(|| {
        assert_eq!(ports().as_deref(), Some("none"));
        iptables("-t nat -N RIKLET");
        iptables("-t nat -A PREROUTING -j RIKLET");
        iptables("-t nat -A RIKLET -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 1");
        iptables("-t nat -A POSTROUTING -p tcp -m tcp --dport 8081 -j MASQUERADE");
        assert_eq!(ports().as_deref(), Some("none"), "neither ours nor for ports of the host");
        iptables("-t nat -N DOCKER");
        iptables("-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER");
        iptables("-t nat -A DOCKER -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 1");
        iptables("-t nat -A DOCKER -d 192.0.2.7/32 -p udp -m udp --dport 53:60 -j REDIRECT");
        iptables("-t nat -A DOCKER -p tcp -j REDIRECT --to-ports 1");
        assert_eq!(ports().as_deref(), Some("tcp:80,udp:53-60"));
        nft("table inet theirs {
               map ways { type inet_proto . inet_service : verdict; }
               chain web { meta l4proto tcp redirect; }
               chain prerouting {
                 type nat hook prerouting priority dstnat;
                 meta l4proto . th dport vmap @ways
               }
             }");
        assert_eq!(ports().as_deref(), Some("tcp:80,udp:53-60"));
        nft("add element inet theirs ways { tcp . 443 : goto web }");
        assert_eq!(ports().as_deref(), Some("tcp:80,tcp:443,udp:53-60"));
    });
}

#[test]
fn so_many_chains_are_not_read_for_ports_that_nobody_asks_for() {
    in_namespace(|| {
        for number in 0..20 {
            iptables(&format!("-t nat -N S{number}"));
            iptables(&format!("-t nat -A PREROUTING -p tcp --dport {} -j S{number}", 80 + number));
            iptables(&format!("-t nat -A S{number} -p tcp -j REDIRECT --to-ports 1"));
        }
        assert_eq!(ports(), None);
        assert_eq!(find(None, "85"), by("ip nat S5", "port 85"));
    });
}

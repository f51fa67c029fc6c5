use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
};

use super::*;
use riklet_core::reach::Block;
use riklet_testkit::namespace::{ip, isolated, run};

/// A way to forget flows.
type Way<'a> = &'a dyn Fn(&[Flows]);

const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 231, 0, 2));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 231, 0, 6));

/// Sets up connection tracking, two guests on the loopback, and translation: ports 80 to 82 lead to the one (80 and 82
/// to the same port), 90 to the other, and port 99 is masqueraded.
fn host() {
    for address in ["10.231.0.2", "10.231.0.6", "192.0.2.1"] {
        ip(&format!("addr add {address}/32 dev lo"));
    }
    let ruleset = "
    table ip test {
        chain output { type nat hook output priority -100;
            ip daddr 192.0.2.1 meta l4proto { tcp, udp } th dport 80 dnat to 10.231.0.2:8080
            ip daddr 192.0.2.1 meta l4proto { tcp, udp } th dport 81 dnat to 10.231.0.2:8081
            ip daddr 192.0.2.1 meta l4proto { tcp, udp } th dport 82 dnat to 10.231.0.2:8080
            ip daddr 192.0.2.1 meta l4proto { tcp, udp } th dport 90 dnat to 10.231.0.6:8080
        }
        chain postrouting { type nat hook postrouting priority 100;
            udp dport 99 snat to 192.0.2.1
        }
    }
";
    let output = crate::process::run(OsStr::new("nft"), &["-f", "-"], ruleset.as_bytes());
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Sends one datagram; its port is the flow's name in what [`flows`] answers.
fn send(from: &str, to: &str) {
    UdpSocket::bind(from).unwrap().send_to(b"x", to).unwrap();
}

/// Sends one echo request (RFC 792) to 192.0.2.1.
fn ping(from: IpAddr) {
    use rustix::net::{AddressFamily, SendFlags, SocketType, bind, ipproto, sendto, socket};
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
    bind(&socket, &SocketAddr::new(from, 0)).unwrap();
    let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    let to = SocketAddr::from(([192, 0, 2, 1], 0));
    sendto(&socket, &echo, SendFlags::empty(), &to).unwrap();
}

/// Returns the source ports of the tracked flows.
fn flows() -> Vec<u16> {
    let mut ports: Vec<_> = run("conntrack", "-L -f ipv4")
        .lines()
        .filter_map(|line| line.split("sport=").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    ports.sort_unstable();
    ports
}

fn forget(flows: &[Flows]) {
    let flows = flows.iter().copied().collect();
    // The guests' addresses are the host's here, too.
    let of_host = [[192, 0, 2, 1].into()].into();
    Conntrack::open().unwrap().forget(&flows, &of_host).unwrap();
}

fn traffic() {
    send("192.0.2.1:1001", "192.0.2.1:80");
    send("192.0.2.1:1002", "192.0.2.1:81");
    send("192.0.2.1:1003", "192.0.2.1:90");
    send("10.231.0.2:1004", "192.0.2.1:53");
    send("10.231.0.6:1005", "192.0.2.1:53");
    send("127.0.0.1:1006", "192.0.2.1:53");
    send("127.0.0.1:1007", "192.0.2.1:99");
    send("127.0.0.1:1008", "192.0.2.1:54");
    send("192.0.2.1:1009", "192.0.2.1:82");
    assert!(flows().into_iter().eq(1001..=1009));
}

fn one(port: u16) -> PortRange {
    PortRange::single(port).unwrap()
}

#[test]
fn only_the_named_flows_are_forgotten() {
    let udp = Protocol::Udp;
    let exposed = |host_address, host_port, guest, guest_port| Flows::Exposed {
        protocol: udp,
        host_address,
        host_ports: one(host_port),
        guest,
        guest_ports: one(guest_port),
    };
    let [here, elsewhere] = [1, 9].map(|last| Some(IpAddr::from([192, 0, 2, last])));
    let sent = |guest, to: &str, protocol| {
        let to = Block::of_network(to.parse().unwrap()).by(protocol);
        Flows::Sent { guest, host: true, to }
    };
    let family = Family::V4;
    let exposed_range = |host: &str, guest: &str| Flows::Exposed {
        protocol: udp,
        host_address: None,
        host_ports: host.parse().unwrap(),
        guest: GUEST,
        guest_ports: guest.parse().unwrap(),
    };
    let untranslated_range = |ports: &str| {
        let (protocol, address, ports) = (udp, None, ports.parse().unwrap());
        Flows::Untranslated { family, protocol, address, ports }
    };
    let untranslated =
        |address, port| Flows::Untranslated { family, protocol: udp, address, ports: one(port) };
    let tcp =
        Flows::Untranslated { family, protocol: Protocol::Tcp, address: None, ports: one(53) };
    let cases = [
        (vec![], vec![]),
        (vec![Flows::Guest { guest: GUEST }], vec![1001, 1002, 1004, 1009]),
        // To everything, to a part of it, and what was translated on its way.
        (vec![sent(GUEST, "0.0.0.0/0", Protocol::Udp)], vec![1004]),
        (
            vec![sent(GUEST, "192.0.2.0/24", Protocol::Udp), sent(GUEST, "9.0.0.0/8", udp)],
            vec![1004],
        ),
        (vec![sent(GUEST, "192.0.2.0/24", Protocol::Tcp)], vec![]),
        (vec![sent([192, 0, 2, 1].into(), "0.0.0.0/0", Protocol::Udp)], vec![]),
        (vec![exposed(None, 80, GUEST, 8080)], vec![1001]),
        (vec![exposed(here, 82, GUEST, 8080)], vec![1009]),
        (vec![exposed(elsewhere, 82, GUEST, 8080)], vec![]),
        (vec![exposed(None, 90, OTHER, 8080)], vec![1003]),
        (vec![exposed(None, 80, OTHER, 8080), exposed(None, 80, GUEST, 80)], vec![]),
        (vec![untranslated(None, 53)], vec![1004, 1005, 1006]),
        (vec![untranslated(here, 53)], vec![1004, 1005, 1006]),
        (vec![untranslated(elsewhere, 53)], vec![]),
        (vec![untranslated(None, 99), untranslated(None, 80), tcp], vec![]),
        (vec![exposed(None, 81, GUEST, 8081), untranslated(None, 54)], vec![1002, 1008]),
        (vec![exposed_range("80-81", "8080-8081")], vec![1001, 1002]),
        (vec![exposed_range("80-81", "8079-8080")], vec![]),
        (vec![exposed_range("82-90", "8082-8090")], vec![]),
        (vec![untranslated_range("1-53")], vec![1004, 1005, 1006]),
        (vec![untranslated_range("54-65535")], vec![1008]),
        (vec![exposed_range("79-80", "8079-8080"), untranslated(None, 54)], vec![1001, 1008]),
    ];
    // Each case also runs with so many filters that the whole table is read, and in the way for older kernels.
    let more: Vec<_> = (0..20).map(|n| exposed(None, 80, [10, 99, 0, n].into(), 1)).collect();
    let with_more = move |named: &[Flows]| forget(&[named, &more].concat());
    let by_dump = |named: &[Flows]| {
        let mut conntrack = Conntrack::open().unwrap();
        let entries = conntrack.dump_filtered(named.iter().copied().flat_map(filters).collect());
        let of_host = [[192, 0, 2, 1].into()].into();
        conntrack.delete_of(&named.iter().copied().collect(), &of_host, entries.unwrap()).unwrap();
    };
    isolated(move || {
        host();
        for (named, gone) in cases {
            let ways: [Way<'_>; 3] = [&forget, &with_more, &by_dump];
            for forget in ways {
                traffic();
                forget(&named);
                let kept: Vec<_> = (1001..=1009).filter(|flow| !gone.contains(flow)).collect();
                assert_eq!(flows(), kept, "{named:?}");
                run("conntrack", "-F");
            }
        }
    });
}

#[test]
fn the_kernel_applies_the_filters() {
    isolated(|| {
        host();
        traffic();
        let mut conntrack = Conntrack::open().unwrap();
        let mut count = |flows| {
            let found = filters(flows).into_iter().map(|filter| {
                let family = filter.family;
                let request = filter.request(ConntrackMessageType::Get);
                conntrack.dump(family, request).unwrap().len()
            });
            found.collect::<Vec<_>>()
        };
        let protocol = Protocol::Udp;
        assert_eq!(count(Flows::Guest { guest: GUEST }), [1, 3]);
        let exposed = |host_address| {
            let (host_ports, guest, guest_ports) = (one(80), GUEST, one(8080));
            Flows::Exposed { protocol, host_address, host_ports, guest, guest_ports }
        };
        let [here, elsewhere] = [1, 9].map(|last| Some(IpAddr::from([192, 0, 2, last])));
        assert_eq!([None, here, elsewhere].map(|at| count(exposed(at))), [[1], [1], [0]]);
        let family = Family::V4;
        let untranslated =
            |address, port| Flows::Untranslated { family, protocol, address, ports: one(port) };
        assert_eq!(count(untranslated(None, 53)), [3]);
        assert_eq!(count(untranslated(elsewhere, 53)), [0]);
        assert_eq!(count(untranslated(None, 99)), [0]);
    });
}

#[test]
fn flows_in_zones_and_of_icmp_are_forgotten() {
    isolated(|| {
        host();
        run("nft", "add chain ip test raw { type filter hook output priority -300 ; }");
        run("nft", "add rule ip test raw udp dport 53 ct zone set 7");
        send("10.231.0.2:1004", "192.0.2.1:53");
        run("nft", "flush chain ip test raw");
        send("10.231.0.2:1004", "192.0.2.1:53");
        ping(GUEST);
        ping(OTHER);
        assert_eq!(flows(), [1004, 1004]);
        forget(&[Flows::Guest { guest: GUEST }]);
        let left = run("conntrack", "-L -f ipv4");
        assert!(left.contains("icmp") && left.contains("src=10.231.0.6"), "{left}");
        assert!(!left.contains("10.231.0.2"), "{left}");
    });
}

#[test]
fn flows_of_ipv6_are_forgotten_and_leave_those_of_ipv4_alone() {
    let address = Some("::1".parse().unwrap());
    let guest = "fd52::3".parse().unwrap();
    let (protocol, host_ports, guest_ports) = (Protocol::Udp, one(80), one(8080));
    let untranslated =
        |family, address, port| Flows::Untranslated { family, protocol, address, ports: one(port) };
    let v6 = Family::V6;
    let cases = [
        (Flows::Guest { guest }, vec![2001, 2002]),
        (
            Flows::Exposed { protocol, host_address: None, host_ports, guest, guest_ports },
            vec![2001],
        ),
        (
            Flows::Exposed { protocol, host_address: address, host_ports, guest, guest_ports },
            vec![2001],
        ),
        (untranslated(v6, None, 53), vec![2002, 2003]),
        (untranslated(v6, address, 53), vec![2002, 2003]),
        (untranslated(Family::V4, None, 53), vec![1004]),
    ];
    let list = || {
        let tracked = run("conntrack", "-L -f ipv6") + &run("conntrack", "-L -f ipv4");
        let ports = tracked
            .lines()
            .filter_map(|line| line.split("sport=").nth(1)?.split(' ').next()?.parse::<u16>().ok());
        ports.collect::<BTreeSet<_>>()
    };
    let more: Vec<_> = (0..20).map(|n| Flows::Guest { guest: [10, 99, 0, n].into() }).collect();
    isolated(move || {
        host();
        ip("addr add fd52::3/128 dev lo nodad");
        run("nft", "add table ip6 test");
        run("nft", "add chain ip6 test output { type nat hook output priority -100 ; }");
        run("nft", "add rule ip6 test output ip6 daddr ::1 udp dport 80 dnat to [fd52::3]:8080");
        for (named, gone) in cases {
            for more in [&[], &more[..]] {
                send("10.231.0.2:1004", "192.0.2.1:53");
                send("[::1]:2001", "[::1]:80");
                send("[fd52::3]:2002", "[::1]:53");
                send("[::1]:2003", "[::1]:53");
                let all = BTreeSet::from([1004, 2001, 2002, 2003]);
                assert_eq!(list(), all);
                forget(&[&[named], more].concat());
                let left = all.into_iter().filter(|port| !gone.contains(port)).collect();
                assert_eq!(list(), left, "{named:?}");
                run("conntrack", "-F");
            }
        }
    });
}

#[test]
fn more_flows_than_one_batch_are_forgotten() {
    isolated(|| {
        host();
        let socket = UdpSocket::bind("10.231.0.2:0").unwrap();
        for port in 1000..1500 {
            socket.send_to(b"x", ("192.0.2.1", port)).unwrap();
        }
        assert_eq!(flows().len(), 500);
        forget(&[Flows::Guest { guest: GUEST }]);
        assert_eq!(flows().len(), 0);
    });
}

#[test]
fn where_nothing_is_tracked_there_is_nothing_to_forget() {
    isolated(|| forget(&[Flows::Guest { guest: GUEST }]));
}

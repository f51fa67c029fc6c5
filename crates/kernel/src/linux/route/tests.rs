use super::*;
use riklet_testkit::namespace::{ip, isolated};

fn uplinks() -> Vec<String> {
    let names = Route::open().unwrap().uplinks().unwrap();
    names.iter().map(ToString::to_string).collect()
}

fn veth(name: &str, address: &str) {
    ip(&format!("link add {name} type veth peer name far-{name}"));
    ip(&format!("link set far-{name} up"));
    ip(&format!("addr add {address}/24 dev {name}"));
    ip(&format!("link set {name} up"));
}

#[test]
fn uplinks_are_those_of_the_default_route() {
    isolated(|| {
        assert!(uplinks().is_empty());
        veth("up0", "192.0.2.1");
        veth("up1", "198.51.100.1");
        ip("route add 10.0.0.0/8 via 192.0.2.2");
        ip("route add 17.0.0.1/32 via 192.0.2.2");
        ip("route add 199.7.91.0/24 via 192.0.2.2");
        assert!(uplinks().is_empty(), "longer routes are no default route");
        ip("route del 199.7.91.0/24");
        ip("route add default via 198.51.100.2");
        assert_eq!(uplinks(), ["up1"]);
        ip("route replace default nexthop via 192.0.2.2 nexthop via 198.51.100.2");
        assert_eq!(uplinks(), ["up0", "up1"]);
        ip("route replace default via 192.0.2.2");
        assert_eq!(uplinks(), ["up0"]);
        ip("route add 128.0.0.0/1 via 198.51.100.2");
        ip("route del 17.0.0.1/32");
        ip("route add 0.0.0.0/1 via 198.51.100.2");
        assert_eq!(uplinks(), ["up1"], "a VPN overrides the default route by its two halves");
        ip("route del 0.0.0.0/1");
        ip("route del 128.0.0.0/1");
        ip("route del default");
        assert!(uplinks().is_empty());
    });
}

#[test]
fn interfaces_of_default_routes_are_found_among_many_routes() {
    isolated(|| {
        let found = || {
            let names = Route::open().unwrap().default_interfaces().unwrap();
            names.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found(), [""; 0]);
        veth("up0", "192.0.2.1");
        veth("up1", "198.51.100.1");
        assert_eq!(found(), [""; 0]);
        ip("route add default via 198.51.100.2 metric 700");
        ip("route add default via 192.0.2.3 table 77");
        assert_eq!(found(), ["up1"]);
        for number in 0..250 {
            ip(&format!("route add 11.0.{number}.0/24 via 192.0.2.2"));
        }
        ip("route add default via 192.0.2.2 metric 800");
        assert_eq!(found(), ["up0", "up1"]);
        ip("route del default metric 700");
        assert_eq!(found(), ["up0"]);
    });
}

#[test]
fn a_default_route_that_leads_nowhere_has_no_uplink() {
    isolated(|| {
        for kind in ["unreachable", "blackhole", "prohibit"] {
            ip(&format!("route add {kind} default"));
            assert!(uplinks().is_empty(), "{kind}");
            ip(&format!("route del {kind} default"));
        }
        veth("rik7", "192.0.2.1");
        ip("route add default via 192.0.2.2");
        assert!(uplinks().is_empty(), "an interface of ours");
    });
}

#[test]
fn answer_path_follows_rules_by_source() {
    isolated(|| {
        veth("up0", "192.0.2.1");
        veth("up1", "198.51.100.1");
        ip("route add default via 192.0.2.2");
        ip("route add default via 198.51.100.2 table 70000");
        let path = |from: &str| {
            let path = Route::open().unwrap().answer_path(from.parse().unwrap()).unwrap();
            path.map(|path| format!("{} {}", path.uplink, path.table))
        };
        assert_eq!(path("198.51.100.1/32").as_deref(), Some("up0 254"));
        ip("rule add from 198.51.100.0/24 lookup 70000");
        for from in ["198.51.100.1/32", "198.51.100.0/24"] {
            assert_eq!(path(from).as_deref(), Some("up1 70000"), "{from}");
        }
        for from in ["198.51.100.9/32", "203.0.113.0/24"] {
            assert_eq!(path(from), None, "{from} is not ours");
        }
        ip("route flush table 70000");
        ip("route add prohibit default table 70000");
        assert_eq!(path("198.51.100.1/32"), None, "answers go nowhere");
    });
}

#[test]
fn uplinks_are_found_behind_nexthop_objects_and_routing_rules() {
    isolated(|| {
        veth("up0", "192.0.2.1");
        veth("up1", "198.51.100.1");
        ip("nexthop add id 1 via 192.0.2.2 dev up0");
        ip("route add default nhid 1");
        assert_eq!(uplinks(), ["up0"]);
        crate::linux::sysctl::set("net.ipv4.nexthop_compat_mode", "0").unwrap();
        assert_eq!(uplinks(), ["up0"]);
        ip("route add default via 198.51.100.2 table 100");
        ip("rule add pref 100 lookup 100");
        assert_eq!(uplinks(), ["up1"]);
    });
}

#[test]
fn the_route_that_a_packet_takes_is_asked() {
    isolated(|| {
        veth("up0", "192.0.2.1");
        let mut route = Route::open().unwrap();
        let mut asked =
            |to: &str| route.route_to(to.parse().unwrap()).unwrap().map(|route| route.to_string());
        assert_eq!(asked("10.231.0.2"), None);
        ip("route add default via 192.0.2.2");
        ip("route add 10.231.7.0/24 via 192.0.2.2");
        ip("route add blackhole 10.232.0.0/16");
        ip("route add 10.233.0.0/16 via 192.0.2.2 table 100");
        assert_eq!(asked("10.231.0.2").as_deref(), Some("0.0.0.0/0 by up0"));
        assert_eq!(asked("10.231.7.2").as_deref(), Some("10.231.7.0/24 by up0"));
        assert_eq!(asked("10.232.0.2"), None, "nobody is there");
        assert_eq!(asked("10.233.0.2").as_deref(), Some("0.0.0.0/0 by up0"), "no rule leads there");
        ip("rule add to 10.0.0.0/8 lookup 100");
        assert_eq!(asked("10.233.0.2").as_deref(), Some("10.233.0.0/16 by up0"));
    });
}

#[test]
fn routes_of_all_tables_are_listed() {
    isolated(|| {
        let routes = || -> BTreeSet<String> {
            let routes = Route::open().unwrap().routes().unwrap();
            routes.iter().map(|route| route.destination.to_string()).collect()
        };
        let before = routes();
        veth("up0", "192.0.2.1");
        ip("route add default via 192.0.2.2");
        ip("route add blackhole 10.231.0.0/17");
        ip("route add 10.9.0.0/16 via 192.0.2.2 table 100");
        let main = ["0.0.0.0/0", "10.231.0.0/17", "192.0.2.0/24"];
        let others = ["10.9.0.0/16", "192.0.2.1/32", "192.0.2.255/32"];
        let added: BTreeSet<_> = routes().difference(&before).cloned().collect();
        assert_eq!(added, main.into_iter().chain(others).map(str::to_owned).collect());
    });
}

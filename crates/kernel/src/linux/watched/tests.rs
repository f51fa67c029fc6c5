use std::{net::IpAddr, sync::mpsc, thread, time::Duration};

use riklet_testkit::namespace::{ip, isolated, run, run_with};

use super::*;
use crate::{Firewall, ForeignChains, LinkDeletion, OperationScope, OwnChanges, Sysctls};
use riklet_core::{
    firewall::{
        Backend, BaseRuleset, BaseState, Change, Confinement, Entry, FirewallState,
        IptablesVariant, Ruleset,
    },
    link::{LinkSpec, Tap},
    model::{Owner, OwnerId, PortRange, Protocol},
    small::SmallSet,
    switch::IP_FORWARD,
    workload::{NodeFacts, reserved},
};

fn owner() -> Owner {
    Owner::new(OwnerId::new(1), "/run/riklet-sdn")
}

fn spec(number: u16) -> LinkSpec {
    let owner = owner();
    let node = NodeFacts { pool: "10.231.0.0/16".parse().unwrap(), mtu: 1500, owner };
    reserved(Slot::new(number), &node).unwrap().link
}

fn name(number: u16) -> InterfaceName {
    Slot::new(number).interface()
}

fn watched() -> Watched {
    let mut watched = Watched::open(Linux::new()).unwrap();
    watched.links().unwrap();
    watched.changes().unwrap();
    watched
}

#[expect(clippy::disallowed_methods, reason = "between two looks at the condition")]
fn wait_for_carrier(interface: &str) {
    for _ in 0..1000 {
        if ip(&format!("link show {interface}")).contains("state UP") {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{interface} has no carrier after 10 s");
}

fn slots(watched: &mut Watched) -> Vec<u16> {
    watched.changes().unwrap().links.into_iter().map(Slot::number).collect()
}

/// Asserts that the mirror equals the kernel.
#[track_caller]
fn assert_mirrors(watched: &mut Watched, after: &str) {
    let by_name = |links: Vec<LinkState>| -> BTreeMap<InterfaceName, LinkState> {
        links.into_iter().map(|link| (link.name.clone(), link)).collect()
    };
    let (found, wanted) = (watched.links().unwrap(), Linux::new().links().unwrap());
    assert_eq!(by_name(found), by_name(wanted), "after {after}");
}

fn base_ruleset() -> BaseRuleset {
    let pool = "10.231.0.0/16".parse().unwrap();
    let (confined, owner) = (Confinement::default(), Some(owner()));
    BaseRuleset {
        pool,
        mtu: 1500,
        uplinks: BTreeSet::new(),
        any_uplink: true,
        marks: riklet_core::routing::UplinkMarks::default(),
        confined,
        owner,
    }
}

fn exposure(port: u16) -> Entry {
    let guest = IpAddr::from([10, 231, 0, 2]);
    Entry::Exposure {
        protocol: Protocol::Tcp,
        host_address: None,
        host_ports: PortRange::single(port).unwrap(),
        guest,
        guest_ports: PortRange::single(80).unwrap(),
    }
}

/// Returns a watched kernel that knows its firewall, which has these ports.
fn with_firewall(ports: &[u16]) -> Watched {
    let mut watched = watched();
    let entries = ports.iter().map(|&port| exposure(port)).collect();
    let ruleset = Ruleset { base_ruleset: base_ruleset(), entries };
    watched.change_firewall(Backend::Nftables, &Change::Reset(ruleset)).unwrap();
    watched.foreign_chains(Backend::Nftables, &BTreeSet::new()).unwrap();
    watched.changes().unwrap();
    watched
}

impl Watched {
    fn knows(&self, ports: &[u16]) -> bool {
        let entries = ports.iter().map(|&port| exposure(port)).collect();
        self.is_known(Backend::Nftables, &base_ruleset(), &entries)
    }
}

#[test]
fn the_mirror_follows_changes_by_any_process() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(3)).unwrap();
        // This interface is created by another socket, as by another process.
        Linux::new().create_link(&spec(5)).unwrap();
        assert_mirrors(&mut watched, "creation");
        assert_eq!(slots(&mut watched), [3, 5]);
        let changes = [
            "link set rik3 alias riklet-sdn:hello",
            "link set rik3 mtu 1400",
            "link set rik3 address 02:00:00:00:00:01",
            "link set rik3 group 7",
            "addr add 192.0.2.1/24 dev rik3",
            "addr del 192.0.2.1/24 dev rik3",
            "addr del 10.231.0.13/30 dev rik3",
            "neigh replace 10.231.0.14 lladdr 06:00:00:00:00:02 dev rik3 nud permanent",
            "neigh del 10.231.0.14 dev rik3",
            "neigh add 10.231.0.14 lladdr 06:00:00:00:00:01 dev rik3 nud permanent",
            "neigh change 10.231.0.14 lladdr 06:00:00:00:00:01 dev rik3 nud stale",
            "link set rik3 down",
            "link set rik3 up",
            "link set rik3 down",
            "link set rik3 name rik9",
            "link set rik9 up",
            "link del rik9",
            "link set rik5 down",
            "link set rik5 name other0",
            "link set other0 name rik6",
            "link del rik6",
        ];
        for change in changes {
            ip(change);
            assert_mirrors(&mut watched, change);
            assert!(!slots(&mut watched).is_empty(), "{change}");
        }
    });
}

#[test]
fn an_operation_sees_the_host_as_at_its_start_and_its_own_changes() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(1)).unwrap();
        watched.create_link(&spec(2)).unwrap();
        let alias = |watched: &mut Watched, number| {
            watched.link(&name(number)).unwrap().and_then(|link| link.alias)
        };
        ip("link set rik1 alias before");
        watched.start_operation().unwrap();
        ip("link set rik1 alias during");
        assert_eq!(alias(&mut watched, 1).as_deref(), Some("before"));
        watched.set_aliases(&[(name(2), "ours".to_owned())].into());
        assert_eq!(alias(&mut watched, 2).as_deref(), Some("ours"));
        assert_eq!(alias(&mut watched, 1).as_deref(), Some("during"), "our change was followed");
        ip("link set rik1 alias later");
        watched.start_operation().unwrap();
        assert_eq!(alias(&mut watched, 1).as_deref(), Some("later"), "another operation");
        ip("link set rik1 alias idle");
        watched.changes().unwrap();
        assert_eq!(alias(&mut watched, 1).as_deref(), Some("idle"), "no operation");
    });
}

#[test]
fn a_recreated_interface_keeps_nothing_of_the_former_one() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(3)).unwrap();
        ip("link del rik3");
        ip("tuntap add rik3 mode tap");
        assert_mirrors(&mut watched, "both in one batch");
        ip("link add rik4 type veth peer name far0");
        ip("addr add 192.0.2.1/24 dev far0");
        ip("link set far0 name rik7");
        assert_mirrors(&mut watched, "a stranger takes our name, and brings its address");
        assert_eq!(watched.link(&name(7)).unwrap().unwrap().addresses.len(), 1);
    });
}

#[test]
fn a_refresh_finds_changes_without_a_notification() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(3)).unwrap();
        watched.changes().unwrap();
        super::super::sysctl::set("net.ipv6.conf.rik3.disable_ipv6", "0").unwrap();
        super::super::sysctl::set("net.ipv4.conf.rik3.route_localnet", "0").unwrap();
        super::super::sysctl::set("net.ipv4.conf.rik3.accept_redirects", "1").unwrap();
        assert_eq!(slots(&mut watched), [0; 0], "nobody is told");
        watched.refresh();
        assert_eq!(slots(&mut watched), [3]);
        assert_mirrors(&mut watched, "a refresh");
        watched.configure_link(&spec(3)).unwrap();
        assert_mirrors(&mut watched, "mending it");
    });
}

#[test]
fn interfaces_are_listed_again_after_lost_notifications() {
    isolated(|| {
        let mut watched = watched();
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&watched.route, 4096).unwrap();
        for number in 0..20 {
            Linux::new().create_link(&spec(number)).unwrap();
        }
        ip("link set rik7 down");
        assert!(watched.changes().unwrap().lost);
        assert_mirrors(&mut watched, "an overflow");
    });
}

#[test]
fn our_own_transactions_keep_the_firewall_known() {
    isolated(|| {
        let mut watched = with_firewall(&[8080]);
        assert!(watched.knows(&[8080]));
        let delta = Change::Delta {
            remove: [exposure(8080)].into(),
            add: [exposure(8081), exposure(8082)].into(),
            owner: Some(owner()),
        };
        watched.change_firewall(Backend::Nftables, &delta).unwrap();
        assert!(watched.knows(&[8081, 8082]) && !watched.knows(&[8080]));
        assert_eq!(watched.changes().unwrap(), Changes::default());
        let remove = [exposure(8080)].into();
        let wrong = Change::Delta { remove, add: [].into(), owner: Some(owner()) };
        watched.change_firewall(Backend::Nftables, &wrong).unwrap_err();
        assert!(!watched.knows(&[8081]), "what was refused is not as believed");
    });
}

#[test]
fn an_entry_that_another_program_changed_is_not_removed() {
    isolated(|| {
        let mut watched = with_firewall(&[8080]);
        let elements = "inet riklet exposures { tcp . 8080";
        run_with("nft", &[&format!("delete element {elements} }}")]);
        run_with("nft", &[&format!("add element {elements} : 10.231.0.6 . 80 }}")]);
        let remove = [exposure(8080)].into();
        let delta = Change::Delta { remove, add: [].into(), owner: Some(owner()) };
        watched.change_firewall(Backend::Nftables, &delta).unwrap_err();
        let listed = run("nft", "list map inet riklet exposures");
        assert!(listed.contains("10.231.0.6 . 80"), "{listed}");
    });
}

#[test]
fn a_foreign_change_of_our_table_is_noticed_with_its_cause() {
    let changes = [
        "flush ruleset",
        "delete table inet riklet",
        "add element inet riklet exposures { tcp . 9000 : 10.231.0.2 . 80 }",
        "delete element inet riklet exposures { tcp . 8080 }",
        "insert rule inet riklet forward drop",
        "flush chain inet riklet RIKLET",
        "add chain inet riklet more",
        "add set inet riklet more { type ipv4_addr ; }",
    ];
    for change in changes {
        isolated(move || {
            let mut watched = with_firewall(&[8080]);
            run("nft", change);
            let found = watched.changes().unwrap();
            assert!(found.firewall, "{change}");
            assert!(found.causes[0].starts_with("nft (pid "), "{:?}", found.causes);
            assert!(!watched.knows(&[]), "{change}");
            let ruleset =
                Ruleset { base_ruleset: base_ruleset(), entries: [exposure(8080)].into() };
            let state = watched.firewall_state(Backend::Nftables, &ruleset).unwrap();
            assert_ne!(state, with_firewall_state(), "{change}");
        });
    }
}

fn with_firewall_state() -> FirewallState {
    let entries = [exposure(8080)].into();
    FirewallState {
        base_ruleset: BaseState::Intact,
        entries,
        strays: vec![],
        marks: [owner().mark()].into(),
    }
}

#[test]
fn changes_of_foreign_tables_do_not_affect_our_firewall() {
    isolated(|| {
        let mut watched = with_firewall(&[8080]);
        for change in [
            "add table ip docker",
            "add chain ip docker nat { type nat hook prerouting priority -100 ; }",
            "add rule ip docker nat tcp dport 80 dnat to 192.0.2.1",
            "flush table ip docker",
        ] {
            run("nft", change);
        }
        let found = watched.changes().unwrap();
        assert!(!found.firewall);
        assert!(watched.firewall.is_some());
        run(
            "nft",
            "add chain ip docker forward { type filter hook forward priority 0 ; policy drop ; }",
        );
        assert!(watched.changes().unwrap().foreign_chains);
        let foreign_chains = watched.foreign_chains(Backend::Nftables, &BTreeSet::new()).unwrap();
        assert_eq!(foreign_chains.len(), 1);
        watched.open_passage(&foreign_chains[0].foreign_chain, &BTreeSet::new()).unwrap();
        assert!(watched.foreign_chains(Backend::Nftables, &BTreeSet::new()).unwrap()[0].open);
        watched.changes().unwrap();
        let open = |watched: &mut Watched| {
            let states = watched.foreign_chains(Backend::Nftables, &BTreeSet::new()).unwrap();
            states[0].open
        };
        run("nft", "insert rule ip docker forward drop");
        assert!(watched.changes().unwrap().foreign_chains, "a rule before ours");
        assert!(!open(&mut watched));
        // A chain that a map leads to also decides about our traffic, and so do the elements of the map.
        let made = "flush chain ip docker forward ; add chain ip docker strict ; \
                    add map ip docker ways { type ifname : verdict ; } ; \
                    add rule ip docker forward oifname vmap @ways ; add rule ip docker forward accept";
        run("nft", made);
        assert!(watched.changes().unwrap().foreign_chains);
        watched.open_passage(&foreign_chains[0].foreign_chain, &BTreeSet::new()).unwrap();
        assert!(open(&mut watched), "nothing drops");
        watched.changes().unwrap();
        run("nft", "add element ip docker ways { \"eth7\" : goto strict }");
        assert!(watched.changes().unwrap().foreign_chains, "an element");
        assert!(open(&mut watched), "for another interface");
        run("nft", "add rule ip docker strict drop");
        assert!(watched.changes().unwrap().foreign_chains, "a rule of a chain that is reached");
        run("nft", "add rule ip docker nat tcp dport 81 dnat to 192.0.2.1");
        assert!(
            !watched.changes().unwrap().foreign_chains,
            "a chain that forwarded packets do not reach"
        );
    });
}

#[test]
fn iptables_changes_are_ours_only_while_we_run_it() {
    isolated(|| {
        let backend = Backend::Iptables(IptablesVariant::Nft);
        let mut watched = watched();
        let ruleset = Ruleset { base_ruleset: base_ruleset(), entries: [exposure(8080)].into() };
        watched.change_firewall(backend, &Change::Reset(ruleset)).unwrap();
        assert!(!watched.changes().unwrap().firewall);
        run("iptables-nft", "-t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE");
        assert!(watched.changes().unwrap().firewall);
        run("iptables-nft", "-t nat -F RIKLET");
        let found = watched.changes().unwrap();
        assert!(found.causes[0].starts_with("iptables"), "{:?}", found.causes);
    });
}

#[test]
fn only_the_default_route_changes_the_uplinks() {
    isolated(|| {
        for (near, address) in [("up0", "192.0.2.1/24"), ("up1", "198.51.100.1/24")] {
            ip(&format!("link add {near} type veth peer name {near}-far"));
            ip(&format!("addr add {address} dev {near}"));
            ip(&format!("link set {near} up"));
            ip(&format!("link set {near}-far up"));
        }
        ip("route add default via 192.0.2.2");
        // The kernel notifies of the carrier a while later.
        ["up0", "up1"].into_iter().for_each(wait_for_carrier);
        let mut watched = watched();
        assert_eq!(watched.uplinks().unwrap(), ["up0".parse().unwrap()].into());
        watched.create_link(&spec(0)).unwrap();
        assert!(watched.uplinks.is_some(), "our route is no default route");
        assert!(!watched.changes().unwrap().uplinks);
        ip("route replace default via 198.51.100.2");
        assert!(watched.changes().unwrap().uplinks);
        assert_eq!(watched.uplinks().unwrap(), ["up1".parse().unwrap()].into());
        ip("link set up1 mtu 1400");
        assert!(watched.changes().unwrap().uplinks);
        assert_eq!(watched.link(&"up1".parse().unwrap()).unwrap().unwrap().mtu, 1400);
        ip("link set up0 mtu 1400");
        assert!(!watched.changes().unwrap().uplinks, "it is none any more");
    });
}

#[test]
fn a_change_of_forwarding_is_noticed() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(0)).unwrap();
        assert_eq!(watched.sysctl(IP_FORWARD).unwrap().as_deref(), Some("0"));
        watched.set_sysctl(IP_FORWARD, "1").unwrap();
        assert_eq!(watched.sysctl(IP_FORWARD).unwrap().as_deref(), Some("1"));
        watched.changes().unwrap();
        super::super::sysctl::set(IP_FORWARD, "0").unwrap();
        assert!(watched.changes().unwrap().forwarding);
        assert_eq!(watched.sysctl(IP_FORWARD).unwrap().as_deref(), Some("0"));
        watched.create_link(&spec(1)).unwrap();
        assert!(!watched.changes().unwrap().forwarding, "that an interface came is nothing of it");
    });
}

#[test]
fn a_change_of_ip_forward_changes_every_interface() {
    isolated(|| {
        let write = super::super::sysctl::set;
        let mut watched = watched();
        watched.create_link(&spec(0)).unwrap();
        watched.create_link(&spec(1)).unwrap();
        watched.changes().unwrap();
        write("net.ipv4.conf.rik1.forwarding", "0").unwrap();
        let changes = watched.changes().unwrap();
        assert_eq!(changes.links, [Slot::new(1)].into());
        assert!(!changes.forwarding, "it is ours");
        assert_mirrors(&mut watched, "the switch of a TAP");
        watched.configure_link(&spec(1)).unwrap();
        assert_mirrors(&mut watched, "its repair");
        watched.changes().unwrap();
        write("net.ipv4.conf.rik1.rp_filter", "0").unwrap();
        let changes = watched.changes().unwrap();
        assert_eq!((changes.links, changes.forwarding), ([Slot::new(1)].into(), false));
        assert_mirrors(&mut watched, "its check of sources");
        write("net.ipv4.conf.rik1.rp_filter", "1").unwrap();
        for value in ["1", "0"] {
            write(IP_FORWARD, value).unwrap();
            assert_mirrors(&mut watched, "the switch of the host");
        }
        let changes = watched.changes().unwrap();
        assert_eq!(changes.links, [Slot::new(0), Slot::new(1)].into());
        assert!(changes.forwarding);
    });
}

#[test]
fn changes_of_foreign_interfaces_are_noticed() {
    isolated(|| {
        let mut watched = watched();
        let switch = "net.ipv4.conf.up0.forwarding";
        assert_eq!(watched.sysctl(switch).unwrap(), None);
        for change in [
            "link add up0 type veth peer name far",
            "addr add 192.0.2.1/24 dev up0",
            "addr del 192.0.2.1/24 dev up0",
            "link del up0",
        ] {
            ip(change);
            let found = watched.host_interfaces().unwrap();
            assert_eq!(found, Linux::new().host_interfaces().unwrap(), "after {change}");
            assert!(watched.changes().unwrap().forwarding, "{change}");
            assert!(!watched.changes().unwrap().forwarding, "once");
            let switch_is_there = watched.sysctl(switch).unwrap().is_some();
            assert_eq!(switch_is_there, change != "link del up0");
        }
        watched.create_link(&spec(0)).unwrap();
        assert!(!watched.changes().unwrap().forwarding, "ours is none of them");
    });
}

#[test]
fn changes_of_an_interface_that_is_down_are_read_from_the_kernel() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(3)).unwrap();
        ip("link set rik3 down");
        assert_mirrors(&mut watched, "down");
        for silent in ["link set rik3 group 9", "link set rik3 alias theirs"] {
            ip(silent);
            assert_mirrors(&mut watched, silent);
        }
        watched.set_owner(&name(3), &Tap { owner: Some(7), ..Tap::default() }).unwrap();
        assert_mirrors(&mut watched, "another owner");
        watched.drain_links(&[(name(3), SmallSet::default())].into()).unwrap();
        assert_mirrors(&mut watched, "drained");
    });
}

#[test]
fn an_mtu_change_that_enables_ipv6_is_noticed() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(3)).unwrap();
        for change in ["link set rik3 mtu 1000", "link set rik3 mtu 1400"] {
            ip(change);
            assert_mirrors(&mut watched, change);
        }
        assert!(watched.link(&name(3)).unwrap().unwrap().ipv6, "which is to be turned off");
    });
}

#[test]
fn two_interfaces_may_swap_names() {
    isolated(|| {
        let mut watched = watched();
        watched.create_link(&spec(1)).unwrap();
        watched.create_link(&spec(2)).unwrap();
        for change in ["rik1 name x", "rik2 name rik1", "x name rik2"] {
            ip(&format!("link set {change}"));
        }
        assert_mirrors(&mut watched, "a swap in one batch");
    });
}

#[test]
fn a_pending_iptables_change_is_not_taken_for_ours() {
    isolated(|| {
        run("iptables-nft", "-P FORWARD DROP");
        let mut watched = with_firewall(&[8080]);
        let foreign_chain = watched
            .foreign_chains(Backend::Nftables, &BTreeSet::new())
            .unwrap()
            .remove(0)
            .foreign_chain;
        watched.open_passage(&foreign_chain, &BTreeSet::new()).unwrap();
        watched.foreign_chains(Backend::Nftables, &BTreeSet::new()).unwrap();
        watched.changes().unwrap();
        run("iptables-nft", "-P FORWARD ACCEPT");
        watched.open_passage(&foreign_chain, &BTreeSet::new()).unwrap();
        assert!(watched.changes().unwrap().foreign_chains);
    });
}

#[test]
fn the_version_of_the_rules_comprises_the_legacy_iptables() {
    isolated(|| {
        let version = || Linux::new().ruleset_version(Backend::Nftables).unwrap().unwrap();
        let before = version();
        assert!(version().follows(&before, OwnChanges::default()));
        run("iptables-legacy", "--wait -P FORWARD DROP");
        assert!(!version().follows(&before, OwnChanges::default()));
        assert_ne!(version().to_string(), before.to_string());
        let before = version();
        run("iptables-legacy", "--wait -t nat -P PREROUTING ACCEPT");
        assert!(
            !version().follows(&before, OwnChanges::default()),
            "a rule there is in no version"
        );
        assert_eq!(Linux::new().translated_ports().unwrap(), None);
        let ours = OwnChanges { legacy: true, ..OwnChanges::default() };
        let before = version();
        run("iptables-legacy", "--wait -t mangle -A FORWARD -j ACCEPT");
        assert!(!version().follows(&before, OwnChanges::default()));
        assert!(version().follows(&before, ours), "our ruleset may be there");
        run("iptables-legacy", "--wait -t filter -A FORWARD -j ACCEPT");
        assert!(!version().follows(&before, ours), "our ruleset is never there");
    });
}

/// The kernel gives the inode of a namespace, and the numbers of its transactions, to a later one as well.
#[test]
fn rules_of_no_two_namespaces_have_the_same_version() {
    let (tell, versions) = mpsc::channel();
    for _ in 0..16 {
        let tell = tell.clone();
        isolated(move || {
            let version = Linux::new().ruleset_version(Backend::Nftables).unwrap();
            tell.send(version.unwrap().to_string()).unwrap();
        });
    }
    drop(tell);
    let versions: BTreeSet<_> = versions.iter().collect();
    assert_eq!(versions.len(), 16, "{versions:?}");
}

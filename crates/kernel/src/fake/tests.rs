//! Tests that every effect has a fault point, and that no observation has one.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Weak,
};

use ipnet::{IpNet, Ipv4Net};

use crate::process::ProcessId;

use super::{FakeKernel, Fault, Stopped, System};
use crate::{
    AccountKind, Conntrack, Firewall, ForeignChains, HostFacts, ImplicitTables, KernelError,
    LinkDeletion, Links, NetworkManagers, OperationScope, Routes, Sysctls,
};
use riklet_core::{
    firewall::{
        Backend, BaseRuleset, Change, Confinement, ForeignChain, ForeignFamily, IptablesVariant,
        Ruleset, iptables::Table,
    },
    flows::Flows,
    link::{DRAINING_GROUP, LinkSpec, Tap},
    manager::ManagerFile,
    model::{
        Account, AccountName, Egress, Family, FlowLimit, InterfaceName, Limits, NamespaceId, Owner,
        OwnerId, Slot,
    },
    routing::{HostRoute, MAIN, NextHop, PROTOCOL, RoutingRule, TABLES, UplinkMarks, UplinkRoute},
    shaping::Shaping,
    small::SmallSet,
    switch::IP_FORWARD,
    workload::{NodeFacts, reserved},
};

const IPTABLES: Backend = Backend::Iptables(IptablesVariant::Nft);

/// The files of the traits.
const TRAITS: [&str; 8] = [
    include_str!("../conntrack.rs"),
    include_str!("../firewall.rs"),
    include_str!("../host.rs"),
    include_str!("../links.rs"),
    include_str!("../operation.rs"),
    include_str!("../managers.rs"),
    include_str!("../routes.rs"),
    include_str!("../sysctls.rs"),
];

type Call = fn(&mut FakeKernel) -> Result<(), KernelError>;

/// All methods that change the system, each with a call that changes something on [`system`].
const EFFECTS: [(&str, Call); 22] = [
    ("create_link", |kernel| kernel.create_link(&spec(9))),
    ("configure_link", |kernel| kernel.configure_link(&LinkSpec { mtu: 1280, ..spec(1) })),
    ("shape", |kernel| {
        let limits: Limits = "100Mbit,1Gbit".parse().unwrap();
        kernel.shape(&LinkSpec { shaping: Shaping::of(limits), ..spec(1) })
    }),
    ("set_aliases", |kernel| {
        let failed = kernel.set_aliases(&[(name(1), "another".to_owned())].into());
        failed.into_values().next().map_or(Ok(()), Err)
    }),
    ("set_owner", |kernel| kernel.set_owner(&name(1), &Tap { owner: Some(7), ..Tap::default() })),
    ("remove_address", |kernel| {
        kernel.remove_address(&name(1), *spec(1).addresses.first().unwrap())
    }),
    ("delete_link", |kernel| kernel.delete_link(&name(1))),
    ("drain_links", |kernel| kernel.drain_links(&[(name(1), SmallSet::default())].into())),
    ("retire_links", |kernel| kernel.retire_links(&[name(1)].into())),
    ("delete_links", |kernel| kernel.delete_links(&[name(2)].into())),
    ("change_firewall", |kernel| {
        kernel.change_firewall(Backend::Nftables, &Change::Reset(ruleset()))
    }),
    ("close_passage", |kernel| kernel.close_passage(&foreign_chain())),
    ("open_passage", |kernel| {
        kernel.open_passage(&ForeignChain::LegacyIptables(Table::Filter), &BTreeSet::new())
    }),
    ("remove_empty_tables", |kernel| kernel.remove_empty_tables(IPTABLES, &BTreeSet::new())),
    ("forget_flows", |kernel| kernel.forget_flows(&[flows()].into())),
    ("write_manager_file", |kernel| kernel.write_manager_file(ManagerFile::NetworkManager, "text")),
    ("remove_manager_file", |kernel| kernel.remove_manager_file(ManagerFile::Networkd)),
    ("add_rule", |kernel| kernel.add_rule(&rule(98))),
    ("remove_rule", |kernel| kernel.remove_rule(&rule(99))),
    ("add_route", |kernel| kernel.add_route(&route(2))),
    ("remove_route", |kernel| kernel.remove_route(&route(1))),
    ("set_sysctl", |kernel| kernel.set_sysctl(IP_FORWARD, "1")),
];

/// All other methods, each with a call.
const OBSERVATIONS: [(&str, Call); 46] = [
    ("link", |kernel| kernel.link(&name(1)).map(drop)),
    ("links", |kernel| kernel.links().map(drop)),
    ("twins", |kernel| kernel.twins().map(drop)),
    ("probe_firewall", |kernel| {
        let base_ruleset = ruleset().base_ruleset;
        kernel.probe_firewall(Backend::Nftables, &base_ruleset, &BTreeSet::new()).map(drop)
    }),
    ("can_refuse", |kernel| kernel.can_refuse(IPTABLES).map(drop)),
    ("can_judge", |kernel| kernel.can_judge(IPTABLES).map(drop)),
    ("ruleset_version", |kernel| kernel.ruleset_version(Backend::Nftables).map(drop)),
    ("firewall_state", |kernel| kernel.firewall_state(Backend::Nftables, &ruleset()).map(drop)),
    ("foreign_chains", |kernel| {
        kernel.foreign_chains(Backend::Nftables, &BTreeSet::new()).map(drop)
    }),
    ("owned_foreign_chains", |kernel| kernel.owned_foreign_chains(&BTreeSet::new()).map(drop)),
    ("deciding_chains", |kernel| kernel.deciding_chains(Family::V4).map(drop)),
    ("drops_around", |kernel| kernel.drops_around(&BTreeSet::new()).map(drop)),
    ("translations", |kernel| kernel.translations(&BTreeSet::new()).map(drop)),
    ("translated_ports", |kernel| kernel.translated_ports().map(drop)),
    ("bans", |kernel| kernel.bans().map(drop)),
    ("port_bans", |kernel| kernel.port_bans(&BTreeSet::new(), &BTreeSet::new()).map(drop)),
    ("passages", |kernel| kernel.passages().map(drop)),
    ("older_tables", |kernel| kernel.older_tables(IPTABLES).map(drop)),
    ("empty_tables", |kernel| kernel.empty_tables(IPTABLES).map(drop)),
    ("sysctl", |kernel| kernel.sysctl(IP_FORWARD).map(drop)),
    ("sysctl_is_writable", |kernel| kernel.sysctl_is_writable(IP_FORWARD).map(drop)),
    ("manager_files", |kernel| kernel.manager_files().map(drop)),
    ("host_interfaces", |kernel| kernel.host_interfaces().map(drop)),
    ("uplinks", |kernel| kernel.uplinks().map(drop)),
    ("default_interfaces", |kernel| kernel.default_interfaces().map(drop)),
    ("routes", |kernel| kernel.routes().map(drop)),
    ("gateways", |kernel| kernel.gateways().map(drop)),
    ("route_to", |kernel| kernel.route_to(Ipv4Addr::LOCALHOST.into()).map(drop)),
    ("is_local", |kernel| kernel.is_local(Ipv4Addr::LOCALHOST.into()).map(drop)),
    ("rules", |kernel| kernel.rules().map(drop)),
    ("answer_path", |kernel| kernel.answer_path(Ipv4Net::default()).map(drop)),
    ("next_hop", |kernel| kernel.next_hop(&name(1)).map(drop)),
    ("uplink_routes", |kernel| kernel.uplink_routes(&[TABLES].into()).map(drop)),
    ("listeners", |kernel| kernel.listeners(&BTreeSet::new()).map(drop)),
    ("listening_ports", |kernel| kernel.listening_ports().map(drop)),
    ("tap_user", |kernel| {
        let _nobody = kernel.tap_user(&name(1), 1);
        Ok(())
    }),
    ("resolvers", |kernel| kernel.resolvers().map(drop)),
    ("peer", |kernel| kernel.peer(&spec(1)).map(drop)),
    ("namespace", |kernel| kernel.namespace(&"/run/netns/web".parse().unwrap()).map(drop)),
    ("account", |kernel| kernel.account(AccountKind::User, &account()).map(drop)),
    ("is_alive", |kernel| kernel.is_alive(ProcessId::current().unwrap()).map(drop)),
    ("iptables", |kernel| kernel.iptables().map(drop)),
    ("start_operation", |kernel| kernel.start_operation()),
    ("host_version", |kernel| kernel.host_version().map(drop)),
    ("abandon_firewall", |kernel| kernel.abandon_firewall()),
    ("share_lock", |kernel| {
        kernel.share_lock(Weak::new());
        Ok(())
    }),
];

fn name(number: u16) -> InterfaceName {
    Slot::new(number).interface()
}

fn owner() -> Owner {
    Owner::new(OwnerId::new(1), "/run/riklet-sdn")
}

fn spec(number: u16) -> LinkSpec {
    let owner = owner();
    let node = NodeFacts {
        pool: "10.231.0.0/16".parse().unwrap(),
        mtu: 1500,
        owner,
        backend: Backend::Nftables,
        policies: true,
    };
    reserved(Slot::new(number), &node).unwrap().link
}

/// Returns a foreign chain that has our passage.
fn foreign_chain() -> ForeignChain {
    let (table, chain) = ("filter".to_owned(), "FORWARD".to_owned());
    ForeignChain::Nftables { family: ForeignFamily::Ip, table, chain }
}

fn account() -> AccountName {
    match "somebody".parse().unwrap() {
        Account::Name(name) => name,
        Account::Id(_) | Account::OfSlot(_) => panic!("it is a name"),
    }
}

fn ruleset() -> Ruleset {
    let pool = "10.231.0.0/16".parse().unwrap();
    let (confined, owner) = (Confinement::default(), Some(owner()));
    let base_ruleset = BaseRuleset {
        pool,
        mtu: 1500,
        uplinks: BTreeSet::new(),
        any_uplink: true,
        egress: Egress::default(),
        flows: FlowLimit::default(),
        marks: UplinkMarks::default(),
        confined,
        owner,
    };
    Ruleset { base_ruleset, entries: BTreeSet::new() }
}

fn rule(priority: u32) -> RoutingRule {
    RoutingRule {
        family: Family::V4,
        priority,
        protocol: PROTOCOL,
        from: None,
        to: Some(Ipv4Net::default().into()),
        mark: None,
        from_host: false,
        narrowed: false,
        prohibits: false,
        table: Some(MAIN),
        suppressed: None,
    }
}

fn route(number: u32) -> UplinkRoute {
    UplinkRoute { table: TABLES | number, uplink: "eth0".parse().unwrap(), hop: NextHop::default() }
}

fn flows() -> Flows {
    Flows::Guest { guest: [10, 231, 0, 2].into() }
}

/// Returns a host on which every effect changes something.
fn system() -> System {
    let mut draining = spec(2).state();
    draining.group = DRAINING_GROUP;
    System {
        links: [spec(1).state(), draining].map(|link| (link.name.clone(), link)).into(),
        foreign_chains: [
            (ForeignChain::LegacyIptables(Table::Filter), false),
            (foreign_chain(), true),
        ]
        .into(),
        namespaces: [("/run/netns/web".parse().unwrap(), NamespaceId::new(7))].into(),
        implicit_tables: ["filter".to_owned()].into(),
        manager_files: [(ManagerFile::Networkd, Some(String::new()))].into(),
        routes: vec![HostRoute { destination: IpNet::default(), interface: None }],
        rules: vec![rule(99)],
        uplink_routes: [route(1)].into(),
        ..System::default()
    }
}

fn kernel() -> FakeKernel {
    let kernel = FakeKernel::new();
    *kernel.system() = system();
    kernel
}

/// Returns the system without its counts.
fn held(kernel: &FakeKernel) -> System {
    let (effects, listings, probes, searches) = (0, 0, 0, 0);
    System { effects, listings, probes, searches, fault: None, ..kernel.system().clone() }
}

#[test]
fn the_tests_cover_every_trait_of_the_kernel() {
    let declared = TRAITS.iter().flat_map(|file| file.lines()).filter_map(|line| {
        line.strip_prefix("pub trait ")?.strip_suffix(": Sealed {").map(str::to_owned)
    });
    let sum = include_str!("../lib.rs").split_once("pub trait Kernel:").unwrap().1;
    let sum = sum.split_once('{').unwrap().0.split('+').map(|name| name.trim().to_owned());
    assert_eq!(declared.collect::<BTreeSet<_>>(), sum.collect());
}

#[test]
fn every_method_of_every_trait_is_an_effect_or_an_observation() {
    let declared = TRAITS.iter().flat_map(|file| file.lines()).filter_map(|line| {
        // `fmt` belongs to an implementation that has the same form.
        let rest = line.strip_prefix("    fn ")?;
        rest.split('(').next().filter(|name| *name != "fmt").map(str::to_owned)
    });
    let declared: BTreeSet<String> = declared.collect();
    let called = EFFECTS.iter().chain(&OBSERVATIONS);
    let called: BTreeSet<String> = called.map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(declared, called);
    assert_eq!(called.len(), EFFECTS.len() + OBSERVATIONS.len(), "one is named twice");
}

#[test]
fn every_effect_changes_something_and_is_counted() {
    for (name, call) in EFFECTS {
        let mut kernel = kernel();
        call(&mut kernel).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_ne!(held(&kernel), system(), "{name}");
        assert_ne!(kernel.system().effects, 0, "{name}");
    }
}

#[test]
fn every_effect_can_be_refused() {
    for (name, call) in EFFECTS {
        let mut kernel = kernel();
        kernel.system().fault = Some((0, Fault::Refuse));
        let refused = call(&mut kernel).expect_err(name);
        assert_eq!(refused.refusal().errno, Some(12), "{name}: ENOMEM");
        assert_eq!(held(&kernel), system(), "{name}");
    }
}

#[test]
fn every_effect_can_stop_the_caller() {
    for (name, call) in EFFECTS {
        let mut kernel = kernel();
        kernel.system().fault = Some((0, Fault::Stop));
        let stopped = catch_unwind(AssertUnwindSafe(|| call(&mut kernel)));
        assert!(stopped.is_err_and(|unwound| unwound.is::<Stopped>()), "{name}");
        assert_eq!(held(&kernel), system(), "{name}");
    }
}

#[test]
fn no_observation_changes_or_counts_as_an_effect() {
    for (name, call) in OBSERVATIONS {
        let mut kernel = kernel();
        kernel.system().fault = Some((0, Fault::Refuse));
        call(&mut kernel).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(held(&kernel), system(), "{name}");
        assert_eq!(kernel.system().effects, 0, "{name}");
    }
}

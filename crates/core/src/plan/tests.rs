mod managers;

use super::{display::list, *};
use crate::{
    firewall::{self, Confinement},
    model::{
        Account, Egress, EgressPolicy, Execution, Exposure, Family, FlowLimit, Function, Kind,
        Limits, OwnerId, PortRange, Protocol, Queues, Workload,
    },
    reach::{self, Block},
    routing::UplinkMarks,
    workload::{self, NodeFacts},
};

const UPLINK: &str = "net.ipv4.conf.eth0.forwarding";

fn confined() -> Confinement {
    let set = |name: &str| BTreeSet::from([name.parse().unwrap()]);
    Confinement::new(set("eth0"), set("lan0"), BTreeSet::new())
}

fn pool() -> Pool {
    "10.231.0.0/16".parse().unwrap()
}

fn owner() -> Owner {
    Owner::new(OwnerId::new(1), "/run/riklet-sdn")
}

fn node() -> NodeFacts {
    NodeFacts {
        pool: pool(),
        mtu: 1500,
        owner: owner(),
        backend: Backend::Nftables,
        policies: true,
    }
}

fn fragment(slot: u16, name: &str, exposures: &[(Protocol, &str, &str)]) -> (Slot, Fragment) {
    let exposure = |&(protocol, host, guest): &(Protocol, &str, &str)| {
        Exposure::new(protocol, None, host.parse().unwrap(), guest.parse().unwrap()).unwrap()
    };
    let function = Function {
        name: name.parse().unwrap(),
        execution: Execution::default(),
        exposures: exposures.iter().map(exposure).collect(),
        egress: None,
        limits: Limits::default(),
    };
    let node = node();
    let slot = Slot::new(slot);
    (slot, workload::fragment(&Workload::Function(function), slot, &node).unwrap())
}

fn desired(fragments: impl IntoIterator<Item = (Slot, Fragment)>) -> Desired {
    Desired {
        draining: BTreeSet::new(),
        leaving: BTreeSet::new(),
        beginning: BTreeSet::new(),
        owner: owner(),
        adoption: Adoption::Nothing,
        deletion: LinkDeletion::Immediate,
        backend: Backend::Nftables,
        pool: pool(),
        fragments: fragments.into_iter().map(|(slot, f)| (slot, Arc::new(f))).collect(),
        unreadable: BTreeMap::new(),
        untouched: BTreeSet::new(),
        interrupted: BTreeSet::new(),
        base_ruleset: Some(BaseRuleset {
            mtu: 1500,
            pool: pool(),
            uplinks: BTreeSet::new(),
            any_uplink: true,
            egress: Egress::default(),
            flows: FlowLimit::default(),
            marks: UplinkMarks::default(),
            confined: confined(),
            owner: Some(owner()),
        }),
        rules: BTreeSet::new(),
        routes: BTreeSet::new(),
        sysctls: BTreeMap::from([(UPLINK.to_owned(), "1".to_owned())]),
        foreign_tables: BTreeSet::new(),
    }
}

fn nothing() -> Observed {
    Observed {
        links: BTreeMap::new(),
        twins: BTreeMap::new(),
        firewall: FirewallState::absent(),
        empty_tables: BTreeSet::new(),
        foreign_chains: vec![],
        manager_files: BTreeMap::new(),
        rules: BTreeSet::new(),
        routes: BTreeSet::new(),
        sysctls: BTreeMap::from([(UPLINK.to_owned(), "0".to_owned())]),
    }
}

/// Returns the state of the kernel after these fragments were brought up.
fn after(desired: &Desired) -> Observed {
    let links = desired.fragments.iter().map(|(slot, fragment)| (*slot, fragment.link.state()));
    let entries = desired.fragments.values().flat_map(|f| &f.entries).copied().collect();
    Observed {
        links: links.collect(),
        twins: BTreeMap::new(),
        firewall: FirewallState {
            base_ruleset: BaseState::Intact,
            entries,
            strays: vec![],
            marks: [owner().mark()].into(),
        },
        empty_tables: BTreeSet::new(),
        foreign_chains: vec![],
        manager_files: BTreeMap::new(),
        rules: desired.rules.clone(),
        routes: desired.routes.clone(),
        sysctls: desired.sysctls.clone(),
    }
}

#[test]
fn the_firewall_is_set_before_forwarding_is_turned_on() {
    let plan =
        plan(&desired([fragment(0, "hello", &[(Protocol::Tcp, "8080", "3000")])]), &nothing());
    insta::assert_snapshot!(plan, @r"
    + TAP rik0: address 10.231.0.1/30, MAC 0a:52:49:4b:00:01, MTU 1500, neighbour 10.231.0.2 at 06:52:49:4b:00:00
    ~ firewall: all of it, guests 10.231.0.0/16, uplinks none, nothing else is forwarded from eth0
    + firewall: tcp 8080 -> 10.231.0.2:3000
    + firewall: hairpin 10.231.0.2
    ~ sysctl net.ipv4.conf.eth0.forwarding = 1
    ");
}

#[test]
fn a_host_as_desired_needs_no_steps() {
    let desired = desired([fragment(0, "hello", &[(Protocol::Tcp, "8080", "3000")])]);
    assert!(plan(&desired, &after(&desired)).is_empty());
}

#[test]
fn a_changed_definition_touches_only_what_changed() {
    let two = [(Protocol::Tcp, "80", "80"), (Protocol::Udp, "53", "53")];
    let before =
        desired([fragment(0, "a", &two), fragment(1, "b", &[(Protocol::Tcp, "81", "81")])]);
    let changed = [(Protocol::Tcp, "80", "80"), (Protocol::Udp, "54", "53")];
    let wanted =
        desired([fragment(0, "a", &changed), fragment(1, "b", &[(Protocol::Tcp, "81", "81")])]);
    insta::assert_snapshot!(plan(&wanted, &after(&before)), @r#"
    ~ interface rik0: alias "riklet-sdn@0000000000000001:a tcp:80:80 udp:54:53 /run/riklet-sdn"
    - firewall: udp 53 -> 10.231.0.2:53
    + firewall: udp 54 -> 10.231.0.2:53
    - flows: udp 53 -> 10.231.0.2:53
    - flows: udp to port 54, untranslated
    "#);
}

#[test]
fn exposures_are_removed_before_their_tap() {
    let before = desired([fragment(0, "a", &[(Protocol::Tcp, "80", "80")])]);
    insta::assert_snapshot!(plan(&desired([]), &after(&before)), @r"
    - firewall: tcp 80 -> 10.231.0.2:80
    - firewall: hairpin 10.231.0.2
    - interface rik0: out of service
    - flows: of guest 10.231.0.2
    - interfaces of draining slots: deleted
    ");
}

#[test]
fn only_a_tap_that_is_open_is_set_down_before_its_deferred_deletion() {
    let before = desired([fragment(0, "a", &[]), fragment(1, "b", &[])]);
    let mut observed = after(&before);
    observed.links.get_mut(&Slot::new(1)).unwrap().open = true;
    let wanted = Desired {
        deletion: LinkDeletion::Deferred,
        leaving: [Slot::new(0), Slot::new(1)].into(),
        ..desired([])
    };
    let steps = plan(&wanted, &observed).steps;
    let [.., Step::RetireLinks(retired), Step::DrainLinks(drained)] = &steps[..] else {
        panic!("{steps:?}")
    };
    assert_eq!(retired, &[Slot::new(0).interface()].into());
    assert!(drained.keys().eq([&Slot::new(1).interface()]));
}

fn passage(drops: bool, open: bool, touched: bool) -> ForeignChainState {
    let (foreign_chain, owned, parts) =
        (ForeignChain::LegacyIptables(firewall::iptables::Table::Filter), false, BTreeSet::new());
    ForeignChainState { foreign_chain, drops, open, touched, owned, parts }
}

#[test]
fn a_passage_is_opened_only_in_a_foreign_chain_that_drops() {
    let wanted = desired([fragment(0, "a", &[])]);
    let step = |state: ForeignChainState| {
        let observed = Observed { foreign_chains: vec![state], ..after(&wanted) };
        plan(&wanted, &observed).to_string().trim_end().to_owned()
    };
    let opened = "+ passage through the foreign chain iptables-legacy filter FORWARD";
    let closed = "- passage through the foreign chain iptables-legacy filter FORWARD";
    assert_eq!(step(passage(true, false, false)), opened);
    assert_eq!(step(passage(true, false, true)), opened);
    assert_eq!(step(passage(false, false, true)), closed);
    for unchanged in [passage(true, true, true), passage(false, true, false)] {
        assert_eq!(step(unchanged), "");
    }
    for (drops, touched) in [(true, false), (true, true), (false, true)] {
        let owned = ForeignChainState { owned: true, ..passage(drops, false, touched) };
        let said = step(owned);
        let steps = said.lines().filter(|line| !line.starts_with("! functions are cut off"));
        assert_eq!(steps.count(), 0, "only its owner can change it: {said}");
    }
}

#[test]
fn a_purge_turns_forwarding_off_before_it_removes_the_firewall() {
    let before = desired([fragment(0, "a", &[])]);
    let mut observed = after(&before);
    observed.foreign_chains = vec![passage(true, true, true)];
    let mut wanted = desired([]);
    wanted.base_ruleset = None;
    wanted.sysctls = BTreeMap::from([(UPLINK.to_owned(), "0".to_owned())]);
    insta::assert_snapshot!(plan(&wanted, &observed), @r"
    - interface rik0: out of service
    ~ sysctl net.ipv4.conf.eth0.forwarding = 0
    - passage through the foreign chain iptables-legacy filter FORWARD
    - firewall: all of it
    - firewall: tables left empty
    - flows: of guest 10.231.0.2
    - interfaces of draining slots: deleted
    ");
}

#[test]
fn a_foreign_interface_blocks_only_its_slot() {
    let wanted = desired([fragment(0, "a", &[]), fragment(1, "b", &[])]);
    let mut observed = after(&wanted);
    observed.links.get_mut(&Slot::new(0)).unwrap().alias = Some("somebody's".to_owned());
    observed.links.remove(&Slot::new(1));
    let plan = plan(&wanted, &observed);
    assert!(matches!(&*plan.steps, [Step::CreateLink(spec)] if spec.name.as_str() == "rik1"));
    assert_eq!(
        plan.blocked.values().map(ToString::to_string).collect::<Vec<_>>(),
        ["the interface rik0 exists and is not ours: its alias is somebody's"]
    );
}

/// Returns the function `a` in slot 0, whose VMM runs as this user and opens this many queues.
fn run_as(user: Option<u32>, queues: i64) -> (Slot, Fragment) {
    let execution = Execution {
        user: user.map(Account::Id),
        queues: Some(Queues::new(queues).unwrap()),
        ..Execution::default()
    };
    let function = Function {
        name: "a".parse().unwrap(),
        execution,
        exposures: vec![],
        egress: None,
        limits: Limits::default(),
    };
    let node = node();
    let slot = Slot::new(0);
    (slot, workload::fragment(&Workload::Function(function), slot, &node).unwrap())
}

#[test]
fn a_tap_gets_its_owner_before_anything_else_changes() {
    let mut observed = after(&desired([run_as(None, 1)]));
    observed.links.get_mut(&Slot::new(0)).unwrap().mtu = 1400;
    insta::assert_snapshot!(plan(&desired([run_as(Some(1000), 1)]), &observed), @r#"
    ~ TAP rik0: owner 1000
    ~ TAP rik0: MTU 1500 instead of 1400
    "#);
}

#[test]
fn a_difference_that_cannot_be_configured_replaces_the_tap() {
    let before = desired([run_as(Some(1000), 1)]);
    insta::assert_snapshot!(plan(&desired([run_as(None, 2)]), &after(&before)), @r#"
    - interface rik0: cannot be changed to several queues
    + TAP rik0: address 10.231.0.1/30, MAC 0a:52:49:4b:00:01, MTU 1500, neighbour 10.231.0.2 at 06:52:49:4b:00:00, several queues
    "#);
}

#[test]
fn an_open_tap_is_not_replaced() {
    let (slot, fragment) = fragment(0, "a", &[(Protocol::Tcp, "80", "80")]);
    let mut observed = after(&desired([(slot, fragment)]));
    observed.links.get_mut(&slot).unwrap().open = true;
    let wanted = desired([run_as(None, 2), self::fragment(1, "b", &[])]);
    insta::assert_snapshot!(plan(&wanted, &observed), @r#"
    + TAP rik1: address 10.231.0.5/30, MAC 0a:52:49:4b:00:01, MTU 1500, neighbour 10.231.0.6 at 06:52:49:4b:00:01
    ! a VMM has the TAP rik0 open, which cannot be changed to several queues
    "#);
}

#[test]
fn a_slot_that_failed_is_left_as_it_is() {
    let before = desired([fragment(0, "a", &[(Protocol::Tcp, "80", "80")])]);
    let mut wanted = desired([fragment(0, "a", &[(Protocol::Tcp, "81", "80")])]);
    wanted.untouched.insert(Slot::new(0));
    let mut observed = after(&before);
    assert!(plan(&wanted, &observed).is_empty());
    observed.firewall.base_ruleset = BaseState::Altered(vec![]);
    let steps = plan(&wanted, &observed).steps;
    let Some(Step::Firewall(_, Change::Reset(ruleset))) = steps.first() else {
        panic!("{steps:?}")
    };
    assert_eq!(ruleset.entries, observed.firewall.entries);
}

#[test]
fn a_purge_removes_empty_tables_that_were_not_there_before() {
    let mut wanted = desired([]);
    wanted.base_ruleset = None;
    wanted.sysctls = BTreeMap::new();
    wanted.foreign_tables = ["nat".to_owned()].into();
    let mut observed = nothing();
    observed.empty_tables = ["nat".to_owned()].into();
    assert!(plan(&wanted, &observed).is_empty());
    observed.empty_tables.insert("filter".to_owned());
    let steps = plan(&wanted, &observed).steps;
    assert_eq!(steps, [Step::RemoveEmptyTables(Backend::Nftables, wanted.foreign_tables)]);
}

#[test]
fn what_a_changed_policy_no_longer_allows_is_forgotten() {
    let with = |allow: &[&str]| {
        let allow = allow.iter().map(|text| text.parse().unwrap()).collect();
        let policy = EgressPolicy::new(Some(Egress::None), allow, vec![]);
        let (slot, mut one) = fragment(0, "a", &[]);
        one.entries = reach::entries(&policy, [10, 231, 0, 2].into());
        one.entries.sort_unstable();
        desired([(slot, one), fragment(1, "b", &[])])
    };
    let before = after(&with(&["0.0.0.0/0/tcp"]));
    let mut wanted = with(&["0.0.0.0/1/tcp"]);
    insta::assert_snapshot!(plan(&wanted, &before), @"
    - firewall: allow 10.231.0.2 -> 0.0.0.0-255.255.255.255/tcp
    + firewall: allow 10.231.0.2 -> 0.0.0.0-127.255.255.255/tcp
    - flows: of guest 10.231.0.2 that its policy refuses
    ");
    let refused = |steps: &[Step], to: &str, protocol| {
        let packet = Block::of_packet(to.parse().unwrap(), protocol, Some(80));
        let sent = Flows::Sent { guest: [10, 231, 0, 2].into(), host: false, to: packet };
        steps.iter().any(|step| match step {
            Step::ForgetFlows(flows) => flows.iter().any(|flows| flows.contains(&sent)),
            _ => false,
        })
    };
    let steps = plan(&wanted, &before).steps;
    assert!(!refused(&steps, "9.9.9.9", 6) && refused(&steps, "9.9.9.9", 17));
    assert!(refused(&steps, "192.0.2.1", 6));
    // It has sent nothing yet.
    wanted.beginning = [Slot::new(0)].into();
    let steps = plan(&wanted, &before).steps;
    assert!(!steps.iter().any(|step| matches!(step, Step::ForgetFlows(_))), "{steps:?}");
    let unchanged = with(&["0.0.0.0/0/tcp"]);
    assert!(plan(&unchanged, &before).is_empty());
}

#[test]
fn the_flows_of_an_interrupted_operation_are_forgotten() {
    let ports = [(Protocol::Tcp, "80", "80"), (Protocol::Udp, "53", "53")];
    let mut wanted = desired([fragment(0, "a", &ports), fragment(1, "b", &[])]);
    let mut observed = after(&wanted);
    wanted.interrupted = [Slot::new(0), Slot::new(5)].into();
    insta::assert_snapshot!(plan(&wanted, &observed), @r"
    - flows: of guest 10.231.0.2
    - flows: udp to port 53, untranslated
    ");
    observed.links.get_mut(&Slot::new(0)).unwrap().alias = None;
    assert!(plan(&wanted, &observed).steps.iter().all(|step| {
        let Step::ForgetFlows(flows) = step else { return true };
        !flows.contains(&Flows::Untranslated {
            family: Family::V4,
            protocol: Protocol::Udp,
            address: None,
            ports: PortRange::single(53).unwrap(),
        })
    }));
}

#[test]
fn an_open_tap_is_deleted_only_with_its_instance_or_a_purge() {
    let before = desired([fragment(0, "a", &[(Protocol::Tcp, "80", "80")])]);
    let mut observed = after(&before);
    observed.links.get_mut(&Slot::new(0)).unwrap().open = true;
    // The instance has no record, and was not taken down.
    insta::assert_snapshot!(plan(&desired([]), &observed), @r#"
    ! a VMM has the TAP rik0 open, and it is no instance's by the records: its alias is riklet-sdn@0000000000000001:a tcp:80:80 /run/riklet-sdn
    "#);
    let mut down = desired([]);
    down.leaving = [Slot::new(0)].into();
    let steps = plan(&down, &observed).steps;
    assert!(steps.contains(&Step::DeleteLinks([Slot::new(0).interface()].into())), "{steps:?}");
    // A purge removes every object of ours, even an open TAP without a record.
    let mut purged = desired([]);
    purged.base_ruleset = None;
    let steps = plan(&purged, &observed).steps;
    assert!(steps.contains(&Step::DeleteLinks([Slot::new(0).interface()].into())), "{steps:?}");
}

#[test]
fn claims_of_other_records_stop_the_whole_plan() {
    let wanted = desired([fragment(0, "a", &[]), fragment(1, "b", &[])]);
    let theirs = Owner::new(OwnerId::new(2), "/run/other");
    let mut observed = after(&wanted);
    observed.links.remove(&Slot::new(1));
    observed.links.get_mut(&Slot::new(0)).unwrap().alias = Some(alias::reserved(&theirs));
    insta::assert_snapshot!(plan(&wanted, &observed), @r"
    ! the interface rik0 belongs to the records in /run/other
    ");
    let mut table = after(&wanted);
    table.firewall.marks = [theirs.mark()].into();
    insta::assert_snapshot!(plan(&wanted, &table), @r"
    ! the nftables table inet riklet belongs to the records in /run/other
    ");
    let mut purged = wanted;
    purged.base_ruleset = None;
    assert_eq!(plan(&purged, &table).steps, []);
}

#[test]
fn an_adopted_open_tap_stays_with_its_instance() {
    let mut wanted = desired([fragment(0, "a", &[])]);
    wanted.adoption = Adoption::All;
    let theirs = Owner::new(OwnerId::new(2), "/run/other");
    let mut observed = after(&wanted);
    let link = observed.links.get_mut(&Slot::new(0)).unwrap();
    link.alias = Some(alias::render(
        &theirs,
        (Kind::Function, &"b".parse().unwrap()),
        (false, Limits::default()),
        None,
        &[],
    ));
    let steps = plan(&wanted, &observed).steps;
    assert!(matches!(&*steps, [Step::SetAlias(..)]), "nobody has it open: {steps:?}");
    observed.links.get_mut(&Slot::new(0)).unwrap().open = true;
    insta::assert_snapshot!(plan(&wanted, &observed), @r"
    ! a VMM has the TAP rik0 open, and it is no instance's by the records: its alias is riklet-sdn@0000000000000002:b /run/other
    ");
    let mut same = desired([fragment(0, "b", &[])]);
    same.adoption = Adoption::All;
    assert!(matches!(&*plan(&same, &observed).steps, [Step::SetAlias(..)]), "its own instance");
}

#[test]
fn an_object_without_an_owner_is_ours_only_by_the_records() {
    let wanted = desired([fragment(0, "a", &[])]);
    let mut observed = after(&wanted);
    observed.links.get_mut(&Slot::new(0)).unwrap().alias = Some("riklet-sdn:a".to_owned());
    observed.firewall.marks = [Mark::Unsigned].into();
    assert!(matches!(&*plan(&wanted, &observed).steps, [Step::SetAlias(..)]));
    // It may belong to any state directory of an earlier version.
    assert!(plan(&desired([]), &observed).is_empty());
    let mut down = desired([]);
    down.leaving = [Slot::new(0)].into();
    assert!(!plan(&down, &observed).steps.is_empty());
}

/// Returns the state of a TAP as version 0.1 made it.
fn former(spec: &LinkSpec, alias: &str) -> LinkState {
    let mac = Slot::of_interface(spec.name.as_str()).map(Slot::former_host_mac);
    LinkState { mac, alias: Some(alias.to_owned()), ..spec.state() }
}

#[test]
fn an_instance_of_an_earlier_version_keeps_its_mac_address() {
    let desired = desired([fragment(5, "a", &[(Protocol::Tcp, "80", "80")])]);
    let mut observed = after(&desired);
    let spec = &desired.fragments[&Slot::new(5)].link;
    let unsigned = former(spec, "riklet-sdn:a tcp:80:80");
    observed.links.insert(Slot::new(5), unsigned.clone());
    // Only its alias differs.
    let found = plan(&desired, &observed);
    assert_eq!(found.steps, [Step::SetAlias(spec.name.clone(), spec.alias.clone())]);
    observed.links.insert(Slot::new(5), former(spec, &spec.alias));
    assert!(plan(&desired, &observed).is_empty());
    // The address also stays if another difference is repaired.
    observed.links.insert(Slot::new(5), LinkState { mtu: 1400, ..former(spec, &spec.alias) });
    let [Step::ConfigureLink(put, differences)] = &plan(&desired, &observed).steps[..] else {
        panic!("one step");
    };
    assert_eq!(Some(put.mac), unsigned.mac);
    assert_eq!(list(differences), "MTU 1500 instead of 1400");
    assert_eq!(LinkSpec { mac: spec.mac, ..put.clone() }, *spec);
}

#[test]
fn a_tap_without_a_former_instance_gets_the_common_mac_address() {
    let desired = desired([fragment(5, "a", &[])]);
    let mut observed = after(&desired);
    let spec = &desired.fragments[&Slot::new(5)].link;
    // TAPs that were made in advance, and one of another instance.
    for alias in ["riklet-sdn:", "riklet-sdn@0000000000000001: /run/riklet-sdn", "riklet-sdn:b"] {
        observed.links.insert(Slot::new(5), former(spec, alias));
        let [Step::ConfigureLink(put, differences)] = &plan(&desired, &observed).steps[..] else {
            panic!("{alias}: one step");
        };
        assert_eq!(put, spec);
        assert!(list(differences).contains("MAC address 0a:52:49:4b:00:01"), "{alias}");
    }
    // No earlier version gave this interface this address.
    let mac = Some(Slot::new(6).former_host_mac());
    observed.links.insert(Slot::new(5), LinkState { mac, ..spec.state() });
    assert!(matches!(&plan(&desired, &observed).steps[..], [Step::ConfigureLink(..)]));
}

//! The firewall in memory: whose changes it follows, and which make it forget.

use super::*;

fn base_ruleset() -> BaseRuleset {
    let pool = "10.231.0.0/16".parse().unwrap();
    let (confined, owner) = (Confinement::default(), Some(owner()));
    BaseRuleset {
        pool,
        mtu: 1500,
        uplinks: BTreeSet::new(),
        any_uplink: true,
        egress: Egress::default(),
        flows: FlowLimit::default(),
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

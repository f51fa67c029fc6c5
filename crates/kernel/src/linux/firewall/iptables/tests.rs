//! Tests on the real kernel, each in a network namespace of its own thread.

mod policies;

use std::{
    ffi::OsStr,
    net::{IpAddr, UdpSocket},
};

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;
use crate::{Firewall, OwnChanges, linux::Linux, process};
use riklet_core::{
    firewall::{Backend, BaseState, Confinement, ForeignChain},
    model::{Egress, FlowLimit, MarkMask, Owner, OwnerId, PortRange, Protocol},
    routing::{UplinkMarks, Way},
};
use riklet_testkit::namespace::{isolated, run};

const VARIANTS: [IptablesVariant; 2] = [IptablesVariant::Nft, IptablesVariant::Legacy];

/// Runs the test in a fresh namespace for each variant.
fn each_variant(test: fn(Host)) {
    for variant in VARIANTS {
        in_namespace(move || test(Host(variant)));
    }
}

fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        #[expect(unsafe_code, reason = "rustix marks every unshare(2) so, for CLONE_FILES")]
        // SAFETY: CLONE_NEWNET shares nothing that memory safety rests on.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("the tests are run as root");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn kernel_says_which_matches_it_has() {
    each_variant(|Host(variant)| {
        // The legacy iptables of a namespace answers once a table is there.
        let has = |of| matches::has(variant, of);
        assert_eq!(has(iptables::SOCKET), Ok(true));
        assert_eq!(has(("socket", 200)), Ok(false), "no such revision");
        assert_eq!(has(("plug", 1)), Ok(false), "no such match");
        assert_eq!(run("iptables-nft-save", ""), "", "nothing is changed");
        assert_eq!(run("iptables-legacy-save", ""), "", "nothing is changed");
    });
}

/// A host without rules, and its variant of iptables.
#[derive(Clone, Copy)]
struct Host(IptablesVariant);

impl Host {
    fn with<T>(self, act: impl FnOnce(&mut Iptables<'_>) -> T) -> T {
        let (launcher, nftables) = (&Launcher::default(), &mut Nftables::default());
        act(&mut Iptables { variant: self.0, launcher, nftables, listed: &mut None })
    }

    fn feed(self, input: &str) {
        program::restore(&Launcher::default(), self.0, input).unwrap();
    }

    fn change(self, change: &Change) -> Result<(), Refusal> {
        self.with(|iptables| iptables.apply(change))
    }

    fn reset(self, ruleset: &Ruleset) {
        self.change(&Change::Reset(ruleset.clone())).unwrap();
    }

    fn delta(self, remove: &[Entry], add: &[Entry]) -> Result<(), Refusal> {
        let (remove, add) = (remove.iter().copied().collect(), add.iter().copied().collect());
        self.change(&Change::Delta { remove, add, owner: Some(owner()) })
    }

    fn probe(self, ruleset: &Ruleset) -> bool {
        self.with(|iptables| iptables.probe(&ruleset.base_ruleset, &ruleset.entries)).unwrap()
    }

    fn state(self, expected: &Ruleset) -> FirewallState {
        self.with(|iptables| iptables.state(expected)).unwrap()
    }

    /// Asserts that the host has exactly this ruleset.
    #[track_caller]
    fn assert_stands(self, expected: &Ruleset) {
        let entries = expected.entries.clone();
        let marks = [owner().mark()].into();
        let base_ruleset = BaseState::Intact;
        let intact = FirewallState { base_ruleset, entries, strays: vec![], marks };
        assert_eq!(self.state(expected), intact, "{:?}", self.0);
        assert!(self.probe(expected), "{:?}", self.0);
    }

    /// Returns the rules of all tables, without comments and counters.
    fn save(self) -> String {
        let output = program::run(&Launcher::default(), self.0, "save", &[], "").unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(" [").next().unwrap().to_owned() + "\n").collect()
    }
}

fn owner() -> Owner {
    Owner::new(OwnerId::new(1), "/run/riklet-sdn")
}

fn exposure(slot: u8, port: u16) -> Entry {
    Entry::Exposure {
        protocol: Protocol::Tcp,
        host_address: None,
        host_ports: PortRange::single(port).unwrap(),
        guest: IpAddr::from([10, 231, 0, slot * 4 + 2]),
        guest_ports: PortRange::single(3000).unwrap(),
    }
}

fn hairpin(slot: u8) -> Entry {
    Entry::Hairpin { guest: IpAddr::from([10, 231, 0, slot * 4 + 2]) }
}

fn ruleset(entries: &[Entry]) -> Ruleset {
    let uplinks = ["eth0", "wlan0"].map(|name| name.try_into().unwrap());
    let pool = "10.231.0.0/16".parse().unwrap();
    let set = |names: [&str; 2]| names.map(|name| name.parse().unwrap()).into();
    let (from, to) = (set(["eth0", "wlan0"]), set(["eth0", "lan0"]));
    let confined = Confinement::new(from, to, ["lan0".parse().unwrap()].into());
    Ruleset {
        base_ruleset: BaseRuleset {
            mtu: 1500,
            pool,
            uplinks: BTreeSet::from(uplinks),
            any_uplink: true,
            egress: Egress::default(),
            flows: FlowLimit::default(),
            marks: UplinkMarks::new(
                MarkMask::default(),
                &[("wlan0".parse().unwrap(), Way::Table(100))].into(),
                None,
            ),
            confined,
            owner: Some(owner()),
        },
        entries: entries.iter().copied().collect(),
    }
}

/// Another program's chains, policies and rules in all three tables.
const FOREIGN: &str = "\
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -i docker0 -j ACCEPT
-A FORWARD -j DROP
COMMIT
*mangle
:FORWARD DROP [0:0]
:OTHER - [0:0]
-A FORWARD -m comment --comment \"to -j RIKLET \\\"x\\\"\" -j OTHER
-A FORWARD -i docker0 -j ACCEPT
-A OTHER -s 192.0.2.0/24 -j RETURN
-A OUTPUT -o eth9 -j ACCEPT
COMMIT
*raw
-A PREROUTING -i eth9 -j ACCEPT
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
";

#[test]
fn a_changed_ruleset_reads_back() {
    each_variant(|host| {
        let bound = Entry::Exposure {
            protocol: Protocol::Sctp,
            host_address: Some(IpAddr::from([192, 0, 2, 1])),
            host_ports: PortRange::single(53).unwrap(),
            guest: IpAddr::from([10, 231, 0, 6]),
            guest_ports: PortRange::single(5353).unwrap(),
        };
        let before = ruleset(&[exposure(0, 8080), hairpin(0)]);
        assert_eq!(host.state(&before).base_ruleset, BaseState::Absent);
        assert!(!host.probe(&before));
        host.reset(&before);
        host.assert_stands(&before);
        host.delta(&[exposure(0, 8080)], &[bound, hairpin(1)]).unwrap();
        host.assert_stands(&ruleset(&[bound, hairpin(0), hairpin(1)]));
        assert!(!host.probe(&before), "an entry is gone");
        host.reset(&ruleset(&[]));
        host.assert_stands(&ruleset(&[]));
    });
}

#[test]
fn a_probe_sees_every_change_of_the_base_ruleset() {
    each_variant(|host| {
        let stands = ruleset(&[]);
        host.reset(&stands);
        let differs = |change: fn(&mut BaseRuleset)| {
            let mut other = stands.clone();
            change(&mut other.base_ruleset);
            assert!(!host.probe(&other));
            assert!(matches!(host.state(&other).base_ruleset, BaseState::Altered(_)));
        };
        differs(|base_ruleset| base_ruleset.confined = Confinement::default());
        differs(|base_ruleset| base_ruleset.pool = "10.232.0.0/16".parse().unwrap());
        differs(|base_ruleset| base_ruleset.uplinks.retain(|name| name.as_str() == "eth0"));
        differs(|base_ruleset| base_ruleset.uplinks.extend("eth1".try_into()));
        differs(|base_ruleset| base_ruleset.any_uplink = false);
        differs(|base_ruleset| base_ruleset.marks = UplinkMarks::default());
    });
}

#[test]
fn a_delta_is_refused_as_a_whole() {
    each_variant(|host| {
        let stands = ruleset(&[exposure(0, 8080), hairpin(0)]);
        let refused = host.delta(&[], &[exposure(1, 9090)]).unwrap_err();
        assert!(!refused.words.is_empty(), "without a base ruleset");
        assert_eq!(host.state(&stands).base_ruleset, BaseState::Absent);

        host.reset(&stands);
        let remove = [exposure(0, 8080), exposure(0, 8081)];
        let refused = host.delta(&remove, &[exposure(1, 9090)]).unwrap_err();
        assert!(refused.words.contains("--dport 8081"), "{refused}");
        host.assert_stands(&stands);

        for table in ["mangle", "raw", "nat"] {
            host.feed(&format!("*{table}\n-F\nCOMMIT\n"));
            host.delta(&[], &[exposure(1, 9090)]).unwrap_err();
            assert!(!host.state(&stands).entries.contains(&exposure(1, 9090)));
            host.reset(&stands);
        }
    });
}

/// A change of few entries is one transaction of nf_tables, by which the next operation tells whether others changed any
/// rule. A refused change is none. The legacy variant makes none, and its version is that of the rules for forwarded
/// packets.
#[test]
fn a_delta_counts_as_one_transaction() {
    each_variant(|host| {
        host.feed(FOREIGN);
        host.reset(&ruleset(&[exposure(1, 80), hairpin(1)]));
        let version = || {
            let transactions = |iptables: &mut Iptables<'_>| -> Result<_, Refusal> {
                iptables.nftables.connection()?.transactions()
            };
            (host.with(transactions).unwrap(), legacy::version().unwrap())
        };
        let ((before, rules), nft) = (version(), host.0 == IptablesVariant::Nft);
        let after = |count: u64| (before + if nft { count } else { 0 }, rules);
        host.delta(&[], &[exposure(2, 81), hairpin(2)]).unwrap();
        assert_eq!(version(), after(1));
        host.delta(&[exposure(2, 81), hairpin(2)], &[exposure(3, 82)]).unwrap();
        assert_eq!(version(), after(2));
        host.delta(&[exposure(2, 81)], &[]).unwrap_err();
        assert!(host.probe(&ruleset(&[exposure(1, 80), exposure(3, 82)])));
        assert_eq!(version(), after(2), "a refused change, and reading");
        host.feed("*mangle\n-A FORWARD -i eth8 -j ACCEPT\nCOMMIT\n");
        assert_ne!(version(), after(2), "a change of others");
    });
}

/// So that the rules of others need not be looked at once more after it.
#[test]
fn a_reset_counts_as_a_transaction_for_each_table() {
    each_variant(|host| {
        let whole = ruleset(&[exposure(1, 80), hairpin(1)]);
        for input in ["", FOREIGN, "*mangle\n-F\nCOMMIT\n", "*raw\n-F\nCOMMIT\n*nat\n-F\nCOMMIT\n"]
        {
            if !input.is_empty() {
                host.feed(input);
            }
            let version = || {
                let mut kernel = Linux::new();
                kernel.ruleset_version(Backend::Iptables(host.0)).unwrap().unwrap()
            };
            let before = version();
            host.reset(&whole);
            let (transactions, legacy) = match host.0 {
                IptablesVariant::Nft => (4, false),
                IptablesVariant::Legacy => (1, true),
            };
            let now = version();
            assert!(now.follows(&before, OwnChanges { transactions, legacy }), "{before} {now}");
        }
    });
}

#[test]
fn chains_of_ours_are_found_among_thousands_of_legacy_rules() {
    isolated(|| {
        let touched = || legacy::touched(&Table::FORWARDING).unwrap();
        let bans =
            (0..2000).map(|n| format!("-A FORWARD -s 203.0.{}.{} -j DROP\n", n / 256, n % 256));
        let comment = "-A OTHER -m comment --comment \"RIKLET-X\" -j RETURN\n";
        let host = Host(IptablesVariant::Legacy);
        host.feed(&format!(
            "*filter\n:OTHER - [0:0]\n{}{comment}COMMIT\n",
            bans.collect::<String>()
        ));
        host.feed("*mangle\n-A FORWARD -j ACCEPT\nCOMMIT\n");
        assert_eq!(touched(), []);
        for (table, chain) in [(Table::Filter, "RIKLET-PASSAGE"), (Table::Mangle, "RIKLET")] {
            host.feed(&format!("*{table}\n:{chain} - [0:0]\nCOMMIT\n"));
            assert_eq!(touched().last(), Some(&ForeignChain::LegacyIptables(table)));
        }
        host.feed("*filter\n-X RIKLET-PASSAGE\nCOMMIT\n");
        assert_eq!(touched(), [ForeignChain::LegacyIptables(Table::Mangle)]);
    });
}

#[test]
fn the_version_of_legacy_rules_changes_with_any_rule_and_not_with_its_counters() {
    isolated(|| {
        let mut versions = vec![legacy::version().unwrap()];
        for change in [
            "-A FORWARD -j ACCEPT",
            "-R FORWARD 1 -j DROP",
            "-P FORWARD DROP",
            "-t mangle -A FORWARD -s 192.0.2.1 -j ACCEPT",
            "-t mangle -R FORWARD 1 -s 192.0.2.2 -j ACCEPT",
            "-t security -A FORWARD -m limit --limit 5/s -j DROP",
            "-t security -R FORWARD 1 -m limit --limit 6/s -j DROP",
        ] {
            run("iptables-legacy", &format!("--wait {change}"));
            versions.push(legacy::version().unwrap());
        }
        let different: BTreeSet<_> = versions.iter().collect();
        assert_eq!(different.len(), versions.len(), "{versions:?}");
        run("iptables-legacy", "--wait -A INPUT -i lo -j ACCEPT");
        let before = legacy::version().unwrap();
        let counted = || run("iptables-legacy", "--wait -v -x -n -L INPUT");
        let listed = counted();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", "127.0.0.1:9").unwrap();
        assert_ne!(counted(), listed);
        assert_eq!(legacy::version().unwrap(), before);
        run("iptables-legacy", "--wait -t nat -P PREROUTING ACCEPT");
        let with_table = legacy::version().unwrap();
        assert_ne!(with_table, before, "from now on there may be rules that translate");
        run("iptables-legacy", "--wait -t nat -A PREROUTING -j ACCEPT");
        assert_eq!(legacy::version().unwrap(), with_table, "such rules have no part in it");
    });
}

#[test]
fn a_duplicate_entry_is_found() {
    each_variant(|host| {
        let stands = ruleset(&[exposure(0, 8080)]);
        host.reset(&stands);
        host.delta(&[], &[exposure(0, 8080)]).unwrap();
        assert_eq!(host.state(&stands).strays.len(), 1);
        host.reset(&stands);
        host.assert_stands(&stands);
    });
}

#[test]
fn drift_is_found_and_mended() {
    const DRIFT: [(&str, &str); 14] = [
        ("*mangle\n-F\nCOMMIT", "missing: -A FORWARD"),
        (
            "*mangle\n-D RIKLET-FORWARD -i rik+ -j RIKLET-REFUSED-EGRESS\nCOMMIT",
            "missing: -A RIKLET-FORWARD",
        ),
        ("*mangle\n-I RIKLET-FORWARD -j ACCEPT\nCOMMIT", "unexpected: -A RIKLET-FORWARD -j ACCEPT"),
        ("*mangle\n-I FORWARD -i lo -j ACCEPT\nCOMMIT", "not first: -A FORWARD"),
        ("*mangle\n-A FORWARD MARK -j RIKLET-FORWARD\nCOMMIT", "2 times: -A FORWARD"),
        ("*mangle\n-A OUTPUT -o rik+ -j RIKLET-FORWARD\nCOMMIT", "unexpected: -A OUTPUT"),
        ("*mangle\n-D FORWARD MARK -j RIKLET-PASSAGE\nCOMMIT", "missing: -A FORWARD"),
        ("*mangle\n-I FORWARD 2 MARK -j RIKLET-PASSAGE\nCOMMIT", "2 times: -A FORWARD"),
        ("*mangle\n-A FORWARD -s 203.0.113.9 -j DROP\nCOMMIT", "not in its place: -A FORWARD"),
        ("*mangle\n-F RIKLET-PASSAGE\nCOMMIT", "missing: -A RIKLET-PASSAGE"),
        (
            "*nat\n-D OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL MARK -j RIKLET\nCOMMIT",
            "missing: -A OUTPUT",
        ),
        (
            "*nat\n-D RIKLET-POSTROUTING 1\n-A RIKLET-POSTROUTING -s 10.231.0.0/16 ! -o rik+ -j MASQUERADE\nCOMMIT",
            "out of order: RIKLET-POSTROUTING",
        ),
        ("*raw\n-F\n-X\nCOMMIT", "no chain RIKLET-RAW"),
        ("*nat\n:RIKLET-OLD - [0:0]\n-A RIKLET-OLD -j RIKLET\nCOMMIT", "unexpected chain"),
    ];
    each_variant(|host| {
        let stands = ruleset(&[exposure(0, 8080), hairpin(0)]);
        host.feed(FOREIGN);
        host.reset(&stands);
        for (drift, words) in DRIFT {
            let mark = format!("-m comment --comment \"riklet-sdn {}\"", owner());
            host.feed(&format!("{}\n", drift.replace("MARK", &mark)));
            let BaseState::Altered(found) = host.state(&stands).base_ruleset else {
                panic!("{:?}: {drift}: not found", host.0)
            };
            assert!(found.iter().any(|line| line.contains(words)), "{drift}: {found:?}");
            host.reset(&stands);
            host.assert_stands(&stands);
        }
        host.feed("*nat\n-A RIKLET -p tcp -j ACCEPT\nCOMMIT\n");
        assert_eq!(host.state(&stands).strays, ["-A RIKLET -p tcp -j ACCEPT"]);
        host.reset(&stands);
        host.assert_stands(&stands);
    });
}

#[test]
fn a_reset_to_the_present_ruleset_moves_no_jump() {
    each_variant(|host| {
        host.feed(FOREIGN);
        host.reset(&ruleset(&[exposure(0, 8080)]));
        let before = host.save();
        host.reset(&ruleset(&[exposure(0, 8080)]));
        assert_eq!(host.save(), before);
    });
}

#[test]
fn removal_restores_the_former_rules() {
    each_variant(|host| {
        host.feed(FOREIGN);
        let before = host.save();
        host.reset(&ruleset(&[exposure(0, 8080), hairpin(0)]));
        host.feed("*mangle\n-A OUTPUT -g RIKLET-FORWARD\nCOMMIT\n");
        assert_ne!(host.save(), before);
        host.change(&Change::Remove).unwrap();
        assert_eq!(host.save(), before);
        host.change(&Change::Remove).unwrap();
        assert_eq!(host.save(), before);
    });
}

#[test]
fn reading_and_removing_create_no_table() {
    each_variant(|host| {
        assert_eq!(host.state(&ruleset(&[])).base_ruleset, BaseState::Absent);
        host.change(&Change::Remove).unwrap();
        assert_eq!(legacy::foreign_chains(&Table::FORWARDING, &BTreeSet::new()).unwrap(), []);
        legacy::set_passage(&Launcher::default(), Table::Filter, Some(&BTreeSet::new())).unwrap();
        assert_eq!(program::legacy_tables().unwrap(), BTreeSet::new());
        let tables = process::run(OsStr::new("nft"), &["list", "tables"], &[]).unwrap();
        assert_eq!(String::from_utf8_lossy(&tables.stdout), "");
    });
}

#[test]
fn an_interface_that_iptables_cannot_name_is_refused() {
    each_variant(|host| {
        let mut ruleset = ruleset(&[]);
        ruleset.base_ruleset.uplinks.insert("eth+".try_into().unwrap());
        let refused = host.change(&Change::Reset(ruleset.clone())).unwrap_err();
        assert!(refused.words.contains("eth+"), "{refused}");
        assert_eq!(host.state(&ruleset).base_ruleset, BaseState::Absent);
    });
}

#[test]
fn the_passages_through_legacy_iptables_open_and_close() {
    for table in Table::FORWARDING {
        in_namespace(move || {
            let legacy = Host(IptablesVariant::Legacy);
            let foreign_chain = || {
                let found = legacy::foreign_chains(&[table], &BTreeSet::new()).unwrap();
                found.into_iter().next().map(|s| (s.foreign_chain, s.open, s.touched))
            };
            let state = |open, touched| Some((ForeignChain::LegacyIptables(table), open, touched));
            let set = |open: Option<&BTreeSet<_>>| {
                legacy::set_passage(&Launcher::default(), table, open).unwrap();
            };
            legacy.feed(&format!("*{table}\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"));
            assert_eq!(foreign_chain(), None, "it stops nothing");
            legacy.feed(FOREIGN);
            legacy
                .feed(&format!("*{table}\n-A FORWARD -m comment --comment end -j DROP\nCOMMIT\n"));
            let before = legacy.save();
            assert_eq!(foreign_chain(), state(false, false));
            set(Some(&BTreeSet::new()));
            assert_eq!(foreign_chain(), state(true, true));
            legacy.feed(&format!("*{table}\n-I FORWARD -j DROP\nCOMMIT\n"));
            assert_eq!(foreign_chain(), state(false, true));
            set(Some(&BTreeSet::new()));
            assert_eq!(foreign_chain(), state(true, true));
            legacy.feed(&format!("*{table}\n-D FORWARD -j DROP\nCOMMIT\n"));
            set(None);
            set(None);
            assert_eq!(legacy.save(), before);
        });
    }
}

#[test]
fn the_variant_is_read_from_the_version() {
    let output = process::run(OsStr::new("iptables"), &["-V"], &[]).unwrap();
    let nft = String::from_utf8_lossy(&output.stdout).contains("nf_tables");
    let expected = if nft { IptablesVariant::Nft } else { IptablesVariant::Legacy };
    assert_eq!(program::variant().unwrap(), Some(expected));
}

#[test]
fn the_variant_is_asked_for_once_for_each_file() {
    let mut known = None;
    let found = known_variant(&mut known).unwrap().expect("iptables is installed");
    let other = match found {
        IptablesVariant::Nft => IptablesVariant::Legacy,
        IptablesVariant::Legacy => IptablesVariant::Nft,
    };
    known = known.map(|(file, _)| (file, other));
    assert_eq!(known_variant(&mut known).unwrap(), Some(other), "it is not asked again");
    known = known.map(|((device, ..), _)| ((device, 0, 0, 0, 0), other));
    assert_eq!(known_variant(&mut known).unwrap(), Some(found), "it is another file");
}

#[test]
fn what_others_change_is_listed_anew() {
    each_variant(|host| {
        let wanted = ruleset(&[exposure(0, 8080)]);
        host.reset(&wanted);
        host.with(|iptables| {
            let intact = |state: &FirewallState| state.base_ruleset == BaseState::Intact;
            assert!(intact(&iptables.state(&wanted).unwrap()), "{:?}", host.0);
            host.feed("*nat\n-F RIKLET\n-D PREROUTING 1\nCOMMIT\n");
            let state = iptables.state(&wanted).unwrap();
            assert!(!intact(&state) && state.entries.is_empty(), "{:?}: {state:?}", host.0);
            iptables.apply(&Change::Reset(wanted.clone())).unwrap();
            assert!(intact(&iptables.state(&wanted).unwrap()), "{:?}", host.0);
        });
    });
}

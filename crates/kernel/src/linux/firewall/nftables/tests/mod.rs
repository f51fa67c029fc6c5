mod foreign;
mod policies;
mod translations;

use std::{ffi::OsStr, net::IpAddr};

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;
use crate::process;
use riklet_core::{
    firewall::{BaseState, Confinement, ForeignFamily},
    model::{Egress, FlowLimit, MarkMask, Owner, OwnerId, PortRange, Protocol, Slot},
    routing::{UplinkMarks, Way},
};

/// Runs a test on a thread of its own, in a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            #[expect(unsafe_code, reason = "a namespace for a test")]
            // SAFETY: no UnshareFlags::FILES.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn run(program: &str, args: &[&str], input: &str) -> Result<String, String> {
    let output = process::run(OsStr::new(program), args, input.as_bytes()).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn nft(commands: &str) -> String {
    run("nft", &["-f", "-"], commands).unwrap()
}

fn iptables(arguments: &str) {
    let args: Vec<_> = arguments.split(' ').collect();
    run("iptables-nft", &args, "").unwrap();
}

/// Returns the output of iptables-save, without counters and the comment with the time.
fn iptables_save() -> String {
    let all = run("iptables-nft-save", &[], "").unwrap();
    let rules = all.lines().filter(|line| !line.starts_with('#'));
    rules.map(|line| line.split(" [").next().unwrap().to_owned() + "\n").collect()
}

fn listing() -> String {
    run("nft", &["list", "ruleset"], "").unwrap()
}

fn exposure(host_port: u16, guest: u8) -> Entry {
    Entry::Exposure {
        protocol: Protocol::Tcp,
        host_address: None,
        host_ports: PortRange::single(host_port).unwrap(),
        guest: IpAddr::from([10, 231, 0, guest]),
        guest_ports: PortRange::single(80).unwrap(),
    }
}

fn bound(host_port: u16) -> Entry {
    Entry::Exposure {
        protocol: Protocol::Udp,
        host_address: Some(IpAddr::from([192, 0, 2, 1])),
        host_ports: PortRange::single(host_port).unwrap(),
        guest: IpAddr::from([10, 231, 0, 6]),
        guest_ports: PortRange::single(53).unwrap(),
    }
}

fn hairpin(guest: u8) -> Entry {
    Entry::Hairpin { guest: IpAddr::from([10, 231, 0, guest]) }
}

fn owner() -> Owner {
    Owner::new(OwnerId::new(1), "/run/riklet-sdn")
}

fn confined() -> Confinement {
    let set = |names: [&str; 2]| names.map(|name| name.parse().unwrap()).into();
    Confinement::new(set(["eth0", "wlan0"]), set(["eth0", "an-interface-15"]), BTreeSet::new())
}

fn base_ruleset() -> BaseRuleset {
    BaseRuleset {
        mtu: 1500,
        pool: "10.231.0.0/16".parse().unwrap(),
        uplinks: ["eth0".parse().unwrap(), "wlan0".parse().unwrap()].into(),
        any_uplink: true,
        egress: Egress::default(),
        flows: FlowLimit::default(),
        marks: UplinkMarks::new(
            MarkMask::default(),
            &[("wlan0".parse().unwrap(), Way::Table(100))].into(),
            None,
        ),
        confined: confined(),
        owner: Some(owner()),
    }
}

fn ruleset(entries: impl IntoIterator<Item = Entry>) -> Ruleset {
    Ruleset { base_ruleset: base_ruleset(), entries: entries.into_iter().collect() }
}

fn delta(remove: &[Entry], add: &[Entry]) -> Change {
    let (remove, add) = (remove.iter().copied().collect(), add.iter().copied().collect());
    Change::Delta { remove, add, owner: Some(owner()) }
}

fn intact(entries: impl IntoIterator<Item = Entry>) -> FirewallState {
    let entries = entries.into_iter().collect();
    let marks = [owner().mark()].into();
    FirewallState { base_ruleset: BaseState::Intact, entries, strays: vec![], marks }
}

#[test]
fn a_ruleset_is_created_changed_and_removed() {
    in_namespace(|| {
        nft("table ip other { chain c { type filter hook forward priority 0; policy accept; }; }");
        let before = run("nft", &["-j", "list", "ruleset"], "").unwrap();
        let mut kernel = Nftables::default();
        let expected = ruleset([exposure(8080, 2), bound(53), hairpin(2)]);
        let absent = kernel.state(&expected).unwrap();
        assert_eq!(absent.base_ruleset, BaseState::Absent);
        assert!(!kernel.probe(&base_ruleset(), &BTreeSet::new()).unwrap());
        kernel.apply(&Change::Remove).unwrap();

        kernel.apply(&Change::Reset(expected.clone())).unwrap();
        assert!(kernel.probe(&base_ruleset(), &expected.entries).unwrap());
        assert!(!kernel.probe(&base_ruleset(), &[exposure(8081, 2)].into()).unwrap());
        assert!(!kernel.probe(&base_ruleset(), &[exposure(8080, 3)].into()).unwrap());
        assert_eq!(kernel.state(&expected).unwrap(), intact(expected.entries.clone()));

        kernel.apply(&delta(&[bound(53), exposure(8080, 2)], &[exposure(8080, 9)])).unwrap();
        let entries = [exposure(8080, 9), hairpin(2)];
        assert!(kernel.probe(&base_ruleset(), &entries.into()).unwrap());
        assert_eq!(kernel.state(&expected).unwrap(), intact(entries));

        let unconfined = BaseRuleset { confined: Confinement::default(), ..base_ruleset() };
        assert!(!kernel.probe(&unconfined, &BTreeSet::new()).unwrap());
        let other = Ruleset { base_ruleset: unconfined.clone(), entries: BTreeSet::new() };
        let state = kernel.state(&other).unwrap();
        assert!(matches!(state.base_ruleset, BaseState::Altered(_)), "{state:?}");
        kernel.apply(&Change::Reset(other.clone())).unwrap();
        assert!(kernel.probe(&unconfined, &BTreeSet::new()).unwrap());
        assert_eq!(kernel.state(&other).unwrap(), intact([]));

        kernel.apply(&Change::Remove).unwrap();
        assert_eq!(run("nft", &["-j", "list", "ruleset"], "").unwrap(), before);
    });
}

#[test]
fn nft_shows_the_table_and_accepts_what_it_shows() {
    in_namespace(|| {
        let mut kernel = Nftables::default();
        let entries = [exposure(8080, 2), bound(53), hairpin(2)];
        let mut expected = ruleset(entries);
        expected.base_ruleset.pool = "10.231.192.0/18".parse().unwrap();
        kernel.apply(&Change::Reset(expected.clone())).unwrap();
        let shown = run("nft", &["list", "table", "inet", "riklet"], "").unwrap();
        assert!(
            shown.contains("ip saddr 10.231.192.0/18 oifname != \"rik*\" masquerade"),
            "{shown}"
        );
        run("nft", &["-f", "-"], &format!("delete table inet riklet\n{shown}")).unwrap();
        assert_eq!(kernel.state(&expected).unwrap(), intact(entries));

        kernel.apply(&Change::Reset(ruleset(entries))).unwrap();
        let shown = run("nft", &["list", "table", "inet", "riklet"], "").unwrap();
        for line in [
            "tcp . 8080 : 10.231.0.2 . 80",
            "192.0.2.1 . udp . 53 : 10.231.0.6 . 53",
            "10.231.0.2 . 10.231.0.2",
            "elements = { \"eth0\",",
            "dnat ip to ip daddr . meta l4proto . th dport map @bound comment",
            "dnat ip to meta l4proto . th dport map @exposures comment",
            "type nat hook prerouting priority dstnat - 1; policy accept;",
            "type nat hook output priority -101; policy accept;",
            "ip daddr != 127.0.0.0/8 fib daddr type local jump RIKLET comment",
            "ip daddr 127.0.0.1 jump RIKLET comment",
            "iifname \"rik*\" ip daddr 127.0.0.0/8 jump refused-loopback comment",
            "iifname \"rik*\" ct state established,related accept comment",
            "iifname \"rik*\" ct status ! confirmed update @rates { ip saddr limit rate over 256/second burst 4096 packets } jump refused-flow-rate",
            "iifname \"rik*\" ct status ! confirmed add @flows { ip saddr ct count over 4096 } jump refused-flows",
            "oifname \"rik*\" ct status dnat accept comment",
            "iifname \"rik*\" ip saddr 10.231.0.0/16 oifname @uplinks udp dport 53 accept comment",
            "iifname \"rik*\" ip saddr 10.231.0.0/16 tcp dport 25 jump refused-mail comment",
            "meta l4proto tcp reject with tcp reset comment",
            "th dport >= 0 return comment",
            "reject with icmpx admin-prohibited comment",
            "iifname \"rik*\" ip saddr vmap @policies comment",
            "iifname \"rik*\" ip saddr vmap @host-policies comment",
            "iifname \"rik*\" ip saddr @reach-none jump refused-default",
            "iifname \"rik*\" ip saddr 10.231.0.0/16 oifname @uplinks ip daddr != 0.0.0.0/8",
            "type filter hook input priority filter - 10; policy accept;",
            "iifname \"rik*\" icmp type echo-request accept comment",
            "iifname \"rik*\" jump refused-host comment \"nothing else to the host\"",
            "update @refused { iif . 0x00000004 counter } update @told { iif limit rate 1/second burst 10 packets } \
             limit rate 20/second burst 100 packets log prefix \"riklet-sdn-mail\" group 21065 snaplen 64 comment",
            "iifname \"rik*\" ip daddr 10.231.0.0/16 ct status ! dnat fib daddr type != local jump refused-guest",
            "jump refuse comment \"refused\"",
            "iifname \"rik*\" ip saddr 10.231.0.0/16 oifname != \"rik*\" ip daddr != 0.0.0.0/8 \
             ip daddr != 10.0.0.0/8 ip daddr != 100.64.0.0/10",
            "ip daddr != 224.0.0.0/3 accept comment",
            "iifname \"wlan0\" oifname \"rik*\" ct status dnat ct mark set ct mark & 0xfffffff9 | 0x00000001",
            "type filter hook prerouting priority mangle; policy accept;",
            "iifname \"rik*\" ct mark & 0x00000007 == 0x00000001 meta mark set meta mark & 0xfffffff9 | 0x00000001",
            "ip saddr . ip daddr @hairpin ct status dnat masquerade comment",
        ] {
            assert!(shown.contains(line), "{line} is not in\n{shown}");
        }
        run("nft", &["-c", "-f", "-"], &shown).unwrap();
        // The table that nft creates from its own listing equals the one that we send.
        run("nft", &["-f", "-"], &format!("delete table inet riklet\n{shown}")).unwrap();
        assert_eq!(kernel.state(&ruleset(entries)).unwrap(), intact(entries));
    });
}

#[test]
fn a_delta_counts_as_one_transaction() {
    in_namespace(|| {
        let mut kernel = Nftables::default();
        kernel.apply(&Change::Reset(ruleset([exposure(1, 80)]))).unwrap();
        let count = |kernel: &mut Nftables| kernel.connection().unwrap().transactions().unwrap();
        let before = count(&mut kernel);
        kernel.apply(&delta(&[exposure(1, 80)], &[exposure(1, 81), exposure(2, 82)])).unwrap();
        kernel.apply(&delta(&[exposure(1, 80)], &[])).unwrap_err();
        assert_eq!(count(&mut kernel), before + 1);
    });
}

#[test]
fn a_delta_is_atomic() {
    in_namespace(|| {
        let mut kernel = Nftables::default();
        let refused = kernel.apply(&delta(&[], &[exposure(1, 2)])).unwrap_err();
        assert_eq!(refused.errno, Some(Refusal::ENOENT), "{refused}");

        let entries = [exposure(8080, 2), hairpin(2)];
        kernel.apply(&Change::Reset(ruleset(entries))).unwrap();
        let taken = delta(&[hairpin(2)], &[exposure(8000, 2), exposure(8080, 3)]);
        let refused = kernel.apply(&taken).unwrap_err();
        assert_eq!(refused.errno, Some(Refusal::EEXIST));
        assert!(refused.words.contains("adding tcp 8080 -> 10.231.0.3:80"), "{refused}");
        assert_eq!(kernel.state(&ruleset([])).unwrap(), intact(entries));

        for missing in [exposure(8081, 2), exposure(8080, 3), hairpin(3)] {
            let refused = kernel.apply(&delta(&[missing], &[exposure(8000, 2)])).unwrap_err();
            assert_eq!(refused.errno, Some(Refusal::ENOENT));
            assert!(refused.words.contains(&format!("removing {missing}")), "{refused}");
            assert_eq!(kernel.state(&ruleset([])).unwrap(), intact(entries));
        }
        // The value of a key can be replaced in one transaction.
        kernel.apply(&delta(&[exposure(8080, 2)], &[exposure(8080, 3)])).unwrap();
        assert_eq!(kernel.state(&ruleset([])).unwrap(), intact([exposure(8080, 3), hairpin(2)]));
    });
}

/// Returns the handle of the rule with this comment, by `nft -a`.
fn handle(comment: &str) -> String {
    let listing = run("nft", &["-a", "list", "table", "inet", "riklet"], "").unwrap();
    let line = listing.lines().find(|line| line.contains(comment)).unwrap();
    line.rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn every_alteration_of_the_base_ruleset_is_seen() {
    in_namespace(|| {
        let mut kernel = Nftables::default();
        let expected = ruleset([exposure(8080, 2)]);
        let forward = "inet riklet forward";
        let commands: [(&str, &dyn Fn() -> String); 14] = [
            ("deleted", &|| {
                format!("delete rule {forward} handle {}", handle("nothing else to guests"))
            }),
            ("appended", &|| format!("add rule {forward} counter accept")),
            ("inserted", &|| format!("insert rule {forward} accept")),
            ("in RIKLET", &|| "insert rule inet riklet RIKLET tcp dport 8080 return".into()),
            ("altered", &|| {
                let rule = "iifname \"rik*\" accept comment \"nothing else from guests\"";
                format!("replace rule {forward} handle {} {rule}", handle("nothing else from"))
            }),
            ("without its comment", &|| {
                let handle = handle("nothing else from");
                format!("replace rule {forward} handle {handle} iifname \"rik*\" drop")
            }),
            ("reordered", &|| {
                let rule = "oifname \"rik*\" drop comment \"nothing else to guests\"";
                let handle = handle("nothing else to guests");
                format!("delete rule {forward} handle {handle}\ninsert rule {forward} {rule}")
            }),
            ("flushed", &|| format!("flush chain {forward}")),
            ("policy", &|| format!("add chain {forward} {{ policy drop; }}")),
            ("chain", &|| "add chain inet riklet foreign".into()),
            ("set", &|| "add set inet riklet foreign { type ipv4_addr; }".into()),
            ("object", &|| "add counter inet riklet foreign".into()),
            ("uplink", &|| "add element inet riklet uplinks { eth9 }".into()),
            ("no uplink", &|| "delete element inet riklet uplinks { eth0 }".into()),
        ];
        for (what, command) in commands {
            kernel.apply(&Change::Reset(expected.clone())).unwrap();
            assert_eq!(kernel.state(&expected).unwrap(), intact(expected.entries.clone()));
            nft(&command());
            let state = kernel.state(&expected).unwrap();
            let BaseState::Altered(lines) = &state.base_ruleset else {
                panic!("{what}: {state:?}")
            };
            assert!(!lines.is_empty() && lines.len() <= 25, "{what}: {lines:#?}");
            assert_eq!(state.entries, expected.entries, "{what}");
        }
        kernel.apply(&Change::Reset(expected.clone())).unwrap();
        nft("add element inet riklet exposures { icmp . 80 : 10.231.0.2 . 80 }
             add element inet riklet hairpin { 10.231.0.2 . 10.231.0.3 }");
        let state = kernel.state(&expected).unwrap();
        assert_eq!(state.base_ruleset, BaseState::Intact);
        assert_eq!(state.entries, expected.entries);
        assert_eq!(state.strays.len(), 2, "{:?}", state.strays);
    });
}

#[test]
fn the_probe_notices_added_and_deleted_rules() {
    in_namespace(|| {
        let mut kernel = Nftables::default();
        for command in [
            "flush chain inet riklet antispoof",
            "add rule inet riklet forward accept",
            "add chain inet riklet forward { policy drop; }",
            "add chain inet riklet foreign",
            "add table inet riklet { flags dormant; }",
        ] {
            kernel.apply(&Change::Reset(ruleset([]))).unwrap();
            assert!(kernel.probe(&base_ruleset(), &BTreeSet::new()).unwrap());
            nft(command);
            assert!(!kernel.probe(&base_ruleset(), &BTreeSet::new()).unwrap(), "{command}");
        }
        // There are more entries than one request asks for.
        let many: BTreeSet<_> = (1..=200).map(|port| exposure(port, 2)).collect();
        kernel.apply(&Change::Reset(ruleset(many.clone()))).unwrap();
        assert!(kernel.probe(&base_ruleset(), &many).unwrap());
        // Another firewall is loaded after ours.
        iptables("-P FORWARD DROP");
        assert!(!kernel.probe(&base_ruleset(), &BTreeSet::new()).unwrap());
        kernel
            .connection()
            .unwrap()
            .set_passage(ForeignFamily::Ip, "filter", Some(&BTreeSet::new()))
            .unwrap();
        assert!(kernel.probe(&base_ruleset(), &BTreeSet::new()).unwrap());
    });
}

#[test]
fn five_thousand_entries_are_written_and_read_back() {
    in_namespace(|| {
        let mut kernel = Nftables::default();
        let pool = base_ruleset().pool;
        let guests =
            (0..2_500).map(|slot| IpAddr::from(pool.addresses(Slot::new(slot)).unwrap().v4.guest));
        let entries: BTreeSet<_> = (1..)
            .zip(guests)
            .flat_map(|(host_port, guest)| {
                let protocol = Protocol::Sctp;
                let host_address = None;
                let (host_ports, guest_ports) =
                    (PortRange::single(host_port).unwrap(), PortRange::single(80).unwrap());
                [
                    Entry::Exposure { protocol, host_address, host_ports, guest, guest_ports },
                    Entry::Hairpin { guest },
                ]
            })
            .collect();
        assert_eq!(entries.len(), 5_000);
        let expected = ruleset(entries.clone());
        kernel.apply(&Change::Reset(expected.clone())).unwrap();
        assert_eq!(kernel.state(&expected).unwrap(), intact(entries.clone()));
        assert!(kernel.probe(&base_ruleset(), &entries).unwrap());
        // All entries are added and removed in one delta, which has a message for each entry.
        let all: Vec<_> = entries.iter().copied().collect();
        kernel.apply(&delta(&all, &[])).unwrap();
        kernel.apply(&delta(&[], &all)).unwrap();
        assert_eq!(kernel.state(&expected).unwrap(), intact(entries));
    });
}

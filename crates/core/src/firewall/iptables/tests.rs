mod passages;
mod state;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use super::*;
use crate::{
    firewall::Confinement,
    model::{Egress, FlowLimit, Ipv6Unsupported, OwnerId, PortRange, Protocol},
    routing::{UplinkMarks, Way},
};

fn exposure(protocol: Protocol, address: Option<[u8; 4]>, port: u16) -> Entry {
    Entry::Exposure {
        protocol,
        host_address: address.map(IpAddr::from),
        host_ports: PortRange::single(port).unwrap(),
        guest: GUEST,
        guest_ports: PortRange::single(3000).unwrap(),
    }
}

const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 231, 0, 2));
const HAIRPIN: Entry = Entry::Hairpin { guest: GUEST };

fn ruleset(uplinks: &[&str], to: &[&str]) -> Ruleset {
    let set = |names: &[&str]| names.iter().map(|&name| name.try_into().unwrap()).collect();
    let confined = Confinement::new(set(uplinks), set(to), set(&["lan0"]));
    let uplinks = set(uplinks);
    Ruleset {
        base_ruleset: BaseRuleset {
            mtu: 1500,
            pool: "10.231.0.0/16".parse().unwrap(),
            uplinks,
            any_uplink: true,
            egress: Egress::default(),
            flows: FlowLimit::default(),
            marks: UplinkMarks::default(),
            confined,
            owner: None,
        },
        entries: BTreeSet::from([
            exposure(Protocol::Tcp, None, 8080),
            exposure(Protocol::Udp, Some([192, 0, 2, 1]), 53),
            exposure(Protocol::Sctp, None, 53),
            HAIRPIN,
            Entry::Judged { guest: GUEST },
        ]),
    }
}

/// Returns the output that `iptables-save` would print after a reset.
fn stands(ruleset: &Ruleset) -> String {
    let input = reset(ruleset, &Saved::default()).unwrap();
    let base = ":PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n";
    let lines = input.lines().map(|line| match line.strip_prefix("-I ") {
        Some(jump) => format!("-A {}\n", jump.replace("PUT 2 ", "PUT ").replace("ING 2 ", "ING ")),
        None if line.starts_with('*') => format!("{line}\n{base}"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

/// Returns the input without the chains that refuse.
fn without_refusals(input: &str) -> String {
    let is_other = |line: &&str| !is_of_refusals(line);
    input.lines().filter(is_other).flat_map(|line| [line, "\n"]).collect()
}

fn is_of_refusals(line: &str) -> bool {
    [":RIKLET-REFUSED-", "-A RIKLET-REFUSED-"].iter().any(|start| line.starts_with(start))
}

#[test]
fn a_chain_that_refuses_tells_of_some_packets_and_drops_all() {
    let input = reset(&ruleset(&["eth0"], &[]), &Saved::default()).unwrap();
    let chains = ["SPOOFED", "MAIL", "GUEST"].map(|name| format!("RIKLET-REFUSED-{name}"));
    let of_chains =
        |line: &&str| is_of_refusals(line) && chains.iter().any(|chain| line.contains(chain));
    let lines: Vec<_> = input.lines().filter(of_chains).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    :RIKLET-REFUSED-SPOOFED - [0:0]
    :RIKLET-REFUSED-GUEST - [0:0]
    :RIKLET-REFUSED-MAIL - [0:0]
    -A RIKLET-REFUSED-SPOOFED -m limit --limit 20/sec --limit-burst 100 -j NFLOG --nflog-prefix riklet-sdn-spoofed --nflog-group 21065
    -A RIKLET-REFUSED-SPOOFED -j DROP
    -A RIKLET-REFUSED-GUEST -m hashlimit --hashlimit-upto 1/sec --hashlimit-burst 10 --hashlimit-mode srcip --hashlimit-name riklet-told --hashlimit-htable-expire 60000 -m limit --limit 20/sec --limit-burst 100 -j NFLOG --nflog-prefix riklet-sdn-guest --nflog-group 21065
    -A RIKLET-REFUSED-MAIL -m hashlimit --hashlimit-upto 1/sec --hashlimit-burst 10 --hashlimit-mode srcip --hashlimit-name riklet-told --hashlimit-htable-expire 60000 -m limit --limit 20/sec --limit-burst 100 -j NFLOG --nflog-prefix riklet-sdn-mail --nflog-group 21065
    -A RIKLET-REFUSED-MAIL -j DROP
    :RIKLET-REFUSED-SPOOFED - [0:0]
    -A RIKLET-REFUSED-SPOOFED -m limit --limit 20/sec --limit-burst 100 -j NFLOG --nflog-prefix riklet-sdn-spoofed --nflog-group 21065
    -A RIKLET-REFUSED-SPOOFED -j DROP
    ");
}

#[test]
#[expect(clippy::too_many_lines, reason = "the whole ruleset is long")]
fn a_reset_writes_the_whole_ruleset() {
    let input = reset(&ruleset(&["eth0", "eth1"], &["eth0", "lan0"]), &Saved::default()).unwrap();
    insta::assert_snapshot!(without_refusals(&input), @r"
    *mangle
    :RIKLET-FORWARD - [0:0]
    :RIKLET-LAST - [0:0]
    :RIKLET-PREROUTING - [0:0]
    :RIKLET-INPUT - [0:0]
    :RIKLET-POLICY - [0:0]
    :RIKLET-CONFINE - [0:0]
    -A RIKLET-FORWARD -i rik+ -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
    -A RIKLET-FORWARD -o rik+ -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
    -A RIKLET-FORWARD -i rik+ -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
    -A RIKLET-FORWARD -o rik+ -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
    -A RIKLET-FORWARD -o rik+ -m conntrack --ctstate DNAT -j RETURN
    -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ -m mark --mark 0x40/0x40 -m conntrack --ctstate DNAT -j RETURN
    -A RIKLET-FORWARD -i rik+ -o rik+ -j DROP
    -A RIKLET-FORWARD -i rik+ -m mark --mark 0x8/0x8 -j RETURN
    -A RIKLET-FORWARD -i rik+ -j RIKLET-POLICY
    -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ -o eth0 -p udp -m udp --dport 53 -j RETURN
    -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ -o eth1 -p udp -m udp --dport 53 -j RETURN
    -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ -o eth0 -p tcp -m tcp --dport 53 -j RETURN
    -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ -o eth1 -p tcp -m tcp --dport 53 -j RETURN
    -A RIKLET-FORWARD -i rik+ -p tcp -m tcp --dport 25 -j RIKLET-REFUSED-MAIL
    -A RIKLET-FORWARD -d 0.0.0.0/8 -i rik+ -j RIKLET-REFUSED-EGRESS
    -A RIKLET-FORWARD -d 10.0.0.0/8 -i rik+ -j RIKLET-REFUSED-EGRESS
    -A RIKLET-FORWARD -d 100.64.0.0/10 -i rik+ -j RIKLET-REFUSED-EGRESS
    -A RIKLET-FORWARD -d 127.0.0.0/8 -i rik+ -j RIKLET-REFUSED-EGRESS
    -A RIKLET-FORWARD -d 169.254.0.0/16 -i rik+ -j RIKLET-REFUSED-EGRESS
    -A RIKLET-FORWARD -d 172.16.0.0/12 -i rik+ -j RIKLET-REFUSED-EGRESS
    -A RIKLET-FORWARD -d 192.168.0.0/16 -i rik+ -j RIKLET-REFUSED-EGRESS
    -A RIKLET-FORWARD -d 224.0.0.0/3 -i rik+ -j RIKLET-REFUSED-EGRESS
    -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ -o eth0 -j RETURN
    -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ -o eth1 -j RETURN
    -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ ! -o rik+ -j RETURN
    -A RIKLET-FORWARD -i rik+ -j RIKLET-REFUSED-EGRESS
    -A RIKLET-FORWARD -o rik+ -j DROP
    -A RIKLET-FORWARD -i eth0 -j RIKLET-CONFINE
    -A RIKLET-FORWARD -i eth1 -j RIKLET-CONFINE
    -A RIKLET-LAST -i rik+ -j RIKLET-FORWARD
    -A RIKLET-LAST -o rik+ -m addrtype ! --src-type LOCAL -j RIKLET-FORWARD
    -A RIKLET-PREROUTING ! -s 10.231.0.0/16 -j RIKLET-REFUSED-SPOOFED
    -A RIKLET-PREROUTING -d 127.0.0.0/8 -j RIKLET-REFUSED-LOOPBACK
    -A RIKLET-PREROUTING -d 224.0.0.0/3 -j RIKLET-REFUSED-MULTICAST
    -A RIKLET-PREROUTING -m addrtype --dst-type BROADCAST -j RIKLET-REFUSED-BROADCAST
    -A RIKLET-PREROUTING -m addrtype --dst-type LOCAL -j MARK --set-xmark 0x40/0x40
    -A RIKLET-PREROUTING -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1460
    -A RIKLET-PREROUTING -m conntrack --ctstate INVALID -j RIKLET-REFUSED-INVALID
    -A RIKLET-PREROUTING -m conntrack ! --ctstatus CONFIRMED -m hashlimit --hashlimit-above 256/sec --hashlimit-burst 4096 --hashlimit-mode srcip --hashlimit-name riklet-256-4096 --hashlimit-htable-expire 60000 -j RIKLET-REFUSED-FLOW-RATE
    -A RIKLET-PREROUTING -m conntrack ! --ctstatus CONFIRMED -m connlimit --connlimit-above 4096 --connlimit-mask 32 --connlimit-saddr -j RIKLET-REFUSED-FLOWS
    -A RIKLET-PREROUTING -m addrtype --dst-type LOCAL -j CONNMARK --set-xmark 0x40/0x40
    -A RIKLET-PREROUTING -d 10.231.0.0/16 -m conntrack --ctstate DNAT -j MARK --set-xmark 0x40/0x40
    -A RIKLET-PREROUTING -d 10.231.0.0/16 -m conntrack ! --ctstate DNAT -m addrtype ! --dst-type LOCAL -j RIKLET-REFUSED-GUEST
    -A RIKLET-CONFINE -o eth0 -j DROP
    -A RIKLET-CONFINE ! -i lan0 -o lan0 -j DROP
    -A RIKLET-INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
    -A RIKLET-INPUT -m conntrack --ctstate DNAT -j RETURN
    -A RIKLET-INPUT -m mark --mark 0x8/0x8 -j RETURN
    -A RIKLET-INPUT -j RIKLET-POLICY
    -A RIKLET-INPUT -p icmp -m icmp --icmp-type 8 -j RETURN
    -A RIKLET-INPUT -p udp -m udp --dport 53 -j RETURN
    -A RIKLET-INPUT -p tcp -m tcp --dport 53 -j RETURN
    -A RIKLET-INPUT -p tcp -m socket --nowildcard -j RIKLET-REFUSED-HOST
    -A RIKLET-INPUT -p udp -m socket --nowildcard -j RIKLET-REFUSED-HOST
    -A RIKLET-INPUT -p tcp -j RETURN
    -A RIKLET-INPUT -p udp -j RETURN
    -A RIKLET-INPUT -j RIKLET-REFUSED-HOST
    -A RIKLET-POLICY -s 10.231.0.2/32 -j DROP
    -I INPUT -i rik+ -j RIKLET-INPUT
    -I FORWARD -j RIKLET-FORWARD
    -I POSTROUTING -j RIKLET-LAST
    -I PREROUTING -i rik+ -j RIKLET-PREROUTING
    COMMIT
    *raw
    :RIKLET-RAW - [0:0]
    -A RIKLET-RAW -s 10.231.0.0/16 ! -i rik+ -j DROP
    -A RIKLET-RAW ! -i rik+ -j RETURN
    -A RIKLET-RAW ! -s 10.231.0.0/16 -j RIKLET-REFUSED-SPOOFED
    -A RIKLET-RAW -d 127.0.0.0/8 -j RIKLET-REFUSED-LOOPBACK
    -A RIKLET-RAW -d 224.0.0.0/3 -j RIKLET-REFUSED-MULTICAST
    -A RIKLET-RAW -m addrtype --dst-type BROADCAST -j RIKLET-REFUSED-BROADCAST
    -A RIKLET-RAW -m addrtype --dst-type LOCAL -j MARK --set-xmark 0x40/0x40
    -A RIKLET-RAW -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1460
    -I PREROUTING ! -i lo -j RIKLET-RAW
    COMMIT
    *nat
    :RIKLET - [0:0]
    :RIKLET-POSTROUTING - [0:0]
    :RIKLET-HAIRPIN - [0:0]
    -A RIKLET-POSTROUTING -s 10.231.0.0/16 ! -o rik+ -j MASQUERADE
    -A RIKLET-POSTROUTING -s 127.0.0.0/8 -o rik+ -j MASQUERADE
    -A RIKLET-POSTROUTING -j RIKLET-HAIRPIN
    -A RIKLET -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.231.0.2:3000
    -A RIKLET -d 192.0.2.1/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.231.0.2:3000
    -A RIKLET -p sctp -m sctp --dport 53 -j DNAT --to-destination 10.231.0.2:3000
    -A RIKLET-HAIRPIN -s 10.231.0.2/32 -d 10.231.0.2/32 -j MASQUERADE
    -I PREROUTING ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j RIKLET
    -I OUTPUT -d 127.0.0.1/32 -j RIKLET
    -I OUTPUT 2 ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j RIKLET
    -I POSTROUTING -j RIKLET-POSTROUTING
    COMMIT
    ");
}

#[test]
fn answers_are_marked_where_an_uplink_has_a_mark() {
    let mut ruleset = ruleset(&["eth0"], &[]);
    let way = |name: &str, table| (name.parse().unwrap(), Way::Table(table));
    let ways = [way("eth1", 100), way("wwan0", 101)].into();
    ruleset.base_ruleset.marks = UplinkMarks::new("0xff00".parse().unwrap(), &ways, None);
    let input = reset(&ruleset, &Saved::default()).unwrap();
    let marks = input.lines().filter(|line| line.contains("MARK"));
    insta::assert_snapshot!(marks.collect::<Vec<_>>().join("\n"), @r"
    :RIKLET-MARK - [0:0]
    -A RIKLET-FORWARD -i eth1 -o rik+ -m conntrack --ctstate DNAT -j CONNMARK --set-xmark 0x100/0x700
    -A RIKLET-FORWARD -i wwan0 -o rik+ -m conntrack --ctstate DNAT -j CONNMARK --set-xmark 0x200/0x700
    -A RIKLET-PREROUTING -m addrtype --dst-type LOCAL -j MARK --set-xmark 0x4000/0x4000
    -A RIKLET-PREROUTING -m addrtype --dst-type LOCAL -j CONNMARK --set-xmark 0x4000/0x4000
    -A RIKLET-PREROUTING -d 10.231.0.0/16 -m conntrack --ctstate DNAT -j MARK --set-xmark 0x4000/0x4000
    -A RIKLET-MARK -m connmark --mark 0x100/0x700 -j MARK --set-xmark 0x100/0x700
    -A RIKLET-MARK -m connmark --mark 0x200/0x700 -j MARK --set-xmark 0x200/0x700
    -I PREROUTING 2 -i rik+ -j RIKLET-MARK
    -A RIKLET-RAW -m addrtype --dst-type LOCAL -j MARK --set-xmark 0x4000/0x4000
    ");
    let text = stands(&ruleset);
    assert_eq!(state(&ruleset, &Saved::parse([], &text).unwrap()).base_ruleset, BaseState::Intact);
    ruleset.base_ruleset.marks = UplinkMarks::default();
    let back = reset(&ruleset, &Saved::parse([], &text).unwrap()).unwrap();
    assert!(back.contains("-X RIKLET-MARK"), "{back}");
}

#[test]
fn a_delta_checks_removes_and_adds() {
    let remove = BTreeSet::from([exposure(Protocol::Tcp, None, 8080)]);
    let input = delta(&remove, &BTreeSet::from([HAIRPIN]), None).unwrap();
    insta::assert_snapshot!(input, @r"
    *mangle
    -C INPUT -i rik+ -j RIKLET-INPUT
    -C FORWARD -j RIKLET-FORWARD
    -C POSTROUTING -j RIKLET-LAST
    -C PREROUTING -i rik+ -j RIKLET-PREROUTING
    COMMIT
    *raw
    -C PREROUTING ! -i lo -j RIKLET-RAW
    COMMIT
    *nat
    -C POSTROUTING -j RIKLET-POSTROUTING
    -D RIKLET -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.231.0.2:3000
    -A RIKLET-HAIRPIN -s 10.231.0.2/32 -d 10.231.0.2/32 -j MASQUERADE
    COMMIT
    ");
}

const FOREIGN: &str = r#"# Generated by iptables-save
*mangle
:INPUT ACCEPT [0:0]
:FORWARD DROP [7:420]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:RIKLET-FORWARD - [0:0]
:RIKLET-OLD - [0:0]
-A INPUT -m comment --comment "not \" -j RIKLET-FORWARD" -j ACCEPT
-A INPUT -j RIKLET-OLD
-A FORWARD -j DOCKER-USER
-A FORWARD -j RIKLET-FORWARD
-A FORWARD -m comment --comment "by hand" -g RIKLET-FORWARD
-A RIKLET-FORWARD -i rik+ -j DROP
COMMIT
# Completed
*raw
:OUTPUT ACCEPT [0:0]
-A OUTPUT -j RIKLET-RAW
COMMIT
"#;

#[test]
fn jumps_name_their_owner() {
    let owner = Owner::new(OwnerId::new(0xab), "/run/riklet sdn");
    let mut ruleset = ruleset(&["eth0"], &[]);
    ruleset.base_ruleset.owner = Some(owner.clone());
    let text = stands(&ruleset);
    let jump = "-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL \
                -m comment --comment \"riklet-sdn 00000000000000ab /run/riklet sdn\" -j RIKLET";
    assert!(text.lines().any(|line| line == jump), "{text}");
    let found = state(&ruleset, &Saved::parse([], &text).unwrap());
    assert_eq!((found.base_ruleset, found.marks), (BaseState::Intact, [owner.mark()].into()));

    // The jump as an earlier version left it.
    ruleset.base_ruleset.owner = None;
    let earlier = Saved::parse([], &stands(&ruleset)).unwrap();
    let found = state(&ruleset, &earlier);
    assert_eq!((found.base_ruleset, found.marks), (BaseState::Intact, [Mark::Unsigned].into()));
    ruleset.base_ruleset.owner = Some(owner);
    let input = reset(&ruleset, &earlier).unwrap();
    assert!(
        input.contains("-D OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j RIKLET\n"),
        "{input}"
    );
}

#[test]
fn many_entries_are_removed_without_looking_for_each() {
    let input = rewrite(&BTreeSet::from([HAIRPIN]), None).unwrap();
    insta::assert_snapshot!(input, @r"
    *mangle
    -C INPUT -i rik+ -j RIKLET-INPUT
    -C FORWARD -j RIKLET-FORWARD
    -C POSTROUTING -j RIKLET-LAST
    -C PREROUTING -i rik+ -j RIKLET-PREROUTING
    :RIKLET-POLICY - [0:0]
    COMMIT
    *raw
    -C PREROUTING ! -i lo -j RIKLET-RAW
    COMMIT
    *nat
    -C POSTROUTING -j RIKLET-POSTROUTING
    :RIKLET - [0:0]
    :RIKLET-HAIRPIN - [0:0]
    -A RIKLET-HAIRPIN -s 10.231.0.2/32 -d 10.231.0.2/32 -j MASQUERADE
    COMMIT
    ");
}

#[test]
fn a_range_is_one_rule() {
    let exposure = |host: &str, guest: &str| Entry::Exposure {
        protocol: Protocol::Udp,
        host_address: None,
        host_ports: host.parse().unwrap(),
        guest: GUEST,
        guest_ports: guest.parse().unwrap(),
    };
    for (host, guest, body) in [
        ("53", "53", "--dport 53 -j DNAT --to-destination 10.231.0.2:53"),
        ("1-65535", "1-65535", "--dport 1:65535 -j DNAT --to-destination 10.231.0.2"),
        ("8000-8010", "1-11", "--dport 8000:8010 -j DNAT --to-destination 10.231.0.2:1-11/8000"),
    ] {
        let entry = exposure(host, guest);
        let rule = layout::of_entry(&entry).unwrap();
        assert_eq!(rule.to_string(), format!("RIKLET -p udp -m udp {body}"));
        assert_eq!(layout::entry_of(&rule), Some(entry));
    }
}

#[test]
fn names_with_characters_special_to_iptables_are_not_nameable() {
    assert_eq!(unnameable(&ruleset(&["eth0", "wg-home.5"], &[]).base_ruleset), None);
    let base_ruleset = ruleset(&["eth+"], &[]).base_ruleset;
    assert_eq!(unnameable(&base_ruleset).map(InterfaceName::as_str), Some("eth+"));
}

#[test]
fn an_entry_of_ipv6_is_refused() {
    let guest = "fd52::3".parse().unwrap();
    let entries = BTreeSet::from([Entry::Hairpin { guest }]);
    let nothing = BTreeSet::new();
    let base_ruleset = ruleset(&["eth0"], &[]).base_ruleset;
    let refused = EntryError::Ipv6(Ipv6Unsupported { address: "fd52::3".parse().unwrap() });
    assert_eq!(delta(&entries, &nothing, None), Err(refused));
    assert_eq!(delta(&nothing, &entries, None), Err(refused));
    assert_eq!(Probe::new(&base_ruleset, &entries), Err(refused));
    let ruleset = Ruleset { base_ruleset, entries };
    assert_eq!(reset(&ruleset, &Saved::default()), Err(refused));
}

#[test]
fn what_a_policy_says_is_no_rule_of_iptables() {
    let guest = GUEST;
    let said = BTreeSet::from([Entry::Policy { guest, reach: Egress::None }]);
    assert_eq!(delta(&said, &said, None).unwrap(), "");
    let judged = delta(&BTreeSet::new(), &[Entry::Judged { guest }].into(), None).unwrap();
    let added: Vec<_> = judged.lines().filter(|line| !line.starts_with("-C")).collect();
    let expected =
        "*mangle, -A RIKLET-POLICY -s 10.231.0.2/32 -j DROP, COMMIT, *raw, COMMIT, *nat, COMMIT";
    assert_eq!(added.join(", "), expected);
    let many = |entry: fn(IpAddr) -> Entry| -> BTreeSet<_> {
        (0..200).map(|n| entry([10, 231, 0, n].into())).collect()
    };
    assert!(!rewrites(&many(|guest| Entry::Policy { guest, reach: Egress::None })));
    assert!(rewrites(&many(|guest| Entry::Judged { guest })));
}

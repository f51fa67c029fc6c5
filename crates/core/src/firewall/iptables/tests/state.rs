//! The state of the tables as a listing has it: what is missing, misplaced or altered, and which entries stand.

use super::*;

#[test]
fn misplaced_rules_are_removed_as_they_were_printed() {
    let saved = Saved::parse([], FOREIGN).unwrap();
    insta::assert_snapshot!(remove(&saved).unwrap(), @r#"
    *raw
    -D OUTPUT -j RIKLET-RAW
    COMMIT
    *mangle
    :RIKLET-FORWARD - [0:0]
    :RIKLET-OLD - [0:0]
    -D INPUT -j RIKLET-OLD
    -D FORWARD -j RIKLET-FORWARD
    -D FORWARD -m comment --comment "by hand" -g RIKLET-FORWARD
    -X RIKLET-FORWARD
    -X RIKLET-OLD
    COMMIT
    "#);
    let input = reset(&ruleset(&["eth0"], &[]), &saved).unwrap();
    let (mangle, _) = input.split_once("*raw").unwrap();
    insta::assert_snapshot!(without_refusals(mangle), @r#"
    *mangle
    :RIKLET-FORWARD - [0:0]
    :RIKLET-LAST - [0:0]
    :RIKLET-PREROUTING - [0:0]
    :RIKLET-INPUT - [0:0]
    :RIKLET-POLICY - [0:0]
    :RIKLET-PASSAGE - [0:0]
    :RIKLET-OLD - [0:0]
    -D INPUT -j RIKLET-OLD
    -D FORWARD -j RIKLET-FORWARD
    -D FORWARD -m comment --comment "by hand" -g RIKLET-FORWARD
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
    -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ -o eth0 -p tcp -m tcp --dport 53 -j RETURN
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
    -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ ! -o rik+ -j RETURN
    -A RIKLET-FORWARD -i rik+ -j RIKLET-REFUSED-EGRESS
    -A RIKLET-FORWARD -o rik+ -j DROP
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
    -A RIKLET-PASSAGE -i rik+ -j ACCEPT
    -A RIKLET-PASSAGE -o rik+ -j ACCEPT
    -I INPUT -i rik+ -j RIKLET-INPUT
    -I FORWARD -j RIKLET-FORWARD
    -I FORWARD 3 -j RIKLET-PASSAGE
    -I POSTROUTING -j RIKLET-LAST
    -I PREROUTING -i rik+ -j RIKLET-PREROUTING
    -X RIKLET-OLD
    COMMIT
    "#);
}

#[test]
fn differences_are_named() {
    let state = state(&ruleset(&[], &[]), &Saved::parse([], FOREIGN).unwrap());
    let BaseState::Altered(differences) = state.base_ruleset else { panic!("not altered") };
    insta::assert_snapshot!(differences.join("\n"), @r#"
    mangle: unexpected chain RIKLET-OLD
    mangle: missing: -A RIKLET-FORWARD -i rik+ -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
    mangle: missing: -A RIKLET-FORWARD -o rik+ -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
    mangle: missing: -A RIKLET-FORWARD -i rik+ -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
    mangle: missing: -A RIKLET-FORWARD -o rik+ -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
    mangle: missing: -A RIKLET-FORWARD -o rik+ -m conntrack --ctstate DNAT -j RETURN
    mangle: missing: -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ -m mark --mark 0x40/0x40 -m conntrack --ctstate DNAT -j RETURN
    mangle: missing: -A RIKLET-FORWARD -i rik+ -o rik+ -j DROP
    mangle: missing: -A RIKLET-FORWARD -i rik+ -m mark --mark 0x8/0x8 -j RETURN
    mangle: missing: -A RIKLET-FORWARD -i rik+ -j RIKLET-POLICY
    mangle: missing: -A RIKLET-FORWARD -i rik+ -p tcp -m tcp --dport 25 -j RIKLET-REFUSED-MAIL
    mangle: missing: -A RIKLET-FORWARD -d 0.0.0.0/8 -i rik+ -j RIKLET-REFUSED-EGRESS
    mangle: missing: -A RIKLET-FORWARD -d 10.0.0.0/8 -i rik+ -j RIKLET-REFUSED-EGRESS
    mangle: missing: -A RIKLET-FORWARD -d 100.64.0.0/10 -i rik+ -j RIKLET-REFUSED-EGRESS
    mangle: missing: -A RIKLET-FORWARD -d 127.0.0.0/8 -i rik+ -j RIKLET-REFUSED-EGRESS
    mangle: missing: -A RIKLET-FORWARD -d 169.254.0.0/16 -i rik+ -j RIKLET-REFUSED-EGRESS
    mangle: missing: -A RIKLET-FORWARD -d 172.16.0.0/12 -i rik+ -j RIKLET-REFUSED-EGRESS
    mangle: missing: -A RIKLET-FORWARD -d 192.168.0.0/16 -i rik+ -j RIKLET-REFUSED-EGRESS
    mangle: missing: -A RIKLET-FORWARD -d 224.0.0.0/3 -i rik+ -j RIKLET-REFUSED-EGRESS
    mangle: missing: -A RIKLET-FORWARD -s 10.231.0.0/16 -i rik+ ! -o rik+ -j RETURN
    mangle: missing: -A RIKLET-FORWARD -i rik+ -j RIKLET-REFUSED-EGRESS
    mangle: missing: -A RIKLET-FORWARD -o rik+ -j DROP
    mangle: unexpected: -A RIKLET-FORWARD -i rik+ -j DROP
    mangle: no chain RIKLET-LAST
    mangle: no chain RIKLET-PREROUTING
    mangle: no chain RIKLET-INPUT
    mangle: no chain RIKLET-POLICY
    mangle: no chain RIKLET-REFUSED-SPOOFED
    mangle: no chain RIKLET-REFUSED-LOOPBACK
    mangle: no chain RIKLET-REFUSED-MULTICAST
    mangle: no chain RIKLET-REFUSED-BROADCAST
    mangle: no chain RIKLET-REFUSED-INVALID
    mangle: no chain RIKLET-REFUSED-FLOW-RATE
    mangle: no chain RIKLET-REFUSED-FLOWS
    mangle: no chain RIKLET-REFUSED-GUEST
    mangle: no chain RIKLET-REFUSED-EGRESS
    mangle: no chain RIKLET-REFUSED-MAIL
    mangle: no chain RIKLET-REFUSED-HOST
    mangle: no chain RIKLET-PASSAGE
    mangle: not first: -A FORWARD -j RIKLET-FORWARD
    mangle: missing: -A FORWARD -j RIKLET-PASSAGE
    mangle: missing: -A INPUT -i rik+ -j RIKLET-INPUT
    mangle: missing: -A POSTROUTING -j RIKLET-LAST
    mangle: missing: -A PREROUTING -i rik+ -j RIKLET-PREROUTING
    mangle: unexpected: -A INPUT -j RIKLET-OLD
    mangle: unexpected: -A FORWARD -m comment --comment "by hand" -g RIKLET-FORWARD
    raw: no chain RIKLET-RAW
    raw: no chain RIKLET-REFUSED-SPOOFED
    raw: no chain RIKLET-REFUSED-LOOPBACK
    raw: no chain RIKLET-REFUSED-MULTICAST
    raw: no chain RIKLET-REFUSED-BROADCAST
    raw: missing: -A PREROUTING ! -i lo -j RIKLET-RAW
    raw: unexpected: -A OUTPUT -j RIKLET-RAW
    nat: no chain RIKLET
    nat: no chain RIKLET-POSTROUTING
    nat: no chain RIKLET-HAIRPIN
    nat: missing: -A OUTPUT -d 127.0.0.1/32 -j RIKLET
    nat: missing: -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j RIKLET
    nat: missing: -A POSTROUTING -j RIKLET-POSTROUTING
    nat: missing: -A PREROUTING ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j RIKLET
    "#);
}

#[test]
fn a_probe_of_many_entries_lists_each_chain_once() {
    let base_ruleset = ruleset(&["eth0"], &[]).base_ruleset;
    let probe = |count: u16| {
        let entries = (1..=count).map(|port| exposure(Protocol::Udp, None, port)).collect();
        Probe::new(&base_ruleset, &entries).unwrap()
    };
    let many = probe(1000);
    assert_eq!(many.input, probe(1).input);
    assert_eq!(many.input.matches("-C ").count(), 0);
    assert_eq!(many.input.lines().filter(|line| *line == "-S RIKLET").count(), 1);
    let listing: Vec<&str> = many.entries.iter().map(|line| &**line).collect();
    let answer = |listed: &[&str]| {
        let listing = [&["-N RIKLET"], listed, &["-N RIKLET-HAIRPIN"]].concat();
        [listing.join("\n"), many.answer.join("\n")].join("\n")
    };
    assert!(many.is_answered_by(&answer(&listing)));
    assert!(!many.is_answered_by(&answer(&listing[1..])), "an entry is missing");
    assert!(!many.is_answered_by(&listing.join("\n")), "the base ruleset is missing");
}

#[test]
fn the_state_after_a_reset_is_intact() {
    let ruleset = ruleset(&["eth0"], &["eth0", "lan0"]);
    let found = state(&ruleset, &Saved::parse([], &stands(&ruleset)).unwrap());
    assert_eq!(found.base_ruleset, BaseState::Intact);
    assert_eq!(found.entries, ruleset.entries);
    assert_eq!(found.strays, Vec::<String>::new());
    let nothing = state(&ruleset, &Saved::default());
    assert_eq!(nothing.base_ruleset, BaseState::Absent);
    assert_eq!(remove(&Saved::default()), None);
}

#[test]
fn entries_are_read_in_the_written_form_only() {
    let ruleset = ruleset(&["eth0"], &[]);
    let strays = [
        "-A RIKLET -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.231.0.2:3000",
        "-A RIKLET -p tcp -m tcp --dport 80:90 -j DNAT --to-destination 10.231.0.2:3000",
        "-A RIKLET -p tcp -m udp --dport 81 -j DNAT --to-destination 10.231.0.2:3000",
        "-A RIKLET -d 192.0.2.0/24 -p tcp -m tcp --dport 81 -j DNAT --to-destination 10.231.0.2:3000",
        "-A RIKLET -p tcp -m tcp --dport 81 -j DNAT --to-destination 10.231.0.2:3000 --random",
        "-A RIKLET -j ACCEPT",
        "-A RIKLET-HAIRPIN -s 10.231.0.2/32 -d 10.231.0.6/32 -j MASQUERADE",
    ];
    let other = exposure(Protocol::Tcp, None, 9090);
    let text = stands(&ruleset).replace(
        "-A RIKLET-HAIRPIN",
        &format!(
            "{}\n-A {}\n-A RIKLET-HAIRPIN",
            strays.join("\n"),
            layout::of_entry(&other).unwrap()
        ),
    );
    let found = state(&ruleset, &Saved::parse([], &text).unwrap());
    assert_eq!(found.base_ruleset, BaseState::Intact);
    assert_eq!(found.strays.len(), strays.len(), "{:?}", found.strays);
    assert_eq!(found.entries.difference(&ruleset.entries).collect::<Vec<_>>(), [&other]);
}

#[test]
fn a_listing_reads_back() {
    assert_eq!(
        list([Table::Raw, Table::Nat]),
        "# *raw\n*raw\n-S\nCOMMIT\n# *nat\n*nat\n-S\nCOMMIT\n"
    );
    let answer = "# *raw\n-P PREROUTING ACCEPT\n-P OUTPUT ACCEPT\n# *nat\n-P PREROUTING DROP\n-N RIKLET\n\
                  -A PREROUTING -m comment --comment \"# *raw\" -j RIKLET\n";
    let saved = Saved::parse([Table::Raw, Table::Nat], answer).unwrap();
    assert_eq!(saved.policy(Table::Raw, "OUTPUT"), Some("ACCEPT"));
    assert_eq!(saved.policy(Table::Nat, "PREROUTING"), Some("DROP"));
    assert_eq!(saved.chains(Table::Nat).collect::<Vec<_>>(), ["RIKLET"]);
    assert_eq!(saved.jumps(Table::Nat).count(), 1);
    assert_eq!(Saved::parse(Table::ALL, answer).map(drop), Err(Unanswered(Table::Filter)));
}

#[test]
fn a_probe_sees_a_policy_that_drops_unless_a_passage_is_led_to() {
    let probe = Probe::new(&ruleset(&["eth0"], &[]).base_ruleset, &BTreeSet::new()).unwrap();
    let stands = probe.answer.join("\n");
    let probe = probe.with_filter();
    assert!(probe.input.ends_with("*filter\n-S FORWARD\nCOMMIT\n"));
    let answered = |forward: &str| probe.is_answered_by(&format!("{stands}\n{forward}"));
    assert!(answered("-P FORWARD ACCEPT\n-A FORWARD -j DOCKER-USER"));
    assert!(!answered("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER"));
    assert!(answered("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j RIKLET-PASSAGE"));
}

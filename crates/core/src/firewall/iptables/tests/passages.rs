//! Passages through tables of others.

use super::*;

fn filter(rules: &str) -> Saved {
    let text = format!("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD {rules}\nCOMMIT\n");
    Saved::parse([Table::Filter], &text).unwrap()
}

#[test]
fn what_others_drop_in_the_table_mangle_is_passed_after_what_is_refused() {
    let text = "*mangle\n:FORWARD DROP [0:0]\n-A FORWARD -s 203.0.113.9/32 -j DROP\nCOMMIT\n";
    let saved = Saved::parse([Table::Mangle], text).unwrap();
    let ruleset = ruleset(&["eth0"], &[]);
    let input = reset(&ruleset, &saved).unwrap();
    let inserts: Vec<_> = input.lines().filter(|line| line.starts_with("-I FORWARD")).collect();
    assert_eq!(inserts, ["-I FORWARD -j RIKLET-FORWARD", "-I FORWARD 3 -j RIKLET-PASSAGE"]);
    let foreign = foreign_chain_state(&saved, Table::Mangle, &BTreeSet::new()).unwrap();
    assert_eq!(foreign.foreign_chain, ForeignChain::LegacyIptables(Table::Mangle));
    assert_eq!((foreign.drops, foreign.open), (true, false));
}

#[test]
fn the_legacy_chain_matters_if_it_drops_our_traffic() {
    let uplinks = BTreeSet::new();
    let foreign_chain = |rules: &str| {
        let state = foreign_chain_state(&filter(rules), Table::Filter, &uplinks)?;
        Some((state.drops, state.open, state.touched))
    };
    assert_eq!(foreign_chain("ACCEPT [0:0]"), None);
    assert_eq!(foreign_chain("ACCEPT [0:0]\n-A FORWARD -s 203.0.113.9/32 -j DROP"), None);
    assert_eq!(foreign_chain("DROP [0:0]"), Some((true, false, false)));
    assert_eq!(foreign_chain("ACCEPT [0:0]\n-A FORWARD -j REJECT"), Some((true, false, false)));
    let chain = ":RIKLET-PASSAGE - [0:0]\n-A RIKLET-PASSAGE -i rik+ -j ACCEPT";
    assert_eq!(foreign_chain(&format!("ACCEPT [0:0]\n{chain}")), Some((false, false, true)));
    let chain = format!("{chain}\n-A RIKLET-PASSAGE -o rik+ -j ACCEPT\n");
    let jump = "-A FORWARD -j RIKLET-PASSAGE";
    assert_eq!(foreign_chain(&format!("DROP [0:0]\n{chain}{jump}")), Some((true, true, true)));
    for wrong in [
        format!("DROP [0:0]\n{chain}{jump}\n-A FORWARD -s 203.0.113.9/32 -j DROP"),
        format!("ACCEPT [0:0]\n{chain}-A FORWARD -j DROP\n{jump}"),
        format!("DROP [0:0]\n{chain}{jump}\n{jump}"),
        format!("DROP [0:0]\n{chain}-A FORWARD -i rik+ -j RIKLET-PASSAGE"),
        format!("DROP [0:0]\n{chain}{jump}\n:RIKLET-FORWARD - [0:0]"),
    ] {
        assert_eq!(foreign_chain(&wrong), Some((true, false, true)), "{wrong}");
    }
    assert_eq!(foreign_chain_state(&Saved::default(), Table::Filter, &uplinks), None);
    assert_eq!(open_passage(&Saved::default(), Table::Filter, &uplinks), None);
    assert_eq!(close_passage(&Saved::default(), Table::Filter), None);
}

#[test]
fn a_passage_stands_after_bans_and_before_the_rule_that_drops() {
    let rules = "ACCEPT [0:0]\n:strict - [0:0]\n-A FORWARD -s 203.0.113.9/32 -j DROP\n-A FORWARD -j strict\n\
                 -A strict -d 203.0.113.8/32 -j DROP\n-A strict -i eth0 -j DROP\n-A strict -j DROP";
    let uplinks = ["eth0".parse().unwrap()].into();
    insta::assert_snapshot!(open_passage(&filter(rules), Table::Filter, &uplinks).unwrap(), @r"
    *filter
    :RIKLET-PASSAGE - [0:0]
    -A RIKLET-PASSAGE -i rik+ -j ACCEPT
    -A RIKLET-PASSAGE -o rik+ -j ACCEPT
    -I strict 2 -o rik+ -j RIKLET-PASSAGE
    -I strict 4 -i rik+ -j RIKLET-PASSAGE
    COMMIT
    ");
    let mut ruleset = ruleset(&["eth0"], &[]);
    ruleset.base_ruleset.owner = Some(Owner::new(OwnerId::new(1), "/run/riklet-sdn"));
    let text = format!("*mangle\n:FORWARD {rules}\nCOMMIT\n");
    let input = reset(&ruleset, &Saved::parse([Table::Mangle], &text).unwrap()).unwrap();
    let inserts =
        input.lines().filter(|line| line.contains("-I FORWARD") || line.contains("-I strict"));
    insta::assert_snapshot!(inserts.collect::<Vec<_>>().join("\n"), @r#"
    -I FORWARD -m comment --comment "riklet-sdn 0000000000000001 /run/riklet-sdn" -j RIKLET-FORWARD
    -I strict 2 -o rik+ -m comment --comment "riklet-sdn 0000000000000001 /run/riklet-sdn" -j RIKLET-PASSAGE
    -I strict 4 -i rik+ -m comment --comment "riklet-sdn 0000000000000001 /run/riklet-sdn" -j RIKLET-PASSAGE
    "#);
}

#[test]
fn a_passage_as_an_earlier_version_left_it_is_replaced() {
    let rules = "DROP [0:0]\n:RIKLET-FORWARD - [0:0]\n-A FORWARD -j RIKLET-FORWARD\n-A FORWARD -i a -j ACCEPT\n\
                 -A RIKLET-FORWARD -i rik+ -j ACCEPT\n-A RIKLET-FORWARD -o rik+ -j ACCEPT";
    insta::assert_snapshot!(open_passage(&filter(rules), Table::Filter, &BTreeSet::new()).unwrap(), @r"
    *filter
    :RIKLET-PASSAGE - [0:0]
    :RIKLET-FORWARD - [0:0]
    -D FORWARD -j RIKLET-FORWARD
    -A RIKLET-PASSAGE -i rik+ -j ACCEPT
    -A RIKLET-PASSAGE -o rik+ -j ACCEPT
    -I FORWARD 2 -j RIKLET-PASSAGE
    -X RIKLET-FORWARD
    COMMIT
    ");
}

#[test]
fn drops_before_and_after_the_chain_forward_are_named() {
    let drops = |table: Table, rules: &str| {
        let text = format!(
            "*{table}\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{rules}\nCOMMIT\n"
        );
        let saved = Saved::parse([table], &text).unwrap();
        drops_around(&saved, &Table::AROUND, &["eth0".parse().unwrap()].into())
    };
    let drop = "-A PREROUTING -s 203.0.113.9/32 -j DROP\n-A PREROUTING -i eth0 -j DROP";
    assert_eq!(drops(Table::Raw, drop), ["iptables-legacy raw PREROUTING"]);
    let drop = "-A POSTROUTING -o rik+ -j DROP";
    assert_eq!(drops(Table::Mangle, drop), ["iptables-legacy mangle POSTROUTING"]);
    for ban in [
        "-A PREROUTING -i wlan0 -j DROP",
        "-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP",
        "-A PREROUTING -m rpfilter --invert -j DROP",
        "-A PREROUTING -m conntrack --ctstate INVALID -j DROP",
    ] {
        assert_eq!(drops(Table::Mangle, ban), [""; 0], "{ban}");
    }
}

#[test]
fn the_table_security_is_passed_like_the_table_filter() {
    let text = "*security\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j DROP\nCOMMIT\n";
    let saved = Saved::parse([Table::Security], text).unwrap();
    let input = open_passage(&saved, Table::Security, &BTreeSet::new()).unwrap();
    assert!(
        input.starts_with("*security\n") && input.contains("-I FORWARD -j RIKLET-PASSAGE"),
        "{input}"
    );
}

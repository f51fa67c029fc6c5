//! What policies name, in chains that guests share.

use std::{net::Ipv6Addr, time::Duration};

use super::*;
use riklet_core::{
    model::EgressPolicy,
    names::{self, AllowedNames, Answered},
    reach,
};

/// Returns the entries of a policy that allows and denies these.
fn entries(guest: u8, allow: &[&str], deny: &[&str]) -> Vec<Entry> {
    entries_of([10, 231, 0, guest], allow, deny)
}

/// Returns those of a guest with this address.
fn entries_of(guest: impl Into<IpAddr>, allow: &[&str], deny: &[&str]) -> Vec<Entry> {
    let read = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect();
    let policy = EgressPolicy::new(Some(Egress::None), read(allow), read(deny));
    reach::entries(&policy, guest.into())
}

/// Returns the names of the chains of policies.
fn chains() -> BTreeSet<String> {
    let listing = listing();
    let chains = listing.lines().filter_map(|line| line.trim().strip_prefix("chain "));
    let names = chains.map(|line| line.trim_end_matches(" {").to_owned());
    names.filter(|name| name.contains("policy-") && !name.starts_with("refused-")).collect()
}

/// Returns the number of sets of policies.
fn sets() -> usize {
    listing()
        .lines()
        .filter(|line| line.trim().starts_with("set ") && line.contains("policy-"))
        .count()
}

fn holds(kernel: &mut Nftables, entries: &[Entry]) {
    let expected = ruleset(entries.iter().copied());
    assert_eq!(kernel.state(&expected).unwrap(), intact(entries.iter().copied()));
    assert!(kernel.probe(&base_ruleset(), &expected.entries).unwrap());
}

#[test]
fn policies_are_read_back_and_changed_alone() {
    in_namespace(|| {
        let mut kernel = Nftables::default();
        let first = entries(2, &["10.0.0.0/8:443", "host:9000/tcp"], &["10.0.5.0/24"]);
        let second = entries(6, &["0.0.0.0/0:1-1023/udp"], &["host", "192.0.2.1"]);
        let all = [&first[..], &second].concat();
        kernel.apply(&Change::Reset(ruleset(first.clone()))).unwrap();
        holds(&mut kernel, &first);
        kernel.apply(&delta(&[], &second)).unwrap();
        holds(&mut kernel, &all);
        kernel.apply(&delta(&first, &[])).unwrap();
        holds(&mut kernel, &second);
        // nft(8) shows them as they are.
        let shown = run("nft", &["list", "table", "inet", "riklet"], "").unwrap();
        run("nft", &["-f", "-"], &format!("delete table inet riklet\n{shown}")).unwrap();
        holds(&mut kernel, &second);
    });
}

#[test]
fn policies_of_both_families_are_read_back_and_changed_alone() {
    in_namespace(|| {
        let base_ruleset = || {
            let pool = base_ruleset().pool.with_v6("fd52:494b::/64".parse().unwrap()).unwrap();
            BaseRuleset { pool, ..base_ruleset() }
        };
        let ruleset = |entries: &[Entry]| Ruleset {
            base_ruleset: base_ruleset(),
            entries: entries.iter().copied().collect(),
        };
        let mut kernel = Nftables::default();
        let holds = |kernel: &mut Nftables, entries: &[Entry]| {
            let expected = ruleset(entries);
            assert_eq!(kernel.state(&expected).unwrap(), intact(entries.iter().copied()));
            assert!(kernel.probe(&base_ruleset(), &expected.entries).unwrap());
        };
        let of = |last: u8, allow: &[&str], deny: &[&str]| {
            let v6 = Ipv6Addr::new(0xfd52, 0x494b, 0, 0, 0, 0, 0, u16::from(last) + 1);
            [entries(last, allow, deny), entries_of(v6, allow, deny)].concat()
        };
        let allow = ["[2001:db8::/32]:443", "2001:db8::1", "10.0.0.0/8", "host:9000/tcp"];
        let first = of(2, &allow, &["[2001:db8:5::/48]:1-1023/udp", "10.0.5.0/24"]);
        let second = of(6, &["[::/0]:53"], &["host"]);
        // One that names names.
        let policy = EgressPolicy::new(None, vec![], vec![])
            .with_names(vec!["api.example.com:443".parse().unwrap()]);
        let guest = Ipv6Addr::new(0xfd52, 0x494b, 0, 0, 0, 0, 0, 11).into();
        let named = names::entries(&"f".parse().unwrap(), &policy, guest);
        let named: Vec<_> = reach::entries(&policy, guest).into_iter().chain(named).collect();
        let set = riklet_core::firewall::nftables::names::set_of(guest, &named).unwrap();
        let third = [entries(10, &allow, &[]), named].concat();
        kernel.apply(&Change::Reset(ruleset(&first))).unwrap();
        holds(&mut kernel, &first);
        kernel.apply(&delta(&[], &[&second[..], &third].concat())).unwrap();
        holds(&mut kernel, &[&first[..], &second, &third].concat());
        let addresses = [("2001:db8::7".parse().unwrap(), Duration::from_mins(1))];
        let (allowed, name) = (&AllowedNames::of(&policy), "api.example.com");
        let answered = Answered { guest, set: &set, allowed, name, addresses: &addresses };
        assert!(kernel.pin(riklet_core::firewall::Backend::Nftables, &answered).unwrap());
        assert!(listing().contains("2001:db8::7 . tcp . 443"), "{}", listing());
        // It is there after all is written anew, by whom it is known to, and by who reads it.
        let all = [&first[..], &second, &third].concat();
        for kernel in [&mut kernel, &mut Nftables::default()] {
            kernel.apply(&Change::Reset(ruleset(&all))).unwrap();
            assert!(listing().contains("2001:db8::7 . tcp . 443"), "{}", listing());
            assert!(listing().contains("comment \"api.example.com\""), "{}", listing());
        }
        holds(&mut kernel, &[&first[..], &second, &third].concat());
        kernel.apply(&delta(&first, &[])).unwrap();
        holds(&mut kernel, &[&second[..], &third].concat());
        // nft(8) shows them as they are.
        let shown = run("nft", &["list", "table", "inet", "riklet"], "").unwrap();
        run("nft", &["-f", "-"], &format!("delete table inet riklet\n{shown}")).unwrap();
        holds(&mut kernel, &[&second[..], &third].concat());
        // An address that none of them names.
        let expected = ruleset(&[&second[..], &third].concat());
        let sets = shown.lines().filter_map(|line| line.trim().strip_prefix("set policy6-"));
        let mut sets = sets.map(|line| line.trim_end_matches(" {"));
        let set = sets.find(|name| name.ends_with("-allowed")).unwrap();
        nft(&format!("add element inet riklet policy6-{set} {{ 2001:db9::1 . tcp . 1 }}"));
        assert!(!kernel.state(&expected).unwrap().differences().is_empty());
    });
}

#[test]
fn guests_share_a_chain_which_goes_with_the_last_of_them() {
    in_namespace(|| {
        let mut kernel = Nftables::default();
        kernel.apply(&Change::Reset(ruleset([]))).unwrap();
        let of = |guest| entries(guest, &["10.0.0.0/8:443", "host:9000/tcp"], &["10.0.5.0/24"]);
        let other = |guest| entries(guest, &["192.0.2.1"], &[]);
        kernel.apply(&delta(&[], &of(2))).unwrap();
        let (shared, sets_of_one) = (chains(), sets());
        assert_eq!((shared.len(), sets_of_one), (2, 3));
        kernel.apply(&delta(&[], &[of(6), of(10)].concat())).unwrap();
        assert_eq!((chains(), sets()), (shared.clone(), 3));
        holds(&mut kernel, &[of(2), of(6), of(10)].concat());
        // One takes another, of its own.
        kernel.apply(&delta(&of(6), &other(6))).unwrap();
        assert_eq!((chains().len(), sets()), (3, 4));
        holds(&mut kernel, &[of(2), other(6), of(10)].concat());
        // The last two leave at once, and one comes back to it.
        kernel.apply(&delta(&[of(2), other(6), of(10)].concat(), &of(6))).unwrap();
        assert_eq!((chains(), sets()), (shared, 3));
        holds(&mut kernel, &of(6));
        kernel.apply(&delta(&of(6), &[])).unwrap();
        assert_eq!((chains().len(), sets()), (0, 0));
        holds(&mut kernel, &[]);
    });
}

#[test]
fn every_alteration_of_a_policy_is_seen() {
    in_namespace(|| {
        let mut kernel = Nftables::default();
        let of = |guest| entries(guest, &["10.0.0.0/8:443/tcp"], &["10.0.5.0/24"]);
        let entries = [of(2), of(6)].concat();
        let expected = ruleset(entries.clone());
        kernel.apply(&Change::Reset(expected.clone())).unwrap();
        let [chain] = &*chains().into_iter().collect::<Vec<_>>() else { panic!("{}", listing()) };
        let whole = [
            (true, format!("add rule inet riklet {chain} accept")),
            (true, format!("insert rule inet riklet {chain} counter")),
            (true, format!("flush chain inet riklet {chain}")),
            (false, format!("add element inet riklet {chain}-allowed {{ 192.0.2.1 . tcp . 1 }}")),
            (true, format!("flush set inet riklet {chain}-denied")),
            (false, "add chain inet riklet policy-0123456789abcdef".into()),
            (false, format!("add set inet riklet {chain}-else {{ type ipv4_addr; }}")),
            (true, "add element inet riklet policies { 10.231.0.9 : jump refuse }".into()),
            (
                true,
                "delete element inet riklet policies { 10.231.0.2 }
                    add element inet riklet policies { 10.231.0.2 : jump refuse }"
                    .into(),
            ),
        ];
        for (probed, command) in whole {
            kernel.apply(&Change::Reset(expected.clone())).unwrap();
            holds(&mut kernel, &entries);
            nft(&command);
            let state = kernel.state(&expected).unwrap();
            assert!(!state.differences().is_empty(), "{command}: {state:?}");
            let stands = kernel.probe(&base_ruleset(), &expected.entries).unwrap();
            assert_eq!(stands, !probed, "{command}");
        }
        // A guest that is not led anywhere lacks what its policy names.
        let of = |guest| {
            let named = of(guest).into_iter().filter(|entry| matches!(entry, Entry::Reach { .. }));
            named.collect::<Vec<_>>()
        };
        let entries = [of(2), of(6)].concat();
        let expected = ruleset(entries.clone());
        kernel.apply(&Change::Reset(expected.clone())).unwrap();
        nft("delete element inet riklet policies { 10.231.0.2 }");
        assert_eq!(kernel.state(&expected).unwrap(), intact(of(6)));
        let refused = kernel.apply(&delta(&of(2), &[])).unwrap_err();
        assert_eq!(refused.errno, Some(Refusal::ENOENT), "{refused}");
        kernel.apply(&delta(&[], &of(2))).unwrap();
        holds(&mut kernel, &entries);
        // Nobody is led to a chain that somebody altered.
        nft(&format!("add rule inet riklet {chain} accept"));
        let refused = kernel.apply(&delta(&[], &of(10))).unwrap_err();
        assert_eq!(refused.errno, Some(Refusal::ENOENT), "{refused}");
        assert!(refused.words.contains("is altered"), "{refused}");
    });
}

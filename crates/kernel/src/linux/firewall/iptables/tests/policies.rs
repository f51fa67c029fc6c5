//! The table of policies beside the chains of iptables.

use super::*;
use riklet_core::reach::Block;

/// Returns the entries of a guest that reaches one network.
fn policy(slot: u8) -> [Entry; 3] {
    let guest = IpAddr::from([10, 231, 0, slot * 4 + 2]);
    let block = Block::of_network("10.9.5.0/24".parse().unwrap());
    [
        Entry::Judged { guest },
        Entry::Policy { guest, reach: Egress::None },
        Entry::Reach { guest, host: false, block, allowed: true },
    ]
}

fn transactions(host: Host) -> u64 {
    host.with(|iptables| iptables.nftables.connection()?.transactions()).unwrap()
}

#[test]
fn policies_read_back_from_both_tables() {
    each_variant(|host| {
        let [judged, reach, allowed] = policy(1);
        host.reset(&ruleset(&[exposure(1, 80)]));
        host.delta(&[], &[judged, reach, allowed]).unwrap();
        host.assert_stands(&ruleset(&[exposure(1, 80), judged, reach, allowed]));
        host.delta(&[allowed], &[]).unwrap();
        host.assert_stands(&ruleset(&[exposure(1, 80), judged, reach]));
        assert!(!host.probe(&ruleset(&[allowed])), "an entry is gone");
        host.delta(&[exposure(1, 80), judged, reach], &[]).unwrap();
        host.assert_stands(&ruleset(&[]));
        host.delta(&[reach], &[exposure(1, 80)]).unwrap_err();
        host.assert_stands(&ruleset(&[]));
        host.reset(&ruleset(&policy(2)));
        host.assert_stands(&ruleset(&policy(2)));
        host.change(&Change::Remove).unwrap();
        assert_eq!(host.state(&ruleset(&[])), FirewallState::absent());
        assert_eq!(run("nft", "list tables inet"), "");
        let before = transactions(host);
        host.change(&Change::Remove).unwrap();
        assert_eq!(transactions(host), before, "nothing is left to remove");
    });
}

#[test]
fn a_loss_in_either_place_is_seen() {
    each_variant(|host| {
        let stands = ruleset(&policy(1));
        for (command, line) in [
            ("delete table inet riklet-policies", "the table of policies is missing"),
            ("flush chain inet riklet-policies forward", "missing or altered"),
            ("add chain inet riklet-policies mine", "chain mine: foreign"),
        ] {
            host.reset(&stands);
            run("nft", command);
            assert!(!host.probe(&stands), "{command}");
            let differences = host.state(&stands).differences();
            assert!(differences.iter().any(|found| found.contains(line)), "{differences:?}");
        }
        host.reset(&stands);
        host.feed("*mangle\n-F RIKLET-POLICY\nCOMMIT\n");
        assert!(!host.state(&stands).entries.contains(&policy(1)[0]));
        assert!(!host.probe(&stands), "the rule that closes is gone");
        host.feed("*mangle\n-F\n-X\nCOMMIT\n*raw\n-F\n-X\nCOMMIT\n*nat\n-F\n-X\nCOMMIT\n");
        let found = host.state(&stands);
        assert_eq!(found.differences(), ["our chains of iptables are missing"]);
        assert_eq!(found.marks, [owner().mark()].into(), "the table is of the same owner");
    });
}

#[test]
fn each_table_that_a_delta_changes_is_a_transaction() {
    each_variant(|host| {
        host.reset(&ruleset(&[]));
        let before = transactions(host);
        let [judged, reach, allowed] = policy(1);
        let count = |nft: u64, legacy: u64| {
            before + if host.0 == IptablesVariant::Nft { nft } else { legacy }
        };
        host.delta(&[], &[judged, reach, exposure(1, 80)]).unwrap();
        assert_eq!(transactions(host), count(3, 1));
        host.delta(&[], &[allowed]).unwrap();
        assert_eq!(transactions(host), count(4, 2));
        host.delta(&[judged], &[]).unwrap();
        assert_eq!(transactions(host), count(5, 2));
    });
}

/// A change that stops in the middle leaves a guest with a policy and without a port, and not the other way round.
#[test]
fn what_policies_say_comes_first() {
    each_variant(|host| {
        let [judged, reach, allowed] = policy(1);
        let has_policy =
            || run("nft", "list set inet riklet-policies reach-none").contains("10.231");
        host.reset(&ruleset(&[]));
        host.feed("*nat\n-F\nCOMMIT\n");
        host.delta(&[], &[exposure(1, 80), judged, reach, allowed]).unwrap_err();
        assert!(has_policy());
    });
}

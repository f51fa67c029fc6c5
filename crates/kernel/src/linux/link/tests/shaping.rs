//! The limits of an interface's traffic.

use riklet_core::shaping::{Shaping, ShapingState, Twin};

use super::*;

/// Returns the specification of the slot 5 with these limits.
fn limited(limits: &str) -> LinkSpec {
    LinkSpec { shaping: Shaping::of(limits.parse().unwrap()), ..spec(5) }
}

fn shaping(route: &mut Route) -> ShapingState {
    let name = Slot::new(5).interface();
    let state = route.link(&name).unwrap().expect("the link is there");
    let listed = route.links().unwrap();
    let listed = listed.iter().find(|listed| listed.name == name).unwrap();
    assert_eq!(listed.shaping, state.shaping, "as it is listed");
    assert!(state.guarded && listed.guarded, "the guard stands in any case");
    state.shaping
}

#[test]
fn limits_are_set_changed_and_removed_without_another_interface() {
    isolated(|| {
        let mut route = route();
        // A neighbour, with the same blocks, that is not limited.
        route.create_link(&spec(6)).unwrap();
        route.create_link(&spec(5)).unwrap();
        let guest = attach(&spec(5));
        for limits in ["100Mbit,1Gbit", "8kbit,10Gbit", "50Mbit", ",50Mbit", "1Gbit,1Gbit", ""] {
            let spec = limited(limits);
            for _repetition in 0..2 {
                route.shape(&spec).unwrap();
                assert_eq!(differences(&mut route, &spec), [""; 0], "{limits}");
                assert_eq!(shaping(&mut route), spec.shaped(), "{limits}");
            }
            let twins = route.twins().unwrap();
            let twin = spec.shaping.from_guest.and_then(|_| spec.twin());
            assert_eq!(twins.get(&Slot::new(5)), twin.as_ref(), "{limits}");
            assert!(twins.keys().all(|slot| *slot == Slot::new(5)));
            assert_eq!(differences(&mut route, &super::spec(6)), [""; 0]);
            if twin.is_some() {
                assert_eq!(ip("address show dev rik5-egress").matches("inet").count(), 0);
            }
        }
        assert_eq!(ip("link").matches("rik5-egress").count(), 0, "nothing is left");
        assert_eq!(run("tc", "qdisc").matches("tbf").count(), 0);
        drop(guest);
    });
}

#[test]
fn a_missing_part_of_a_limit_is_a_difference_and_is_restored() {
    isolated(|| {
        let (mut route, spec) = (route(), limited("100Mbit,1Gbit"));
        route.create_link(&spec).unwrap();
        let (ingress, egress) = ("ingress 1Gbit", "egress 100Mbit");
        assert_eq!(differences(&mut route, &spec), [ingress, egress]);
        route.shape(&spec).unwrap();
        for (broken, expected) in [
            ("qdisc del dev rik5 root", vec![ingress]),
            ("qdisc replace dev rik5 root pfifo", vec![ingress]),
            (
                "qdisc change dev rik5 handle 524b: root tbf rate 2gbit burst 1m limit 9m",
                vec![ingress],
            ),
            ("qdisc del dev rik5-egress root", vec![egress]),
            ("filter del block 1392508933 prio 2", vec![egress]),
            ("qdisc del dev rik5 clsact", vec!["guard", egress]),
        ] {
            run("tc", broken);
            assert_eq!(differences(&mut route, &spec), expected, "{broken}");
            if expected.contains(&"guard") {
                route.configure_link(&spec).unwrap();
            } else {
                route.shape(&spec).unwrap();
            }
            assert_eq!(differences(&mut route, &spec), [""; 0], "{broken}");
            assert_eq!(shaping(&mut route), spec.shaped(), "{broken}");
        }
        for broken in
            ["del rik5-egress", "set rik5-egress down", "set rik5-egress alias riklet-sdn:"]
        {
            ip(&format!("link {broken}"));
            let other = broken.contains("alias").then_some("riklet-sdn@0000000000000001:x");
            let spec = match other {
                Some(alias) => LinkSpec { alias: alias.to_owned(), ..spec.clone() },
                None => spec.clone(),
            };
            assert!(differences(&mut route, &spec).contains(&egress.to_owned()), "{broken}");
            route.shape(&spec).unwrap();
            assert_eq!(shaping(&mut route), spec.shaped(), "{broken}");
        }
        // It goes with its interface, or alone.
        let names = [spec.name.clone(), Twin::name(Slot::new(5))];
        ip("link del rik5");
        assert_eq!(route.twins().unwrap().len(), 1);
        route.delete_links(&names.clone().into()).unwrap();
        assert_eq!(route.twins().unwrap().len(), 0);
        route.create_link(&spec).unwrap();
        route.shape(&spec).unwrap();
        route.delete_links(&names.into()).unwrap();
        assert_eq!(ip("link").matches("rik").count(), 0);
    });
}

#[test]
fn an_interface_of_others_with_the_name_of_a_twin_is_left_alone() {
    isolated(|| {
        let (mut route, spec) = (route(), limited("100Mbit"));
        route.create_link(&spec).unwrap();
        for kind in ["ifb", "bridge"] {
            ip(&format!("link add rik5-egress type {kind}"));
            ip("link set rik5-egress alias somebody");
            let before = ip("-j link show dev rik5-egress");
            let refused = route.shape(&spec).unwrap_err();
            assert_eq!(refused.refusal().errno, Some(Refusal::EEXIST), "{kind}: {refused}");
            route.shape(&super::spec(5)).unwrap();
            assert_eq!(ip("-j link show dev rik5-egress"), before, "{kind}");
            assert_eq!(differences(&mut route, &super::spec(5)), [""; 0]);
            assert_eq!(route.twins().unwrap().len(), 0);
            ip("link del rik5-egress");
        }
        route.shape(&spec).unwrap();
        assert_eq!(shaping(&mut route), spec.shaped());
        ip("link set rik5-egress alias somebody");
        assert_eq!(differences(&mut route, &spec), ["egress 100Mbit"]);
        route.shape(&super::spec(5)).unwrap();
        assert_eq!(differences(&mut route, &super::spec(5)), [""; 0]);
        ip("link show dev rik5-egress");
    });
}

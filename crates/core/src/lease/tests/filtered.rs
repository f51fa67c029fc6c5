//! The filter passes what is a question, and nothing else.

use super::{DISCOVER, MAC, NONE, frame, framed, message, v6};
use crate::{
    address::Slot,
    guard::{
        interface_number,
        tests::{Frame, run},
    },
    lease::filter::{FRAME, questions},
};

const SLOT: Slot = Slot::new(1);

fn passes(bytes: &[u8]) -> bool {
    passes_as(bytes, interface_number(SLOT), false, &[])
}

fn passes_as(bytes: &[u8], interface: u32, tagged: bool, muted: &[Slot]) -> bool {
    let program = questions(&muted.iter().copied().collect());
    let passed = run(&program, &Frame { bytes: bytes.to_vec(), interface, tagged });
    assert!(passed == 0 || passed == FRAME);
    passed != 0
}

/// Returns a question of each protocol.
fn each() -> [Vec<u8>; 3] {
    [framed(&message(NONE, &[DISCOVER])), v6::solicit(), v6::router_solicitation()]
}

#[test]
fn questions_of_every_protocol_pass_on_our_interfaces() {
    for question in each() {
        assert!(passes(&question));
        let first = interface_number(Slot::new(0));
        for (interface, wanted) in [
            (first, true),
            (first - 1, false),
            (first + 0xffff, true),
            (first + 0x1_0000, false),
            (2, false),
        ] {
            assert_eq!(passes_as(&question, interface, false, &[]), wanted, "{interface}");
        }
        assert!(!passes_as(&question, interface_number(SLOT), true, &[]), "of a VLAN");
        for (muted, wanted) in [(Slot::new(0), true), (SLOT, false), (Slot::new(2), true)] {
            let others = [Slot::new(7), muted, Slot::new(9)];
            assert_eq!(passes_as(&question, interface_number(SLOT), false, &others), wanted);
        }
    }
}

#[test]
fn other_traffic_of_guests_does_not_pass() {
    let [v4, dhcp, router] = each();
    let change = |frame: &[u8], place: usize, byte: u8| {
        let mut changed = frame.to_vec();
        changed[place] = byte;
        changed
    };
    assert!(!passes(&frame(MAC, 68, &[0; 300])), "to a client");
    // The type of the frame, the protocol, the offset of a fragment, and the port.
    for (place, byte) in [(13, 6), (23, 6), (21, 1), (20, 0x20), (37, 68)] {
        assert!(!passes(&change(&v4, place, byte)), "{place}");
    }
    // With options, the port is further behind.
    let mut options = v4.clone();
    options[14] = 0x46;
    options.splice(34..34, [1; 4]);
    assert!(passes(&options));
    // The next header, and the port.
    for (place, byte) in [(20, 6), (57, 34)] {
        assert!(!passes(&change(&dhcp, place, byte)), "{place}");
    }
    // An advertisement, and a neighbour solicitation.
    for kind in [134, 135] {
        assert!(!passes(&change(&router, 54, kind)), "{kind}");
    }
}

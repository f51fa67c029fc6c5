//! Expressions as they are compared, and where they lead.

use std::collections::BTreeMap;

use netlink_packet_core::{NLA_TYPE_MASK, Nla};
use netlink_packet_netfilter::nftables::{DataAttribute, Expressions, Immediate, VerdictAttribute};

use super::{COUNTER, Expression, emitted};

/// Returns the chain that an expression jumps or goes to.
pub(in super::super) fn target(expression: &Expression) -> Option<&str> {
    let Expressions::Immediate(attributes) = expression else { return None };
    attributes.iter().find_map(|attribute| match attribute {
        Immediate::Data(DataAttribute::Verdict(verdict)) => {
            verdict.iter().find_map(|attribute| match attribute {
                VerdictAttribute::Chain(chain) => Some(&**chain),
                _ => None,
            })
        }
        _ => None,
    })
}

/// Returns an expression in a normal form, in which two expressions of the same meaning are equal.
///
/// The kernel adds attributes that were left to their default, which is 0: a top-level attribute of 0 equals a missing
/// one. The counts of a counter are left out.
pub(in super::super) fn normal(expression: &Expression) -> (String, BTreeMap<u16, Vec<u8>>) {
    let (name, attributes) = match expression {
        Expressions::Bitwise(a) => ("bitwise", values(a)),
        Expressions::Cmp(a) => ("cmp", values(a)),
        Expressions::Immediate(a) => ("immediate", values(a)),
        Expressions::Lookup(a) => ("lookup", values(a)),
        Expressions::Meta(a) => ("meta", values(a)),
        Expressions::Payload(a) => ("payload", values(a)),
        Expressions::Other { expression_type, .. } if expression_type == COUNTER => {
            (COUNTER, BTreeMap::new())
        }
        Expressions::Other { expression_type, attributes } => {
            (&**expression_type, values(attributes))
        }
        other => ("", BTreeMap::from([(0, emitted(other))])),
    };
    (name.to_owned(), attributes)
}

/// Reports whether an expression changes the byte order of a single byte, as nft(8) 1.0.6 has it in look-ups of ranges.
pub(in super::super) fn does_nothing(expression: &Expression) -> bool {
    /// `NFTA_BYTEORDER_LEN`.
    const LENGTH: u16 = 4;
    let (name, attributes) = normal(expression);
    name == "byteorder" && attributes.get(&LENGTH).is_some_and(|length| **length == [0, 0, 0, 1])
}

fn values<T: Nla>(attributes: &[T]) -> BTreeMap<u16, Vec<u8>> {
    let value = |attribute: &T| {
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        (attribute.kind() & NLA_TYPE_MASK, value)
    };
    let all = attributes.iter().map(value);
    all.filter(|(_, value)| value.iter().any(|&byte| byte != 0)).collect()
}

#[cfg(test)]
mod tests {
    use netlink_packet_netfilter::nftables::Lookup;

    use super::{
        super::{accept, counter, drop, jump, lookup, other},
        *,
    };

    #[test]
    fn attributes_that_the_kernel_adds_make_no_difference() {
        let sent = lookup("uplinks", None);
        let Expressions::Lookup(mut attributes) = sent.clone() else { panic!() };
        attributes.reverse();
        attributes.push(Lookup::Flags(0));
        assert_eq!(normal(&sent), normal(&Expressions::Lookup(attributes.clone())));
        attributes.push(Lookup::Flags(1));
        assert_ne!(normal(&sent), normal(&Expressions::Lookup(attributes)));
        assert_eq!(normal(&counter()[0]), normal(&other("counter", &[(1, 7), (2, 9)])));
        assert_ne!(normal(&accept()[0]), normal(&drop()[0]));
        assert_ne!(normal(&jump("a")[0]), normal(&jump("b")[0]));
    }

    #[test]
    fn the_byte_order_of_one_byte_makes_no_difference() {
        // NFTA_BYTEORDER_SREG, _DREG, _OP, _LEN, _SIZE
        let order = |length| other("byteorder", &[(1, 9), (2, 9), (3, 1), (4, length), (5, 2)]);
        assert!(does_nothing(&order(1)));
        assert!(!does_nothing(&order(2)));
        assert!(!does_nothing(&accept()[0]));
    }

    #[test]
    fn the_target_of_a_jump_is_found() {
        assert_eq!(target(&jump("RIKLET")[0]), Some("RIKLET"));
        assert_eq!(target(&accept()[0]), None);
    }
}

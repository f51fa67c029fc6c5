//! Expressions that end a rule, or translate what it is about.

use std::net::Ipv4Addr;

use netlink_packet_netfilter::nftables::{
    DataAttribute, Expressions, Immediate, Register, Verdict, VerdictAttribute,
};

use super::{
    ACCEPT, COUNTER, DROP, Expression, after_address, lookup, number, other, other_with_octet,
    verdict,
};
use crate::model::Family;

/// `dnat ip to <key> map @map`, a map of addresses: the port stays. For IPv6 `dnat ip6 to`.
pub(in super::super) fn translate_address(family: Family, map: &str) -> Vec<Expression> {
    vec![lookup(map, Some(Register::Reg1)), nat(family, Register::Reg1, None)]
}

/// `dnat ip to <key> map @map`, a map of addresses and ports. For IPv6 `dnat ip6 to`.
pub(in super::super) fn translate(family: Family, map: &str) -> Vec<Expression> {
    let [port, ..] = after_address(family);
    vec![lookup(map, Some(Register::Reg1)), nat(family, Register::Reg1, Some(port))]
}

/// `dnat ip to <address>:<port>`
pub(in super::super) fn translate_to((address, port): (Ipv4Addr, u16)) -> Vec<Expression> {
    let load = |register, data: &[u8]| {
        Expressions::Immediate(vec![
            Immediate::DestinationRegister(register),
            Immediate::Data(DataAttribute::Value(data.to_vec())),
        ])
    };
    let (to, at) = (Register::Reg1, Register::Reg2);
    let translated = nat(Family::V4, to, Some(at));
    vec![load(to, &address.octets()), load(at, &port.to_be_bytes()), translated]
}

/// `dnat` to the address in one register, and to the port in another; without one, the port stays.
fn nat(family: Family, address: Register, port: Option<Register>) -> Expression {
    /// `NFT_NAT_DNAT`, and `NF_NAT_RANGE_MAP_IPS` and `NF_NAT_RANGE_PROTO_SPECIFIED` of `<linux/netfilter/nf_nat.h>`.
    const DESTINATION: u32 = 1;
    const ADDRESS: u32 = 1;
    const PORT: u32 = 2;
    let (family, address) = (number(family).into(), address.into());
    let Some(port) = port.map(u32::from) else {
        // NFTA_NAT_TYPE, _FAMILY, _REG_ADDR_MIN, _REG_ADDR_MAX, _FLAGS
        let fields = [(1, DESTINATION), (2, family), (3, address), (4, address), (7, ADDRESS)];
        return other("nat", &fields);
    };
    // The same, with _REG_PROTO_MIN, _REG_PROTO_MAX before _FLAGS
    let fields = [
        (1, DESTINATION),
        (2, family),
        (3, address),
        (4, address),
        (5, port),
        (6, port),
        (7, ADDRESS | PORT),
    ];
    other("nat", &fields)
}

/// `masquerade`
pub(in super::super) fn masquerade() -> Vec<Expression> {
    vec![other("masq", &[])]
}

/// `counter`
pub(in super::super) fn counter() -> Vec<Expression> {
    vec![other(COUNTER, &[])]
}

/// `accept`
pub(in super::super) fn accept() -> Vec<Expression> {
    vec![verdict(vec![VerdictAttribute::Code(Verdict::Other(ACCEPT))])]
}

/// `drop`
pub(in super::super) fn drop() -> Vec<Expression> {
    vec![verdict(vec![VerdictAttribute::Code(Verdict::Other(DROP))])]
}

/// `reject with icmpx admin-prohibited`, which ends a client's wait at once (icmp(7))
pub(in super::super) fn reject() -> Vec<Expression> {
    /// `NFT_REJECT_ICMPX_ADMIN_PROHIBITED`.
    const ADMIN_PROHIBITED: u8 = 3;
    reject_with(ADMIN_PROHIBITED)
}

/// `reject with tcp reset`: an error by ICMP does not end a connection that was established (RFC 1122, section 4.2.3.9)
pub(in super::super) fn reset() -> Vec<Expression> {
    /// `NFT_REJECT_TCP_RST`.
    const RESET: u32 = 1;
    // NFTA_REJECT_TYPE
    vec![other("reject", &[(1, RESET)])]
}

/// `reject with icmpx port-unreachable`, as a host refuses by itself where nobody listens
pub(in super::super) fn reject_port() -> Vec<Expression> {
    /// `NFT_REJECT_ICMPX_PORT_UNREACH`.
    const PORT_UNREACHABLE: u8 = 1;
    reject_with(PORT_UNREACHABLE)
}

fn reject_with(code: u8) -> Vec<Expression> {
    /// `NFT_REJECT_ICMPX_UNREACH`.
    const BY_FAMILY: u32 = 2;
    // NFTA_REJECT_TYPE, NFTA_REJECT_ICMP_CODE
    vec![other_with_octet("reject", &[(1, BY_FAMILY)], (2, code))]
}

/// `return`
pub(in super::super) fn back() -> Vec<Expression> {
    vec![verdict(vec![VerdictAttribute::Code(Verdict::Return)])]
}

/// `jump <chain>`
pub(in super::super) fn jump(chain: &str) -> Vec<Expression> {
    let code = VerdictAttribute::Code(Verdict::Jump);
    vec![verdict(vec![code, VerdictAttribute::Chain(chain.to_owned())])]
}

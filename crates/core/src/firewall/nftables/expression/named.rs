//! Expressions for guests whose policies have names.

use std::net::Ipv4Addr;

use netlink_packet_netfilter::nftables::{
    DataAttribute, Expressions, Immediate, Operator, Register,
};

use super::{ADDRESS, DESTINATION, Expression, IPV4, LOCAL, PORT, compare, other, source_in};
use crate::{firewall::names::nftables::NAMED, model::Family};

/// `ip saddr @named`
pub(in super::super) fn of_names() -> Vec<Expression> {
    source_in(Family::V4, NAMED)
}

/// `fib daddr . iif type local`: an address that the interface itself has
pub(in super::super) fn destination_is_own() -> Vec<Expression> {
    /// `NFTA_FIB_F_DADDR` and `NFTA_FIB_F_IIF`; `NFT_FIB_RESULT_ADDRTYPE`.
    const DESTINATION_BY_INTERFACE: u32 = 1 << 1 | 1 << 3;
    const ADDRESS_TYPE: u32 = 3;
    // NFTA_FIB_DREG, NFTA_FIB_RESULT, NFTA_FIB_FLAGS
    let fields = [(1, Register::Reg1.into()), (2, ADDRESS_TYPE), (3, DESTINATION_BY_INTERFACE)];
    vec![other("fib", &fields), compare(Operator::Equal, &LOCAL.to_ne_bytes())]
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
    // NFTA_NAT_TYPE, _FAMILY, _REG_ADDR_MIN, _REG_ADDR_MAX, _REG_PROTO_MIN, _REG_PROTO_MAX, _FLAGS
    let attributes = [
        (1, DESTINATION),
        (2, IPV4.into()),
        (3, to.into()),
        (4, to.into()),
        (5, at.into()),
        (6, at.into()),
        (7, ADDRESS | PORT),
    ];
    vec![load(to, &address.octets()), load(at, &port.to_be_bytes()), other("nat", &attributes)]
}

//! Expressions of rules: each loads a register, compares one, or ends the rule
//! (`<linux/netfilter/nf_tables.h>`; `nft --debug=netlink` shows them).
//!
//! The summary of a function is the text in which nft(8) shows its expressions.

mod end;
mod flow_limit;
mod key;
mod normal;
mod refused;

use ipnet::{IpNet, Ipv6Net};
use netlink_packet_core::{DefaultNla, Emitable};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload,
    Register, VerdictAttribute,
};

use super::element;
use crate::{
    firewall::ruleset::{PUBLIC_V6, SPECIAL_RANGES, SPECIAL_RANGES_V6},
    model::{Family, InterfaceName, Protocol, Slot},
};
pub(super) use end::{
    accept, back, counter, drop, jump, masquerade, reject, reject_port, reset, translate,
    translate_address, translate_to,
};
pub(super) use flow_limit::{
    begins_flow, begins_more_than, discovers_more_than, has_begun_more_than, sends_more_than,
};
use key::source_key;
pub(super) use key::{
    addresses_in, by_address, by_port, by_source_and_tcp_port, decided_by_guest, is_in, source_in,
};
pub(super) use normal::{does_nothing, normal, target};
pub(super) use refused::{count_for_interface, few, few_for_interface, log};

/// `NF_DROP` and `NF_ACCEPT` of `<linux/netfilter.h>`: verdicts, and policies of base chains.
pub(super) const DROP: u32 = 0;
pub(super) const ACCEPT: u32 = 1;

/// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// The addresses of `struct iphdr` and of `struct ipv6hdr`, and the destination port of TCP, UDP and SCTP.
const SOURCE_ADDRESS: (u32, u32, u32) = (NETWORK_HEADER, 12, 4);
const DESTINATION_ADDRESS: (u32, u32, u32) = (NETWORK_HEADER, 16, 4);
const SOURCE_ADDRESS_V6: (u32, u32, u32) = (NETWORK_HEADER, 8, 16);
const DESTINATION_ADDRESS_V6: (u32, u32, u32) = (NETWORK_HEADER, 24, 16);
const DESTINATION_PORT: (u32, u32, u32) = (TRANSPORT_HEADER, 2, 2);

/// The type of an ICMP message, of either family.
const ICMP_TYPE: (u32, u32, u32) = (TRANSPORT_HEADER, 0, 1);
/// The octet of the TCP header with the flags, and two of them (RFC 9293, section 3.1).
const TCP_FLAGS: (u32, u32, u32) = (TRANSPORT_HEADER, 13, 1);
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `IPPROTO_ICMPV6`.
const ICMP_V6: u8 = 58;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// `IPS_DST_NAT` of `<linux/netfilter/nf_conntrack_common.h>`.
const DESTINATION_TRANSLATED: u32 = 1 << 5;
/// `RTN_LOCAL` of `<linux/rtnetlink.h>`.
const LOCAL: u32 = 2;
/// `NFT_CT_MARK`.
const CONNECTION_MARK: u32 = 3;
/// `NF_CT_STATE_INVALID_BIT`.
const INVALID: u32 = 1;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)` and `NF_CT_STATE_BIT(IP_CT_RELATED)`.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;

/// The name of the expression that counts.
const COUNTER: &str = "counter";

/// A part of a rule.
pub(super) type Expression = Expressions;

fn meta(key: MetaKey, register: Register) -> Expression {
    Expressions::Meta(vec![Meta::DestinationRegister(register), Meta::Key(key)])
}

fn payload((base, offset, length): (u32, u32, u32), register: Register) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

fn compare(operator: Operator, data: &[u8]) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(data.to_vec())),
    ])
}

fn equals(data: &[u8]) -> Expression {
    compare(Operator::Equal, data)
}

fn mask(mask: impl AsRef<[u8]>) -> Expression {
    let mask = mask.as_ref();
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(u32::try_from(mask.len()).unwrap_or(u32::MAX)),
        Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
        Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
    ])
}

fn lookup(set: &str, data: Option<Register>) -> Expression {
    let from = [Lookup::Set(set.to_owned()), Lookup::SourceRegister(Register::Reg1)];
    let into = data.map(Lookup::DestinationRegister);
    Expressions::Lookup(from.into_iter().chain(into).collect())
}

fn verdict(attributes: Vec<VerdictAttribute>) -> Expression {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
}

/// Returns an expression that the library has no type for, with 32-bit attributes in network byte order.
fn other(expression_type: &str, attributes: &[(u16, u32)]) -> Expression {
    let attribute = |&(kind, value): &(u16, u32)| DefaultNla::new(kind, value.to_be_bytes().into());
    Expressions::Other {
        expression_type: expression_type.to_owned(),
        attributes: attributes.iter().map(attribute).collect(),
    }
}

/// Returns such an expression with one more attribute, of one octet.
fn other_with_octet(
    expression_type: &str,
    attributes: &[(u16, u32)],
    (kind, octet): (u16, u8),
) -> Expression {
    let mut expression = other(expression_type, attributes);
    if let Expressions::Other { attributes, .. } = &mut expression {
        attributes.push(DefaultNla::new(kind, vec![octet]));
    }
    expression
}

/// `ct <key>`, loaded into register 1, has one of these bits.
fn conntrack_has(key: u32, bits: u32) -> Vec<Expression> {
    [conntrack_bits(key, bits), vec![compare(Operator::NotEqual, &[0; 4])]].concat()
}

/// These bits of `ct <key>`, loaded into register 1.
fn conntrack_bits(key: u32, bits: u32) -> Vec<Expression> {
    // NFTA_CT_DREG, NFTA_CT_KEY
    let load = other("ct", &[(1, Register::Reg1.into()), (2, key)]);
    vec![load, mask(bits.to_ne_bytes())]
}

const fn number(family: Family) -> u8 {
    match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    }
}

const fn source_address(family: Family) -> (u32, u32, u32) {
    match family {
        Family::V4 => SOURCE_ADDRESS,
        Family::V6 => SOURCE_ADDRESS_V6,
    }
}

const fn destination_address(family: Family) -> (u32, u32, u32) {
    match family {
        Family::V4 => DESTINATION_ADDRESS,
        Family::V6 => DESTINATION_ADDRESS_V6,
    }
}

/// The registers that follow an address of this family in register 1.
const fn after_address(family: Family) -> [Register; 3] {
    match family {
        Family::V4 => [Register::Reg32_01, Register::Reg32_02, Register::Reg32_03],
        Family::V6 => [Register::Reg2, Register::Reg32_05, Register::Reg32_06],
    }
}

/// `meta nfproto ipv4`, `meta nfproto ipv6`
pub(super) fn of_family(family: Family) -> Vec<Expression> {
    vec![meta(MetaKey::Nfproto, Register::Reg1), equals(&[number(family)])]
}

/// `iifname "rik*"`: a comparison shorter than the name is a wildcard.
pub(super) fn from_guest() -> Vec<Expression> {
    vec![meta(MetaKey::Iifname, Register::Reg1), equals(Slot::PREFIX.as_bytes())]
}

/// `iifname != "rik*"`
pub(super) fn not_from_guest() -> Vec<Expression> {
    let prefix = Slot::PREFIX.as_bytes();
    vec![meta(MetaKey::Iifname, Register::Reg1), compare(Operator::NotEqual, prefix)]
}

/// `iifname != "lo"`
pub(super) fn not_from_host() -> Vec<Expression> {
    let mut name = b"lo".to_vec();
    name.resize(InterfaceName::MAX_LENGTH + 1, 0);
    vec![meta(MetaKey::Iifname, Register::Reg1), compare(Operator::NotEqual, &name)]
}

/// `iifname "<interface>"`
pub(super) fn from_interface(name: &InterfaceName) -> Vec<Expression> {
    vec![meta(MetaKey::Iifname, Register::Reg1), equals(&element::padded(name))]
}

/// `oifname "rik*"`
pub(super) fn to_guest() -> Vec<Expression> {
    vec![meta(MetaKey::Oifname, Register::Reg1), equals(Slot::PREFIX.as_bytes())]
}

/// `oifname != "rik*"`
pub(super) fn not_to_guest() -> Vec<Expression> {
    let prefix = Slot::PREFIX.as_bytes();
    vec![meta(MetaKey::Oifname, Register::Reg1), compare(Operator::NotEqual, prefix)]
}

/// `oifname @set`
pub(super) fn out_of(set: &str) -> Vec<Expression> {
    vec![meta(MetaKey::Oifname, Register::Reg1), lookup(set, None)]
}

/// `iifname . oifname @set`
pub(super) fn between(set: &str) -> Vec<Expression> {
    vec![
        meta(MetaKey::Iifname, Register::Reg1),
        meta(MetaKey::Oifname, Register::Reg2),
        lookup(set, None),
    ]
}

/// `ip saddr <network>`, `ip6 saddr <network>`
pub(super) fn source(network: impl Into<IpNet>) -> Vec<Expression> {
    let network = network.into();
    matched(source_address(Family::of_network(network)), Operator::Equal, network)
}

/// `ip saddr != <network>`, `ip6 saddr != <network>`
pub(super) fn source_outside(network: impl Into<IpNet>) -> Vec<Expression> {
    let network = network.into();
    matched(source_address(Family::of_network(network)), Operator::NotEqual, network)
}

/// `ip daddr <network>`, `ip6 daddr <network>`
pub(super) fn destination(network: impl Into<IpNet>) -> Vec<Expression> {
    let network = network.into();
    matched(destination_address(Family::of_network(network)), Operator::Equal, network)
}

/// `ip daddr != <network>`, `ip6 daddr != <network>`
pub(super) fn destination_outside(network: impl Into<IpNet>) -> Vec<Expression> {
    let network = network.into();
    matched(destination_address(Family::of_network(network)), Operator::NotEqual, network)
}

/// `ip6 daddr != <network>` for each of these. The family is compared once, as nft(8) does.
pub(super) fn destination_outside_all(networks: &[Ipv6Net]) -> Vec<Expression> {
    let outside = |network: &Ipv6Net| {
        prefix(DESTINATION_ADDRESS_V6, Operator::NotEqual, IpNet::from(*network))
    };
    [of_family(Family::V6), networks.iter().flat_map(outside).collect()].concat()
}

/// `ip daddr != <range>` for each range that is not public, in a rule that is for this family already; for IPv6 also
/// `ip6 daddr <range>` of those that are
pub(super) fn destination_public(family: Family) -> Vec<Expression> {
    let field = destination_address(family);
    let outside = |range: IpNet| prefix(field, Operator::NotEqual, range);
    match family {
        Family::V4 => SPECIAL_RANGES.into_iter().map(IpNet::from).flat_map(outside).collect(),
        Family::V6 => {
            let within = prefix(field, Operator::Equal, PUBLIC_V6.into());
            let special = SPECIAL_RANGES_V6.into_iter().map(IpNet::from).flat_map(outside);
            within.into_iter().chain(special).collect()
        }
    }
}

fn matched(field: (u32, u32, u32), operator: Operator, network: IpNet) -> Vec<Expression> {
    [of_family(Family::of_network(network)), prefix(field, operator, network)].concat()
}

/// Compares a prefix as nft(8) does: if it ends at a byte, only these bytes are loaded, and no mask is needed.
fn prefix(
    (base, offset, length): (u32, u32, u32),
    operator: Operator,
    network: IpNet,
) -> Vec<Expression> {
    let (address, netmask) = match network {
        IpNet::V4(network) => {
            (network.network().octets().to_vec(), network.netmask().octets().to_vec())
        }
        IpNet::V6(network) => {
            (network.network().octets().to_vec(), network.netmask().octets().to_vec())
        }
    };
    let prefix = address.get(..usize::from(network.prefix_len() / 8));
    match prefix {
        Some(prefix) if network.prefix_len().is_multiple_of(8) => {
            let length = u32::from(network.prefix_len() / 8);
            vec![payload((base, offset, length), Register::Reg1), compare(operator, prefix)]
        }
        _ => vec![
            payload((base, offset, length), Register::Reg1),
            mask(netmask),
            compare(operator, &address),
        ],
    }
}

/// `<protocol> dport <port>`
pub(super) fn to_port(protocol: Protocol, port: u16) -> Vec<Expression> {
    vec![
        meta(MetaKey::L4Proto, Register::Reg1),
        equals(&[protocol.number()]),
        payload(DESTINATION_PORT, Register::Reg1),
        equals(&port.to_be_bytes()),
    ]
}

/// `icmp type echo-request`, `icmpv6 type echo-request`
pub(super) fn echo_request(family: Family) -> Vec<Expression> {
    /// `IPPROTO_ICMP`, and the types (RFC 792; RFC 4443).
    const ICMP: u8 = 1;
    const ECHO: u8 = 8;
    const ECHO_V6: u8 = 128;
    let (protocol, kind) = match family {
        Family::V4 => (ICMP, ECHO),
        Family::V6 => (ICMP_V6, ECHO_V6),
    };
    let load = vec![
        meta(MetaKey::L4Proto, Register::Reg1),
        equals(&[protocol]),
        payload(ICMP_TYPE, Register::Reg1),
        equals(&[kind]),
    ];
    [of_family(family), load].concat()
}

/// `icmpv6 type >= nd-neighbor-solicit icmpv6 type <= nd-neighbor-advert`, in a rule that is for IPv6 already
pub(super) fn neighbour_discovery() -> Vec<Expression> {
    /// RFC 4861, sections 4.3 and 4.4.
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    vec![
        meta(MetaKey::L4Proto, Register::Reg1),
        equals(&[ICMP_V6]),
        payload(ICMP_TYPE, Register::Reg1),
        compare(Operator::GreatherThanEqual, &[SOLICITATION]),
        compare(Operator::LessThanEqual, &[ADVERTISEMENT]),
    ]
}

/// `tcp flags syn / syn,rst`
pub(super) fn begins_connection() -> Vec<Expression> {
    vec![
        meta(MetaKey::L4Proto, Register::Reg1),
        equals(&[TCP]),
        payload(TCP_FLAGS, Register::Reg1),
        mask([SYN | RST]),
        equals(&[SYN]),
    ]
}

/// `meta l4proto tcp`
pub(super) fn tcp() -> Vec<Expression> {
    vec![meta(MetaKey::L4Proto, Register::Reg1), equals(&[TCP])]
}

/// `th dport >= 0`, which a packet is not that ends before
pub(super) fn has_ports() -> Vec<Expression> {
    let compared = compare(Operator::GreatherThanEqual, &[0, 0]);
    vec![payload(DESTINATION_PORT, Register::Reg1), compared]
}

/// `tcp option maxseg size set <bytes>`. The kernel makes no size larger.
pub(super) fn set_segment_size(bytes: u16) -> Vec<Expression> {
    let load = Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Reg1),
        Immediate::Data(DataAttribute::Value(bytes.to_be_bytes().to_vec())),
    ]);
    vec![load, write_segment_size()]
}

/// `tcp option maxseg size set rt mtu`. The kernel takes the lesser of the routes to both ends, and makes no size
/// larger (`get_tcpmss` and `nft_exthdr_tcp_set_eval` of `net/netfilter`).
pub(super) fn clamp_segment_size() -> Vec<Expression> {
    /// `NFT_RT_TCPMSS`, and `NFT_BYTEORDER_HTON`.
    const SEGMENT_SIZE_OF_ROUTE: u32 = 3;
    const TO_NETWORK: u32 = 1;
    let register = Register::Reg1.into();
    // NFTA_RT_DREG, _KEY
    let route = other("rt", &[(1, register), (2, SEGMENT_SIZE_OF_ROUTE)]);
    // NFTA_BYTEORDER_SREG, _DREG, _OP, _LEN, _SIZE
    let order = [(1, register), (2, register), (3, TO_NETWORK), (4, 2), (5, 2)];
    vec![route, other("byteorder", &order), write_segment_size()]
}

/// Writes register 1 to the option of the maximum segment size.
fn write_segment_size() -> Expression {
    /// `NFT_EXTHDR_OP_TCPOPT`.
    const TCP_OPTION: u32 = 1;
    /// The kind of the option, and the offset and the length of its value (RFC 9293, section 3.2).
    const MAXSEG: u8 = 2;
    const SIZE: (u32, u32) = (2, 2);
    let register = Register::Reg1.into();
    // NFTA_EXTHDR_OFFSET, _LEN, _OP, _SREG, and _TYPE
    let attributes = [(3, SIZE.0), (4, SIZE.1), (6, TCP_OPTION), (7, register)];
    other_with_octet("exthdr", &attributes, (2, MAXSEG))
}

/// `fib daddr type local`
pub(super) fn destination_is_local() -> Vec<Expression> {
    destination_type(Operator::Equal, LOCAL)
}

/// `fib daddr type != local`
pub(super) fn destination_is_elsewhere() -> Vec<Expression> {
    destination_type(Operator::NotEqual, LOCAL)
}

/// `fib daddr type broadcast`
pub(super) fn destination_is_broadcast() -> Vec<Expression> {
    /// `RTN_BROADCAST` of `<linux/rtnetlink.h>`.
    const BROADCAST: u32 = 3;
    destination_type(Operator::Equal, BROADCAST)
}

/// `fib daddr . iif type local`: an address that the interface itself has
pub(super) fn destination_is_own() -> Vec<Expression> {
    /// `NFTA_FIB_F_IIF`.
    const BY_INTERFACE: u32 = 1 << 3;
    address_type(BY_INTERFACE, Operator::Equal, LOCAL)
}

fn destination_type(operator: Operator, wanted: u32) -> Vec<Expression> {
    address_type(0, operator, wanted)
}

/// Compares the type that the destination has to a look-up with these flags.
fn address_type(flags: u32, operator: Operator, wanted: u32) -> Vec<Expression> {
    /// `NFTA_FIB_F_DADDR`, `NFT_FIB_RESULT_ADDRTYPE`.
    const DESTINATION: u32 = 1 << 1;
    const ADDRESS_TYPE: u32 = 3;
    let flags = DESTINATION | flags;
    // NFTA_FIB_DREG, NFTA_FIB_RESULT, NFTA_FIB_FLAGS
    let load = other("fib", &[(1, Register::Reg1.into()), (2, ADDRESS_TYPE), (3, flags)]);
    vec![load, compare(operator, &wanted.to_ne_bytes())]
}

/// `fib saddr . iif oif missing`
pub(super) fn source_is_elsewhere() -> Vec<Expression> {
    /// `NFTA_FIB_F_SADDR`, `NFTA_FIB_F_IIF` and `NFTA_FIB_F_PRESENT`; `NFT_FIB_RESULT_OIF`.
    const SOURCE_BY_INTERFACE: u32 = 1 | 1 << 3 | 1 << 5;
    const INTERFACE: u32 = 1;
    let fields = [(1, Register::Reg1.into()), (2, INTERFACE), (3, SOURCE_BY_INTERFACE)];
    vec![other("fib", &fields), equals(&[0; 4])]
}

/// `meta mark & <bits> != 0`
pub(super) fn packet_has_any(bits: u32) -> Vec<Expression> {
    let bit = mask(bits.to_ne_bytes());
    vec![meta(MetaKey::Mark, Register::Reg1), bit, compare(Operator::NotEqual, &[0; 4])]
}

/// `ct state established,related`
pub(super) fn established() -> Vec<Expression> {
    // NFT_CT_STATE
    conntrack_has(0, ESTABLISHED_OR_RELATED)
}

/// `ct state invalid`
pub(super) fn invalid() -> Vec<Expression> {
    // NFT_CT_STATE
    conntrack_has(0, INVALID)
}

/// `ct status dnat`
pub(super) fn destination_translated() -> Vec<Expression> {
    // NFT_CT_STATUS
    conntrack_has(2, DESTINATION_TRANSLATED)
}

/// `ct status ! dnat`
pub(super) fn destination_untranslated() -> Vec<Expression> {
    // NFT_CT_STATUS
    [conntrack_bits(2, DESTINATION_TRANSLATED), vec![equals(&[0; 4])]].concat()
}

/// `ct mark & <bits> == <mark>`
pub(super) fn connection_has_mark(mark: u32, bits: u32) -> Vec<Expression> {
    vec![connection_mark(), mask(bits.to_ne_bytes()), equals(&mark.to_ne_bytes())]
}

/// `ct mark set ct mark & ~<bits> | <mark>`
pub(super) fn mark_connection(mark: u32, bits: u32) -> Vec<Expression> {
    // NFTA_CT_SREG, NFTA_CT_KEY
    let store = other("ct", &[(4, Register::Reg1.into()), (2, CONNECTION_MARK)]);
    vec![connection_mark(), replace_bits(mark, bits), store]
}

/// `meta mark set meta mark & ~<bits> | <mark>`
pub(super) fn mark_packet(mark: u32, bits: u32) -> Vec<Expression> {
    /// `NFT_META_MARK`.
    const PACKET_MARK: u32 = 3;
    // NFTA_META_SREG, NFTA_META_KEY
    let store = other("meta", &[(3, Register::Reg1.into()), (2, PACKET_MARK)]);
    vec![meta(MetaKey::Mark, Register::Reg1), replace_bits(mark, bits), store]
}

/// `ct mark`, loaded into register 1.
fn connection_mark() -> Expression {
    // NFTA_CT_DREG, NFTA_CT_KEY
    other("ct", &[(1, Register::Reg1.into()), (2, CONNECTION_MARK)])
}

/// Gives these bits of register 1 the value of `mark`.
fn replace_bits(mark: u32, bits: u32) -> Expression {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(4),
        Bitwise::Mask(DataAttribute::Value((!bits).to_ne_bytes().to_vec())),
        Bitwise::Xor(DataAttribute::Value(mark.to_ne_bytes().to_vec())),
    ])
}

fn emitted(emitable: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; emitable.buffer_len()];
    emitable.emit(&mut bytes);
    bytes
}

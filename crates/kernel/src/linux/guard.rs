//! The requests that put the guard on an interface: a `clsact` queueing discipline, and on each of its hooks a filter
//! (tc(8), tc-bpf(8)). They go with the interface.

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};

use riklet_core::guard::{FROM_GUEST, Instruction, TO_GUEST};

/// `TC_H_CLSACT` of `<linux/pkt_sched.h>` with `TC_H_UNSPEC`, `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS`.
const HOOKS: TcHandle = TcHandle { major: 0xffff, minor: 0 };
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };
const EGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff3 };
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };

/// Returns the request for the hooks. Repetition changes nothing.
pub(super) fn hooks(index: u32) -> RouteNetlinkMessage {
    let mut message = message(index, HOOKS, CLSACT);
    message.attributes = vec![TcAttribute::Kind("clsact".to_owned())];
    RouteNetlinkMessage::NewQueueDiscipline(message)
}

/// Returns the requests for the filters, which replace those of an earlier version.
pub(super) fn filters(index: u32) -> [RouteNetlinkMessage; 2] {
    [filter(index, INGRESS, &FROM_GUEST), filter(index, EGRESS, &TO_GUEST)]
}

fn filter(index: u32, hook: TcHandle, program: &[Instruction]) -> RouteNetlinkMessage {
    /// `ETH_P_ALL` of `<linux/if_ether.h>`.
    const EVERY_PROTOCOL: u16 = 3;
    const PRIORITY: u32 = 1;
    const HANDLE: TcHandle = TcHandle { major: 0, minor: 1 };
    /// `TCA_OPTIONS` of `<linux/rtnetlink.h>`.
    const OPTIONS: u16 = 2;
    /// `TCA_BPF_OPS_LEN`, `TCA_BPF_OPS`, `TCA_BPF_FLAGS` and `TCA_BPF_FLAG_ACT_DIRECT` of `<linux/pkt_cls.h>`.
    const LENGTH: u16 = 4;
    const PROGRAM: u16 = 5;
    const FLAGS: u16 = 8;
    const DIRECT_ACTION: u32 = 1;
    let length = u16::try_from(program.len()).unwrap_or(u16::MAX);
    let bytes = program.iter().flat_map(|instruction| instruction.bytes()).collect();
    let options = [
        DefaultNla::new(LENGTH, length.to_ne_bytes().into()),
        DefaultNla::new(PROGRAM, bytes),
        DefaultNla::new(FLAGS, DIRECT_ACTION.to_ne_bytes().into()),
    ];
    let mut nested = vec![0; options.as_slice().buffer_len()];
    options.as_slice().emit(&mut nested);
    let mut message = message(index, HANDLE, hook);
    message.header.info = PRIORITY << 16 | u32::from(EVERY_PROTOCOL.to_be());
    message.attributes = vec![
        TcAttribute::Kind("bpf".to_owned()),
        TcAttribute::Other(DefaultNla::new(OPTIONS | NLA_F_NESTED, nested)),
    ];
    RouteNetlinkMessage::NewTrafficFilter(message)
}

fn message(index: u32, handle: TcHandle, parent: TcHandle) -> TcMessage {
    // The kernel's numbers of interfaces are positive.
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or(i32::MAX));
    (message.header.handle, message.header.parent) = (handle, parent);
    message
}

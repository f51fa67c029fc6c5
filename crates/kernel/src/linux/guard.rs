//! The guard of interfaces by rtnetlink(7): a `clsact` queueing discipline on each (tc(8)), which goes with it, and pairs
//! of blocks of filters (tc-bpf(8)), each shared by some of them.
//!
//! With blocks of its own for each interface, the kernel compiles both programs for each, and searches a list of all
//! blocks for each that comes or goes (`find_indir_dev` of `net/core/flow_offload.c`). With one pair for all, it searches
//! a list of all interfaces for each that goes (`tcf_block_owner_del` of `net/sched/cls_api.c`). Either took longer than
//! all else with 10,000 TAPs. A block goes with the last interface that uses it.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
};

use netlink_packet_core::{
    DefaultNla, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE, Nla,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{
    netlink::{NetlinkRequest, decode},
    route::Route,
};
use crate::Refusal;
use riklet_core::{
    guard::{FROM_GUEST, Instruction, TO_GUEST},
    model::Slot,
};

/// `TC_H_CLSACT` of `<linux/pkt_sched.h>`, and the queueing discipline there.
const HOOKS: TcHandle = TcHandle { major: 0xffff, minor: 0 };
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
/// `TCA_INGRESS_BLOCK` and `TCA_EGRESS_BLOCK` of `<linux/rtnetlink.h>`.
const INGRESS_BLOCK: u16 = 13;
const EGRESS_BLOCK: u16 = 14;
/// The first of our blocks: "RK", and the number of the block.
const FIRST_BLOCK: u32 = 0x524b_0000;
/// The number of slots that share a pair of blocks.
const SHARE: u32 = 128;
/// `TCM_IFINDEX_MAGIC_BLOCK` of `<linux/rtnetlink.h>`: the message concerns the block that stands in place of the parent.
const OF_BLOCK: i32 = -1;
/// `TCA_BPF_OPS_LEN` and `TCA_BPF_OPS` of `<linux/pkt_cls.h>`.
const LENGTH: u16 = 4;
const PROGRAM: u16 = 5;
/// The number of the loopback interface in a new network namespace (`loopback_net_init` of `drivers/net/loopback.c`).
const LOOPBACK: u32 = 1;

/// A pair of blocks: for frames from guests, and for frames to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Blocks {
    from_guests: u32,
    to_guests: u32,
}

impl Blocks {
    /// Returns the blocks of a slot.
    pub(super) fn of(slot: Slot) -> Self {
        let from_guests = FIRST_BLOCK + 2 * (u32::from(slot.number()) / SHARE);
        Self { from_guests, to_guests: from_guests + 1 }
    }

    fn are_ours(self) -> bool {
        Self::of(Slot::new(0)) <= self
            && self <= Self::of(Slot::new(u16::MAX))
            && self.from_guests.is_multiple_of(2)
            && self.to_guests == self.from_guests + 1
    }
}

impl Route {
    /// Reports whether an interface has the guard; also `true` if the kernel cannot give it one.
    pub(super) fn is_guarded(&mut self, index: u32) -> Result<bool, Refusal> {
        // The kernel sends the answer to everybody who listens, and to us if we ask for an echo.
        let found = match self.socket.query(&get_hooks(index), NLM_F_ECHO) {
            Err(refusal) if refusal.errno.is_some() => vec![],
            found => found?,
        };
        let hooked = found.iter().filter_map(hooked).find(|(hooked, _)| *hooked == index);
        Ok(hooked.is_some_and(|(_, blocks)| self.programs_stand(blocks)) || !self.can_guard())
    }

    /// Returns those of all interfaces that have the guard; `None` if the kernel cannot give it.
    pub(super) fn guarded(&mut self) -> Result<Option<BTreeSet<u32>>, Refusal> {
        let hooked = |message: &[u8]| decode(message).as_ref().and_then(hooked);
        let every = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let mut found: BTreeMap<u32, Blocks> =
            self.socket.query_as(&every, NLM_F_DUMP, hooked)?.into_iter().collect();
        let pairs: BTreeSet<_> = found.values().copied().collect();
        let broken: BTreeSet<_> =
            pairs.into_iter().filter(|blocks| !self.programs_stand(*blocks)).collect();
        found.retain(|_, blocks| !broken.contains(blocks));
        // If nothing has the guard, the kernel may not have what it takes.
        Ok((!found.is_empty() || self.can_guard()).then(|| found.into_keys().collect()))
    }

    /// Removes hooks that are not the guard's, or whose filters another program changed.
    pub(super) fn remove_hooks(&mut self, index: u32) -> Result<(), Refusal> {
        let message = RouteNetlinkMessage::DelQueueDiscipline(message(index, HOOKS, CLSACT));
        // Most likely there are none.
        self.socket.send_each(vec![NetlinkRequest { message, flags: 0 }]).map(drop)
    }

    /// Reports whether these blocks have the programs of this version. A block that does not exist has none.
    fn programs_stand(&mut self, blocks: Blocks) -> bool {
        let programs = [(blocks.from_guests, &FROM_GUEST[..]), (blocks.to_guests, &TO_GUEST)];
        programs.into_iter().all(|(block, program)| {
            let request = RouteNetlinkMessage::GetTrafficFilter(of_block(block));
            let found = self.socket.query(&request, NLM_F_DUMP).unwrap_or_default();
            let bytes = bytes(program);
            found.iter().any(|answer| has_program(answer, &bytes))
        })
    }

    /// Reports whether the kernel has what the guard is made of. Tries it once, in a network namespace of its own.
    pub(super) fn can_guard(&mut self) -> bool {
        *self.can_guard.get_or_insert_with(|| thread::spawn(try_guard).join().unwrap_or(false))
    }
}

/// Puts the guard on the loopback interface of a new network namespace, which ends with the calling thread. Returns
/// `false` if that is refused, also for want of a privilege.
fn try_guard() -> bool {
    #[expect(unsafe_code, reason = "rustix marks every unshare(2) so, for CLONE_FILES")]
    // SAFETY: the thread keeps its descriptor table.
    let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    let Ok(mut route) = unshared.map_err(Refusal::from).and_then(|()| Route::open()) else {
        return false;
    };
    let blocks = Blocks::of(Slot::new(0));
    let hooks = std::iter::once(hooks(LOOPBACK, blocks));
    let requests = hooks.chain(filters(blocks, Filters::Replaced));
    let results = route.socket.send_each(requests.collect());
    results.is_ok_and(|results| results.iter().all(Result::is_ok))
}

/// Returns the request for the hooks. The kernel refuses it with `EEXIST` if there are any.
pub(super) fn hooks(index: u32, blocks: Blocks) -> NetlinkRequest<RouteNetlinkMessage> {
    let mut message = message(index, HOOKS, CLSACT);
    message.attributes = vec![
        TcAttribute::Kind("clsact".to_owned()),
        TcAttribute::Other(DefaultNla::new(INGRESS_BLOCK, blocks.from_guests.to_ne_bytes().into())),
        TcAttribute::Other(DefaultNla::new(EGRESS_BLOCK, blocks.to_guests.to_ne_bytes().into())),
    ];
    let message = RouteNetlinkMessage::NewQueueDiscipline(message);
    NetlinkRequest { message, flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// The filters that a request for filters leaves in its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filters {
    /// Those that stand, if any do: the request is refused with `EEXIST`, at no cost.
    Kept,
    /// Those of this version.
    Replaced,
}

/// Returns the requests for the filters of both blocks, which some interface must use.
pub(super) fn filters(
    blocks: Blocks,
    filters: Filters,
) -> [NetlinkRequest<RouteNetlinkMessage>; 2] {
    let flags = match filters {
        Filters::Kept => NLM_F_CREATE | NLM_F_EXCL,
        Filters::Replaced => NLM_F_CREATE | NLM_F_REPLACE,
    };
    [filter(blocks.from_guests, &FROM_GUEST), filter(blocks.to_guests, &TO_GUEST)]
        .map(|message| NetlinkRequest { message, flags })
}

fn filter(block: u32, program: &[Instruction]) -> RouteNetlinkMessage {
    /// `ETH_P_ALL` of `<linux/if_ether.h>`.
    const EVERY_PROTOCOL: u16 = 3;
    const PRIORITY: u32 = 1;
    let length = u16::try_from(program.len()).unwrap_or(u16::MAX);
    let other = |kind, value| TcFilterBpfOption::Other(DefaultNla::new(kind, value));
    let options = [
        other(LENGTH, length.to_ne_bytes().into()),
        other(PROGRAM, bytes(program)),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let mut message = of_block(block);
    message.header.handle = TcHandle { major: 0, minor: 1 };
    message.header.info = PRIORITY << 16 | u32::from(EVERY_PROTOCOL.to_be());
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(options.map(TcOption::Bpf).into()),
    ];
    RouteNetlinkMessage::NewTrafficFilter(message)
}

fn bytes(program: &[Instruction]) -> Vec<u8> {
    program.iter().flat_map(|instruction| instruction.bytes()).collect()
}

fn get_hooks(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetQueueDiscipline(message(index, HOOKS, CLSACT))
}

fn message(index: u32, handle: TcHandle, parent: TcHandle) -> TcMessage {
    // The kernel's numbers of interfaces are positive.
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or(i32::MAX));
    (message.header.handle, message.header.parent) = (handle, parent);
    message
}

fn of_block(block: u32) -> TcMessage {
    let mut message = TcMessage::with_index(OF_BLOCK);
    message.header.parent = TcHandle::from(block);
    message
}

/// Returns the interface of a queueing discipline that has blocks of ours, and these.
fn hooked(answer: &RouteNetlinkMessage) -> Option<(u32, Blocks)> {
    let RouteNetlinkMessage::NewQueueDiscipline(message) = answer else { return None };
    let block = |kind| {
        message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Other(other) if other.kind() == kind => {
                value(other).try_into().ok().map(u32::from_ne_bytes)
            }
            _ => None,
        })
    };
    let blocks = Blocks { from_guests: block(INGRESS_BLOCK)?, to_guests: block(EGRESS_BLOCK)? };
    let index = u32::try_from(message.header.index).ok()?;
    blocks.are_ours().then_some((index, blocks))
}

fn has_program(answer: &RouteNetlinkMessage, program: &[u8]) -> bool {
    let RouteNetlinkMessage::NewTrafficFilter(message) = answer else { return false };
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().any(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::Other(option)) => {
            option.kind() == PROGRAM && value(option) == program
        }
        _ => false,
    })
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

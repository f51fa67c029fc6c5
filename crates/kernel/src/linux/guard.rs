//! The guard of interfaces by rtnetlink(7): a `clsact` queueing discipline on each (tc(8)), which goes with it, and pairs
//! of blocks of filters (tc-bpf(8)), each shared by some of them.
//!
//! With blocks of its own for each interface, the kernel compiles both programs for each, and searches a list of all
//! blocks for each that comes or goes (`find_indir_dev` of `net/core/flow_offload.c`). With one pair for all, it searches
//! a list of all interfaces for each that goes (`tcf_block_owner_del` of `net/sched/cls_api.c`). Either took longer than
//! all else with 10,000 TAPs. A block goes with the last interface that uses it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netlink_packet_core::{
    DefaultNla, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE, Nla,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{
    netlink::{NetlinkRequest, decode, or_none},
    route::Route,
    shaping,
};
use crate::{Refusal, threads};
use riklet_core::{
    guard::{self, Guard, Instruction},
    model::Slot,
    shaping::Bucket,
    small::SmallSet,
};

/// `TC_H_CLSACT` of `<linux/pkt_sched.h>`, and the queueing discipline there.
const HOOKS: TcHandle = TcHandle { major: 0xffff, minor: 0 };
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
/// `TCA_INGRESS_BLOCK` and `TCA_EGRESS_BLOCK` of `<linux/rtnetlink.h>`.
const INGRESS_BLOCK: u16 = 13;
const EGRESS_BLOCK: u16 = 14;
/// The first of our blocks: "R". Its last ten bits are the number of the block among those with the same programs.
const FIRST_BLOCK: u32 = 0x5200_0000;
/// The first of the blocks that one slot has for itself, "S": those for frames from a guest whose rate is limited, which a
/// filter after the guard leads elsewhere. It goes with its TAP.
const FIRST_OWN: u32 = 0x5300_0000;
const OURS: u32 = 0xff00_0000;
const NUMBER_BITS: u32 = 10;
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

/// Queueing disciplines of ours, by the indices of their interfaces.
#[derive(Debug, Default)]
pub(super) struct Disciplines {
    pub(super) hooked: BTreeMap<u32, Blocks>,
    pub(super) buckets: BTreeMap<u32, Bucket>,
}

impl Blocks {
    /// Returns the blocks of a slot. The number of a block follows from its programs as well: those of another pool, or
    /// of another version, are most likely in other blocks, so a new TAP does not get them.
    pub(super) fn of(slot: Slot, guard: Guard) -> Self {
        let [from, to] = programs(guard);
        // The 32-bit FNV-1a hash.
        let hash = [from, to].concat().iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        let first = FIRST_BLOCK | hash << NUMBER_BITS & !OURS;
        let from_guests = first + 2 * (u32::from(slot.number()) / SHARE);
        Self { from_guests, to_guests: from_guests + 1 }
    }

    /// Returns the blocks of a slot that has the one for frames from its guest for itself.
    pub(super) fn own(slot: Slot, guard: Guard) -> Self {
        Self { from_guests: Self::own_of(slot), ..Self::of(slot, guard) }
    }

    /// Returns the block that a slot has for itself, for frames from its guest.
    pub(super) fn own_of(slot: Slot) -> u32 {
        FIRST_OWN | u32::from(slot.number())
    }

    /// Returns the slot that has this block for itself.
    pub(super) fn slot_of_own(block: u32) -> Option<Slot> {
        u16::try_from(block.checked_sub(FIRST_OWN)?).ok().map(Slot::new)
    }

    /// Returns the block for frames from the guest, if one slot has it for itself.
    pub(super) fn own_block(self) -> Option<u32> {
        Some(self.from_guests).filter(|block| block & OURS == FIRST_OWN)
    }

    #[cfg(all(test, privileged))]
    pub(super) fn numbers(self) -> [u32; 2] {
        [self.from_guests, self.to_guests]
    }

    fn are_ours(self) -> bool {
        let shared = self.from_guests & OURS == FIRST_BLOCK
            && self.from_guests.is_multiple_of(2)
            && self.to_guests == self.from_guests + 1;
        let own = self.own_block().is_some()
            && self.to_guests & OURS == FIRST_BLOCK
            && !self.to_guests.is_multiple_of(2);
        shared || own
    }
}

/// Returns the programs for frames from guests and to them, in the kernel's form.
fn programs(guard: Guard) -> [Vec<u8>; 2] {
    [guard.from_guest(), guard::to_guest()].map(|program| guard::bytes(&program))
}

impl Route {
    /// Reports whether the interface of a slot, with these addresses and hooks, has the guard; also `true` if the kernel cannot
    /// give it one.
    pub(super) fn is_guarded(
        &mut self,
        hooked: Option<Blocks>,
        slot: Slot,
        addresses: &SmallSet<IpNet>,
    ) -> Result<bool, Refusal> {
        let found = self.guard_of(hooked)?;
        Ok(found.is_some_and(|guard| guard.fits(slot, addresses)) || !self.can_guard()?)
    }

    /// Reports whether these hooks have the guard that the interface of a slot gets with these addresses, and no other;
    /// also `true` if the kernel cannot give it one.
    pub(super) fn has_guard_of(
        &mut self,
        hooked: Option<Blocks>,
        slot: Slot,
        addresses: &SmallSet<IpNet>,
    ) -> Result<bool, Refusal> {
        let found = self.guard_of(hooked)?;
        Ok(found == Some(Guard::of_interface(slot, addresses)) || !self.can_guard()?)
    }

    /// Returns the blocks of the hooks of an interface, if they are ours.
    pub(super) fn hooked(&mut self, index: u32) -> Result<Option<Blocks>, Refusal> {
        // The kernel sends the answer to everybody who listens, and to us if we ask for an echo.
        let found = or_none(self.socket.query(&get_hooks(index), NLM_F_ECHO))?;
        let hooked = found.iter().filter_map(hooked).find(|(hooked, _)| *hooked == index);
        Ok(hooked.map(|(_, blocks)| blocks))
    }

    /// Returns the queueing disciplines of ours, of all interfaces.
    pub(super) fn disciplines(&mut self) -> Result<Disciplines, Refusal> {
        let read = |message: &[u8]| match shaping::bucket(message) {
            Some((index, bucket)) => Some((index, Err(bucket))),
            None => decode(message).as_ref().and_then(hooked).map(|(i, blocks)| (i, Ok(blocks))),
        };
        let every = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let mut found = Disciplines::default();
        for (index, discipline) in self.socket.query_as(&every, NLM_F_DUMP, read)? {
            match discipline {
                Ok(blocks) => drop(found.hooked.insert(index, blocks)),
                Err(bucket) => drop(found.buckets.insert(index, bucket)),
            }
        }
        Ok(found)
    }

    /// Returns the guards of the interfaces that have these blocks; `None` if the kernel cannot give it.
    pub(super) fn guarded(
        &mut self,
        hooked: &BTreeMap<u32, Blocks>,
    ) -> Result<Option<BTreeMap<u32, Guard>>, Refusal> {
        let pairs: BTreeSet<_> = hooked.values().copied().collect();
        let mut guards = BTreeMap::new();
        for blocks in pairs {
            guards.extend(self.guard_in(blocks)?.map(|guard| (blocks, guard)));
        }
        let guarded = |(index, blocks): (&u32, _)| Some((*index, *guards.get(blocks)?));
        let found: BTreeMap<u32, Guard> = hooked.iter().filter_map(guarded).collect();
        // If nothing has the guard, the kernel may not have what it takes.
        Ok((!found.is_empty() || self.can_guard()?).then_some(found))
    }

    /// Removes hooks that are not the guard's, or whose filters another program changed.
    pub(super) fn remove_hooks(&mut self, index: u32) -> Result<(), Refusal> {
        // Most likely there are none.
        self.socket.send_each(vec![no_hooks(index)]).map(drop)
    }

    fn guard_of(&mut self, hooked: Option<Blocks>) -> Result<Option<Guard>, Refusal> {
        hooked.map_or(Ok(None), |blocks| self.guard_in(blocks))
    }

    /// Returns the guard whose programs, of this version, are in these blocks. A block that does not exist has none.
    fn guard_in(&mut self, blocks: Blocks) -> Result<Option<Guard>, Refusal> {
        let from_guests = self.programs_in(blocks.from_guests)?;
        let to_guests = self.programs_in(blocks.to_guests)?;
        let guard = from_guests.iter().find_map(|program| Guard::read(program));
        Ok(guard.filter(|_| to_guests.contains(&guard::bytes(&guard::to_guest()))))
    }

    fn programs_in(&mut self, block: u32) -> Result<Vec<Vec<u8>>, Refusal> {
        let request = RouteNetlinkMessage::GetTrafficFilter(of_block(block));
        let found = or_none(self.socket.query(&request, NLM_F_DUMP))?;
        Ok(found.iter().flat_map(programs_of).collect())
    }

    /// Reports whether the kernel has what the guard is made of. Tries it once, in a network namespace of its own.
    ///
    /// # Errors
    /// Fails if the host has no thread left for that.
    pub(super) fn can_guard(&mut self) -> Result<bool, Refusal> {
        if let Some(known) = self.can_guard {
            return Ok(known);
        }
        let can = threads::apart("guard", try_guard).map_err(Refusal::from)?;
        Ok(*self.can_guard.insert(can))
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
    let slot = Slot::new(0);
    let guard = Guard::of_interface(slot, &SmallSet::default());
    let blocks = Blocks::of(slot, guard);
    let hooks = std::iter::once(hooks(LOOPBACK, blocks));
    let requests = hooks.chain(filters(blocks, guard, Filters::Replaced));
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

/// Returns the request that removes the hooks.
pub(super) fn no_hooks(index: u32) -> NetlinkRequest<RouteNetlinkMessage> {
    let message = RouteNetlinkMessage::DelQueueDiscipline(message(index, HOOKS, CLSACT));
    NetlinkRequest { message, flags: 0 }
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
    guard: Guard,
    filters: Filters,
) -> [NetlinkRequest<RouteNetlinkMessage>; 2] {
    let flags = match filters {
        Filters::Kept => NLM_F_CREATE | NLM_F_EXCL,
        Filters::Replaced => NLM_F_CREATE | NLM_F_REPLACE,
    };
    let [from, to] = programs(guard);
    [filter(blocks.from_guests, from), filter(blocks.to_guests, to)]
        .map(|message| NetlinkRequest { message, flags })
}

/// Returns the information in the header of a filter for every protocol, with this priority: the lower comes first.
pub(super) fn of_priority(priority: u32) -> u32 {
    /// `ETH_P_ALL` of `<linux/if_ether.h>`.
    const EVERY_PROTOCOL: u16 = 3;
    priority << 16 | u32::from(EVERY_PROTOCOL.to_be())
}

fn filter(block: u32, program: Vec<u8>) -> RouteNetlinkMessage {
    const PRIORITY: u32 = 1;
    let length = u16::try_from(program.len() / Instruction::LENGTH).unwrap_or(u16::MAX);
    let other = |kind, value| TcFilterBpfOption::Other(DefaultNla::new(kind, value));
    let options = [
        other(LENGTH, length.to_ne_bytes().into()),
        other(PROGRAM, program),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let mut message = of_block(block);
    message.header.handle = TcHandle { major: 0, minor: 1 };
    message.header.info = of_priority(PRIORITY);
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(options.map(TcOption::Bpf).into()),
    ];
    RouteNetlinkMessage::NewTrafficFilter(message)
}

fn get_hooks(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetQueueDiscipline(message(index, HOOKS, CLSACT))
}

pub(super) fn message(index: u32, handle: TcHandle, parent: TcHandle) -> TcMessage {
    // The kernel's numbers of interfaces are positive.
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or(i32::MAX));
    (message.header.handle, message.header.parent) = (handle, parent);
    message
}

pub(super) fn of_block(block: u32) -> TcMessage {
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

/// Returns the programs of a filter.
fn programs_of(answer: &RouteNetlinkMessage) -> Vec<Vec<u8>> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = answer else { return vec![] };
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let program = |option: &TcOption| match option {
        TcOption::Bpf(TcFilterBpfOption::Other(option)) => {
            (option.kind() == PROGRAM).then(|| value(option))
        }
        _ => None,
    };
    options.flatten().filter_map(program).collect()
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

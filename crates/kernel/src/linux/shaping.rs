//! The limits of interfaces by rtnetlink(7): a token bucket (tc-tbf(8)) at the end of each way.
//!
//! Packets to a guest wait at its TAP. Those that it sends are led by a filter after the guard (tc-mirred(8)) to the twin of the
//! TAP, wait there, and arrive at the host as if they came from the TAP. The filter is in a block that the slot has for itself, and
//! goes with the TAP. While there is no twin, the kernel drops what the filter leads to it.

use std::collections::BTreeMap;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_EXCL,
    NLM_F_REPLACE,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo,
        LinkMessage,
    },
    tc::{TcAttribute, TcHandle, TcMessage, TcOption},
};
use rustix::io::Errno;

use super::{
    guard::{self, Blocks, Filters, of_block, of_priority},
    link::{Part, delete, set_link, slot},
    link_state::{TwinLink, attribute, twin},
    netlink::{NetlinkRequest, attributes, or_none, read_u32},
    route::Route,
};
use crate::{KernelError, Refusal};
use riklet_core::{
    guard::{Guard, Instruction, every},
    link::LinkSpec,
    model::Slot,
    shaping::{Bucket, ShapingState, Twin},
};

/// `TC_H_ROOT` of `<linux/pkt_sched.h>`, and the handle of our queueing disciplines there: "RK".
const ROOT: TcHandle = TcHandle { major: 0xffff, minor: 0xffff };
const HANDLE: TcHandle = TcHandle { major: 0x524b, minor: 0 };
/// `sizeof(struct tcmsg)`, and the place of its parent.
const BODY: usize = 20;
const INDEX: usize = 4;
const PARENT: usize = 12;
/// `RTM_NEWQDISC` and `RTM_NEWTFILTER` of `<linux/rtnetlink.h>`.
const NEW_DISCIPLINE: u16 = 36;
const NEW_FILTER: u16 = 44;
/// `TCA_KIND` and `TCA_OPTIONS`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const TBF: &str = "tbf";
/// `TCA_TBF_PARMS` and `TCA_TBF_BURST`, and the places of the rate and the limit in `struct tc_tbf_qopt`.
const PARAMETERS: u16 = 1;
const BURST: u16 = 6;
const RATE: usize = 8;
const LIMIT: usize = 24;
/// `TC_LINKLAYER_ETHERNET`: the kernel computes the time of a packet itself.
const ETHERNET: u8 = 1;
/// `TCA_BPF_ACT`, `TCA_BPF_OPS_LEN`, `TCA_BPF_OPS` of `<linux/pkt_cls.h>`.
const ACTIONS: u16 = 1;
const LENGTH: u16 = 4;
const PROGRAM: u16 = 5;
/// `TCA_ACT_KIND` and `TCA_ACT_OPTIONS`; `TCA_MIRRED_PARMS`, and the place of the interface in `struct tc_mirred`.
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
const MIRRED: &str = "mirred";
const MIRRED_PARAMETERS: u16 = 2;
const TARGET: usize = 24;
/// The guard comes first.
const PRIORITY: u32 = 2;

/// The errors of a removal of what is not there: of a queueing discipline of others, and of a filter or its block.
const NOT_THERE: &[Errno] = &[Errno::NOENT, Errno::INVAL];

impl Route {
    /// Returns the limits of the interface of a slot, which has these hooks.
    pub(super) fn shaping(
        &mut self,
        index: u32,
        slot: Slot,
        hooked: Option<Blocks>,
    ) -> Result<ShapingState, Refusal> {
        let to_guest = self.bucket(index)?;
        let Some(block) = hooked.and_then(Blocks::own_block) else {
            return Ok(ShapingState { to_guest, ..ShapingState::default() });
        };
        let twin = self.twin(slot)?;
        let bucket = match &twin {
            Some(twin) => self.bucket(twin.index)?,
            None => None,
        };
        Ok(state(to_guest, self.target(block)?, twin, bucket))
    }

    /// Returns the limits of all interfaces that have any, by their indices, if these have these blocks for themselves.
    pub(super) fn shapings(
        &mut self,
        buckets: &BTreeMap<u32, Bucket>,
        blocks: &BTreeMap<u32, Blocks>,
    ) -> Result<BTreeMap<u32, ShapingState>, Refusal> {
        let mut found = BTreeMap::new();
        let limited = |(index, bucket): (&u32, &Bucket)| {
            (*index, ShapingState { to_guest: Some(*bucket), ..ShapingState::default() })
        };
        found.extend(buckets.iter().map(limited));
        let own = blocks.iter().filter_map(|(index, blocks)| Some((*index, blocks.own_block()?)));
        let own: Vec<_> = own.collect();
        let mut twins = if own.is_empty() { BTreeMap::new() } else { self.twin_links()? };
        for (index, block) in own {
            let twin = Blocks::slot_of_own(block).and_then(|slot| twins.remove(&slot));
            let bucket = twin.as_ref().and_then(|twin| buckets.get(&twin.index)).copied();
            let target = self.target(block)?;
            found.insert(index, state(buckets.get(&index).copied(), target, twin, bucket));
        }
        Ok(found)
    }

    /// Returns the twins of interfaces.
    pub(super) fn twins(&mut self) -> Result<BTreeMap<Slot, Twin>, Refusal> {
        let links = self.twin_links()?.into_iter().map(|(slot, link)| (slot, link.twin));
        Ok(links.filter(|(_, twin)| twin.is_ours()).collect())
    }

    fn twin_links(&mut self) -> Result<BTreeMap<Slot, TwinLink>, Refusal> {
        let mut message = LinkMessage::default();
        // The kernel leaves out interfaces of other kinds.
        message.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)])];
        let message = RouteNetlinkMessage::GetLink(message);
        Ok(self.socket.query_as(&message, NLM_F_DUMP, twin)?.into_iter().collect())
    }

    fn twin(&mut self, slot: Slot) -> Result<Option<TwinLink>, Refusal> {
        let found = self.query_link(&Twin::name(slot), |message| Some(twin(message)))?;
        match found {
            Some(Some((_, found))) => Ok(Some(found)),
            // It is of another kind.
            Some(None) | None => Ok(None),
        }
    }

    /// Returns our bucket at an interface.
    fn bucket(&mut self, index: u32) -> Result<Option<Bucket>, Refusal> {
        let message = guard::message(index, HANDLE, ROOT);
        let message = RouteNetlinkMessage::GetQueueDiscipline(message);
        let found = or_none(self.socket.query_as(&message, NLM_F_ECHO, bucket))?;
        Ok(found.into_iter().find(|(of, _)| *of == index).map(|(_, bucket)| bucket))
    }

    /// Returns the index of the interface that the filter in a block leads to. A block that does not exist has none.
    fn target(&mut self, block: u32) -> Result<Option<u32>, Refusal> {
        let request = RouteNetlinkMessage::GetTrafficFilter(of_block(block));
        Ok(or_none(self.socket.query_as(&request, NLM_F_DUMP, target))?.pop())
    }

    /// Limits the traffic of an interface as specified.
    pub(super) fn shape(&mut self, spec: &LinkSpec) -> Result<(), KernelError> {
        let refused =
            |part| move |source| KernelError::Shape { name: spec.name.clone(), part, source };
        let index = self.index(&spec.name).map_err(refused("interface"))?;
        let slot = slot(spec);
        let own = self.hooked(index).map_err(refused("guard"))?.and_then(Blocks::own_block);
        let mut parts = vec![match spec.shaping.to_guest {
            Some(bucket) => part("ingress", set_bucket(index, bucket, spec.mtu), &[]),
            None => part("ingress", no_bucket(index), NOT_THERE),
        }];
        match spec.shaping.from_guest {
            Some(bucket) => {
                let twin = self.twin(slot).map_err(refused("twin"))?;
                if let Some(TwinLink { twin, .. }) = &twin
                    && !twin.is_ours()
                {
                    return Err(refused("twin")(Refusal::errno(Refusal::EEXIST)));
                }
                let known = twin.map(|twin| twin.index);
                // A twin without such a block would not be looked for.
                if own.is_none() {
                    parts.extend(own_block(index, spec));
                }
                parts.extend(twin_parts(slot, known, spec, bucket));
                let target = known.unwrap_or_else(|| Twin::number(slot));
                parts.push(part("egress", lead(slot, target), &[]));
            }
            None if own.is_some() => {
                let twin = self.twin(slot).map_err(refused("twin"))?;
                parts.push(part("egress", lead_no_more(slot), NOT_THERE));
                if twin.is_some_and(|found| found.twin.is_ours()) {
                    let name = LinkAttribute::IfName(Twin::name(slot).as_str().to_owned());
                    let message = NetlinkRequest { message: delete(name), flags: 0 };
                    parts.push(part("twin", message, &[Errno::NODEV]));
                }
            }
            None => {}
        }
        self.send_parts(parts, |part, source| refused(part)(source))
    }
}

/// Returns the limits that follow from what was found: the buckets at the interface and at its twin, and the index of the
/// interface that the filter leads to.
fn state(
    to_guest: Option<Bucket>,
    target: Option<u32>,
    twin: Option<TwinLink>,
    on_twin: Option<Bucket>,
) -> ShapingState {
    let twin = twin.filter(|link| link.twin.is_ours());
    let is_led = twin.as_ref().is_some_and(|twin| twin.up && target == Some(twin.index));
    ShapingState {
        to_guest,
        from_guest: on_twin.filter(|_| is_led),
        twin: twin.map(|found| found.twin),
    }
}

const fn part(
    name: &'static str,
    request: NetlinkRequest<RouteNetlinkMessage>,
    excused: &'static [Errno],
) -> Part {
    Part { name, request, excused }
}

/// Returns the requests for a twin, which has this index if it exists: without addresses of IPv6, since nothing but what the guest sends may
/// leave by it.
fn twin_parts(slot: Slot, index: Option<u32>, spec: &LinkSpec, bucket: Bucket) -> Vec<Part> {
    let create = index.is_none().then(|| part("twin", new_twin(slot), &[]));
    let index = index.unwrap_or_else(|| Twin::number(slot));
    let set = |attribute| NetlinkRequest { message: set_link(index, vec![attribute]), flags: 0 };
    let no_link_local = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let alias = spec.twin().and_then(|twin| twin.alias).unwrap_or_default();
    let mut up = LinkMessage::default();
    up.header.index = index;
    (up.header.flags, up.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
    let up = NetlinkRequest { message: RouteNetlinkMessage::SetLink(up), flags: 0 };
    let rest = [
        part("twin", set(LinkAttribute::IfAlias(alias)), &[]),
        part("twin", set(LinkAttribute::AfSpecUnspec(vec![no_link_local])), &[Errno::AFNOSUPPORT]),
        part("egress", set_bucket(index, bucket, spec.mtu), &[]),
        part("twin", up, &[]),
    ];
    create.into_iter().chain(rest).collect()
}

fn new_twin(slot: Slot) -> NetlinkRequest<RouteNetlinkMessage> {
    let mut message = LinkMessage::default();
    message.header.index = Twin::number(slot);
    message.attributes = vec![
        LinkAttribute::IfName(Twin::name(slot).as_str().to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
    ];
    let message = RouteNetlinkMessage::NewLink(message);
    NetlinkRequest { message, flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// Returns the requests that move the guard of an interface to a block of its own. Hooks cannot be changed, so new ones take their
/// place, in the same `send`.
fn own_block(index: u32, spec: &LinkSpec) -> Vec<Part> {
    let guard = Guard::of_interface(slot(spec), &spec.addresses);
    let blocks = Blocks::own(slot(spec), guard);
    let [from, _] = guard::filters(blocks, guard, Filters::Replaced);
    let [_, to] = guard::filters(blocks, guard, Filters::Kept);
    vec![
        part("guard", guard::no_hooks(index), NOT_THERE),
        part("guard", guard::hooks(index, blocks), &[]),
        part("guard", from, &[]),
        part("guard", to, &[Errno::EXIST]),
    ]
}

/// Returns the request for a bucket. One that exists is changed.
fn set_bucket(index: u32, bucket: Bucket, mtu: u32) -> NetlinkRequest<RouteNetlinkMessage> {
    let rate = u32::try_from(bucket.bytes_per_second).unwrap_or(u32::MAX);
    let [r_0, r_1, r_2, r_3] = rate.to_ne_bytes();
    // `struct tc_tbf_qopt`: two rates of twelve bytes, of which the peak rate is none, then the limit, the buffer and the MTU.
    let mut parameters = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0, r_0, r_1, r_2, r_3];
    parameters.resize(LIMIT, 0);
    parameters.extend(bucket.queue.to_ne_bytes());
    parameters.extend([0; 8]);
    let options = [
        DefaultNla::new(PARAMETERS, parameters),
        DefaultNla::new(BURST, bucket.burst(mtu).to_ne_bytes().into()),
    ];
    let mut message = guard::message(index, HANDLE, ROOT);
    message.attributes = with_options(TBF, options);
    let message = RouteNetlinkMessage::NewQueueDiscipline(message);
    NetlinkRequest { message, flags: NLM_F_CREATE | NLM_F_REPLACE }
}

fn no_bucket(index: u32) -> NetlinkRequest<RouteNetlinkMessage> {
    let message = RouteNetlinkMessage::DelQueueDiscipline(guard::message(index, HANDLE, ROOT));
    NetlinkRequest { message, flags: 0 }
}

/// Returns the request for the filter that leads everything from a guest to its twin, which has this index.
fn lead(slot: Slot, target: u32) -> NetlinkRequest<RouteNetlinkMessage> {
    /// `TC_ACT_STOLEN` and `TCA_EGRESS_REDIR`.
    const STOLEN: u32 = 4;
    const REDIRECT: u32 = 1;
    // `struct tc_mirred`: `tc_gen`, which is the index, the capabilities, the verdict, and two counts; the action; the interface.
    let words = [0, 0, STOLEN, 0, 0, REDIRECT, target];
    let parameters = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    let options = nested(ACTION_OPTIONS, &[DefaultNla::new(MIRRED_PARAMETERS, parameters)]);
    let kind = DefaultNla::new(ACTION_KIND, [MIRRED.as_bytes(), &[0]].concat());
    let action = nested(1, &[kind, options]);
    let program = riklet_core::guard::bytes(&[every()]);
    let length = u16::try_from(program.len() / Instruction::LENGTH).unwrap_or(u16::MAX);
    let options = [
        DefaultNla::new(LENGTH, length.to_ne_bytes().into()),
        DefaultNla::new(PROGRAM, program),
        nested(ACTIONS, &[action]),
    ];
    let message =
        RouteNetlinkMessage::NewTrafficFilter(leading(slot, with_options("bpf", options)));
    NetlinkRequest { message, flags: NLM_F_CREATE | NLM_F_REPLACE }
}

fn lead_no_more(slot: Slot) -> NetlinkRequest<RouteNetlinkMessage> {
    let kind = vec![TcAttribute::Kind("bpf".to_owned())];
    let message = RouteNetlinkMessage::DelTrafficFilter(leading(slot, kind));
    NetlinkRequest { message, flags: 0 }
}

fn leading(slot: Slot, attributes: Vec<TcAttribute>) -> TcMessage {
    let mut message = of_block(Blocks::own_of(slot));
    message.header.handle = TcHandle { major: 0, minor: 1 };
    message.header.info = of_priority(PRIORITY);
    message.attributes = attributes;
    message
}

fn with_options<const N: usize>(kind: &str, options: [DefaultNla; N]) -> Vec<TcAttribute> {
    let options = options.into_iter().map(TcOption::Other).collect();
    vec![TcAttribute::Kind(kind.to_owned()), TcAttribute::Options(options)]
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

/// Returns our bucket of a queueing discipline, and the index of its interface.
pub(super) fn bucket(message: &[u8]) -> Option<(u32, Bucket)> {
    let body = super::link_state::body(message, &[NEW_DISCIPLINE])?;
    let (handle, parent) = (read_u32(body, INDEX + 4)?, read_u32(body, PARENT)?);
    if (handle, parent) != (u32::from(HANDLE), u32::from(ROOT)) {
        return None;
    }
    let is_tbf = text(attribute(message, BODY, KIND)?) == TBF.as_bytes();
    let parameters = find(attribute(message, BODY, OPTIONS).filter(|_| is_tbf)?, PARAMETERS)?;
    let bytes_per_second = read_u32(parameters, RATE)?.into();
    let queue = read_u32(parameters, LIMIT)?;
    Some((read_u32(body, INDEX)?, Bucket { bytes_per_second, queue }))
}

/// Returns the index of the interface that a filter leads to.
fn target(message: &[u8]) -> Option<u32> {
    let _filter = super::link_state::body(message, &[NEW_FILTER])?;
    let actions = find(attribute(message, BODY, OPTIONS)?, ACTIONS)?;
    let (_, action) = attributes(actions).next()?;
    let is_mirred = text(find(action, ACTION_KIND)?) == MIRRED.as_bytes();
    let options = find(action, ACTION_OPTIONS).filter(|_| is_mirred)?;
    read_u32(find(options, MIRRED_PARAMETERS)?, TARGET)
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn text(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).unwrap_or(value)
}

/// Reads messages as answers about limits.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(message: &[u8]) {
    let _read = (bucket(message), target(message));
}

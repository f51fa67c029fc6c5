use std::collections::BTreeSet;

use super::{Field, Value, ports::Target};
use crate::model::{InterfaceName, Protocol, Slot};

/// `NF_CT_STATE_BIT` of `IP_CT_ESTABLISHED`, `IP_CT_RELATED` and `IP_CT_NEW` (`<linux/netfilter/nf_conntrack_common.h>`).
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
const NEW: u32 = 8;
/// `IPS_DST_NAT`.
const TRANSLATED: u32 = 1 << 5;
/// `IPPROTO_ICMP`.
const ICMP: u8 = 1;
/// `NFPROTO_IPV4`, and `ETH_P_IP` in network byte order.
const IPV4: u8 = 2;
const ETHER_TYPE: [u8; 2] = [8, 0];
/// An index that no interface has: the kernel counts from 1.
const NO_INDEX: i32 = i32::MAX;

/// An end of a packet's way through the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::firewall) enum End<'a> {
    /// One of our interfaces.
    Guest,
    /// An uplink.
    Uplink(&'a InterfaceName),
    /// An interface that no rule names.
    Unnamed,
}

/// Packets of ours that differ only in addresses, ports and other properties that no [`Field`] holds.
#[derive(Debug, Clone)]
pub(in crate::firewall) struct Packet<'a> {
    pub(super) from: End<'a>,
    pub(super) to: End<'a>,
    protocol: u8,
    state: u32,
    translated: bool,
    /// The guest that they are for; `None` if they are not those of one exposure.
    target: Option<Target>,
    /// The other tests that hold, if they are known.
    others: Option<BTreeSet<String>>,
}

impl<'a> Packet<'a> {
    /// Returns one of each sort that our own chains let pass.
    pub(super) fn all(uplinks: &'a BTreeSet<InterfaceName>) -> Vec<Self> {
        let outside = uplinks.iter().map(End::Uplink).chain([End::Unnamed]);
        let mut ways: Vec<_> =
            outside.flat_map(|end| [(End::Guest, end), (end, End::Guest)]).collect();
        ways.push((End::Guest, End::Guest));
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(Protocol::number);
        let mut all = Vec::new();
        for (from, to) in ways {
            let mut add = |protocol, state, translated| {
                let (target, others) = (None, None);
                all.push(Self { from, to, protocol, state, translated, target, others });
            };
            // A translated packet goes to a guest (by an exposure), or from a guest to anywhere (by a rule of others).
            for protocol in protocols {
                add(protocol, NEW, true);
                add(protocol, ESTABLISHED, true);
            }
            add(ICMP, RELATED, true);
            if from != to {
                for protocol in protocols.into_iter().chain([ICMP]) {
                    add(protocol, ESTABLISHED, false);
                    if from == End::Guest {
                        add(protocol, NEW, false);
                    }
                }
                add(ICMP, RELATED, false);
            }
        }
        all
    }

    /// Returns one of each sort that begin a connection by an exposure.
    pub(super) fn to_port(
        uplinks: &'a BTreeSet<InterfaceName>,
        protocol: Protocol,
        target: Target,
    ) -> Vec<Self> {
        let to_guest = |from| Self {
            from,
            to: End::Guest,
            protocol: protocol.number(),
            state: NEW,
            translated: target.address.is_some(),
            target: Some(target),
            others: None,
        };
        uplinks.iter().map(End::Uplink).chain([End::Unnamed]).map(to_guest).collect()
    }

    /// Returns the bits of a value, and which of them are known; `None` if none is.
    pub(super) fn value(&self, value: &Value) -> Option<(Vec<u8>, Vec<u8>)> {
        let Value::Of(field, mask) = value else { return None };
        let (mut bits, mut known) = self.field(*field)?;
        if let Some(mask) = mask {
            bits.iter_mut().zip(mask).for_each(|(bit, mask)| *bit &= mask);
            known.iter_mut().zip(mask).for_each(|(known, mask)| *known |= !mask);
        }
        Some((bits, known))
    }

    fn field(&self, field: Field) -> Option<(Vec<u8>, Vec<u8>)> {
        let bits = match field {
            Field::InInterface => name(self.from),
            Field::OutInterface => name(self.to),
            Field::InIndex => index(self.from)?,
            Field::OutIndex => index(self.to)?,
            Field::Family => vec![IPV4],
            Field::EtherType => ETHER_TYPE.into(),
            Field::Protocol => vec![self.protocol],
            // PACKET_HOST: only such packets are forwarded.
            Field::PacketType => vec![0],
            // We may mark these, by bits that are a setting.
            Field::Mark if self.from == End::Guest && self.translated => return None,
            Field::ConnectionMark if self.translated => return None,
            Field::Mark | Field::ConnectionMark => vec![0; 4],
            Field::State => self.state.to_ne_bytes().into(),
            Field::Status => {
                let status = if self.translated { TRANSLATED } else { 0 };
                return Some((status.to_ne_bytes().into(), TRANSLATED.to_ne_bytes().into()));
            }
            Field::Address => self.target?.address?.octets().into(),
            Field::Port => self.target?.port.to_be_bytes().into(),
            Field::OriginalPort => self.target?.original.to_be_bytes().into(),
        };
        let known = vec![u8::MAX; bits.len()];
        Some((bits, known))
    }

    /// Returns whether another test holds, if that is known.
    pub(super) fn other(&self, what: &str) -> Option<bool> {
        self.others.as_ref().map(|others| others.contains(what))
    }

    /// Returns one of these packets, for which these other tests hold and no others.
    #[cfg(test)]
    pub(super) fn with(&self, others: BTreeSet<String>) -> Self {
        Self { others: Some(others), ..self.clone() }
    }

    /// Returns a packet that is neither from nor to us.
    #[cfg(test)]
    pub(super) const fn of_others(from: End<'a>, to: End<'a>, protocol: u8, new: bool) -> Self {
        let state = if new { NEW } else { ESTABLISHED };
        let (translated, target, others) = (false, None, None);
        Self { from, to, protocol, state, translated, target, others }
    }
}

/// Returns the name of an interface, padded. The last byte of one that no rule names cannot occur in a name.
fn name(end: End<'_>) -> Vec<u8> {
    let mut bytes = match end {
        End::Guest => [Slot::PREFIX.as_bytes(), b"/"].concat(),
        End::Uplink(name) => name.as_str().as_bytes().to_vec(),
        End::Unnamed => b"/".to_vec(),
    };
    bytes.resize(InterfaceName::MAX_LENGTH + 1, 0);
    bytes
}

fn index(end: End<'_>) -> Option<Vec<u8>> {
    match end {
        End::Uplink(_) => None,
        End::Guest | End::Unnamed => Some(NO_INDEX.to_ne_bytes().into()),
    }
}

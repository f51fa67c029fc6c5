//! Asks the kernel for matches of iptables, as the programs do before they use one: it loads the module of a match that it has
//! not loaded yet, and changes nothing else.

use std::ffi::c_int;

use netlink_packet_core::NetlinkSerializable;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::libc::{AF_INET, SOL_IP};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};

use crate::{
    Refusal,
    linux::{netlink::Socket, socket_option},
};
use riklet_core::firewall::IptablesVariant;

/// The length of the header of an attribute, which is also its alignment (`NLA_HDRLEN`, `NLA_ALIGNTO`).
const ATTRIBUTE: usize = 4;
/// The length of the name of a match with its revision, `struct xt_get_revision` of `<linux/netfilter/x_tables.h>`.
const GET_REVISION: usize = NAME + 1;
/// `XT_EXTENSION_MAXNAMELEN`.
const NAME: usize = 29;

/// Reports whether the kernel has this revision of a match for rules of this variant.
pub(super) fn has(variant: IptablesVariant, (name, revision): (&str, u8)) -> Result<bool, Refusal> {
    let answer = match variant {
        IptablesVariant::Nft => {
            let request = GetCompatible { name: name.to_owned(), revision };
            Socket::open(NETLINK_NETFILTER)?.query_as(&request, 0, |_| Some(())).map(drop)
        }
        IptablesVariant::Legacy => of_legacy(name, revision),
    };
    // The first if it has no such match, the second if it has no such revision (`xt_find_revision` of
    // `net/netfilter/x_tables.c`).
    let lacks = [Errno::NOENT, Errno::PROTONOSUPPORT].map(|errno| Some(errno.raw_os_error()));
    match answer {
        Err(refusal) if lacks.contains(&refusal.errno) => Ok(false),
        answer => answer.map(|()| true),
    }
}

fn of_legacy(name: &str, revision: u8) -> Result<(), Refusal> {
    /// `IPT_SO_GET_REVISION_MATCH` of `<linux/netfilter_ipv4/ip_tables.h>`.
    const GET_REVISION_MATCH: c_int = 66;
    let mut request = [0; GET_REVISION];
    let (field, last) = request.split_at_mut(NAME);
    field.iter_mut().zip(name.bytes()).for_each(|(field, byte)| *field = byte);
    last.fill(revision);
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(socket_option::get(socket, SOL_IP, GET_REVISION_MATCH, &mut request)?)
}

/// The request `NFNL_MSG_COMPAT_GET` of `<linux/netfilter/nf_tables_compat.h>`, for a match.
#[derive(Debug, Clone)]
struct GetCompatible {
    name: String,
    revision: u8,
}

impl GetCompatible {
    /// Returns a `struct nfgenmsg` and the attributes.
    fn bytes(&self) -> Vec<u8> {
        const NAME: u16 = 1;
        const REVISION: u16 = 2;
        const TYPE: u16 = 3;
        const MATCH: u32 = 0;
        let family = u8::try_from(AF_INET).unwrap_or_default();
        let name = [self.name.as_bytes(), &[0]].concat();
        let revision = u32::from(self.revision).to_be_bytes();
        let mut bytes = vec![family, 0, 0, 0];
        for (kind, value) in [(NAME, &*name), (REVISION, &revision), (TYPE, &MATCH.to_be_bytes())] {
            let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(ATTRIBUTE), 0);
        }
        bytes
    }
}

impl NetlinkSerializable for GetCompatible {
    fn message_type(&self) -> u16 {
        /// `NFNL_SUBSYS_NFT_COMPAT`, with `NFNL_MSG_COMPAT_GET`, which is 0.
        const SUBSYSTEM: u16 = 11;
        SUBSYSTEM << 8
    }

    fn buffer_len(&self) -> usize {
        self.bytes().len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes());
    }
}

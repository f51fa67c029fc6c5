//! The rules of the legacy iptables as the kernel stores them, to tell whether any has changed.
//!
//! The kernel does not number changes of these rules and tells nobody of them. It copies the rules of a table to whoever
//! asks, which takes less time than to start a program that lists them.

use std::{
    ffi::c_int,
    hash::{DefaultHasher, Hash, Hasher},
    os::fd::OwnedFd,
};

use nix::libc::SOL_IP;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};

use crate::{Refusal, linux::socket_option};
use riklet_core::firewall::iptables::Table;

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` of `<linux/netfilter_ipv4/ip_tables.h>`, and the structures that they fill.
const GET_INFO: c_int = 64;
const GET_ENTRIES: c_int = 65;
/// The length of the name of a table (`XT_TABLE_MAXNAMELEN`).
const NAME: usize = 32;
/// `struct ipt_getinfo`: a name and thirteen numbers, of which the last is the size of the rules.
const INFO: usize = NAME + 13 * NUMBER;
const NUMBER: usize = size_of::<u32>();
/// The rules in `struct ipt_get_entries`, after a name and their size.
const RULES: usize = (NAME + NUMBER).next_multiple_of(align_of::<u64>());
/// The fields of `struct ipt_entry`.
const NEXT: usize = 90;
const COME_FROM: usize = 92;
const MATCHES: usize = 112;
/// The number of attempts to read a table that others change.
const ATTEMPTS: usize = 10;

/// Returns a hash of the rules of these tables, without their counters. All of the tables exist: asking for one creates it.
pub(super) fn hash(tables: &[Table]) -> Result<u64, Refusal> {
    let mut hasher = DefaultHasher::new();
    if tables.is_empty() {
        return Ok(hasher.finish());
    }
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    for table in tables {
        table.as_str().hash(&mut hasher);
        let mut rules = rules(&socket, *table)?;
        clear_counters(&mut rules);
        hasher.write(&rules);
    }
    Ok(hasher.finish())
}

/// Returns the rules of a table.
fn rules(socket: &OwnedFd, table: Table) -> Result<Vec<u8>, Refusal> {
    for _ in 0..ATTEMPTS {
        let mut info = named(table, INFO);
        socket_option::get(socket, SOL_IP, GET_INFO, &mut info)?;
        let size = info.last_chunk().copied().unwrap_or_default();
        let length = usize::try_from(u32::from_ne_bytes(size)).unwrap_or_default();
        let mut answer = named(table, RULES + length);
        if let Some(field) = answer.get_mut(NAME..NAME + NUMBER) {
            field.copy_from_slice(&size);
        }
        match socket_option::get(socket, SOL_IP, GET_ENTRIES, &mut answer) {
            // The size has changed.
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => return Ok(answer.split_off(RULES)),
        }
    }
    Err(Refusal::words(format!("the rules of the table {table} change all the time")))
}

/// Returns a request of this length that begins with the name of a table.
fn named(table: Table, length: usize) -> Vec<u8> {
    let mut request = table.as_str().as_bytes().to_vec();
    request.resize(length, 0);
    request
}

/// Clears, in each rule, the field that the kernel uses for itself and the counters.
fn clear_counters(mut rules: &mut [u8]) {
    while let Some(length) = rules.get(NEXT..COME_FROM).and_then(|length| length.try_into().ok()) {
        if let Some(changing) = rules.get_mut(COME_FROM..MATCHES) {
            changing.fill(0);
        }
        let length = usize::from(u16::from_ne_bytes(length)).max(MATCHES);
        rules = rules.get_mut(length..).unwrap_or_default();
    }
}

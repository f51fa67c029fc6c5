//! The rules of the legacy iptables as the kernel stores them, to tell whether any has changed, or may be ours.
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
const TARGET: usize = 88;
const NEXT: usize = 90;
const COME_FROM: usize = 92;
const MATCHES: usize = 112;
/// The fields of `struct xt_entry_target`.
const TARGET_NAME: usize = 2;
const TARGET_DATA: usize = 32;
/// The number of attempts to read a table that others change.
const ATTEMPTS: usize = 10;

/// Returns a hash of the rules of these tables, without their counters. All of the tables exist: asking for one creates it.
pub(super) fn hash(tables: &[Table]) -> Result<u64, Refusal> {
    let mut hasher = DefaultHasher::new();
    each(tables, |table, rules| {
        table.as_str().hash(&mut hasher);
        clear_counters(rules);
        hasher.write(rules);
    })?;
    Ok(hasher.finish())
}

/// Returns those of these tables that have a chain of which the name begins so. All of them exist.
pub(super) fn with_chain(tables: &[Table], begin: &str) -> Result<Vec<Table>, Refusal> {
    let mut found = Vec::new();
    each(tables, |table, mut rules| {
        while let Some((rule, rest)) = split(rules) {
            if chain(rule).is_some_and(|name| name.starts_with(begin.as_bytes())) {
                found.push(table);
                return;
            }
            rules = rest;
        }
    })?;
    Ok(found)
}

/// Calls a function with the rules of each of these tables.
fn each(tables: &[Table], mut with: impl FnMut(Table, &mut [u8])) -> Result<(), Refusal> {
    if tables.is_empty() {
        return Ok(());
    }
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    for table in tables {
        let mut answer = answer(&socket, *table)?;
        with(*table, answer.get_mut(RULES..).unwrap_or_default());
    }
    Ok(())
}

/// Returns a `struct ipt_get_entries` with the rules of a table.
fn answer(socket: &OwnedFd, table: Table) -> Result<Vec<u8>, Refusal> {
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
            Ok(()) => return Ok(answer),
        }
    }
    Err(Refusal::words(format!("the rules of the table {table} change all the time")))
}

/// Returns a request of this length that begins with the name of a table.
fn named(table: Table, length: usize) -> Vec<u8> {
    // Memory that is all zero is not written before the kernel does.
    let mut request = vec![0; length];
    let name = table.as_str().as_bytes();
    if let Some(begin) = request.get_mut(..name.len()) {
        begin.copy_from_slice(name);
    }
    request
}

/// Clears, in each rule, the field that the kernel uses for itself and the counters.
fn clear_counters(mut rules: &mut [u8]) {
    while let Some((rule, rest)) = split(rules) {
        if let Some(changing) = rule.get_mut(COME_FROM..MATCHES) {
            changing.fill(0);
        }
        rules = rest;
    }
}

/// Splits the first rule off; `None` if there is none.
fn split(rules: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let length = number(rules, NEXT)?.max(MATCHES);
    rules.split_at_mut_checked(length)
}

/// Returns the name of the chain that begins with this rule, padded with zeros: its target is an `ERROR` that has the name
/// (`struct xt_error_target`).
fn chain(rule: &[u8]) -> Option<&[u8]> {
    let target = rule.get(number(rule, TARGET)?..)?;
    let begins = target.get(TARGET_NAME..)?.starts_with(b"ERROR\0");
    if begins { target.get(TARGET_DATA..) } else { None }
}

/// Returns the 16-bit number at an offset.
fn number(bytes: &[u8], offset: usize) -> Option<usize> {
    let (number, _) = bytes.get(offset..)?.split_first_chunk()?;
    Some(u16::from_ne_bytes(*number).into())
}

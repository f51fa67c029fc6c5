//! The programs of iptables (iptables(8), iptables-restore(8), iptables-save(8)).

use std::{collections::BTreeSet, ffi::OsStr, io::ErrorKind, process::Output};

use crate::{
    KernelError, Refusal,
    process::{self, Launcher},
};
use riklet_core::firewall::{
    BaseRuleset, Change, Entry, FirewallState, ForeignChainState, IptablesVariant, Ruleset,
    iptables,
};

/// The tables of the legacy iptables that are in use; reading it creates none.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";
/// Nothing that we do not name is touched; who holds the lock of the legacy variant is waited for so many
/// seconds.
const RESTORE: [&str; 3] = ["--noflush", "--wait", "5"];
/// What iptables exits with where something is not there (1), or not understood, such as a jump to a
/// chain that is not there (2): `OTHER_PROBLEM`, `PARAMETER_PROBLEM` of `<xtables.h>`.
const MISSING: [i32; 2] = [1, 2];

/// Which variant `iptables` is; `None` where there is no such program.
pub(super) fn variant() -> Result<Option<IptablesVariant>, KernelError> {
    let refused = |source| KernelError::Program { program: "iptables -V".to_owned(), source };
    let output = match process::run(OsStr::new("iptables"), &["-V"], &[]) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error.into())),
        Ok(output) => output,
    };
    if !output.status.success() {
        return Err(refused(refusal(&output, "")));
    }
    // Before 1.8 there was no other variant, and no word on it.
    let words = String::from_utf8_lossy(&output.stdout);
    let nft = words.contains("nf_tables");
    Ok(Some(if nft { IptablesVariant::Nft } else { IptablesVariant::Legacy }))
}

/// Whether the skeleton and these entries stand.
pub(super) fn probe(
    launcher: &Launcher,
    variant: IptablesVariant,
    base_ruleset: &BaseRuleset,
    entries: &BTreeSet<Entry>,
) -> Result<bool, Refusal> {
    let probe = iptables::Probe::new(base_ruleset, entries)?;
    let output = run(launcher, variant, "restore", &RESTORE, &probe.input)?;
    match output.status.code() {
        Some(0) => Ok(probe.is_answered_by(&String::from_utf8_lossy(&output.stdout))),
        Some(code) if MISSING.contains(&code) => Ok(false),
        _ => Err(refusal(&output, &probe.input)),
    }
}

/// Everything of ours, held against what is expected.
pub(super) fn state(
    variant: IptablesVariant,
    expected: &Ruleset,
) -> Result<FirewallState, Refusal> {
    Ok(iptables::state(expected, &saved(variant)?))
}

/// Applies one change. A [`Change::Delta`] is one transaction. The others are one for each table: a table
/// that is refused stays as it was, and so do those after it.
pub(super) fn change(
    launcher: &Launcher,
    variant: IptablesVariant,
    change: &Change,
) -> Result<(), Refusal> {
    let restore = |input: &str| restore(launcher, variant, input);
    match change {
        Change::Delta { remove, add, owner } => {
            restore(&iptables::delta(remove, add, owner.as_ref())?)
        }
        Change::Reset(ruleset) => {
            if let Some(name) = iptables::unnameable(&ruleset.base_ruleset) {
                return Err(Refusal::words(format!("iptables cannot name the interface {name}")));
            }
            restore(&iptables::reset(ruleset, &saved(variant)?)?)
        }
        Change::Remove => match iptables::remove(&saved(variant)?) {
            Some(input) => restore(&input),
            None => Ok(()),
        },
    }
}

/// The chain FORWARD of the legacy variant; `None` where it stops nothing, and has nothing of ours.
pub(super) fn legacy_gate() -> Result<Option<ForeignChainState>, Refusal> {
    Ok(saved_gate()?.as_ref().and_then(iptables::foreign_chain_state))
}

/// Opens or closes the chain FORWARD of the legacy variant; one that does not exist needs neither.
pub(super) fn set_legacy_gate(launcher: &Launcher, open: bool) -> Result<(), Refusal> {
    match saved_gate()?.and_then(|saved| iptables::set_passage(open, &saved)) {
        Some(input) => restore(launcher, IptablesVariant::Legacy, &input),
        None => Ok(()),
    }
}

/// What the legacy variant has, where it has the table filter and there is a program to say so.
fn saved_gate() -> Result<Option<iptables::Saved>, Refusal> {
    if !legacy_tables()?.contains("filter") {
        return Ok(None);
    }
    match saved(IptablesVariant::Legacy) {
        Err(refusal) if refusal.errno == Some(Refusal::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}

fn saved(variant: IptablesVariant) -> Result<iptables::Saved, Refusal> {
    if variant == IptablesVariant::Legacy && legacy_tables()?.is_empty() {
        // The program would load modules to find out.
        return Ok(iptables::Saved::default());
    }
    // A reader that outlives us changes nothing.
    let output = run(&Launcher::default(), variant, "save", &[], "")?;
    if !output.status.success() {
        return Err(refusal(&output, ""));
    }
    iptables::Saved::parse(&String::from_utf8_lossy(&output.stdout))
        .map_err(|iptables::Incompatible(words)| Refusal::words(words))
}

fn restore(launcher: &Launcher, variant: IptablesVariant, input: &str) -> Result<(), Refusal> {
    let output = run(launcher, variant, "restore", &RESTORE, input)?;
    if output.status.success() { Ok(()) } else { Err(refusal(&output, input)) }
}

/// Runs `iptables-<variant>-<verb>`, or `iptables-<verb>` where only that exists and is of this variant.
/// Refused with `ENOENT` where there is neither.
fn run(
    launcher: &Launcher,
    variant: IptablesVariant,
    verb: &str,
    args: &[&str],
    input: &str,
) -> Result<Output, Refusal> {
    let name = match variant {
        IptablesVariant::Nft => "nft",
        IptablesVariant::Legacy => "legacy",
    };
    let program = format!("iptables-{name}-{verb}");
    match launcher.run(OsStr::new(&program), args, input.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => return Ok(other?),
    }
    let missing = || Refusal { errno: Some(Refusal::ENOENT), words: program.clone() };
    if self::variant().map_err(|error| error.refusal().clone())? != Some(variant) {
        return Err(missing());
    }
    match launcher.run(OsStr::new(&format!("iptables-{verb}")), args, input.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(missing()),
        other => Ok(other?),
    }
}

/// The program's words, and the line of the input that they are about.
fn refusal(output: &Output, input: &str) -> Refusal {
    let mut words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let line = words.split_once("line ").and_then(|(_, rest)| {
        let (number, rest) = rest.split_once(' ')?;
        let index = number.parse::<usize>().ok()?.checked_sub(1)?;
        rest.starts_with("failed").then(|| input.lines().nth(index))?
    });
    if let Some(line) = line {
        words = format!("{words}: {line}");
    }
    // iptables has no error numbers to pass on; this one decides what the user is told to do.
    let errno = words.contains("you must be root").then_some(Refusal::EPERM);
    Refusal { errno, words }
}

#[expect(clippy::disallowed_methods, reason = "a file of procfs, which only the kernel writes")]
fn legacy_tables() -> Result<BTreeSet<String>, Refusal> {
    match std::fs::read_to_string(LEGACY_TABLES) {
        // No module of the legacy variant is there.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
        other => Ok(other.map(|names| names.lines().map(str::to_owned).collect())?),
    }
}

#[cfg(test)]
mod tests;

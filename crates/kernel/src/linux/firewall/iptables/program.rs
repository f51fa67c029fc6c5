//! Runs the programs of iptables.

use std::{
    collections::BTreeSet, ffi::OsStr, io::ErrorKind, os::unix::fs::MetadataExt, path::PathBuf,
    process::Output,
};

use crate::{
    KernelError, Refusal,
    process::{self, Launcher, LockHolder},
};
use riklet_core::firewall::{
    IptablesVariant,
    iptables::{self, Saved, Table, Unanswered},
};

/// The tables of the legacy iptables that are in use; reading it creates none.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";
/// The arguments that keep everything that the input does not name, and wait this number of seconds for the lock of the
/// legacy variant.
pub(super) const RESTORE: [&str; 3] = ["--noflush", "--wait", "5"];
/// The arguments of a listing: [`RESTORE`], and that comments are repeated.
const LIST: [&str; 4] = ["--noflush", "--wait", "5", "--verbose"];
/// Exit statuses of iptables for an object that does not exist (1), and for input that it does not
/// understand, such as a jump to a chain that does not exist (2): `OTHER_PROBLEM` and `PARAMETER_PROBLEM` of
/// `<xtables.h>`.
pub(super) const MISSING: [i32; 2] = [1, 2];

/// The variant of `iptables`, and what tells its file from others. The host may switch to the other variant.
pub(in crate::linux) type KnownVariant = Option<(ProgramFile, IptablesVariant)>;
type ProgramFile = (u64, u64, u64, i64, i64);

/// Returns the same as [`variant`], and asks the program only if it is not the one that was asked before.
pub(in crate::linux) fn known_variant(
    known: &mut KnownVariant,
) -> Result<Option<IptablesVariant>, KernelError> {
    let file = file();
    if let Some((of, variant)) = known
        && Some(&*of) == file.as_ref()
    {
        return Ok(Some(*variant));
    }
    let variant = variant()?;
    *known = file.zip(variant);
    Ok(variant)
}

/// Returns what tells the file of `iptables` from others.
fn file() -> Option<ProgramFile> {
    let path = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&path).map(|directory| directory.join("iptables"));
    let file = found.find_map(|path| path.metadata().ok())?;
    Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

/// Returns the variant of `iptables`, or `None` if there is no such program.
pub(in crate::linux) fn variant() -> Result<Option<IptablesVariant>, KernelError> {
    let refused = |source| KernelError::Program { program: "iptables -V".to_owned(), source };
    let output = match process::run(OsStr::new("iptables"), &["-V"], &[]) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error.into())),
        Ok(output) => output,
    };
    if !output.status.success() {
        return Err(refused(refusal(&output, "")));
    }
    // Before 1.8 the legacy variant was the only one, and the output did not name it.
    let words = String::from_utf8_lossy(&output.stdout);
    let nft = words.contains("nf_tables");
    Ok(Some(if nft { IptablesVariant::Nft } else { IptablesVariant::Legacy }))
}

/// Returns the contents of these tables, all of which exist: naming one creates it.
pub(super) fn saved(variant: IptablesVariant, tables: &[Table]) -> Result<Saved, Refusal> {
    if tables.is_empty() {
        return Ok(Saved::default());
    }
    // The program needs no lock: it changes nothing if it outlives us.
    let input = iptables::list(tables.iter().copied());
    let output = run(&Launcher::default(), variant, "restore", &LIST, &input)?;
    if !output.status.success() {
        return Err(refusal(&output, &input));
    }
    Saved::parse(tables.iter().copied(), &String::from_utf8_lossy(&output.stdout))
        .map_err(|Unanswered(table)| Refusal::words(format!("the table {table} was not listed")))
}

/// Applies this input of `iptables-restore`.
pub(super) fn restore(
    launcher: &Launcher,
    variant: IptablesVariant,
    input: &str,
) -> Result<(), Refusal> {
    let output = run(launcher, variant, "restore", &RESTORE, input)?;
    if output.status.success() { Ok(()) } else { Err(refusal(&output, input)) }
}

/// Runs `iptables-<variant>-<verb>`, or `iptables-<verb>` if only that exists and is of this variant. Fails
/// with `ENOENT` if neither exists.
pub(super) fn run(
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

/// Returns the program's words, with the line of the input that they are about.
pub(super) fn refusal(output: &Output, input: &str) -> Refusal {
    let mut words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let line = words.split_once("line ").and_then(|(_, rest)| {
        let (number, rest) = rest.split_once(' ')?;
        let index = number.parse::<usize>().ok()?.checked_sub(1)?;
        rest.starts_with("failed").then(|| input.lines().nth(index))?
    });
    if let Some(line) = line {
        words = format!("{words}: {line}");
    }
    let path = xtables_lock();
    let holder = || LockHolder::of(&[&path]).or_else(|| LockHolder::with_open(&path));
    if words.contains("xtables lock")
        && let Some(holder) = holder()
    {
        words = format!("{words}; it is held by {holder}");
    }
    // iptables has no error numbers to pass on. EPERM is derived from its words, because the hint for the user depends
    // on it.
    let errno = words.contains("you must be root").then_some(Refusal::EPERM);
    Refusal { errno, words }
}

/// Returns the path of the file that programs of the legacy variant lock (`XT_LOCK_NAME` of iptables, which this variable
/// overrides).
fn xtables_lock() -> PathBuf {
    std::env::var_os("XTABLES_LOCKFILE").map_or_else(|| "/run/xtables.lock".into(), PathBuf::from)
}

/// Returns the names of the tables of the legacy variant that are in use.
#[expect(clippy::disallowed_methods, reason = "a file of procfs, which only the kernel writes")]
pub(super) fn legacy_tables() -> Result<BTreeSet<String>, Refusal> {
    match std::fs::read_to_string(LEGACY_TABLES) {
        // No kernel module of the legacy variant is loaded.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
        other => Ok(other.map(|names| names.lines().map(str::to_owned).collect())?),
    }
}

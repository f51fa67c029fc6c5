//! `/proc/sys`, of which `net` is that of the calling thread's network namespace.

use std::{fs, io, path::PathBuf};

use super::Linux;
use crate::{KernelError, Refusal, Sysctls};
use riklet_core::model::InterfaceName;

const CONFIGURATIONS: &str = "/proc/sys/net/ipv4/conf";

/// Returns the value without its final newline, or `None` if there is no such parameter.
pub(super) fn read(name: &str) -> Result<Option<String>, KernelError> {
    match read_file(&path(name)) {
        Ok(value) => Ok(Some(value.trim_end_matches('\n').to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(KernelError::ReadSysctl { name: name.to_owned(), source: Refusal::from(error) })
        }
    }
}

/// Sets a value, unless it is set already: `/proc/sys` may be read-only and right, as in a container.
pub(super) fn set(name: &str, value: &str) -> Result<(), KernelError> {
    let present = read(name)?;
    if present.as_deref() == Some(value) {
        return Ok(());
    }
    write_file(&path(name), value).map_err(|error| KernelError::SetSysctl {
        name: name.to_owned(),
        present,
        value: value.to_owned(),
        source: Refusal::from(error),
    })
}

/// Reports whether a parameter can be written, without writing it. One that does not exist need not be.
fn is_writable(name: &str) -> Result<bool, KernelError> {
    match open_to_write(&path(name)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => match Refusal::from(error) {
            refusal if refusal.is_permission() || refusal.is_read_only() => Ok(false),
            source => Err(KernelError::ReadSysctl { name: name.to_owned(), source }),
        },
    }
}

/// Lists the interfaces that have a configuration for IPv4: all except those with an MTU below 68.
pub(super) fn configured_interfaces() -> Result<Vec<InterfaceName>, KernelError> {
    let unlisted = |error| KernelError::ReadSysctl {
        name: "net.ipv4.conf".to_owned(),
        source: Refusal::from(error),
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(CONFIGURATIONS).map_err(unlisted)? {
        // A name that is not text cannot be given in a definition or a rule.
        let name = entry.map_err(unlisted)?.file_name();
        let name = name.to_str().filter(|name| !matches!(*name, "all" | "default"));
        names.extend(name.and_then(|name| InterfaceName::try_from(name).ok()));
    }
    Ok(names)
}

/// Returns the file of a parameter. Dots separate the parts of a name, and a slash stands for a dot, as in
/// sysctl(8).
fn path(name: &str) -> PathBuf {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    PathBuf::from("/proc/sys").join(swapped.collect::<String>())
}

#[expect(clippy::disallowed_methods, reason = "sysctls are files")]
fn read_file(path: &PathBuf) -> io::Result<String> {
    fs::read_to_string(path)
}

#[expect(clippy::disallowed_methods, reason = "sysctls are files")]
fn write_file(path: &PathBuf, value: &str) -> io::Result<()> {
    fs::write(path, value)
}

fn open_to_write(path: &PathBuf) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path).map(drop)
}

impl Sysctls for Linux {
    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError> {
        read(name)
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError> {
        set(name, value)
    }

    fn sysctl_is_writable(&mut self, name: &str) -> Result<bool, KernelError> {
        is_writable(name)
    }
}

#[cfg(test)]
#[cfg(privileged)]
mod tests {
    use super::*;
    use riklet_core::switch::IP_FORWARD as FORWARD;
    use riklet_testkit::namespace::isolated;

    #[test]
    fn a_value_reads_back_and_a_missing_name_is_none() {
        isolated(|| {
            assert_eq!(read(FORWARD).unwrap().as_deref(), Some("0"));
            set(FORWARD, "1").unwrap();
            assert_eq!(read(FORWARD).unwrap().as_deref(), Some("1"));
            assert_eq!(read("net.ipv4.conf.nowhere.forwarding").unwrap(), None);
            let refused = set("net.ipv4.conf.nowhere.forwarding", "1").unwrap_err();
            assert_eq!(refused.refusal().errno, Some(Refusal::ENOENT));
            assert!(set(FORWARD, "many").is_err());
        });
    }
}

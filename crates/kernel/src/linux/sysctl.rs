//! `/proc/sys`, of which `net` is that of the calling thread's network namespace.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use super::Linux;
use crate::{KernelError, Refusal, Sysctls};

const CONFIGURATIONS: &str = "/proc/sys/net/ipv4/conf";

/// The value, without its final newline; `None` where there is no such name.
pub(super) fn read(name: &str) -> Result<Option<String>, KernelError> {
    match read_file(&path(name)) {
        Ok(value) => Ok(Some(value.trim_end_matches('\n').to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(KernelError::ReadSysctl { name: name.to_owned(), source: Refusal::from(error) })
        }
    }
}

/// Sets a value.
pub(super) fn write(name: &str, value: &str) -> Result<(), KernelError> {
    write_file(&path(name), value).map_err(|error| KernelError::SetSysctl {
        name: name.to_owned(),
        value: value.to_owned(),
        source: Refusal::from(error),
    })
}

/// What writing `net.ipv4.ip_forward` changes: `forwarding` of `all`, `default` and each interface, and
/// `accept_redirects` of `all` only (`inet_forward_change` in net/ipv4/devinet.c).
pub(super) fn forwarding() -> Result<BTreeMap<String, String>, KernelError> {
    let unlisted = |error| KernelError::ReadSysctl {
        name: "net.ipv4.conf".to_owned(),
        source: Refusal::from(error),
    };
    let mut names =
        vec!["net.ipv4.ip_forward".to_owned(), "net.ipv4.conf.all.accept_redirects".to_owned()];
    for entry in fs::read_dir(CONFIGURATIONS).map_err(unlisted)? {
        let entry = entry.map_err(unlisted)?.file_name();
        // A name that is not text cannot be recorded as one; nor can any tool of ours have made it.
        if let Some(interface) = entry.to_str() {
            names.push(format!("net.ipv4.conf.{}.forwarding", interface.replace('.', "/")));
        }
    }
    let mut values = BTreeMap::new();
    for name in names {
        // An interface may have gone since it was listed.
        if let Some(value) = read(&name)? {
            values.insert(name, value);
        }
    }
    Ok(values)
}

/// Dots part the name, and a slash in it stands for a dot, as in sysctl(8).
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

impl Sysctls for Linux {
    fn sysctl(&mut self, name: &str) -> Result<Option<String>, KernelError> {
        read(name)
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), KernelError> {
        write(name, value)
    }

    fn forwarding_sysctls(&mut self) -> Result<BTreeMap<String, String>, KernelError> {
        forwarding()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use riklet_testkit::namespace::{ip, isolated};

    const FORWARD: &str = "net.ipv4.ip_forward";

    #[test]
    fn a_value_reads_back_and_a_missing_name_is_none() {
        isolated(|| {
            assert_eq!(read(FORWARD).unwrap().as_deref(), Some("0"));
            write(FORWARD, "1").unwrap();
            assert_eq!(read(FORWARD).unwrap().as_deref(), Some("1"));
            assert_eq!(read("net.ipv4.conf.nowhere.forwarding").unwrap(), None);
            let refused = write("net.ipv4.conf.nowhere.forwarding", "1").unwrap_err();
            assert_eq!(refused.refusal().errno, Some(Refusal::ENOENT));
            assert!(write(FORWARD, "many").is_err());
        });
    }

    #[test]
    fn what_enabling_forwarding_changes_can_be_put_back() {
        isolated(|| {
            ip("tuntap add tap0.100 mode tap");
            ip("tuntap add tap1 mode tap");
            write("net.ipv4.conf.tap0/100.forwarding", "1").unwrap();
            let tree = |()| -> BTreeMap<PathBuf, String> {
                let configurations = fs::read_dir(CONFIGURATIONS).unwrap();
                let files = configurations.flat_map(|c| fs::read_dir(c.unwrap().path()).unwrap());
                let values = files.filter_map(|file| {
                    let file = file.unwrap().path();
                    read_file(&file).ok().map(|value| (file, value))
                });
                values.collect()
            };
            let before = (tree(()), forwarding().unwrap());
            assert_eq!(before.1["net.ipv4.conf.tap0/100.forwarding"], "1");
            assert_eq!(before.1["net.ipv4.conf.all.accept_redirects"], "1");

            write(FORWARD, "1").unwrap();
            let changed = tree(());
            for (path, value) in &changed {
                let name = path.strip_prefix("/proc/sys").unwrap().to_str().unwrap();
                let name: String = name
                    .chars()
                    .map(|c| {
                        if c == '/' {
                            '.'
                        } else if c == '.' {
                            '/'
                        } else {
                            c
                        }
                    })
                    .collect();
                assert!(
                    before.0[path] == *value || before.1.contains_key(&name),
                    "{name} changes and is not listed"
                );
            }

            write(FORWARD, &before.1[FORWARD]).unwrap();
            for (name, value) in &before.1 {
                write(name, value).unwrap();
            }
            assert_eq!((tree(()), forwarding().unwrap()), before);
        });
    }
}

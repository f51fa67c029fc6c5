//! The process that has a TAP open.

use std::fs;

use riklet_core::model::InterfaceName;
use rustix::{
    fs::{fstat, stat},
    io::Errno,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{opener, tap};
use crate::procfs;

/// The target of a descriptor of a TAP (proc(5), `/proc/PID/fd`).
const DEVICE: &str = "/dev/net/tun";

/// Returns the process that has this TAP open, as `name (pid 123)`, if it is one of this number of processes, the newest
/// first, or the eldest of its ancestors that have it open as well.
pub(super) fn tap_user(tap: &InterfaceName, processes: usize) -> Option<String> {
    let mut ids = procfs::processes();
    ids.sort_unstable();
    let newest = ids.into_iter().rev().take(processes).find(|id| has_open(*id, tap))?;
    Some(opener::shown(opener::eldest(newest, |id| has_open(id, tap))))
}

/// Reports whether a process has the TAP open, as far as its descriptors can be listed.
fn has_open(id: u32, tap: &InterfaceName) -> bool {
    procfs::descriptors(id).any(|descriptor| {
        let is_tap =
            fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == DEVICE);
        is_tap && descriptor.file_name().to_str().is_some_and(|number| leads_to(id, number, tap))
    })
}

/// Reports whether this descriptor is of the TAP: the line `iff:` names the interface (`tun_chr_show_fdinfo` of
/// drivers/net/tun.c), which other network namespaces may have as well.
fn leads_to(id: u32, descriptor: &str, tap: &InterfaceName) -> bool {
    let text = procfs::text(&format!("/proc/{id}/fdinfo/{descriptor}")).unwrap_or_default();
    let names = text.lines().filter_map(|line| line.strip_prefix("iff:"));
    names.map(str::trim).any(|name| name == tap.as_str())
        && descriptor.parse().ok().is_none_or(|descriptor| is_here(id, descriptor))
}

/// Reports whether the TAP of a process's descriptor is in the network namespace of this thread. Also `true` if the kernel
/// does not let us know: for `pidfd_getfd(2)`, this process needs to be allowed to trace the other one.
fn is_here(id: u32, descriptor: i32) -> bool {
    let found = || {
        let process = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let process = pidfd_open(process, PidfdFlags::empty())?;
        let device = pidfd_getfd(&process, descriptor, PidfdGetfdFlags::empty())?;
        let (of_tap, own) = (fstat(tap::namespace(device)?)?, stat("/proc/thread-self/ns/net")?);
        Ok((of_tap.st_dev, of_tap.st_ino) == (own.st_dev, own.st_ino))
    };
    match found() {
        Ok(here) => here,
        // The process ended, or closed it.
        Err(Errno::SRCH | Errno::BADF) => false,
        Err(_) => true,
    }
}

#[cfg(test)]
#[cfg(privileged)]
mod tests {
    use std::{
        io::Read,
        process::{Command, Stdio},
    };

    use riklet_testkit::namespace::{ip, isolated};

    use super::{super::tap, *};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "tests start the programs that they need")]
    fn a_parent_is_named_rather_than_its_child() {
        isolated(|| {
            ip("tuntap add rik9 mode tap vnet_hdr");
            let name = "rik9".parse().unwrap();
            assert_eq!(tap_user(&name, usize::MAX), None);
            let tap = tap::attach(&name).unwrap();
            // Both have it as standard error. The child ends with the input of its parent.
            let mut parent = Command::new("sh")
                .args(["-c", "exec 3<&0; cat <&3 & echo; wait"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(tap)
                .spawn()
                .unwrap();
            parent.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            let found = tap_user(&name, usize::MAX);
            isolated(move || {
                assert_eq!(tap_user(&name, usize::MAX), None, "a namespace without the TAP");
            });
            drop(parent.stdin.take());
            parent.wait().unwrap();
            assert_eq!(found, Some(format!("sh (pid {})", parent.id())));
        });
    }
}

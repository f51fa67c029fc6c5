//! Looks at what microVMs need: TAPs, VMMs, KVM, and the users that VMMs run as.

use std::{io, path::Path};

use riklet_sdn::{Config, process::Credentials};
use riklet_vmm::{
    choose::{Facts, Kvm},
    host_accounts::{self, BlockConflict},
    image,
};
use rustix::process::geteuid;

use super::finding::Finding;
use crate::{error::tun_advice, input};

pub(super) fn privilege() -> Finding {
    match input::require_privilege() {
        Ok(()) => Finding::ok("privilege", "CAP_NET_ADMIN"),
        Err(_) => Finding::unseen("privilege", "no CAP_NET_ADMIN: not everything can be looked at"),
    }
}

pub(super) fn tun() -> Finding {
    match input::open_tun().map_err(io::Error::from) {
        Ok(()) => Finding::ok("TAPs", "/dev/net/tun can be opened"),
        Err(error)
            if error.kind() == io::ErrorKind::PermissionDenied
                && input::require_privilege().is_err() =>
        {
            Finding::unseen("TAPs", format!("/dev/net/tun: {error}"))
        }
        Err(error) => {
            let advice = tun_advice(&error);
            Finding::fail("TAPs", format!("/dev/net/tun: {error}"), advice)
        }
    }
}

/// Returns a note if the users that VMMs run as by default cannot open what each VMM opens.
pub(super) fn vmm_users(facts: &Facts, config: &Config) -> Option<Finding> {
    const TUN: &str = "/dev/net/tun";
    if !geteuid().is_root() || facts.programs.is_empty() {
        return None;
    }
    let users = config.vmm.vmm_users;
    if let Some(conflict) = host_accounts::conflict(users) {
        return Some(Finding::fail("VMMs' users", conflict.to_string(), BlockConflict::HINT));
    }
    let user = Credentials { uid: users.shared(), gid: users.shared() };
    let advice = "`chmod 666 /dev/net/tun`, as udev does; or name `user: root` in a definition that you trust";
    (!image::opens_device(TUN, user, &[]))
        .then(|| Finding::note("VMMs' users", format!("they may not open {TUN}"), advice))
}

/// Returns the findings about the VMMs that `run` can use.
pub(super) fn vmms(facts: &Facts) -> Vec<Finding> {
    let found: Vec<_> =
        facts.programs.iter().map(|(vmm, path)| format!("{vmm} ({})", path.display())).collect();
    if found.is_empty() {
        let advice = "`run` has the builtin guest; install firecracker, qemu or cloud-hypervisor";
        return vec![Finding::note("microVMs", "no VMM on the PATH", advice)];
    }
    let without = "firecracker and cloud-hypervisor need it; qemu does without: accelerator tcg";
    let kvm = match facts.kvm {
        Kvm::Opens if is_guest() => Finding::note(
            "KVM",
            "/dev/kvm can be opened, and this host is a virtual machine itself",
            "where a microVM hangs before its first line: qemu with accelerator tcg",
        ),
        Kvm::Opens => Finding::ok("KVM", "/dev/kvm can be opened"),
        Kvm::Missing => Finding::note("KVM", "there is no /dev/kvm", without),
        Kvm::Denied => Finding::note("KVM", "/dev/kvm may not be opened", without),
    };
    vec![Finding::ok("microVMs", found.join(", ")), kvm]
}

/// Tells whether this host is itself a guest, as the processor reports (CPUID leaf 1, ECX bit 31).
fn is_guest() -> bool {
    let text = input::read(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

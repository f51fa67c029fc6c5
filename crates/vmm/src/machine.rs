//! The machine that a VMM shall run. Pure.

use std::{
    num::{NonZeroU8, NonZeroU32},
    path::{Path, PathBuf},
};

use super::attachment::{self, Attachment};
use riklet_core::model::Accelerator;

/// Everything that the driver of a VMM needs. Paths are absolute and exist, since the VMM resolves them itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The instance's name, and its slot.
    pub attachment: Attachment,
    /// The kernel. Firecracker takes an uncompressed ELF image (on `x86_64`), the others also a bzImage.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The image of the root file system, raw: the first virtio disk, `/dev/vda`.
    pub rootfs: Option<PathBuf>,
    /// Makes the root file system read-only.
    pub read_only: bool,
    /// The number of virtual processors.
    pub vcpus: NonZeroU8,
    /// The memory in MiB.
    pub memory_mib: NonZeroU32,
    /// The accelerator that executes the guest's instructions. Only QEMU offers a choice.
    pub accelerator: Accelerator,
    /// The user's additions to the kernel command line.
    pub boot_args: String,
}

/// The reason why a VMM can never run a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// A path is not Unicode, as JSON requires.
    #[error("the path of the {what}, {}, is not UTF-8, and {vmm} takes no other", path.display())]
    Path {
        /// The VMM.
        vmm: &'static str,
        /// The kernel, the initrd or the rootfs.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The VMM supports only one pair of queues for its NIC.
    #[error("{vmm} has one pair of queues a NIC, and {queues} are asked for")]
    Queues {
        /// The VMM.
        vmm: &'static str,
        /// The number of pairs.
        queues: u8,
    },
}

impl Machine {
    /// The number of virtual processors by default.
    pub const VCPUS: NonZeroU8 = NonZeroU8::MIN;
    /// The memory in MiB by default.
    pub const MEMORY_MIB: NonZeroU32 = NonZeroU32::MIN.saturating_add(127);

    /// Creates a machine that boots this kernel, with defaults for the rest.
    #[must_use]
    pub fn new(attachment: Attachment, kernel: PathBuf) -> Self {
        Self {
            attachment,
            kernel,
            initrd: None,
            rootfs: None,
            read_only: false,
            vcpus: Self::VCPUS,
            memory_mib: Self::MEMORY_MIB,
            accelerator: Accelerator::Kvm,
            boot_args: String::new(),
        }
    }

    /// Returns the kernel's command line, with the arguments that the VMM needs. The user's arguments come last: if an
    /// argument is given twice, a Linux kernel takes the last.
    ///
    /// The console is the first serial port. With `panic=1`, the kernel reboots one second after a panic, and with
    /// `reboot=k` it does so through the keyboard controller, which ends Firecracker.
    #[must_use]
    pub fn command_line(&self, needs: &[&str]) -> String {
        let mut words = vec!["console=ttyS0", "reboot=k", "panic=1"];
        words.extend(needs);
        if self.rootfs.is_some() {
            words.extend(["root=/dev/vda", if self.read_only { "ro" } else { "rw" }]);
        }
        let address = attachment::boot_args(&self.attachment);
        words.extend([&*address, self.boot_args.trim()]);
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }

    pub(super) fn kernel(&self, vmm: &'static str) -> Result<&str, MachineError> {
        text(vmm, "kernel", &self.kernel)
    }

    pub(super) fn initrd(&self, vmm: &'static str) -> Result<Option<&str>, MachineError> {
        self.initrd.as_deref().map(|path| text(vmm, "initrd", path)).transpose()
    }

    pub(super) fn rootfs(&self, vmm: &'static str) -> Result<Option<&str>, MachineError> {
        self.rootfs.as_deref().map(|path| text(vmm, "rootfs", path)).transpose()
    }
}

fn text<'a>(
    vmm: &'static str,
    what: &'static str,
    path: &'a Path,
) -> Result<&'a str, MachineError> {
    path.to_str().ok_or_else(|| MachineError::Path { vmm, what, path: path.to_owned() })
}

/// Returns a machine for the drivers' tests, with every field set.
#[cfg(test)]
pub(super) fn example() -> Machine {
    let dns = vec![[9, 9, 9, 9].into()];
    let attachment = Attachment { dns, ..attachment::tests::attachment() };
    Machine {
        initrd: Some("/srv/initrd".into()),
        rootfs: Some("/srv/rootfs.ext4".into()),
        read_only: true,
        vcpus: NonZeroU8::new(2).unwrap(),
        memory_mib: NonZeroU32::new(256).unwrap(),
        boot_args: "quiet".into(),
        ..Machine::new(attachment, "/srv/vmlinux".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_boot_args_come_last() {
        let machine = example();
        assert_eq!(
            machine.command_line(&["pci=off"]),
            "console=ttyS0 reboot=k panic=1 pci=off root=/dev/vda ro \
             net.ifnames=0 ip=10.231.0.6::10.231.0.5:255.255.255.252:hello:eth0:off:9.9.9.9 quiet"
        );
        let machine = Machine { read_only: false, boot_args: " init=/x  y ".into(), ..machine };
        assert!(machine.command_line(&[]).contains(" root=/dev/vda rw net.ifnames=0 ip="));
        assert!(machine.command_line(&[]).ends_with(" init=/x  y"));
    }

    #[test]
    fn minimal_machine_has_defaults() {
        let machine = Machine::new(attachment::tests::attachment(), "/srv/vmlinux".into());
        assert_eq!((machine.vcpus.get(), machine.memory_mib.get()), (1, 128));
        assert_eq!(
            machine.command_line(&[]),
            "console=ttyS0 reboot=k panic=1 \
             net.ifnames=0 ip=10.231.0.6::10.231.0.5:255.255.255.252:hello:eth0:off"
        );
    }

    #[test]
    fn path_that_is_not_unicode_is_refused_by_name() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
        let path = PathBuf::from(OsStr::from_bytes(b"/srv/\xff"));
        let machine = Machine { initrd: Some(path), ..example() };
        assert_eq!(machine.kernel("firecracker"), Ok("/srv/vmlinux"));
        let error = machine.initrd("firecracker").unwrap_err().to_string();
        assert_eq!(
            error,
            "the path of the initrd, /srv/\u{fffd}, is not UTF-8, and firecracker takes no other"
        );
    }
}

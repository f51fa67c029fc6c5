//! Machines to start.

use std::num::{NonZeroU8, NonZeroU32};

use riklet_core::model::{Pool, Slot};
use riklet_vmm::{attachment::Attachment, machine::Machine};

use crate::directory::Directory;

/// Returns a machine whose files all exist, in this directory.
pub(crate) fn machine(directory: &Directory) -> Machine {
    let slot = Slot::new(1);
    let addresses = "10.231.0.0/16".parse::<Pool>().unwrap().addresses(slot).unwrap();
    let attachment = Attachment {
        name: "hello.v2".parse().unwrap(),
        interface: slot.interface(),
        addresses,
        guest_mac: slot.guest_mac(),
        mtu: 1400,
        queues: 1,
        dns: vec![],
    };
    Machine {
        initrd: Some(directory.file("initrd")),
        rootfs: Some(directory.file("rootfs")),
        memory_mib: NonZeroU32::new(256).unwrap(),
        ..Machine::new(attachment, directory.file("kernel"))
    }
}

/// Returns machines that cover every difference between the drivers' calls.
pub(crate) fn machines(directory: &Directory) -> Vec<Machine> {
    let full = machine(directory);
    vec![
        Machine { read_only: true, vcpus: NonZeroU8::new(32).unwrap(), ..full.clone() },
        Machine { initrd: None, boot_args: "quiet".into(), ..full.clone() },
        Machine { rootfs: None, memory_mib: NonZeroU32::MAX, ..full.clone() },
        Machine { initrd: None, rootfs: None, ..full },
    ]
}

//! QEMU's arguments, as data. Pure. See qemu(1); statements about machines were tested with QEMU 7.2.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use super::attachment::{Attachment, GUEST_INTERFACE};
use riklet_core::model::Accelerator;

/// Everything that QEMU needs to know to run one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The guest's name, and the TAP that it is attached to.
    pub attachment: Attachment,
    /// The board of the virtual machine.
    pub board: Board,
    /// The accelerator that executes its instructions.
    pub accelerator: Accelerator,
    /// The file with its kernel.
    pub kernel: PathBuf,
    /// The file with its first file system.
    pub initrd: Option<PathBuf>,
    /// The file with its root file system, `/dev/vda` in the guest. It is a raw image: its bytes are the disk's.
    pub rootfs: Option<PathBuf>,
    /// Makes the root file system read-only.
    pub read_only: bool,
    /// The number of processors.
    pub vcpus: u8,
    /// The memory in MiB.
    pub memory_mib: u32,
    /// The whole command line of its kernel.
    pub command_line: String,
    /// The destination of its first serial port.
    pub console: Console,
    /// The socket for [`super::qmp::Qmp`], which QEMU creates when it starts; at most 107 bytes (unix(7)).
    pub qmp: PathBuf,
    /// Another such socket, for a reader of events: QEMU serves one connection a socket.
    pub events: Option<PathBuf>,
    /// Makes QEMU confine itself by seccomp(2). A QEMU that was built without it refuses.
    pub sandbox: bool,
}

/// The board of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// A board without PCI and with a minimal BIOS: virtio devices at fixed addresses, which the guest's kernel learns
    /// from ACPI (`CONFIG_ACPI`, `CONFIG_VIRTIO_MMIO`). ACPI stays on: without it there is no power button, and the
    /// kernel would need `CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`, which Debian's lacks. It boots in half the time.
    Microvm,
    /// A PC of 2009 with PCI, which every kernel supports.
    Q35,
}

/// The destination of a guest's first serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Console {
    /// Appends to this file, and creates it if necessary. The guest receives no input.
    File(PathBuf),
    /// Connects to QEMU's standard output and standard input. The guest receives Ctrl-C.
    Stdio,
}

impl Board {
    /// Returns the board that suits an accelerator. `Microvm` was made for KVM, which provides a clock. Under TCG on a
    /// busy host, a Linux guest finds no clock that it trusts, and stops after its first lines.
    #[must_use]
    pub const fn of(accelerator: Accelerator) -> Self {
        match accelerator {
            Accelerator::Kvm => Self::Microvm,
            Accelerator::Tcg => Self::Q35,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Microvm => "microvm",
            Self::Q35 => "q35",
        }
    }

    /// Returns the suffix of the names of virtio devices on the board's bus.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Microvm => "device",
            Self::Q35 => "pci",
        }
    }
}

impl Arguments {
    /// Returns the arguments of the program.
    #[must_use]
    pub fn render(&self) -> Vec<OsString> {
        let Self { attachment, board, accelerator, command_line, vcpus, memory_mib, .. } = self;
        let mut all = Words::default();
        all.flag("-nodefaults").flag("-no-user-config").flag("-nographic");
        // QEMU ends when the guest reboots, as it does after a panic with `panic=1`.
        all.flag("-no-reboot");
        all.option("-name", format!("guest={}", attachment.name));
        all.option("-machine", board.as_str());
        all.option("-accel", accelerator.as_str());
        // Enables every feature that the accelerator supports on this host; under KVM those of the host's processor.
        all.option("-cpu", "max");
        all.option("-smp", vcpus.to_string());
        all.option("-m", format!("{memory_mib}M"));
        all.option("-kernel", &self.kernel);
        if let Some(initrd) = &self.initrd {
            all.option("-initrd", initrd);
        }
        all.option("-append", command_line);
        if *board == Board::Microvm {
            // Virtio 1, as every other VMM has; by default the devices follow a draft of it.
            all.option("-global", "virtio-mmio.force-legacy=false");
        }
        if let Some(rootfs) = &self.rootfs {
            all.disk(rootfs, self.read_only, *board);
        }
        all.0.extend(network(attachment, *board).into_iter().map(OsString::from));
        all.console(&self.console);
        all.monitor("qmp", &self.qmp);
        if let Some(events) = &self.events {
            all.monitor("events", events);
        }
        if self.sandbox {
            // QEMU opens the TAP before it confines itself, and there are no scripts to start later.
            let denied = "obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
            all.option("-sandbox", format!("on,{denied}"));
        }
        all.0
    }
}

/// Returns the arguments that attach a guest to its TAP. No script creates or deletes the TAP, since it exists.
#[must_use]
pub fn network(attachment: &Attachment, board: Board) -> [String; 4] {
    let Attachment { interface, guest_mac, mtu, queues, .. } = attachment;
    let (pairs, several) = match board {
        _ if *queues < 2 => (String::new(), String::new()),
        Board::Microvm => (format!(",queues={queues}"), ",mq=on".to_owned()),
        // One interrupt for each queue, one for the configuration, and one for the control queue.
        Board::Q35 => {
            (format!(",queues={queues}"), format!(",mq=on,vectors={}", u16::from(*queues) * 2 + 2))
        }
    };
    // The guest does not boot from the network, and the ROM for that is in a separate package.
    let rom = if board == Board::Q35 { ",romfile=" } else { "" };
    let netdev =
        format!("tap,id={GUEST_INTERFACE},ifname={interface},script=no,downscript=no{pairs}");
    let nic = format!("netdev={GUEST_INTERFACE},mac={guest_mac},host_mtu={mtu}{several}{rom}");
    let device = format!("virtio-net-{},{nic}", board.suffix());
    ["-netdev".to_owned(), netdev, "-device".to_owned(), device]
}

/// Escapes a path as the value of a field: a comma would end the value, and is doubled.
fn value(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes().iter();
    let doubled = bytes.flat_map(|&byte| std::iter::repeat_n(byte, 1 + usize::from(byte == b',')));
    OsString::from_vec(doubled.collect())
}

/// A list of arguments under construction.
#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn flag(&mut self, word: &str) -> &mut Self {
        self.0.push(word.into());
        self
    }

    fn option(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(name.into());
        self.0.push(value.as_ref().into());
        self
    }

    /// Adds the disk by `-blockdev`, which takes the path literally: `-drive` would look for a protocol such as `nbd:`
    /// in it. The format is given: otherwise a guest could write the header of another format, and name a file of the
    /// host in it.
    fn disk(&mut self, path: &Path, read_only: bool, board: Board) -> &mut Self {
        let read_only = if read_only { "on" } else { "off" };
        let mut disk = OsString::from(format!(
            "driver=raw,node-name=root,read-only={read_only},file.driver=file,file.filename="
        ));
        disk.push(value(path));
        self.option("-blockdev", disk);
        self.option("-device", format!("virtio-blk-{},drive=root", board.suffix()))
    }

    /// Adds a socket for QMP.
    fn monitor(&mut self, id: &str, path: &Path) -> &mut Self {
        let mut socket = OsString::from(format!("socket,id={id},server=on,wait=off,path="));
        socket.push(value(path));
        self.option("-chardev", socket).option("-mon", format!("chardev={id},mode=control"))
    }

    fn console(&mut self, console: &Console) -> &mut Self {
        let chardev = match console {
            Console::Stdio => OsString::from("stdio,id=console,signal=off"),
            Console::File(path) => {
                let mut file = OsString::from("file,id=console,append=on,path=");
                file.push(value(path));
                file
            }
        };
        self.option("-chardev", chardev).option("-serial", "chardev:console")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use riklet_core::model::{Pool, Slot};

    fn arguments(board: Board, queues: u8) -> Arguments {
        let slot = Slot::new(1);
        let addresses = "10.231.0.0/16".parse::<Pool>().unwrap().addresses(slot).unwrap();
        let attachment = Attachment {
            name: "hello".parse().unwrap(),
            interface: slot.interface(),
            addresses,
            guest_mac: slot.guest_mac(),
            mtu: 1400,
            queues,
            dns: vec![],
        };
        Arguments {
            attachment,
            board,
            accelerator: Accelerator::Tcg,
            kernel: "/boot/vmlinuz".into(),
            initrd: None,
            rootfs: None,
            read_only: false,
            vcpus: 2,
            memory_mib: 256,
            command_line: "console=ttyS0 quiet".to_owned(),
            console: Console::Stdio,
            qmp: "/run/qmp".into(),
            events: None,
            sandbox: false,
        }
    }

    /// Returns each option with its values on a line.
    fn lines(arguments: &Arguments) -> String {
        let words = arguments.render();
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ").replace(" -", "\n-")
    }

    #[test]
    fn q35_arguments() {
        insta::assert_snapshot!(lines(&arguments(Board::Q35, 1)), @r#"
        -nodefaults
        -no-user-config
        -nographic
        -no-reboot
        -name guest=hello
        -machine q35
        -accel tcg
        -cpu max
        -smp 2
        -m 256M
        -kernel /boot/vmlinuz
        -append console=ttyS0 quiet
        -netdev tap,id=eth0,ifname=rik1,script=no,downscript=no
        -device virtio-net-pci,netdev=eth0,mac=06:52:49:4b:00:01,host_mtu=1400,romfile=
        -chardev stdio,id=console,signal=off
        -serial chardev:console
        -chardev socket,id=qmp,server=on,wait=off,path=/run/qmp
        -mon chardev=qmp,mode=control
        "#);
    }

    #[test]
    fn microvm_arguments_with_every_option() {
        let all = Arguments {
            accelerator: Accelerator::Kvm,
            initrd: Some("/boot/initrd".into()),
            rootfs: Some("/srv/a,b=c/nbd:root.ext4".into()),
            read_only: true,
            console: Console::File("/var/log/a,b".into()),
            qmp: "/run/a,b".into(),
            events: Some("/run/end".into()),
            sandbox: true,
            ..arguments(Board::Microvm, 4)
        };
        insta::assert_snapshot!(lines(&all), @r#"
        -nodefaults
        -no-user-config
        -nographic
        -no-reboot
        -name guest=hello
        -machine microvm
        -accel kvm
        -cpu max
        -smp 2
        -m 256M
        -kernel /boot/vmlinuz
        -initrd /boot/initrd
        -append console=ttyS0 quiet
        -global virtio-mmio.force-legacy=false
        -blockdev driver=raw,node-name=root,read-only=on,file.driver=file,file.filename=/srv/a,,b=c/nbd:root.ext4
        -device virtio-blk-device,drive=root
        -netdev tap,id=eth0,ifname=rik1,script=no,downscript=no,queues=4
        -device virtio-net-device,netdev=eth0,mac=06:52:49:4b:00:01,host_mtu=1400,mq=on
        -chardev file,id=console,append=on,path=/var/log/a,,b
        -serial chardev:console
        -chardev socket,id=qmp,server=on,wait=off,path=/run/a,,b
        -mon chardev=qmp,mode=control
        -chardev socket,id=events,server=on,wait=off,path=/run/end
        -mon chardev=events,mode=control
        -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
        "#);
    }

    #[test]
    fn tap_arguments_follow_the_board() {
        let network =
            |board, queues| network(&arguments(board, queues).attachment, board).join(" ");
        let tap = "-netdev tap,id=eth0,ifname=rik1,script=no,downscript=no";
        let nic = "netdev=eth0,mac=06:52:49:4b:00:01,host_mtu=1400";
        assert_eq!(network(Board::Q35, 1), format!("{tap} -device virtio-net-pci,{nic},romfile="));
        assert_eq!(
            network(Board::Q35, 16),
            format!("{tap},queues=16 -device virtio-net-pci,{nic},mq=on,vectors=34,romfile=")
        );
        assert_eq!(
            network(Board::Microvm, 2),
            format!("{tap},queues=2 -device virtio-net-device,{nic},mq=on")
        );
    }
}

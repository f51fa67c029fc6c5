//! QEMU on the node, started with the arguments that the program gives.

use std::{
    cell::RefCell,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use riklet_core::model::Accelerator;
use riklet_sdn::{Config, Instance, Node};
use riklet_vmm::{
    attachment::{self, Attachment},
    qemu::{Arguments, Board, Console},
    qmp::{Event, Qmp, QmpError},
};
use serde_json::Value;

use crate::{
    PATIENCE,
    http::try_get,
    world::{Namespace, World, wait_for},
};

/// The time that a guest may take to boot, or to end. With a processor of its own it takes about three seconds.
const DEADLINE: Duration = Duration::from_mins(3);
/// The number of seconds that one attempt to reach a guest may take. A guest without an address does not answer.
const TRY: u64 = 2;

/// A guest that is booting or has booted. Dropping this ends QEMU, if it has not ended.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) arguments: Arguments,
    child: RefCell<Child>,
    console: PathBuf,
    errors: PathBuf,
}

impl Vm {
    /// Boots the guest of this instance, which is up, and serves HTTP on port 3000. `change` changes the smallest
    /// guest that works; `options` are more options for QEMU, besides those of the program.
    #[track_caller]
    pub(crate) fn start(
        world: &World,
        name: &str,
        options: &[&str],
        change: impl FnOnce(&mut Arguments),
    ) -> Self {
        let instance = instance(world, name);
        let attachment = Attachment::of(&instance, &[]);
        let ip = attachment::boot_args(&attachment);
        let place = |what: &str| world.directory.path().join(format!("{name},{what}"));
        let (console, errors) = (place("console"), place("errors"));
        let mut arguments = Arguments {
            attachment,
            board: Board::of(Accelerator::Tcg),
            accelerator: Accelerator::Tcg,
            kernel: guest_file("vmlinuz"),
            initrd: Some(guest_file("initrd")),
            rootfs: None,
            read_only: false,
            vcpus: 1,
            memory_mib: 128,
            command_line: format!("console=ttyS0 reboot=k panic=1 quiet {ip} riklet.http=3000"),
            console: Console::File(console.clone()),
            qmp: place("qmp"),
            events: None,
            sandbox: true,
        };
        change(&mut arguments);
        let child = spawn(&world.node, &arguments, options, &errors);
        Self { arguments, child: RefCell::new(child), console, errors }
    }

    /// Returns the guest's address.
    pub(crate) fn guest(&self) -> Ipv4Addr {
        self.arguments.attachment.addresses.v4.guest
    }

    /// Returns the node's address on the guest's TAP.
    pub(crate) fn host(&self) -> Ipv4Addr {
        self.arguments.attachment.addresses.v4.host
    }

    /// Waits for the guest to answer `GET /`, and returns the answer.
    #[track_caller]
    pub(crate) fn wait_for_answer(&self, from: &Namespace, published: SocketAddrV4) -> Value {
        self.wait_for_answer_at(from, published, "/")
    }

    /// Waits for the guest to answer `GET` of this path, and returns the answer.
    #[track_caller]
    pub(crate) fn wait_for_answer_at(
        &self,
        from: &Namespace,
        published: SocketAddrV4,
        path: &str,
    ) -> Value {
        let answer = wait_for(&format!("the guest behind {published}"), DEADLINE, || {
            self.assert_running();
            let output = try_get(from, published, path, TRY);
            (output.code == Some(0)).then(|| output.success())
        });
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error} in {answer}"))
    }

    /// Connects to QEMU as soon as it accepts a connection.
    #[track_caller]
    pub(crate) fn qmp(&self) -> Qmp {
        wait_for("QEMU's socket", DEADLINE, || {
            self.assert_running();
            match Qmp::connect(&self.arguments.qmp, PATIENCE) {
                Err(QmpError::Connect { .. }) => None,
                connected => Some(connected.unwrap_or_else(|error| panic!("{error}"))),
            }
        })
    }

    /// Presses the power button, and waits until the guest, and QEMU with it, have ended.
    #[track_caller]
    pub(crate) fn power_down(self) {
        let mut qmp = self.qmp();
        qmp.system_powerdown().unwrap();
        let reason = loop {
            match qmp.next_event(DEADLINE).unwrap() {
                Some(Event::Shutdown { guest, reason }) => break (guest, reason),
                Some(Event::Other { .. }) => {}
                None => panic!("the guest does not mind its power button:\n{}", self.words()),
            }
        };
        assert_eq!(reason, (true, "guest-shutdown".to_owned()));
        drop(qmp);
        self.wait_for_end();
    }

    /// Waits until QEMU has ended without an error.
    #[track_caller]
    pub(crate) fn wait_for_end(&self) {
        let ended = || self.child.borrow_mut().try_wait().expect("a child");
        let status = wait_for("QEMU to end", DEADLINE, ended);
        assert!(status.success(), "QEMU: {status}\n{}", self.words());
    }

    #[track_caller]
    fn assert_running(&self) {
        let ended = self.child.borrow_mut().try_wait().expect("a child");
        assert_eq!(ended, None, "QEMU has ended:\n{}", self.words());
    }

    /// Returns the output of QEMU and the guest.
    fn words(&self) -> String {
        format!("{}{}", read(&self.errors), read(&self.console))
    }
}

impl Drop for Vm {
    #[expect(clippy::print_stderr, reason = "a test that fails shows why")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}:\n{}", self.arguments.attachment.name, self.words());
        }
        // Does nothing if QEMU has already ended.
        let child = self.child.get_mut();
        child.kill().ok();
        child.wait().ok();
    }
}

#[expect(clippy::disallowed_methods, reason = "QEMU is started here only")]
fn spawn(node: &Namespace, arguments: &Arguments, options: &[&str], errors: &Path) -> Child {
    let start = || {
        Command::new("qemu-system-x86_64")
            .args(arguments.render())
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(errors)?)
            .spawn()
    };
    node.run(start).expect("qemu-system-x86_64, of the package qemu-system-x86")
}

/// Returns the instance of this name from the program's records.
#[track_caller]
fn instance(world: &World, name: &str) -> Instance {
    let state_dir = world.environment["RIKLET_SDN_STATE_DIR"].clone();
    let mtu = world.environment.get("RIKLET_SDN_MTU").map(|mtu| mtu.parse().expect("a number"));
    let mut config = Config::in_directory(state_dir);
    config.mtu = mtu;
    let listed = world.node.run(|| Node::new(config).list());
    let mut instances = listed.expect("a readable store").into_iter().map(|l| l.instance);
    instances.find(|instance| instance.name().as_str() == name).expect("an instance that is up")
}

/// Returns the path of a file of the guest that these tests boot.
#[track_caller]
fn guest_file(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest").join(name);
    assert!(path.exists(), "{} is missing: run `scripts/guest target/guest`", path.display());
    path
}

/// Returns the path of a file of the image that these tests boot.
#[track_caller]
pub(crate) fn image_file(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/image").join(name);
    assert!(path.exists(), "{} is missing: run `scripts/image target/image`", path.display());
    path
}

/// Creates a disk of 1 MiB that begins with these bytes.
#[expect(clippy::disallowed_methods, reason = "the disk is the test's own")]
pub(crate) fn write_disk(path: &Path, start: &[u8]) {
    let mut bytes = vec![0; 1 << 20];
    bytes[..start.len()].copy_from_slice(start);
    fs::write(path, bytes).expect("a writable directory");
}

/// Reads a file that may not exist.
#[expect(clippy::disallowed_methods, reason = "what QEMU and the guest wrote is read here only")]
fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

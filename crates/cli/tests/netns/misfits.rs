//! Definitions that `run` refuses, and runs that it gives up. Each error says what failed and why, and nothing is left
//! behind.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    played::Firecracker,
    program::{Kvm, Program},
    vmms::told,
    world::{
        Firewall, World,
        background::Background,
        function::{Function, exposure, function},
        guest::Nic,
        runs::is_alive,
        state::{SystemState, assert_same},
        transport::Transport::Tcp,
    },
};

/// A user who has no access to anything here.
const USER: u32 = 54_321;
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 8000);
const SHA256: &str = "2222222222222222222222222222222222222222222222222222222222222222";

fn hello(execution: Value) -> Value {
    let mut definition = function("hello", &[exposure(Tcp, 8080, 3000)]);
    definition["spec"]["function"]["execution"] = execution;
    definition
}

/// A definition that cannot be run.
struct Misfit {
    what: &'static str,
    kvm: Kvm,
    /// The difference from an execution that could be run.
    execution: Value,
    code: i32,
    complaint: String,
}

impl Misfit {
    /// Creates a misfit for a host that lacks nothing.
    fn new(what: &'static str, execution: Value, code: i32, complaint: impl Into<String>) -> Self {
        Self { what, kvm: Kvm::Opens, execution, code, complaint: complaint.into() }
    }
}

/// A world with a Firecracker that must not be started, and files that could be run.
struct Site {
    world: World,
    program: Program,
}

impl Site {
    fn new() -> Self {
        let world = World::new(Firewall::Nftables);
        let program = Program::install(&world, "firecracker", "");
        let site = Self { world, program };
        for name in ["vmlinux", "rootfs"] {
            fs::File::create(site.path(name)).expect("a file");
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.directory.path().join(name)
    }

    /// Asserts that each is refused before anything changes.
    #[track_caller]
    fn refuses(&self, misfits: Vec<Misfit>) {
        let before = SystemState::take(&self.world.node);
        for Misfit { what, kvm, execution, code, complaint } in misfits {
            let mut whole = json!({ "vmm": "firecracker", "kernel": self.path("vmlinux") });
            for (field, value) in execution.as_object().expect("fields") {
                whole[field] = value.clone();
            }
            let definition = hello(whole).to_string();
            for detach in [&["run", "-"][..], &["run", "--detach", "-"]] {
                let output = self.world.riklet_with(kvm, detach, &definition);
                assert_eq!(output.code, Some(code), "{what}: {output}");
                assert!(output.stderr.contains(&complaint), "{what}: {complaint:?} in {output}");
                assert!(output.stdout.is_empty(), "{what}: {output}");
                assert!(!self.program.has_started(), "{what}");
                let run =
                    self.world.environment["RIKLET_SDN_STATE_DIR"].clone() + "/machines/hello";
                assert!(!Path::new(&run).exists(), "{what}");
                assert_same(&before, &SystemState::take(&self.world.node));
            }
        }
        assert_eq!(self.world.riklet(&["list"], "").success().lines().count(), 1);
        self.world.riklet(&["check"], "").success();
    }
}

#[test]
fn files_that_no_vmm_can_open_are_refused() {
    let site = Site::new();
    let path = |name: &str| site.path(name).to_str().expect("UTF-8").to_owned();
    fs::create_dir(path("directory")).expect("a directory");
    for (name, mode) in [("private", 0o600), ("rootfs", 0o644)] {
        fs::File::create(path(name)).expect("a file");
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).expect("a file");
    }
    let slots = site.world.directory.users();
    let misfit = |what, execution, complaint: String| Misfit::new(what, execution, 2, complaint);
    let (none, directory, private) = (path("none"), path("directory"), path("private"));
    let as_user = "user 54321 of group 54321 cannot";
    site.refuses(vec![
        misfit("no kernel", json!({ "kernel": none }), format!("cannot find the kernel {none}: No such")),
        misfit(
            "a directory",
            json!({ "kernel": directory }),
            format!("the kernel {directory} is a directory, not a file"),
        ),
        misfit(
            "not readable",
            json!({ "kernel": private, "user": USER }),
            format!("{as_user} read the kernel {private}: Permission denied"),
        ),
        misfit("no initrd", json!({ "initrd": none }), format!("cannot find the initrd {none}: No such")),
        misfit("no rootfs", json!({ "rootfs": none }), format!("cannot find the rootfs {none}: No such")),
        misfit(
            "a directory",
            json!({ "rootfs": directory }),
            format!("the rootfs {directory} is a directory, not a file"),
        ),
        misfit(
            "not writable",
            json!({ "rootfs": path("rootfs"), "user": USER }),
            format!("{as_user} write the rootfs {}: Permission denied", path("rootfs")),
        ),
        misfit(
            "the wrong checksum",
            json!({ "kernel": { "source": path("vmlinux"), "sha256": SHA256 } }),
            format!("the kernel {} has the SHA-256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, not {SHA256}", path("vmlinux")),
        ),
        misfit("nobody", json!({ "user": "nosuch" }), "the host has no user nosuch".to_owned()),
        misfit(
            "a slot's user",
            json!({ "user": slots + 5 }),
            format!("hello cannot be run: user {} is one of those that functions get", slots + 5),
        ),
        misfit("no memory", json!({ "memory": 0 }), "a guest needs at least 1 MiB of memory".to_owned()),
    ]);
}

#[test]
fn run_reports_what_the_host_lacks() {
    let site = Site::new();
    let lacks = |kvm, execution: Value, complaint: &str| Misfit {
        kvm,
        ..Misfit::new("the host", execution, 3, complaint)
    };
    site.refuses(vec![
        lacks(
            Kvm::Missing,
            json!({}),
            "firecracker cannot run it: there is no /dev/kvm\nhint: `modprobe kvm_intel`",
        ),
        lacks(
            Kvm::Denied,
            json!({}),
            "firecracker cannot run it: /dev/kvm may not be opened\nhint: ",
        ),
        lacks(
            Kvm::Private,
            json!({ "user": USER }),
            "firecracker cannot run it: user 54321 of group 54321 may not open /dev/kvm\nhint: ",
        ),
        lacks(
            Kvm::PrivateTun,
            json!({ "user": USER }),
            "firecracker cannot run it: user 54321 of group 54321 may not open /dev/net/tun\nhint: ",
        ),
        lacks(
            Kvm::Opens,
            json!({ "vmm": "cloud-hypervisor" }),
            "cloud-hypervisor is not on the PATH\nhint: install cloud-hypervisor",
        ),
    ]);
}

#[test]
fn doctor_says_what_the_users_of_vmms_cannot_open() {
    let site = Site::new();
    let told = |kvm| site.world.riklet_with(kvm, &["doctor"], "").stdout;
    let expected = "they may not open /dev/net/tun";
    assert!(told(Kvm::PrivateTun).contains(expected));
    assert!(!told(Kvm::Opens).contains(expected));
}

/// Microvms never run as root, or as a user of the host, because of a number in the configuration.
#[test]
fn users_of_vmms_are_nobody_of_the_host() {
    let mut site = Site::new();
    let definition =
        hello(json!({ "vmm": "firecracker", "kernel": site.path("vmlinux") })).to_string();
    let run = |site: &Site| {
        let world = &site.world;
        world.riklet_with(Kvm::Opens, &["run", "--no-wait", "-"], &definition)
    };
    let words = "131072 users of microVMs: below 65536 are root and the host's users";
    for base in ["0", "1", "65535", "4294900000", "4294967295", "99999999999"] {
        site.world.environment.insert("RIKLET_SDN_VMM_UID_BASE".to_owned(), base.to_owned());
        let refused = run(&site).failure(2);
        assert!(refused.contains(base) && refused.contains(words), "{base}: {refused}");
        // The same number in the file, for all commands.
        site.world.environment.remove("RIKLET_SDN_VMM_UID_BASE");
        let file = site.world.environment["RIKLET_SDN_CONFIG"].clone();
        write(&file, &format!("vmm_uid_base = {base}\n"));
        for command in ["serve", "doctor"] {
            let refused = site.world.riklet(&[command], "").failure(2);
            assert!(refused.contains(base) && refused.contains(words), "{base}: {refused}");
        }
        write(&file, "");
    }
    // A user of the host in the block, in a file that only this test sees.
    let first = site.world.directory.users();
    let base = first.to_string();
    site.world.environment.insert("RIKLET_SDN_VMM_UID_BASE".to_owned(), base);
    let passwd = site.path("passwd");
    write(&passwd, &format!("root:x:0:0::/:/bin/sh\nanna:x:{}:7:::\n", first + 100));
    for (command, code) in [("run --no-wait -", 2), ("doctor", 3)] {
        let program = env!("CARGO_BIN_EXE_riklet-sdn");
        let script =
            format!("mount --bind {} /etc/passwd; exec {program} {command}", passwd.display());
        let refused = site.world.program("unshare", &["--mount", "sh", "-c", &script], &definition);
        let told = format!("{}{}", refused.stdout, refused.stderr);
        assert_eq!(refused.code, Some(code), "{refused}");
        let words = format!("/etc/passwd gives {} to anna", first + 100);
        assert!(told.contains("vmm_uid_base") && told.contains(&words), "{told}");
    }
    assert!(!site.program.has_started());
}

#[expect(clippy::disallowed_methods, reason = "a file of the test's own")]
fn write(path: impl AsRef<Path>, text: &str) {
    fs::write(path, text).expect("a short file");
}

/// Serves `/kernel`, and `/short`, which ends too early.
fn file_server(world: &World) -> Background {
    let listener = world.node.run(|| TcpListener::bind(SERVER)).expect("a port");
    let answer = |stream: &TcpStream| {
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
        let answer = match request.split(' ').nth(1) {
            Some("/kernel") => "200 OK\r\nContent-Length: 3\r\n\r\nELF",
            Some("/short") => "200 OK\r\nContent-Length: 30\r\n\r\nELF",
            _ => "404 Not Found\r\nContent-Length: 0\r\n\r\n",
        };
        let mut stream = stream;
        write!(stream, "HTTP/1.1 {answer}")
    };
    Background::start(move |stop| {
        while stop.readable([listener.as_fd()]).is_some() {
            // A client that has gone meanwhile is no failure of the server.
            listener.accept().and_then(|(stream, _)| answer(&stream)).ok();
        }
    })
}

#[test]
fn failed_downloads_are_reported() {
    let site = Site::new();
    let _server = file_server(&site.world);
    let url = |path: &str| format!("http://{}:{}{path}", SERVER.0, SERVER.1);
    let failed = |what, source: Value, complaint: String| {
        Misfit::new(what, json!({ "kernel": source }), 1, complaint)
    };
    let (none, short, kernel) = (url("/none"), url("/short"), url("/kernel"));
    let nobody = "http://127.0.0.1:8001/kernel";
    site.refuses(vec![
        failed(
            "not found",
            json!(none),
            format!("cannot download the kernel {none}: the server answers 404 Not Found"),
        ),
        failed(
            "too short",
            json!(short),
            format!("the download of the kernel {short} broke off after 3 of 30 bytes"),
        ),
        failed(
            "the wrong checksum",
            json!({ "source": kernel, "sha256": SHA256 }),
            format!("the kernel {kernel} has the SHA-256 "),
        ),
        failed(
            "no server",
            json!(nobody),
            format!("cannot download the kernel {nobody}: its server cannot be reached"),
        ),
    ]);
}

#[test]
fn files_outside_of_the_image_roots_are_refused() {
    let mut site = Site::new();
    // By default images may be beside the definition, and in two directories of the host.
    site.world.environment.remove("RIKLET_SDN_IMAGE_ROOTS");
    let here = site.world.directory.path().to_owned();
    let run = |site: &Site, kernel: &Path, rootfs: &str| {
        let execution = json!({
            "vmm": "firecracker", "kernel": kernel, "rootfs": rootfs, "readOnly": true,
        });
        let path = site.path("hello.json");
        let mut definition = fs::File::create(&path).expect("a file");
        definition.write_all(hello(execution).to_string().as_bytes()).expect("a short file");
        let path = path.to_str().expect("UTF-8");
        site.world.riklet_with(Kvm::Opens, &["run", "--detach", "--ready-timeout", "5", path], "")
    };
    let outside = |role: &str, path: &str| {
        format!(
            "error: hello cannot be run: the {role} {path} is outside of {}, /srv, /var/lib\n",
            here.display()
        )
    };
    let vmlinux = site.path("vmlinux");
    let complaint = run(&site, &vmlinux, "/etc/shadow").failure(2);
    assert!(complaint.starts_with(&outside("rootfs", "/etc/shadow")), "{complaint}");
    let complaint = run(&site, Path::new("/proc/self/mem"), "/etc/shadow").failure(2);
    assert!(complaint.starts_with(&outside("kernel", "/proc/self/mem")), "{complaint}");
    assert!(!site.program.has_started());
    // Beside the definition; the detached supervisor, which gets it by a pipe, knows where it is.
    let rootfs = site.path("rootfs");
    let complaint = run(&site, &vmlinux, rootfs.to_str().expect("UTF-8")).failure(1);
    assert!(complaint.contains("firecracker does not serve its API"), "{complaint}");
    assert!(site.program.has_started());
    // The configuration names other directories.
    let mut config =
        fs::File::create(&site.world.environment["RIKLET_SDN_CONFIG"]).expect("a file");
    config.write_all(b"image_roots = \"/opt\"\n").expect("a short file");
    let complaint = run(&site, &vmlinux, "/etc/shadow").failure(2);
    assert!(complaint.contains(" is outside of /opt\n"), "{complaint}");
}

/// The stage of its start that a guest reaches.
#[derive(Debug, Clone, Copy)]
enum Reached {
    Nothing,
    Tap,
    Address,
}

#[test]
fn timeout_names_the_condition_that_was_awaited() {
    for (reached, waited) in [
        (Reached::Nothing, "nothing has opened rik0 (it has no carrier)"),
        (Reached::Tap, "the guest at 10.231.0.2 does not answer"),
        (Reached::Address, "the guest refuses connections to its port"),
    ] {
        let site = Site::new();
        let world = &site.world;
        let before = SystemState::take(&world.node);
        let definition = hello(json!({ "vmm": "firecracker", "kernel": site.path("vmlinux") }));
        let arguments = ["run", "--detach", "--ready-timeout", "5", "-"];
        let running = world.riklet_with_kvm(&arguments, &definition.to_string());
        let server = site.program.serve(Firecracker::new("1.17.0"));
        told(&server, "PUT /actions");
        let nic = Nic::of_slot("10.231.0.0/16".parse().unwrap(), riklet_core::model::Slot::new(0));
        let elsewhere = |last| Ipv4Addr::new(10, 99, 0, last);
        let guest = match reached {
            Reached::Nothing => None,
            Reached::Tap => {
                let (address, gateway) = (elsewhere(2), elsewhere(1));
                Some(Function::start(world, Nic { address, gateway, ..nic }, &[]))
            }
            Reached::Address => Some(Function::start(world, nic, &[(Tcp, 3001)])),
        };
        let complaint = running.wait().failure(1);
        let expected = format!("error: not ready after 5 s: hello (tcp 8080 -> 3000): {waited}\n");
        assert!(complaint.starts_with(&expected), "{reached:?}: {complaint}");
        drop(guest);
        assert!(!is_alive(site.program.pid()), "{reached:?}");
        assert_same(&before, &SystemState::take(&world.node));
        assert!(world.state_of("hello").1.contains(waited), "{}", world.ps("hello"));
        world.riklet(&["check"], "").success();
    }
}

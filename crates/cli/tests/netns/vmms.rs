//! Functions that run on simulated Firecracker and Cloud Hypervisor: the requests that these receive, and the ways in
//! which runs end.

pub(crate) mod confined;
mod escaped;
mod logs;
mod prepared;
mod ready;
mod stopped;
mod users;
mod wrapped;

use std::{
    fs::{self, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    net::Ipv4Addr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use riklet_core::model::MacAddress;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    played::{CloudHypervisor, Firecracker, Until},
    program::{Kvm, Program},
    server::{HttpRequest, Reply, Server, answer},
    world::{
        CLIENT, Firewall, NODE_LAN, World,
        command::{Output, Running},
        function::{Function, exposure, function},
        guest::Nic,
        runs::{is_alive, kill, pid},
        state::{SystemState, assert_same},
        traffic::tcp_ask,
        transport::{Transport::Tcp, assert_refused},
        wait_for,
    },
};

const HELLO: (Ipv4Addr, u16) = (NODE_LAN, 8080);
const LATEST: &str = "1.17.0";
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Creates an empty file in the world's directory.
fn file(world: &World, name: &str) -> PathBuf {
    let path = world.directory.path().join(name);
    fs::File::create(&path).expect("a file");
    path
}

/// Returns a microVM `hello` for this VMM, whose kernel and rootfs exist.
fn hello(world: &World, vmm: &str) -> Value {
    let mut definition = function("hello", &[exposure(Tcp, 8080, 3000)]);
    definition["spec"]["function"]["execution"] = json!({
        "vmm": vmm,
        "kernel": file(world, "vmlinux"),
        "rootfs": file(world, "rootfs.ext4"),
        "vcpus": 2,
        "memory": "256M",
        "bootArgs": "quiet init=/sbin/hello",
        "dns": ["192.0.2.53"],
        "readOnly": true,
    });
    definition
}

fn detach(world: &World, definition: &Value) -> Running {
    world.riklet_with_kvm(&["run", "--detach", "-"], &definition.to_string())
}

/// Waits for this request, and returns its body.
#[track_caller]
pub(crate) fn told(server: &Server, line: &str) -> Value {
    let body = |request: HttpRequest| (request.line() == line).then_some(request.body);
    let body = wait_for(line, START_TIMEOUT, || server.received().into_iter().find_map(body));
    body.unwrap_or(Value::Null)
}

/// Starts a guest from what its VMM was told: its NIC, and its kernel's command line.
#[track_caller]
fn boot(world: &World, tap: &Value, mac: &Value, command_line: &Value) -> Function {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let command_line = text(command_line);
    let ip = command_line.split(' ').find_map(|word| word.strip_prefix("ip=")).expect("an address");
    let fields: Vec<_> = ip.split(':').collect();
    assert_eq!(fields[3..], ["255.255.255.252", "hello", "eth0", "off", "192.0.2.53"], "{ip}");
    let octets = text(mac);
    let octets = octets.split(':').map(|octet| u8::from_str_radix(octet, 16).expect("a MAC"));
    let nic = Nic {
        interface: text(tap),
        address: fields[0].parse().expect("an address"),
        gateway: fields[2].parse().expect("an address"),
        mac: MacAddress::new(octets.collect::<Vec<_>>().try_into().expect("six octets")),
        mtu: 1500,
    };
    Function::start(world, nic, &[(Tcp, 3000)])
}

/// A simulated Firecracker that runs `hello`, ready.
struct Hello {
    program: Program,
    server: Server,
    guest: Function,
}

impl Hello {
    #[track_caller]
    fn start(world: &World) -> Self {
        Self::with(world, &hello(world, "firecracker"), "")
    }

    #[track_caller]
    fn with(world: &World, definition: &Value, first: &str) -> Self {
        let program = Program::install(world, "firecracker", first);
        let mut running = detach(world, definition);
        wait_for("a VMM to begin, or the end of its run", START_TIMEOUT, || {
            (program.has_started() || !running.is_running()).then_some(())
        });
        let running = if program.has_started() {
            running
        } else {
            panic!("no VMM has begun: {}", running.wait());
        };
        let server = program.serve(Firecracker::new(LATEST));
        let interface = told(&server, "PUT /network-interfaces/eth0");
        let source = told(&server, "PUT /boot-source");
        assert_eq!(told(&server, "PUT /actions"), json!({ "action_type": "InstanceStart" }));
        let [tap, mac] = [&interface["host_dev_name"], &interface["guest_mac"]];
        let guest = boot(world, tap, mac, &source["boot_args"]);
        let printed = running.wait().success();
        assert!(printed.contains("hello: firecracker (the definition names it)\n"), "{printed}");
        assert!(printed.contains("ready in"), "{printed}");
        Self { program, server, guest }
    }
}

/// Asserts that a failed run of `hello` leaves nothing behind, and that its VMM has ended.
#[track_caller]
fn assert_nothing_left(world: &World, before: &SystemState, program: Option<&Program>) {
    if let Some(program) = program {
        assert!(!is_alive(program.pid()), "the VMM runs on");
    }
    assert_same(before, &SystemState::take(&world.node));
    world.riklet(&["check"], "").success();
}

#[test]
fn firecracker_receives_the_definition() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let hello = Hello::start(&world);
    let path = |name: &str| Value::from(world.directory.path().join(name).to_str().unwrap());
    let machine = told(&hello.server, "PUT /machine-config");
    assert_eq!(machine, json!({ "vcpu_count": 2, "mem_size_mib": 256 }));
    let source = told(&hello.server, "PUT /boot-source");
    assert_eq!(source["kernel_image_path"], path("vmlinux"));
    assert_eq!(
        source["boot_args"],
        "console=ttyS0 reboot=k panic=1 pci=off root=/dev/vda ro \
         net.ifnames=0 ip=10.231.0.2::10.231.0.1:255.255.255.252:hello:eth0:off:192.0.2.53 quiet init=/sbin/hello"
    );
    assert_eq!(
        told(&hello.server, "PUT /drives/rootfs"),
        json!({
            "drive_id": "rootfs", "path_on_host": path("rootfs.ext4"), "is_root_device": true,
            "is_read_only": true,
        })
    );
    assert_eq!(
        told(&hello.server, "PUT /network-interfaces/eth0"),
        json!({
            "iface_id": "eth0", "host_dev_name": "rik0", "guest_mac": "06:52:49:4b:00:00", "mtu": 1500,
        })
    );
    let arguments = hello.program.arguments();
    assert_eq!(arguments[2..], ["--id", "hello", "--log-path", "/proc/self/fd/2"]);

    let answer = tcp_ask(&world.client, HELLO).unwrap();
    assert_eq!(
        (answer.client.ip(), answer.server),
        (CLIENT.into(), (hello.guest.address(), 3000).into())
    );
    let run = world.ps("hello");
    assert_eq!((&run["vmm"], &run["state"]), (&"firecracker".into(), &"running".into()));
    let pid = i64::from(hello.program.pid().as_raw_nonzero().get());
    assert_eq!(run["pid"], pid);
    let mut following = world.riklet_in_background(&["logs", "-f", "hello"], "");
    hello.program.order("echo Linux version 6.1");
    following.wait_for_line("Linux version 6.1");

    // The guest reacts to Ctrl+Alt+Del.
    let stopped = world.riklet(&["stop", "hello"], "");
    assert_eq!(stopped.stderr, "hello: the guest powered off\n", "{stopped}");
    assert_eq!(hello.server.lines().last().unwrap(), "PUT /actions");
    assert_eq!(following.wait().success(), "firecracker begins\nLinux version 6.1\n");
    let logs = world.riklet(&["logs", "hello"], "").success();
    assert_eq!(logs, "firecracker begins\nLinux version 6.1\n");
    assert_eq!(world.state_of("hello").1, "stopped");
    assert_refused(Tcp, &world.client, HELLO);
    drop(hello.guest);
    assert_nothing_left(&world, &before, Some(&hello.program));
}

#[test]
fn cloud_hypervisor_receives_the_definition() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let program = Program::install(&world, "cloud-hypervisor", "");
    let mut definition = hello(&world, "cloud-hypervisor");
    definition["spec"]["function"]["execution"]["initrd"] = file(&world, "initrd").to_str().into();
    let running = detach(&world, &definition);
    let server = program.serve(CloudHypervisor::new("v51.1.0"));
    let machine = told(&server, "PUT /api/v1/vm.create");
    told(&server, "PUT /api/v1/vm.boot");
    let path = |name: &str| Value::from(world.directory.path().join(name).to_str().unwrap());
    assert_eq!(machine["payload"]["kernel"], path("vmlinux"));
    assert_eq!(machine["payload"]["initramfs"], path("initrd"));
    assert_eq!(machine["cpus"], json!({ "boot_vcpus": 2, "max_vcpus": 2 }));
    assert_eq!(machine["memory"]["size"], 256 << 20);
    assert_eq!(machine["disks"][0]["path"], path("rootfs.ext4"));
    assert_eq!(machine["disks"][0]["readonly"], true);
    let net = &machine["net"][0];
    assert_eq!((&net["tap"], &net["mac"]), (&"rik0".into(), &"06:52:49:4b:00:00".into()));
    let guest = boot(&world, &net["tap"], &net["mac"], &machine["payload"]["cmdline"]);
    running.wait().success();
    assert_eq!(tcp_ask(&world.client, HELLO).unwrap().client.ip(), CLIENT);

    let stopped = world.riklet(&["stop", "hello"], "");
    assert_eq!(stopped.stderr, "hello: the guest powered off\n", "{stopped}");
    assert_eq!(server.lines().last().unwrap(), "PUT /api/v1/vm.power-button");
    drop(guest);
    assert_nothing_left(&world, &before, Some(&program));
}

#[test]
fn the_console_is_shown_in_the_foreground() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let program = Program::install(&world, "firecracker", "");
    let definition = hello(&world, "firecracker").to_string();
    let mut running = world.riklet_with_kvm(&["run", "--console", "-"], &definition);
    let server = program.serve(Firecracker::new(LATEST));
    let interface = told(&server, "PUT /network-interfaces/eth0");
    let source = told(&server, "PUT /boot-source");
    let [tap, mac] = [&interface["host_dev_name"], &interface["guest_mac"]];
    let guest = boot(&world, tap, mac, &source["boot_args"]);
    running.wait_for_line("ready in");
    program.order("echo Linux version 6.1; echo no such device");
    let printed = running.wait_for_line("no such device");
    assert!(printed.contains("firecracker begins\n"), "{printed}");
    assert!(printed.ends_with("Linux version 6.1\nno such device\n"), "{printed}");
    // At Ctrl-C the guest is asked to power down, and its last output is shown as well.
    program.order("trap 'echo Power down' EXIT");
    running.signal(Signal::INT);
    let output = running.wait();
    assert_eq!((output.code, &*output.stderr), (Some(0), ""), "{output}");
    assert!(output.stdout.ends_with("no such device\nPower down\n"), "{output}");
    drop(guest);
    assert_nothing_left(&world, &before, Some(&program));
}

/// Returns two microVMs, `hello` on Firecracker and `second` on Cloud Hypervisor.
fn two(world: &World) -> Value {
    let mut second = hello(world, "cloud-hypervisor");
    second["name"] = "second".into();
    second["spec"]["function"]["exposure"] = json!([exposure(Tcp, 9090, 3000)]);
    json!([hello(world, "firecracker"), second])
}

#[test]
fn a_panic_is_a_failure() {
    const PANIC: &str = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let hello = Hello::start(&world);
    hello.program.order(&format!(
        "echo '[    9.1] {PANIC}'; echo '[    9.2] Rebooting in 1 seconds..'; exit 0"
    ));
    let waited = world.riklet(&["wait", "hello"], "");
    let expected = format!("the guest panicked: {PANIC}\n");
    assert_eq!((waited.code, &*waited.stdout), (Some(1), &*expected), "{waited}");
    drop(hello.guest);
    assert_nothing_left(&world, &before, Some(&hello.program));
}

#[test]
fn a_reset_ends_cloud_hypervisor() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let program = Program::install(&world, "cloud-hypervisor", "");
    let definition = hello(&world, "cloud-hypervisor").to_string();
    let arguments = ["run", "--detach", "--no-wait", "-"];
    let running = world.riklet_with_kvm(&arguments, &definition);
    let _server = program.serve(CloudHypervisor::new("v51.1.0"));
    running.wait().success();
    assert_eq!(program.arguments()[2..], ["--event-monitor", "path=/proc/self/fd/2"]);
    // It would boot its guest again.
    program.order(r#"echo '  "source": "vm",' >&2; echo '  "event": "rebooting",' >&2"#);
    let waited = world.riklet(&["wait", "hello"], "");
    let expected = "the guest reset instead of powering off\n";
    assert_eq!((waited.code, &*waited.stdout), (Some(1), expected), "{waited}");
    assert_nothing_left(&world, &before, Some(&program));
}

#[test]
fn run_reports_the_chosen_vmm() {
    let world = World::new(Firewall::Nftables);
    let mut definition = hello(&world, "builtin");
    let execution = definition["spec"]["function"]["execution"].as_object_mut().unwrap();
    execution.remove("vmm");
    let arguments = ["run", "--detach", "-"];
    let printed = world.riklet_with(Kvm::Missing, &arguments, &definition.to_string()).success();
    let reason = "hello: builtin (firecracker: firecracker is not on the PATH; ";
    assert!(printed.contains(reason), "{printed}");
    world.riklet(&["stop", "hello"], "").success();

    let program = Program::install(&world, "firecracker", "exit 0");
    let complaint = detach(&world, &definition).wait().failure(1);
    let first = "hello ended before it was ready: the guest powered off";
    assert!(complaint.contains(first), "{complaint}");
    let run = world.ps("hello");
    assert_eq!((&run["vmm"], &run["failed"]), (&"firecracker".into(), &true.into()), "{run}");
    assert!(!program.has_started());
}

#[test]
fn guest_that_ignores_its_power_button_is_killed() {
    for (order, how, least) in [(":", "SIGTERM", 1), ("trap '' TERM", "SIGKILL", 4)] {
        let world = &World::new(Firewall::Nftables);
        let before = SystemState::take(&world.node);
        let hello = Hello::start(world);
        hello.program.ignore_power_button();
        hello.program.order(order);
        hello.program.order("echo obeyed");
        let mut following = world.riklet_in_background(&["logs", "-f", "hello"], "");
        following.wait_for_line("obeyed");
        let asked = now();
        let stopped = world.riklet(&["stop", "--timeout", "1", "hello"], "");
        assert_eq!(stopped.stderr, format!("hello: {how}\n"), "{stopped}");
        assert!(asked.elapsed() >= Duration::from_secs(least), "after {:?}", asked.elapsed());
        assert_eq!(told(&hello.server, "PUT /actions")["action_type"], "InstanceStart");
        assert_eq!(world.state_of("hello").1, "stopped");
        drop(hello.guest);
        assert_nothing_left(world, &before, Some(&hello.program));
    }
}

#[test]
fn vmm_ends_with_its_supervisor() {
    for (user, stopping) in [(0, false), (54_321, false), (0, true)] {
        let world = &World::new(Firewall::Nftables);
        let mut definition = hello(world, "firecracker");
        definition["spec"]["function"]["execution"]["user"] = user.into();
        let hello = Hello::with(world, &definition, "");
        hello.program.ignore_power_button();
        let stop = ["stop", "--timeout", "50", "hello"];
        let stop = stopping.then(|| world.riklet_in_background(&stop, ""));
        if stopping {
            wait_for("the guest to be asked", START_TIMEOUT, || {
                let asked = |request: &HttpRequest| {
                    request
                        .body
                        .as_ref()
                        .is_some_and(|body| body["action_type"] == "SendCtrlAltDel")
                };
                hello.server.received().iter().any(asked).then_some(())
            });
        }
        kill(pid(&world.ps("hello")["supervisorPid"]));
        wait_for("the end of the VMM", START_TIMEOUT, || {
            (!is_alive(hello.program.pid())).then_some(())
        });
        // The command that asked for the end cleans up; without one, `repair` does.
        match stop {
            Some(stop) => drop(stop.wait().success()),
            None => drop(world.riklet(&["repair"], "").success()),
        }
        drop(hello.guest);
        assert_eq!(world.state_of("hello").1, "its supervisor died");
        world.riklet(&["check"], "").success();
        assert_refused(Tcp, &world.client, HELLO);
    }
}

#[test]
fn error_of_the_vmm_reaches_the_user() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let program = Program::install(&world, "firecracker", "");
    for line in ["PUT /boot-source", "PUT /network-interfaces/eth0", "PUT /actions"] {
        let running = detach(&world, &hello(&world, "firecracker"));
        let reply = answer(400, Some(&json!({ "fault_message": "no, for a reason" })));
        let player = Firecracker::new(LATEST);
        let _server = program.serve(Until { player, line, reply });
        let complaint = running.wait().failure(1);
        let expected =
            format!("error: hello cannot be run: firecracker refused {line}: no, for a reason\n");
        assert_eq!(complaint, expected);
        assert_nothing_left(&world, &before, Some(&program));
        let reason = world.state_of("hello").1;
        assert!(reason.contains("no, for a reason"), "{reason}");
        program.forget_start();
    }
}

#[test]
fn vmm_that_is_too_old_is_refused() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let program = Program::install(&world, "firecracker", "");
    let running = detach(&world, &hello(&world, "firecracker"));
    let _server = program.serve(Firecracker::new("0.25.2"));
    let complaint = running.wait().failure(3);
    let expected = "firecracker 0.25.2 is too old: 1.0.0 is the least version that works";
    assert!(complaint.contains(expected), "{complaint}");
    assert_nothing_left(&world, &before, Some(&program));
}

#[test]
fn vmm_that_fails_to_start_is_reported() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let first = "echo starting; echo 'cannot start: no luck' >&2; exit 7";
    for vmm in ["firecracker", "cloud-hypervisor"] {
        Program::install(&world, vmm, first);
        let complaint = detach(&world, &hello(&world, vmm)).wait().failure(1);
        let expected = format!("{vmm} ended with status 7; its last words: cannot start: no luck");
        assert!(complaint.contains(&expected), "{complaint}");
        assert_nothing_left(&world, &before, None);
        let reason = world.state_of("hello").1;
        assert!(reason.contains(&expected), "{reason}");
    }
}

#[test]
fn vmm_that_fails_later_is_reported() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let hello = Hello::start(&world);
    hello.program.order("echo 'kvm: out of luck' >&2; exit 148");
    let waited = world.riklet(&["wait", "hello"], "");
    assert_eq!(
        (waited.code, &*waited.stdout),
        (Some(1), "firecracker ended with status 148; its last words: kvm: out of luck\n")
    );
    drop(hello.guest);
    assert_nothing_left(&world, &before, Some(&hello.program));
}

#[expect(clippy::disallowed_methods, reason = "the test measures")]
fn now() -> Instant {
    Instant::now()
}

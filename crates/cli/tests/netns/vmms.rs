//! Functions that run on simulated Firecracker and Cloud Hypervisor: the requests that these receive, and the ways in
//! which runs end.

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
const START_TIMEOUT: Duration = Duration::from_secs(10);

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
        let running = detach(world, definition);
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

/// Runs `riklet-sdn` in a terminal of script(1), and returns all output.
#[track_caller]
fn in_terminal(world: &World, arguments: &str) -> String {
    let command = format!("{} {arguments}", env!("CARGO_BIN_EXE_riklet-sdn"));
    world.program("script", &["--quiet", "--command", &command, "/dev/null"], "").stdout
}

#[test]
fn a_guest_cannot_control_the_terminal() {
    let world = World::new(Firewall::Nftables);
    let first =
        r"printf 'hi \033]0;owned\007\377\r\n'; printf 'bad \033[2J\302\233 luck\n' >&2; exit 7";
    Program::install(&world, "firecracker", first);
    detach(&world, &hello(&world, "firecracker")).wait().failure(1);
    let escaped = r"bad \x1b[2J\u{9b} luck";
    for arguments in ["ps", "wait hello", "logs hello --vmm"] {
        let shown = in_terminal(&world, arguments);
        assert!(shown.contains(escaped) && !shown.contains('\u{1b}'), "{arguments}: {shown:?}");
    }
    assert_eq!(in_terminal(&world, "logs hello"), "hi \\x1b]0;owned\\x07\\xff\r\n");
    // A refusal that repeats what it was given: by a definition, and on the command line.
    let odd = world.directory.path().join("odd.yaml");
    fs::File::create(&odd).unwrap().write_all(b"apiVersion: \"v\\e[2J\"\n").unwrap();
    for arguments in [format!("plan {}", odd.display()), "logs $(printf 'a\\033[2J')".to_owned()] {
        let shown = in_terminal(&world, &arguments);
        assert!(shown.starts_with("error:") && !shown.contains('\u{1b}'), "{arguments}: {shown:?}");
    }
    // Whoever asks for them gets the bytes, and so does a file.
    let raw = in_terminal(&world, "logs hello --vmm --raw");
    assert_eq!(raw, "bad \u{1b}[2J\u{9b} luck\r\n");
    assert!(world.riklet(&["ps"], "").success().contains("bad \u{1b}[2J\u{9b} luck"));
}

#[test]
fn logs_of_two_runs_are_kept_apart_from_firecrackers_own() {
    let world = World::new(Firewall::Nftables);
    let logs = |more: &[&str]| world.riklet(&[&["logs", "hello"], more].concat(), "").success();
    let mut runs = Vec::new();
    for run in ["first", "second", "third"] {
        drop(runs.pop());
        let hello = Hello::start(&world);
        let mut following = world.riklet_in_background(&["logs", "-f", "hello"], "");
        hello.program.order(&format!("echo the VMM of {run} >&2; echo {run}; echo of three"));
        following.wait_for_line("of three");
        assert_eq!(logs(&[]), format!("firecracker begins\n{run}\nof three\n"));
        assert_eq!(logs(&["--vmm"]), format!("the VMM of {run}\n"));
        world.riklet(&["stop", "hello"], "").success();
        drop(following.wait());
        hello.program.forget_start();
        fs::remove_dir_all(world.directory.path().join("played-firecracker")).unwrap();
        runs.push(hello);
    }
    assert_eq!(logs(&["--previous"]), "firecracker begins\nsecond\nof three\n");
    assert_eq!(logs(&["--previous", "--tail", "2"]), "second\nof three\n");
    assert_eq!(logs(&["--previous", "--vmm"]), "the VMM of second\n");
    assert_eq!(logs(&["--tail", "1", "--since", "1h"]), "of three\n");
    // As if all of it were an hour old.
    let times = PathBuf::from(&world.environment["RIKLET_SDN_STATE_DIR"])
        .join("machines/hello/console.log.times");
    let mut file = OpenOptions::new().read(true).write(true).open(times).unwrap();
    let mut pairs = Vec::new();
    file.read_to_end(&mut pairs).unwrap();
    for pair in pairs.chunks_exact_mut(16) {
        let time = u64::from_le_bytes(pair[..8].try_into().unwrap()) - 3_600_000;
        pair[..8].copy_from_slice(&time.to_le_bytes());
    }
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&pairs).unwrap();
    assert_eq!(logs(&["--since", "10m"]), "");
    assert_eq!(logs(&["--since", "2h", "--tail", "1"]), "of three\n");
    drop(runs);
    world.riklet(&["down", "--all", "--purge"], "").success();
    world.riklet(&["logs", "hello"], "").failure(1);
}

/// Returns two microVMs, `hello` on Firecracker and `second` on Cloud Hypervisor.
fn two(world: &World) -> Value {
    let mut second = hello(world, "cloud-hypervisor");
    second["name"] = "second".into();
    second["spec"]["function"]["exposure"] = json!([exposure(Tcp, 9090, 3000)]);
    json!([hello(world, "firecracker"), second])
}

#[test]
fn vmms_start_together() {
    for more in [&["--detach"][..], &[]] {
        let world = &World::new(Firewall::Nftables);
        let before = SystemState::take(&world.node);
        let first = Program::install(world, "firecracker", "");
        let second = Program::install(world, "cloud-hypervisor", "");
        let arguments = [&["run", "--no-wait", "--ready-timeout", "30"], more, &["-"]].concat();
        let mut running = world.riklet_with_kvm(&arguments, &two(world).to_string());
        // The first does not even listen before the second has its machine.
        let other = second.serve(CloudHypervisor::new("v51.1.0"));
        told(&other, "PUT /api/v1/vm.boot");
        let one = first.serve(Firecracker::new(LATEST));
        told(&one, "PUT /actions");
        // Nothing answers at their ports, and nobody waits for that.
        running.wait_for_line("ready in");
        assert_eq!(world.state_of("hello").0, "running");
        if more.is_empty() {
            running.signal(Signal::TERM);
        } else {
            world.riklet(&["stop", "--all"], "").success();
        }
        running.wait().success();
        drop((one, other));
        assert_nothing_left(world, &before, Some(&first));
        assert!(!is_alive(second.pid()), "the VMM runs on");
    }
}

#[test]
fn a_silent_vmm_is_given_up_at_the_ready_timeout() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let program = Program::install(&world, "firecracker", "");
    let arguments = ["run", "--detach", "--ready-timeout", "1", "-"];
    let definition = hello(&world, "firecracker").to_string();
    // It never listens.
    let complaint = world.riklet_with_kvm(&arguments, &definition).wait().failure(1);
    assert!(complaint.contains("after 1.0s"), "{complaint}");
    assert_nothing_left(&world, &before, Some(&program));
    program.forget_start();
    // It does not answer one of its calls.
    let running = world.riklet_with_kvm(&arguments, &definition);
    let (player, line) = (Firecracker::new(LATEST), "PUT /boot-source");
    let _server = program.serve(Until { player, line, reply: Reply::Silence });
    let complaint = running.wait().failure(1);
    assert!(complaint.contains("there was no whole answer within 1s"), "{complaint}");
    assert_nothing_left(&world, &before, Some(&program));
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

/// Runs `hello` with these exposures, while its guest listens on port 3000 alone. Returns the outcome.
fn with_exposures(world: &World, exposures: Value) -> Output {
    let program = Program::install(world, "firecracker", "");
    let mut definition = hello(world, "firecracker");
    definition["spec"]["function"]["exposure"] = exposures;
    let arguments = ["run", "--detach", "--ready-timeout", "3", "-"];
    let running = world.riklet_with_kvm(&arguments, &definition.to_string());
    let server = program.serve(Firecracker::new(LATEST));
    let interface = told(&server, "PUT /network-interfaces/eth0");
    let source = told(&server, "PUT /boot-source");
    let [tap, mac] = [&interface["host_dev_name"], &interface["guest_mac"]];
    let guest = boot(world, tap, mac, &source["boot_args"]);
    let output = running.wait();
    drop(guest);
    world.riklet(&["stop", "--timeout", "1", "hello"], "").success();
    output
}

#[test]
fn each_exposure_says_what_is_waited_for() {
    let ready = |sign: &str, port: u16| {
        let mut exposure = exposure(Tcp, port, 4000);
        exposure["ready"] = sign.into();
        exposure
    };
    // Nothing listens on port 4000.
    let world = World::new(Firewall::Nftables);
    let exposures = json!([exposure(Tcp, 8080, 3000), ready("none", 9000), ready("carrier", 9001)]);
    let printed = with_exposures(&world, exposures).success();
    assert!(printed.contains("ready in"), "{printed}");

    let world = World::new(Firewall::Nftables);
    let exposures = json!([exposure(Tcp, 8080, 3000), ready("tcp", 9000)]);
    let complaint = with_exposures(&world, exposures).failure(1);
    let first = "error: not ready after 3 s: hello (tcp 9000 -> 4000): the guest refuses";
    assert!(complaint.starts_with(first), "{complaint}");
    // The end of the console is shown, and where the rest is.
    let console =
        "\nthe console of hello ends with:\n  firecracker begins\nhint: `riklet-sdn logs hello`";
    assert!(complaint.contains(console), "{complaint}");
}

#[test]
fn every_port_of_a_range_is_waited_for() {
    let world = World::new(Firewall::Nftables);
    let range = json!([exposure(Tcp, "8080-8081", "3000-3001")]);
    let complaint = with_exposures(&world, range).failure(1);
    let first = "error: not ready after 3 s: hello (tcp 8080-8081 -> 3000-3001, port 8081): \
                 the guest refuses connections to its port\n";
    assert!(complaint.starts_with(first), "{complaint}");
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

#[test]
fn vmm_of_another_user_has_its_own_files() {
    const USER: u32 = 54_321;
    let mut world = World::new(Firewall::Nftables);
    // The directory is made by the program itself.
    let state_dir = world.directory.path().join("made");
    let text = state_dir.to_str().expect("UTF-8").to_owned();
    world.environment.insert("RIKLET_SDN_STATE_DIR".to_owned(), text);
    let mut definition = hello(&world, "firecracker");
    definition["spec"]["function"]["execution"]["user"] = USER.into();
    definition["spec"]["function"]["execution"]["group"] = (USER + 1).into();
    let hello = Hello::with(&world, &definition, "");
    assert_eq!(hello.program.recorded("uid"), USER.to_string());
    assert_eq!(hello.program.recorded("gid"), (USER + 1).to_string());
    assert!(hello.program.can_write_home(), "it cannot make its socket");
    let tap = world.node.tool(&["ip", "-d", "link", "show", "rik0"]);
    assert!(tap.contains(&format!("user {USER} group {}", USER + 1)), "{tap}");
    // The VMM's directory belongs to its user, and nobody else can read it. The logs, which root reads, are not in it.
    let home = PathBuf::from(hello.program.recorded("pwd"));
    let state = |path: &Path| fs::symlink_metadata(path).expect("a file");
    assert_eq!((state(&home).uid(), state(&home).permissions().mode() & 0o777), (USER, 0o700));
    let run = state_dir.join("machines/hello");
    assert_eq!((state(&run).uid(), state(&run).permissions().mode() & 0o777), (0, 0o711));
    for log in ["console.log", "supervisor.log"] {
        let log = state(&run.join(log));
        assert_eq!((log.uid(), log.permissions().mode() & 0o777), (0, 0o600));
    }
    // The VMM's user can pass through the state directory, but cannot list it.
    assert_eq!(state(&state_dir).permissions().mode() & 0o777, 0o711);
    world.riklet(&["stop", "hello"], "").success();
    // The next run may have another user, and finds nothing of the first one.
    drop((hello.server, hello.guest));
    fs::remove_dir_all(world.directory.path().join("played-firecracker")).expect("a directory");
    definition["spec"]["function"]["execution"]["user"] = (USER + 2).into();
    let hello = Hello::with(&world, &definition, "");
    assert_eq!(hello.program.recorded("uid"), (USER + 2).to_string());
    assert!(hello.program.can_write_home(), "it cannot make its socket");
    world.riklet(&["stop", "hello"], "").success();
}

/// The first of the users and groups of slots, which is the group of images.
const SLOTS: u32 = 1_900_000_000;

#[test]
fn each_vmm_has_a_user_of_its_own() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let first = Program::install(&world, "firecracker", "echo groups $(id -G)");
    let second = Program::install(&world, "cloud-hypervisor", "");
    let arguments = ["run", "--detach", "--no-wait", "-"];
    let running = world.riklet_with_kvm(&arguments, &two(&world).to_string());
    let (one, other) =
        (first.serve(Firecracker::new(LATEST)), second.serve(CloudHypervisor::new("v51.1.0")));
    running.wait().success();
    let user = |program: &Program| program.recorded("uid").parse::<u32>().expect("a number");
    let users = [user(&first), user(&second)];
    assert!(users == [SLOTS + 1, SLOTS + 2] || users == [SLOTS + 2, SLOTS + 1], "{users:?}");
    for (name, uid, program) in [("hello", users[0], &first), ("second", users[1], &second)] {
        let interface = world.riklet(&["--output", "json", "inspect", name], "").success();
        let inspected: Value = serde_json::from_str(&interface).unwrap();
        let tap = inspected["tap"].as_str().expect("a name");
        assert_eq!(tap, format!("rik{}", uid - SLOTS - 1));
        let shown = world.node.tool(&["ip", "-d", "link", "show", tap]);
        assert!(shown.contains(&format!("user {uid} ")), "{shown}");
        assert_eq!(program.recorded("gid"), uid.to_string());
        let home = fs::metadata(program.recorded("pwd")).expect("a directory");
        assert_eq!((home.uid(), home.permissions().mode() & 0o777), (uid, 0o700));
    }
    // Images are shared through a group, which owns nothing else.
    let logs = world.riklet(&["logs", "hello"], "").success();
    assert!(logs.starts_with(&format!("groups {} {SLOTS}\n", users[0])), "{logs}");
    world.riklet(&["check"], "").success();
    world.riklet(&["stop", "--all"], "").success();
    drop((one, other));
    assert_nothing_left(&world, &before, Some(&first));
}

#[test]
fn a_guest_writes_to_a_copy() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let mut definition = hello(&world, "firecracker");
    let rootfs = world.directory.path().join("rootfs.ext4");
    let vmlinux = world.directory.path().join("vmlinux");
    for path in [&rootfs, &vmlinux] {
        OpenOptions::new().write(true).open(path).unwrap().write_all(b"original\n").unwrap();
        // Only root can read them.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    definition["spec"]["function"]["execution"]["readOnly"] = false.into();
    let hello = Hello::with(&world, &definition, "");
    let copies = world.directory.path().join("images/private/hello");
    let path = |value: &Value| PathBuf::from(value.as_str().expect("a path"));
    assert_eq!(
        path(&told(&hello.server, "PUT /drives/rootfs")["path_on_host"]),
        copies.join("rootfs")
    );
    assert_eq!(
        path(&told(&hello.server, "PUT /boot-source")["kernel_image_path"]),
        copies.join("kernel")
    );
    hello.program.order(&format!(
        "cat {0}/kernel; echo changed >>{0}/rootfs; cat {0}/rootfs; echo done",
        copies.display()
    ));
    let logs = || world.riklet(&["logs", "hello"], "").success();
    wait_for("the guest to write", START_TIMEOUT, || logs().ends_with("done\n").then_some(()));
    assert_eq!(logs(), "firecracker begins\noriginal\noriginal\nchanged\ndone\n");
    let copy = fs::metadata(copies.join("rootfs")).unwrap();
    assert_eq!((copy.uid(), copy.permissions().mode() & 0o777), (SLOTS + 1, 0o600));
    let mut original = String::new();
    fs::File::open(&rootfs).unwrap().read_to_string(&mut original).unwrap();
    assert_eq!(original, "original\n");
    world.riklet(&["stop", "hello"], "").success();
    assert!(!copies.exists(), "the copies stay");
    drop(hello.guest);
    assert_nothing_left(&world, &before, Some(&hello.program));
}

#[test]
fn two_functions_share_a_user_only_if_both_say_so() {
    for shared in [false, true] {
        let world = &World::new(Firewall::Nftables);
        let first = Program::install(world, "firecracker", "");
        let second = Program::install(world, "cloud-hypervisor", "");
        let mut both = two(world);
        for definition in both.as_array_mut().unwrap() {
            let execution = &mut definition["spec"]["function"]["execution"];
            execution["user"] = 54_321.into();
            execution["sharedUser"] = shared.into();
        }
        let arguments = ["run", "--detach", "--no-wait", "-"];
        let running = world.riklet_with_kvm(&arguments, &both[0].to_string());
        let _one = first.serve(Firecracker::new(LATEST));
        running.wait().success();
        let running = world.riklet_with_kvm(&arguments, &both[1].to_string());
        if shared {
            let _other = second.serve(CloudHypervisor::new("v51.1.0"));
            running.wait().success();
            assert_eq!(second.recorded("uid"), "54321");
        } else {
            let complaint = running.wait().failure(2);
            let expected = "error: second cannot be run: hello runs as user 54321 already\nhint: ";
            assert!(complaint.starts_with(expected), "{complaint}");
        }
        world.riklet(&["stop", "--all", "--timeout", "1"], "").success();
        // The user is free again.
        if !shared {
            let running = world.riklet_with_kvm(&arguments, &both[1].to_string());
            let _other = second.serve(CloudHypervisor::new("v51.1.0"));
            running.wait().success();
            world.riklet(&["stop", "--all", "--timeout", "1"], "").success();
        }
    }
}

#[test]
fn a_vmm_finds_nothing_of_an_earlier_one() {
    let world = World::new(Firewall::Nftables);
    let shows = "ls -A | sed 's/^/left: /'";
    let program = Program::install(&world, "firecracker", shows);
    let secret = file(&world, "secret");
    let logs = || world.riklet(&["logs", "hello"], "").success();
    for _ in 0..2 {
        let arguments = ["run", "--detach", "--no-wait", "-"];
        let definition = hello(&world, "firecracker").to_string();
        let running = world.riklet_with_kvm(&arguments, &definition);
        let server = program.serve(Firecracker::new(LATEST));
        running.wait().success();
        // A trap for the next one: a link where it would write, and a directory that is not empty.
        program.order(&format!(
            "ln -s {} trap; mkdir -p full/of; touch full/of/files",
            secret.display()
        ));
        program.order("echo trapped");
        wait_for("the trap", START_TIMEOUT, || logs().contains("trapped").then_some(()));
        world.riklet(&["stop", "hello"], "").success();
        drop(server);
        assert_eq!(logs(), "firecracker begins\ntrapped\n");
        program.forget_start();
    }
    assert!(secret.exists(), "what a link leads to is another's");
}

#[test]
fn a_socket_that_leads_elsewhere_is_not_spoken_to() {
    let world = World::new(Firewall::Nftables);
    let program = Program::install(&world, "firecracker", "");
    let mut definition = hello(&world, "firecracker");
    definition["spec"]["function"]["execution"]["user"] = 54_321.into();
    let arguments = ["run", "--detach", "--ready-timeout", "5", "-"];
    let running = world.riklet_with_kvm(&arguments, &definition.to_string());
    // A service of root, as a container engine has one; the VMM puts a link to it in place of its own socket.
    let elsewhere = Server::at(world.directory.path().join("api.sock"), Firecracker::new(LATEST));
    program.recorded("pid");
    program.order(&format!("ln -s {} api.sock", elsewhere.socket().display()));
    let complaint = running.wait().failure(1);
    assert!(complaint.contains("it is no socket"), "{complaint}");
    assert_eq!(elsewhere.lines(), Vec::<String>::new());
}

/// The VMM is a program that another one starts and waits for, or starts in a session of its own (setsid(2)).
const WRAPPERS: [&str; 2] = [
    "if [ -z \"$INNER\" ]; then INNER=1 \"$0\" \"$@\"; exit; fi",
    "if [ -z \"$INNER\" ]; then INNER=1 setsid -f \"$0\" \"$@\"; exec sleep 600; fi",
];

#[test]
fn a_vmm_in_a_wrapper_ends_with_its_run() {
    for wrapper in WRAPPERS {
        let world = World::new(Firewall::Nftables);
        let before = SystemState::take(&world.node);
        let hello = Hello::with(&world, &hello(&world, "firecracker"), wrapper);
        let (vmm, first) = (hello.program.pid(), pid(&world.ps("hello")["pid"]));
        assert!(vmm != first && is_alive(vmm) && is_alive(first));
        hello.program.ignore_power_button();
        let began = now();
        let stopped = world.riklet(&["stop", "--timeout", "1", "hello"], "");
        assert_eq!(stopped.code, Some(0), "{stopped}");
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}: {stopped}", began.elapsed());
        assert!(!is_alive(first));
        drop(hello.guest);
        assert_nothing_left(&world, &before, Some(&hello.program));
    }
}

#[test]
fn a_vmm_in_a_wrapper_ends_after_its_supervisor_died() {
    for wrapper in WRAPPERS {
        let world = World::new(Firewall::Nftables);
        let before = SystemState::take(&world.node);
        let hello = Hello::with(&world, &hello(&world, "firecracker"), wrapper);
        kill(pid(&world.ps("hello")["supervisorPid"]));
        assert!(is_alive(hello.program.pid()), "the kernel ends the wrapper alone");
        world.riklet(&["repair"], "").success();
        assert!(!is_alive(hello.program.pid()));
        drop((hello.server, hello.guest));
        world.riklet(&["down", "--all", "--purge"], "").success();
        assert_nothing_left(&world, &before, Some(&hello.program));
    }
}

#[expect(clippy::disallowed_methods, reason = "the test measures")]
fn now() -> Instant {
    Instant::now()
}

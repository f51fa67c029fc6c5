//! Runtimes that call the program as a CNI plugin: Podman 4.3 and containerd 1.6, as Debian ships them.

use std::{net::Ipv4Addr, time::Duration};

use serde_json::{Value, json};

use crate::{
    container::{Container, IMAGE, PROGRAM, PUBLISHED, SERVED},
    world::{
        Firewall, INTERNET_FAR, NODE_LAN, NODE_UPLINK, World,
        state::{SystemState, assert_same},
        traffic::{Server, assert_tcp_closed, assert_tcp_refused, tcp_ask, tcp_server},
        wait_for,
    },
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the network, with the capability that publishes ports. A runtime that cleans up in the background does not pass
/// its environment on, so the network names the state directory.
fn network(world: &World) -> String {
    let plugin = json!({
        "type": "riklet", "stateDir": world.environment["RIKLET_SDN_STATE_DIR"],
        "capabilities": { "portMappings": true },
    });
    json!({ "cniVersion": "1.0.0", "name": "riklet", "plugins": [plugin] }).to_string()
}

const PODMAN: &str = r#"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
"#;

/// Returns a machine with the network, where the program is a plugin.
#[track_caller]
fn machine(firewall: Firewall) -> (World, Server) {
    let world = World::new(firewall).on_a_machine();
    let plugin = env!("CARGO_BIN_EXE_riklet-sdn");
    let install = format!(
        "mount -t tmpfs tmpfs /opt && mkdir -p /opt/cni/bin /etc/cni/net.d && rm -f /etc/cni/net.d/* && \
         ln -s {plugin} /opt/cni/bin/riklet && cat >/etc/cni/net.d/10-riklet.conflist"
    );
    world.program("sh", &["-c", &install], &network(&world)).success();
    let internet = tcp_server(&world.internet, (INTERNET_FAR, 443));
    (world, internet)
}

/// Returns the addresses of the pods that are recorded.
#[track_caller]
fn pods(world: &World) -> Vec<Ipv4Addr> {
    let listed = world.riklet(&["--output", "json", "list"], "").success();
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let guests = listed.as_array().expect("a list").iter().map(|entry| &entry["guest"]["address"]);
    guests.map(|address| address.as_str().and_then(|a| a.parse().ok()).expect("one")).collect()
}

fn assert_reaches_the_internet(container: &Container, internet: &Server) {
    let seen = tcp_ask(&container.namespace, internet.address).expect("the Internet answers");
    assert_eq!(seen.client.ip(), NODE_UPLINK);
}

struct Podman<'a>(&'a World);

impl Podman<'_> {
    #[track_caller]
    fn podman(&self, arguments: &[&str]) -> String {
        let arguments = [&["--storage-driver", "vfs"], arguments].concat();
        self.0.program("podman", &arguments, "").success().trim().to_owned()
    }

    /// Starts a container of this name.
    #[track_caller]
    fn run(&self, name: &str, options: &[&str]) -> Container {
        let first = ["run", "--detach", "--cgroups", "disabled", "--log-driver", "k8s-file"];
        let more = ["--name", name, "--stop-signal", "KILL", "--network", "riklet"];
        self.podman(&[&first[..], &more, options, &["image"], &PROGRAM].concat());
        self.container(name)
    }

    #[track_caller]
    fn container(&self, name: &str) -> Container {
        let format = "{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let [process, address] = wait_for("the container to run", PATIENCE, || {
            let found = self.podman(&["inspect", "--format", format, name]);
            let (process, address) = found.split_once(' ')?;
            (process != "0" && !address.is_empty()).then(|| [process, address].map(str::to_owned))
        });
        Container::new(self.0, &process, address.parse().expect("an address"))
    }
}

fn podman_attaches_containers(firewall: Firewall) {
    let (world, internet) = machine(firewall);
    world.program("sh", &["-c", "cat >/etc/containers/containers.conf"], PODMAN).success();
    let import = format!("{IMAGE} podman --storage-driver vfs import - image");
    world.program("sh", &["-c", &import], "").success();
    let before = SystemState::take(&world.node);
    let podman = Podman(&world);
    let web = podman.run("web", &["--publish", &format!("{PUBLISHED}:{SERVED}")]);
    let other = podman.run("other", &[]);
    let mut recorded = pods(&world);
    recorded.sort_unstable();
    let mut known = vec![web.address, other.address];
    known.sort_unstable();
    assert_eq!(recorded, known, "Podman knows the addresses");

    tcp_ask(&world.client, (NODE_LAN, PUBLISHED)).expect("the published port answers");
    tcp_ask(&other.namespace, (NODE_LAN, PUBLISHED)).expect("it answers a container");
    assert_tcp_closed(&other.namespace, (web.address, SERVED));
    assert_reaches_the_internet(&web, &internet);
    assert_eq!(world.riklet(&["check"], "").success(), "");

    // It comes again in another namespace.
    drop(web);
    podman.podman(&["restart", "web"]);
    let web = podman.container("web");
    tcp_ask(&world.client, (NODE_LAN, PUBLISHED)).expect("it answers after its restart");
    assert_reaches_the_internet(&web, &internet);
    assert_eq!(pods(&world).len(), 2);

    drop((web, other));
    podman.podman(&["rm", "--force", "web", "other"]);
    // A process that Podman leaves behind may do it.
    wait_for("the containers to be detached", PATIENCE, || pods(&world).is_empty().then_some(()));
    assert_tcp_refused(&world.client, (NODE_LAN, PUBLISHED));
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
}

fn containerd_attaches_containers(firewall: Firewall) {
    let (world, internet) = machine(firewall);
    let image = "mkdir -p /run/image/bin && cp /bin/busybox /run/image/bin/";
    world.program("sh", &["-c", image], "").success();
    let before = SystemState::take(&world.node);
    let settings = "version = 2\nroot = \"/run/containerd/root\"\nstate = \"/run/containerd/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
    world.program("sh", &["-c", "cat >/run/containerd.toml"], settings).success();
    let mut daemon =
        world.program_in_background("containerd", &["--config", "/run/containerd.toml"], "");
    wait_for("containerd to answer", PATIENCE, || {
        assert!(daemon.is_running(), "containerd has ended");
        (world.program("ctr", &["version"], "").code == Some(0)).then_some(())
    });
    // The machine's cgroups have no controllers, so no shares are set.
    let cgroup = format!("/{}/web", world.machine().cgroup());
    let options = ["run", "--rm", "--cni", "--cgroup", &cgroup, "--cpu-shares", "0"];
    let more = ["--rootfs", "/run/image", "web", "/bin/busybox"];
    let arguments = [&options[..], &more, &PROGRAM[1..]].concat();
    let mut run = world.program_in_background("ctr", &arguments, "");
    let process = wait_for("the container to run", PATIENCE, || {
        assert!(run.is_running(), "the container has ended");
        let tasks = world.program("ctr", &["task", "list"], "").stdout;
        let line =
            tasks.lines().find(|line| line.starts_with("web ") && line.contains("RUNNING"))?;
        line.split_whitespace().nth(1).map(str::to_owned)
    });
    let address = wait_for("its network", PATIENCE, || pods(&world).pop());
    let web = Container::new(&world, &process, address);
    assert_reaches_the_internet(&web, &internet);
    assert_tcp_closed(&world.client, (address, SERVED));
    assert_eq!(world.riklet(&["check"], "").success(), "");

    drop(web);
    world.program("ctr", &["task", "kill", "--signal", "KILL", "web"], "").success();
    let _killed = run.wait();
    assert_eq!(pods(&world), [Ipv4Addr::UNSPECIFIED; 0], "it is detached with its end");
    world.riklet(&["down", "--all", "--purge"], "").success();
    assert_same(&before, &SystemState::take(&world.node));
}

/// Makes the tests of a runtime with both backends.
macro_rules! with_both {
    ($name:ident, $test:path) => {
        mod $name {
            use crate::world::Firewall;

            #[test]
            fn nftables() {
                $test(Firewall::Nftables);
            }

            #[test]
            fn iptables_nft() {
                $test(Firewall::IptablesNft);
            }
        }
    };
}

with_both!(podman, super::podman_attaches_containers);
with_both!(containerd, super::containerd_attaches_containers);

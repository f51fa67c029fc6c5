//! Podman with netavark: a container with a published port, and no daemon.

use std::time::Duration;

use crate::{
    container::{Container, IMAGE, PROGRAM, PUBLISHED, SERVED},
    stage::{Stage, Us, on_machines},
    world::{World, wait_for},
};

const SETTINGS: &str = r#"
[network]
network_backend = "netavark"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
"#;

struct Podman<'a> {
    world: &'a World,
}

impl<'a> Podman<'a> {
    /// Starts a container with a published port.
    #[track_caller]
    fn start(world: &'a World) -> Self {
        let podman = Self { world };
        world.program("sh", &["-c", "cat >/etc/containers/containers.conf"], SETTINGS).success();
        let import = format!("{IMAGE} podman --storage-driver vfs import - image");
        world.program("sh", &["-c", &import], "").success();
        let publish = format!("{PUBLISHED}:{SERVED}");
        // Without a cgroup of its own, the container leaves none behind.
        let options = ["run", "--detach", "--cgroups", "disabled", "--log-driver", "k8s-file"];
        let more = ["--name", "web", "--stop-signal", "KILL", "--publish", &publish, "image"];
        podman.podman(&[&options[..], &more, &PROGRAM].concat());
        podman
    }

    #[track_caller]
    fn podman(&self, arguments: &[&str]) -> String {
        let arguments = [&["--storage-driver", "vfs"], arguments].concat();
        self.world.program("podman", &arguments, "").success().trim().to_owned()
    }

    /// Returns the container once it runs.
    #[track_caller]
    fn container(&self) -> Container {
        let format = "{{.State.Pid}} {{.NetworkSettings.IPAddress}}";
        let [process, address] = wait_for("the container to run", Duration::from_secs(30), || {
            let found = self.podman(&["inspect", "--format", format, "web"]);
            let (process, address) = found.split_once(' ')?;
            (process != "0" && !address.is_empty()).then(|| [process, address].map(str::to_owned))
        });
        Container::new(self.world, &process, address.parse().expect("an address"))
    }

    /// Rewrites Podman's rules, then restarts, stops and starts the container, while functions serve.
    #[track_caller]
    fn disturb(&self, stage: &Stage) {
        self.podman(&["network", "reload", "--all"]);
        self.container().assert_works(stage, "after Podman's reload");
        self.podman(&["restart", "web"]);
        self.container().assert_works(stage, "after the container's restart");
        self.podman(&["stop", "web"]);
        stage.assert_functions_work("when the container has stopped");
        self.podman(&["start", "web"]);
        self.container().assert_works(stage, "when the container has started again");
    }
}

fn before_us(stage: &Stage) {
    let podman = Podman::start(&stage.world);
    podman.container().assert_works(stage, "before us");
    stage.we_come();
    podman.container().assert_works(stage, "beside us");
    podman.disturb(stage);
    stage.we_go();
    podman.container().assert_works(stage, "when we are gone");
    stage.snapshot("while the container runs");
    podman.podman(&["rm", "--force", "web"]);
    stage.snapshot("when the container is gone");
}

fn after_us(stage: &Stage) {
    stage.we_come();
    let podman = Podman::start(&stage.world);
    stage.we_recover();
    podman.container().assert_works(stage, "after us");
    podman.disturb(stage);
    podman.podman(&["rm", "--force", "web"]);
    stage.assert_functions_work("when the container is gone");
    stage.we_go();
    stage.snapshot("when the container is gone");
}

on_machines!(comes_before_us, Us::Commands, before_us);
on_machines!(comes_after_us, Us::Commands, after_us);
on_machines!(comes_after_the_daemon, Us::Daemon, after_us);

//! Docker as Debian ships it (`docker.io`): the engine runs a container with a published port.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    container::{Container, IMAGE, PROGRAM, PUBLISHED, SERVED},
    stage::{Stage, Us, on_machines},
    world::{World, command::Running, wait_for},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running engine. Dropping it kills it.
struct Docker<'a> {
    world: &'a World,
    daemon: Running,
}

impl<'a> Docker<'a> {
    /// Starts the engine, and waits until it answers.
    #[track_caller]
    fn start(world: &'a World) -> Self {
        let cgroup = format!("/{}", world.machine().cgroup());
        let arguments = ["--storage-driver", "vfs", "--cgroup-parent", &cgroup];
        let mut daemon = world.program_in_background("dockerd", &arguments, "");
        wait_for("Docker to answer", PATIENCE, || {
            assert!(daemon.is_running(), "dockerd has ended");
            (world.program("docker", &["version"], "").code == Some(0)).then_some(())
        });
        Self { world, daemon }
    }

    #[track_caller]
    fn docker(&self, arguments: &[&str]) -> String {
        self.world.program("docker", arguments, "").success().trim().to_owned()
    }

    /// Creates the container. It starts again with the engine from now on.
    #[track_caller]
    fn run(&self) {
        let import = format!("{IMAGE} docker import - image");
        self.world.program("sh", &["-c", &import], "").success();
        let publish = format!("{PUBLISHED}:{SERVED}");
        let options = ["run", "--detach", "--restart", "always", "--name", "web"];
        let more = ["--stop-signal", "KILL", "--publish", &publish, "image"];
        self.docker(&[&options[..], &more, &PROGRAM].concat());
    }

    /// Returns the container once it runs.
    #[track_caller]
    fn container(&self) -> Container {
        let format = "{{.State.Pid}} {{.NetworkSettings.IPAddress}}";
        let [process, address] = wait_for("the container to run", PATIENCE, || {
            let found = self.docker(&["inspect", "--format", format, "web"]);
            let (process, address) = found.split_once(' ')?;
            (process != "0" && !address.is_empty()).then(|| [process, address].map(str::to_owned))
        });
        Container::new(self.world, &process, address.parse().expect("an address"))
    }

    /// Makes the engine read its settings again.
    #[track_caller]
    fn reload(&self) {
        let events = ["events", "--since", "1h", "--until", "0s", "--filter", "event=reload"];
        let reloads = || self.docker(&events).lines().count();
        let earlier_reloads = reloads();
        self.daemon.signal(Signal::HUP);
        wait_for("Docker to reload", PATIENCE, || (reloads() > earlier_reloads).then_some(()));
    }

    /// Stops the engine, and its containers with it.
    #[track_caller]
    fn stop(self) {
        self.daemon.signal(Signal::TERM);
        self.daemon.wait().success();
    }
}

/// Reloads the engine, restarts its container, then restarts the engine, while functions serve.
#[track_caller]
fn disturb<'a>(stage: &'a Stage, docker: Docker<'a>) -> Docker<'a> {
    docker.reload();
    docker.container().assert_works(stage, "after Docker's reload");
    docker.docker(&["restart", "web"]);
    docker.container().assert_works(stage, "after the container's restart");
    docker.stop();
    stage.assert_functions_work("when Docker has stopped");
    let docker = Docker::start(&stage.world);
    docker.container().assert_works(stage, "when Docker has started again");
    docker
}

fn before_us(stage: &Stage) {
    let docker = Docker::start(&stage.world);
    docker.run();
    docker.container().assert_works(stage, "before us");
    stage.we_come();
    docker.container().assert_works(stage, "beside us");
    let docker = disturb(stage, docker);
    stage.we_go();
    docker.container().assert_works(stage, "when we are gone");
    stage.snapshot("while Docker runs");
    docker.stop();
    stage.snapshot("when Docker has stopped");
}

fn after_us(stage: &Stage) {
    stage.we_come();
    let docker = Docker::start(&stage.world);
    docker.run();
    stage.we_recover();
    docker.container().assert_works(stage, "after us");
    let docker = disturb(stage, docker);
    docker.stop();
    stage.assert_functions_work("when Docker has gone");
    stage.we_go();
    stage.snapshot("when Docker has stopped");
}

on_machines!(comes_before_us, Us::Commands, before_us);
on_machines!(comes_after_us, Us::Commands, after_us, [nftables: Nftables]);
on_machines!(comes_before_the_daemon, Us::Daemon, before_us, [iptables_nft: IptablesNft]);
on_machines!(comes_after_the_daemon, Us::Daemon, after_us);

//! systemd-networkd, which configures the node's own interfaces.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    bus,
    stage::{Stage, Us, on_machines},
    world::{
        CLIENT, INTERNET, NODE_LAN, NODE_LAN_SECOND, NODE_OTHER, NODE_UPLINK, World,
        command::Running,
        traffic::{tcp_ask, tcp_server},
        wait_for,
    },
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Creates the directories that systemd would create for systemd-networkd.
const PREPARE: &str = "cd /run/systemd && mkdir -p network netif/links netif/leases netif/lldp && \
     chown -R systemd-network: netif";

struct Networkd<'a> {
    world: &'a World,
    daemon: Running,
    _bus: Running,
}

impl<'a> Networkd<'a> {
    /// Starts systemd-networkd for the first time. It takes over the node's interfaces.
    #[track_caller]
    fn start(world: &'a World) -> Self {
        let bus = bus::start(world);
        world.program("sh", &["-c", &format!("mkdir -p /run/systemd && {PREPARE}")], "").success();
        for (interface, network) in [
            ("lan0", format!("Address={NODE_LAN}/24\nAddress={NODE_LAN_SECOND}/24")),
            ("up0", format!("Address={NODE_UPLINK}/24\nGateway={INTERNET}")),
            ("oth0", format!("Address={NODE_OTHER}/24")),
        ] {
            let text = format!(
                "[Match]\nName={interface}\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n{network}\n"
            );
            let write = format!("cat >/run/systemd/network/10-{interface}.network");
            world.program("sh", &["-c", &write], &text).success();
            // On current kernels, this version fails to take over an address that something else assigned.
            world.node.tool(&["ip", "address", "flush", "dev", interface]);
        }
        Self { world, daemon: Self::daemon(world), _bus: bus }
    }

    #[track_caller]
    fn daemon(world: &World) -> Running {
        let daemon = world.program_in_background("/lib/systemd/systemd-networkd", &[], "");
        Self::wait(world);
        daemon
    }

    /// Waits until systemd-networkd has configured the node's interfaces.
    #[track_caller]
    fn wait(world: &World) {
        wait_for("networkd to have configured three interfaces", PATIENCE, || {
            let list = world.program("networkctl", &["--no-legend", "list"], "");
            (list.stdout.matches(" configured").count() == 3).then_some(())
        });
    }

    #[track_caller]
    fn control(&self, arguments: &[&str]) {
        self.world.program("networkctl", arguments, "").success();
        Self::wait(self.world);
    }

    #[track_caller]
    fn stop(&mut self) {
        self.daemon.signal(Signal::TERM);
        assert!(self.daemon.ends_within(PATIENCE), "networkd does not end");
    }

    /// Reloads its files, reconfigures interfaces, and restarts it, while functions serve.
    #[track_caller]
    fn disturb(&mut self, stage: &Stage) {
        self.control(&["reload"]);
        assert_works(stage, "after networkd's reload");
        self.control(&["reconfigure", "lan0", "up0", "oth0"]);
        stage.we_recover();
        assert_works(stage, "after a reconfiguration");
        self.stop();
        assert_works(stage, "when networkd has stopped");
        self.daemon = Self::daemon(self.world);
        stage.we_recover();
        assert_works(stage, "when networkd has started again");
    }
}

/// Asserts that the node reaches the Internet, that it can be reached, and that our functions work.
#[track_caller]
fn assert_works(stage: &Stage, when: &str) {
    let node = &stage.world.node;
    let answer = tcp_ask(node, stage.internet.address);
    let answer = answer.unwrap_or_else(|e| panic!("{when}: node → Internet: {e}"));
    assert_eq!(answer.client.ip(), NODE_UPLINK, "{when}: node → Internet");
    let service = tcp_server(node, (NODE_LAN, 22));
    let answer = tcp_ask(&stage.world.client, service.address);
    let answer = answer.unwrap_or_else(|e| panic!("{when}: client → node: {e}"));
    assert_eq!(answer.client.ip(), CLIENT, "{when}: client → node");
    stage.assert_functions_work(when);
}

fn before_us(stage: &Stage) {
    let mut networkd = Networkd::start(&stage.world);
    assert_works(stage, "before us");
    stage.we_come();
    assert_works(stage, "beside us");
    networkd.disturb(stage);
    stage.we_go();
    assert_works(stage, "when we are gone");
    stage.snapshot("while networkd runs");
    networkd.stop();
    stage.snapshot("when networkd has stopped");
}

fn after_us(stage: &Stage) {
    stage.we_come();
    let mut networkd = Networkd::start(&stage.world);
    stage.we_recover();
    assert_works(stage, "after us");
    networkd.disturb(stage);
    networkd.stop();
    assert_works(stage, "when networkd is gone");
    stage.we_go();
    stage.snapshot("when networkd has stopped");
}

on_machines!(comes_before_us, Us::Commands, before_us);
on_machines!(comes_after_us, Us::Commands, after_us);

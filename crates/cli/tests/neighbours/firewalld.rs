//! firewalld as Debian ships it, with a D-Bus of its own; on iptables-legacy, with its iptables backend.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    bus,
    container::{PUBLISHED, SERVED},
    router::{HostFirewall, Routed, is_not_announced, starts_after_us, starts_before_us},
    stage::{Stage, Us, on_machines},
    world::{Firewall, OTHER, World, command::Running, wait_for},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Two networks that may reach each other and the uplink.
const INTERNAL: &str =
    r#"<zone><interface name="lan0"/><interface name="oth0"/><forward/>PORT</zone>"#;
const EXTERNAL: &str = r#"<zone><interface name="up0"/><masquerade/></zone>"#;
const OUT: &str = r#"<policy target="ACCEPT"><ingress-zone name="internal"/><egress-zone name="external"/></policy>"#;

struct Firewalld<'a> {
    world: &'a World,
    daemon: Running,
    _bus: Running,
}

impl Firewalld<'_> {
    #[track_caller]
    fn daemon(world: &World) -> Running {
        // The order of its rules is that of Python's sets, which differs each time unless the seed is fixed.
        let arguments = ["PYTHONHASHSEED=0", "firewalld", "--nofork", "--nopid"];
        let daemon = world.program_in_background("env", &arguments, "");
        wait_for("firewalld to run", PATIENCE, || {
            (world.program("firewall-cmd", &["--state"], "").code == Some(0)).then_some(())
        });
        daemon
    }

    #[track_caller]
    fn command(&self, argument: &str) {
        self.world.program("firewall-cmd", &[argument], "").success();
    }
}

impl<'a> HostFirewall<'a> for Firewalld<'a> {
    /// Starts firewalld for the first time.
    fn start(world: &'a World) -> Self {
        let write = |path: &str, text: &str| {
            let write = "mkdir -p ${1%/*} && cat >$1";
            world.program("sh", &["-c", write, "sh", path], text).success();
        };
        let port = format!(
            r#"<forward-port port="{PUBLISHED}" protocol="tcp" to-port="{SERVED}" to-addr="{OTHER}"/>"#
        );
        write("/etc/firewalld/zones/internal.xml", &INTERNAL.replace("PORT", &port));
        write("/etc/firewalld/zones/external.xml", EXTERNAL);
        write("/etc/firewalld/policies/out.xml", OUT);
        if world.firewall == Firewall::IptablesLegacy {
            let settings = ["-i", "s/^FirewallBackend=.*/FirewallBackend=iptables/"];
            let file = ["/etc/firewalld/firewalld.conf"];
            world.program("sed", &[&settings[..], &file].concat(), "").success();
        }
        let bus = bus::start(world);
        Self { world, daemon: Self::daemon(world), _bus: bus }
    }

    fn reload(&mut self) {
        self.command("--reload");
    }

    /// Reloads firewalld both ways, then restarts it, while functions serve. It creates its rules anew each time.
    fn disturb(&mut self, stage: &Stage, routed: &Routed) {
        self.reload();
        stage.we_recover();
        routed.assert_works(stage, "after firewalld's reload");
        self.command("--complete-reload");
        stage.we_recover();
        routed.assert_works(stage, "after firewalld's complete reload");
        self.stop();
        stage.we_recover();
        stage.assert_functions_work("when firewalld has stopped");
        self.daemon = Self::daemon(self.world);
        stage.we_recover();
        routed.assert_works(stage, "when firewalld has started again");
    }

    /// Stops firewalld. Its rules go with it.
    fn stop(&mut self) {
        self.daemon.signal(Signal::TERM);
        assert!(self.daemon.ends_within(PATIENCE), "firewalld does not end");
    }
}

fn before_us(stage: &Stage) {
    starts_before_us::<Firewalld<'_>>(stage);
}

fn after_us(stage: &Stage) {
    starts_after_us::<Firewalld<'_>>(stage);
}

fn not_announced(stage: &Stage) {
    is_not_announced::<Firewalld<'_>>(stage);
}

on_machines!(comes_before_us, Us::Commands, before_us);
on_machines!(comes_after_us, Us::Commands, after_us);
on_machines!(
    comes_after_the_daemon,
    Us::Daemon,
    after_us,
    [nftables: Nftables, iptables_nft: IptablesNft]
);
on_machines!(is_not_announced, Us::Daemon, not_announced, [iptables_legacy: IptablesLegacy]);

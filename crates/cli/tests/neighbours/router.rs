//! The traffic that a host's own firewall allows: the node routes between its networks, and publishes a port of
//! another host.

use crate::{
    container::{PUBLISHED, SERVED},
    stage::Stage,
    world::{
        CLIENT, NODE_LAN, NODE_OTHER, NODE_UPLINK, OTHER, World,
        traffic::{Server, assert_tcp_closed, tcp_ask, tcp_server},
    },
};

/// A firewall of the host, which allows the traffic of [`Routed`].
pub(crate) trait HostFirewall<'a>: Sized {
    /// Starts it for the first time.
    fn start(world: &'a World) -> Self;

    /// Makes it read its configuration again.
    fn reload(&mut self);

    /// Reloads and restarts it, while functions serve.
    fn disturb(&mut self, stage: &Stage, routed: &Routed);

    /// Stops it.
    fn stop(&mut self);
}

/// The firewall starts before us, and ends after us.
pub(crate) fn starts_before_us<'a, F: HostFirewall<'a>>(stage: &'a Stage) {
    let mut firewall = F::start(&stage.world);
    let routed = Routed::start(stage);
    routed.assert_works(stage, "before us");
    stage.we_come();
    routed.assert_works(stage, "beside us");
    firewall.disturb(stage, &routed);
    stage.we_go();
    routed.assert_works(stage, "when we are gone");
    stage.snapshot("while the firewall runs");
    firewall.stop();
    stage.snapshot("when the firewall has stopped");
}

/// The firewall starts after us, and ends before us.
pub(crate) fn starts_after_us<'a, F: HostFirewall<'a>>(stage: &'a Stage) {
    comes_and_goes::<F>(stage, |firewall, routed| firewall.disturb(stage, routed));
}

/// The firewall starts after us, reloads and ends, and the daemon hears of none of it: it takes ten seconds each time.
pub(crate) fn is_not_announced<'a, F: HostFirewall<'a>>(stage: &'a Stage) {
    comes_and_goes::<F>(stage, |firewall, routed| {
        firewall.reload();
        stage.we_recover();
        routed.assert_works(stage, "after a reload");
    });
}

/// The firewall starts after us, does this, and ends before us.
fn comes_and_goes<'a, F: HostFirewall<'a>>(
    stage: &'a Stage,
    meanwhile: impl FnOnce(&mut F, &Routed),
) {
    stage.we_come();
    let mut firewall = F::start(&stage.world);
    let routed = Routed::start(stage);
    stage.we_recover();
    routed.assert_works(stage, "after us");
    meanwhile(&mut firewall, &routed);
    firewall.stop();
    stage.we_recover();
    stage.assert_functions_work("when the firewall has stopped");
    stage.we_go();
    stage.snapshot("when the firewall has stopped");
}

/// The other host, which traffic is routed to and from.
pub(crate) struct Routed {
    server: Server,
}

impl Routed {
    #[track_caller]
    pub(crate) fn start(stage: &Stage) -> Self {
        let other = &stage.world.other;
        other.tool(&["ip", "route", "add", "default", "via", &NODE_OTHER.to_string()]);
        Self { server: tcp_server(other, (OTHER, SERVED)) }
    }

    /// Asserts that the client and the other host reach each other, that the other host reaches the Internet with the
    /// node's address, that the Internet reaches neither, and that our functions work.
    #[track_caller]
    pub(crate) fn assert_works(&self, stage: &Stage, when: &str) {
        let world = &stage.world;
        let port = (NODE_LAN, PUBLISHED).into();
        for (what, target) in [("client → other", self.server.address), ("the port", port)] {
            let answer = tcp_ask(&world.client, target);
            let answer = answer.unwrap_or_else(|e| panic!("{when}: {what}: {e}"));
            assert_eq!(answer.client.ip(), CLIENT, "{when}: {what}");
        }
        let answer = tcp_ask(&world.other, stage.internet.address);
        let answer = answer.unwrap_or_else(|e| panic!("{when}: other → Internet: {e}"));
        assert_eq!(answer.client.ip(), NODE_UPLINK, "{when}: other → Internet");
        let listens = tcp_server(&world.client, (CLIENT, SERVED));
        assert_tcp_closed(&world.internet, listens.address);
        stage.assert_functions_work(when);
    }
}

//! The traffic that a host's own firewall allows: the node routes between its networks, and publishes a port of
//! another host.

use crate::{
    container::{PUBLISHED, SERVED},
    stage::Stage,
    world::{
        CLIENT, NODE_LAN, NODE_OTHER, NODE_UPLINK, OTHER,
        traffic::{Server, assert_tcp_closed, tcp_ask, tcp_server},
    },
};

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

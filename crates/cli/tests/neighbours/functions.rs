//! Two functions, whose connections must work whatever the neighbours do.

use std::net::Ipv4Addr;

use crate::{
    stage::Stage,
    world::{
        CLIENT, INTERNET, NODE_LAN, NODE_UPLINK, World,
        function::{Function, exposure, function},
        traffic::tcp_ask,
        transport::{Path, Transport, assert_paths},
    },
};

/// The port of the node that leads to the first function.
pub(crate) const PUBLISHED: u16 = 8080;
/// The address of that port, for the client.
pub(crate) const ADDRESS: (Ipv4Addr, u16) = (NODE_LAN, PUBLISHED);
const SERVED: u16 = 3000;
const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

pub(crate) struct Functions {
    /// The published function.
    pub(crate) web: Function,
    /// A function without a published port.
    pub(crate) other: Function,
}

impl Functions {
    /// Brings the functions up with one command each, as users do.
    #[track_caller]
    pub(crate) fn start(world: &World) -> Self {
        let exposures = TRANSPORTS.map(|transport| exposure(transport, PUBLISHED, SERVED));
        let serves = TRANSPORTS.map(|transport| (transport, SERVED));
        let [web] = world.start([(function("web", &exposures), &serves)]);
        let [other] = world.start([(function("other", &[]), &[])]);
        Self { web, other }
    }

    /// Asserts that the published port answers everyone, and that a function reaches the Internet with the node's
    /// address.
    #[track_caller]
    pub(crate) fn assert_work(&self, stage: &Stage, when: &str) {
        let (web, world) = (&self.web, &stage.world);
        let path = |from, to, seen_as| Path {
            from,
            to: (to, PUBLISHED),
            seen_as,
            server: (web.address(), SERVED),
        };
        let paths = [
            path(&world.client, NODE_LAN, CLIENT),
            path(&world.internet, NODE_UPLINK, INTERNET),
            path(&world.node, NODE_LAN, NODE_LAN),
            path(&world.node, Ipv4Addr::LOCALHOST, web.gateway()),
            path(&self.other.guest.namespace, NODE_LAN, self.other.address()),
            path(&web.guest.namespace, NODE_LAN, web.gateway()),
        ];
        assert_paths(&format!("{when}: a function's port"), &TRANSPORTS, &paths);
        let answer = tcp_ask(&web.guest.namespace, stage.internet.address);
        let answer = answer.unwrap_or_else(|error| panic!("{when}: function → Internet: {error}"));
        assert_eq!(answer.client.ip(), NODE_UPLINK, "{when}: function → Internet");
    }
}

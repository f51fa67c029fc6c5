//! A container of an engine: its published port, its access to the Internet, and the traffic between it and functions.

use std::net::Ipv4Addr;

use crate::{
    functions::{self, Functions},
    stage::Stage,
    world::{
        CLIENT, NODE_LAN, NODE_UPLINK, Namespace, World,
        traffic::{Server, assert_tcp_closed, tcp_ask, tcp_server},
    },
};

/// The port of the node that the engine publishes, and the port that the container serves.
pub(crate) const PUBLISHED: u16 = 5432;
pub(crate) const SERVED: u16 = 80;

/// Creates the files of the container: a shell, and a program that does nothing.
pub(crate) const IMAGE: &str = "mkdir -p /run/image/bin && cp /bin/busybox /run/image/bin/ && \
     tar -C /run/image -c . | ";
/// The program of the container, which ends at once if it is asked to.
pub(crate) const PROGRAM: [&str; 3] = ["busybox", "sleep", "100000"];

/// A running container.
pub(crate) struct Container {
    pub(crate) namespace: Namespace,
    pub(crate) address: Ipv4Addr,
    _server: Server,
}

impl Container {
    /// Returns the container whose first process has this id on the machine.
    #[track_caller]
    pub(crate) fn new(world: &World, process: &str, address: Ipv4Addr) -> Self {
        Self::of(world.machine().network_of(process), address)
    }

    /// Returns the container that this network namespace stands for.
    #[track_caller]
    pub(crate) fn of(namespace: Namespace, address: Ipv4Addr) -> Self {
        let server = tcp_server(&namespace, (address, SERVED));
        Self { namespace, address, _server: server }
    }

    /// Asserts that the engine's network and ours work.
    #[track_caller]
    pub(crate) fn assert_works(&self, stage: &Stage, when: &str) {
        let world = &stage.world;
        let answer = tcp_ask(&world.client, (NODE_LAN, PUBLISHED));
        let answer = answer.unwrap_or_else(|e| panic!("{when}: client → container: {e}"));
        assert_eq!(answer.client.ip(), CLIENT, "{when}: client → container");
        let answer = tcp_ask(&world.node, (NODE_LAN, PUBLISHED));
        answer.unwrap_or_else(|e| panic!("{when}: node → container: {e}"));
        let answer = tcp_ask(&self.namespace, stage.internet.address);
        let answer = answer.unwrap_or_else(|e| panic!("{when}: container → Internet: {e}"));
        assert_eq!(answer.client.ip(), NODE_UPLINK, "{when}: container → Internet");
        stage.assert_functions_work(when);
        if let Some(functions) = &*stage.functions() {
            self.assert_beside(functions, when);
        }
    }

    /// Asserts that functions and the container reach only each other's published ports.
    #[track_caller]
    fn assert_beside(&self, Functions { web, .. }: &Functions, when: &str) {
        let answer = tcp_ask(&self.namespace, (NODE_LAN, functions::PUBLISHED));
        answer.unwrap_or_else(|e| panic!("{when}: container → function's port: {e}"));
        let answer = tcp_ask(&web.guest.namespace, (NODE_LAN, PUBLISHED));
        answer.unwrap_or_else(|e| panic!("{when}: function → container's port: {e}"));
        assert_tcp_closed(&self.namespace, (web.address(), 3000));
        assert_tcp_closed(&web.guest.namespace, (self.address, SERVED));
    }
}

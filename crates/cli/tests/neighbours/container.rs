//! A container of an engine: its published port, its way out, and what it and functions are to each other.

use std::net::Ipv4Addr;

use crate::{
    functions::{self, Functions},
    stage::Stage,
    world::{
        CLIENT, Firewall, NODE_LAN, NODE_UPLINK, Namespace, World,
        traffic::{Server, assert_tcp_closed, tcp_ask, tcp_server},
    },
};

/// The port of the node that the engine publishes, and the one that the container serves.
pub(crate) const PUBLISHED: u16 = 5432;
pub(crate) const SERVED: u16 = 80;

/// Files of the container: a shell and a program that does nothing.
pub(crate) const IMAGE: &str = "mkdir -p /run/image/bin && cp /bin/busybox /run/image/bin/ && \
     tar -C /run/image -c . | ";
/// The program of the container, which ends at once where it is asked to.
pub(crate) const PROGRAM: [&str; 3] = ["busybox", "sleep", "100000"];

/// One that runs.
pub(crate) struct Container {
    pub(crate) namespace: Namespace,
    pub(crate) address: Ipv4Addr,
    _server: Server,
}

impl Container {
    /// The one whose first process has this id on the machine.
    #[track_caller]
    pub(crate) fn new(world: &World, process: &str, address: Ipv4Addr) -> Self {
        let namespace = world.machine().network_of(process);
        let server = tcp_server(&namespace, (address, SERVED));
        Self { namespace, address, _server: server }
    }

    /// What is the engine's works, and what is ours.
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
            self.assert_beside(stage, functions, when);
        }
    }

    /// Functions and the container are strangers to each other: published ports are all that they reach.
    #[track_caller]
    fn assert_beside(&self, stage: &Stage, Functions { web, .. }: &Functions, when: &str) {
        let answer = tcp_ask(&self.namespace, (NODE_LAN, functions::PUBLISHED));
        answer.unwrap_or_else(|e| panic!("{when}: container → function's port: {e}"));
        let answer = tcp_ask(&web.guest.namespace, (NODE_LAN, PUBLISHED));
        answer.unwrap_or_else(|e| panic!("{when}: function → container's port: {e}"));
        // By iptables, who inserts rules later is asked before us, until that is put right.
        if stage.world.firewall != Firewall::Nftables {
            stage.we_recover();
        }
        assert_tcp_closed(&self.namespace, (web.address(), 3000));
        assert_tcp_closed(&web.guest.namespace, (self.address, SERVED));
    }
}

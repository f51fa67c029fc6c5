//! The way of a packet that begins a connection: each chain that decides about it, and where it ends. Pure.
//!
//! It follows [`BaseRuleset`], whichever firewall enforces that. Tests compare it with real packets (`tests/netns/explained.rs`).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::{
    firewall::{BaseRuleset, MAIL, NAME_SERVERS, Special},
    model::{Destination, Egress, EgressPolicy, Exposure, InstanceName, InterfaceName, Protocol},
    reach::{self, Block},
    routing::HostRoute,
};

/// A packet that begins a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// The sender.
    pub from: Origin,
    /// The destination.
    pub to: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The destination's port.
    pub port: u16,
}

/// A sender of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A process of the node.
    Node,
    /// A guest, by its own address.
    Guest(IpAddr),
    /// Another machine, or anything else that reaches the node by an interface which is not ours.
    Elsewhere(IpAddr),
}

/// Facts about a packet, of the records and of the kernel.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The base ruleset.
    pub base_ruleset: &'a BaseRuleset,
    /// The policy of the guest that sends it.
    pub policy: Option<&'a EgressPolicy>,
    /// The exposure that takes it, and the function that this leads to.
    pub published: Option<(&'a InstanceName, Exposure, IpAddr)>,
    /// The function whose guest has the destination.
    pub function: Option<&'a InstanceName>,
    /// The other program that translates it, in words.
    pub translated: Option<String>,
    /// The process that listens on the port, in words.
    pub listener: Option<String>,
    /// True if the destination is an address of the node.
    pub is_local: bool,
    /// The route to the destination; `None` if there is none.
    pub route: Option<HostRoute>,
}

/// The way of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The steps, in their order; at least one.
    pub steps: Vec<Step>,
    /// The end.
    pub end: End,
    /// A remedy, if nobody gets the packet and one is known.
    pub hint: Option<String>,
}

/// A chain that a packet passes, and the rule that decides there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The chain, by its usual name; or `routing`.
    pub chain: &'static str,
    /// The decision, in words.
    pub decision: String,
}

/// The end of a way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// It goes into the TAP of a function.
    Guest {
        /// The function.
        name: InstanceName,
        /// The guest's port.
        port: u16,
    },
    /// The node itself takes it.
    Node {
        /// The process that listens there, in words; `None` if nobody does.
        listener: Option<String>,
    },
    /// It goes where another program translates it to.
    Translated {
        /// The program's rule, in words.
        by: String,
    },
    /// It leaves the node.
    Leaves {
        /// The interface; `None` if the route has several hops.
        interface: Option<InterfaceName>,
    },
    /// It is refused, and the sender is told so where the firewall is nftables.
    Refused,
    /// It is dropped.
    Dropped,
    /// There is no route.
    NoRoute,
    /// Neither end is a guest, so we decide nothing.
    NotOurs,
}

impl End {
    /// Reports whether somebody gets the packet, as far as we decide.
    #[must_use]
    pub const fn arrives(&self) -> bool {
        match self {
            Self::Guest { .. } | Self::Translated { .. } | Self::Leaves { .. } => true,
            Self::Node { listener } => listener.is_some(),
            Self::Refused | Self::Dropped | Self::NoRoute | Self::NotOurs => false,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest { name, port } => write!(f, "arrives at {name}, port {port}"),
            Self::Node { listener: Some(process) } => write!(f, "arrives at {process}"),
            Self::Node { listener: None } => {
                f.write_str("arrives at the node, where nobody listens on this port")
            }
            Self::Translated { by } => write!(f, "goes on as another program says: {by}"),
            Self::Leaves { interface: Some(interface) } => write!(f, "leaves by {interface}"),
            Self::Leaves { interface: None } => f.write_str("leaves the node"),
            Self::Refused => f.write_str("is refused"),
            Self::Dropped => f.write_str("is dropped"),
            Self::NoRoute => f.write_str("goes nowhere: the node has no route"),
            Self::NotOurs => {
                f.write_str("is neither from nor to a function: nothing of ours decides")
            }
        }
    }
}

/// The chains, as both firewalls call what they hook.
const RAW: &str = "raw PREROUTING";
const NAT: &str = "nat RIKLET";
const ROUTING: &str = "routing";
const INPUT: &str = "filter INPUT";
const FORWARD: &str = "filter FORWARD";
const SOURCE: &str = "nat POSTROUTING";

/// Follows a packet.
#[must_use]
pub fn explain(packet: Packet, facts: &Facts<'_>) -> Explanation {
    let mut way = Way { packet, facts, steps: vec![], hint: None };
    let end = way.follow();
    let hint = way.hint.filter(|_| !end.arrives());
    Explanation { steps: way.steps, end, hint }
}

struct Way<'a> {
    packet: Packet,
    facts: &'a Facts<'a>,
    steps: Vec<Step>,
    hint: Option<String>,
}

impl Way<'_> {
    fn step(&mut self, chain: &'static str, decision: impl Into<String>) {
        self.steps.push(Step { chain, decision: decision.into() });
    }

    fn follow(&mut self) -> End {
        if let Some(end) = self.arrive() {
            return end;
        }
        if let Some(end) = self.translate() {
            return end;
        }
        if self.facts.is_local {
            return self.enter();
        }
        self.forward()
    }

    /// Returns the end of a packet that is dropped before it is tracked.
    fn arrive(&mut self) -> Option<End> {
        let Packet { from, to, .. } = self.packet;
        let pool = self.facts.base_ruleset.pool;
        let is_many = match to {
            IpAddr::V4(to) => to.to_bits() >= 0xe000_0000,
            IpAddr::V6(to) => to.is_multicast(),
        };
        let refusal = match from {
            Origin::Elsewhere(address) if pool.contains(address) => {
                "dropped: nobody but a guest has a guest's address"
            }
            Origin::Elsewhere(_) | Origin::Guest(_) if to.is_loopback() && to.is_ipv6() => {
                "dropped by the kernel: ::1 is not reached from outside"
            }
            Origin::Elsewhere(_) if to.is_loopback() => {
                "dropped by the kernel: 127.0.0.0/8 is not reached from outside"
            }
            Origin::Node | Origin::Elsewhere(_) => return None,
            Origin::Guest(_) if to.is_loopback() => "dropped: guests do not reach 127.0.0.0/8",
            Origin::Guest(_) if is_many => "dropped: guests do not reach many hosts at once",
            Origin::Guest(address) => {
                self.step(RAW, format!("passes: {address} is the guest's own address"));
                return None;
            }
        };
        self.step(RAW, refusal);
        Some(End::Dropped)
    }

    /// Returns the end of a packet that is translated.
    fn translate(&mut self) -> Option<End> {
        let Packet { to, protocol, port, .. } = self.packet;
        if !self.facts.is_local {
            return None;
        }
        let at = SocketAddr::new(to, port);
        let Some((name, exposure, guest)) = self.facts.published else {
            if let Some(by) = self.facts.translated.clone() {
                self.step(NAT, format!("no function is published at {protocol} {at}"));
                self.step(FORWARD, "passes: what others publish on the node is published to all");
                return Some(End::Translated { by });
            }
            self.step(NAT, format!("no function is published at {protocol} {at}"));
            self.hint = Some("`riklet-sdn list` shows what is published".to_owned());
            return None;
        };
        let ports = exposure.ports().find(|(host, _)| *host == port);
        let target = ports.map_or(port, |(_, target)| target);
        let led_to = SocketAddr::new(guest, target);
        self.step(NAT, format!("translated to {led_to}: {name} publishes {exposure}"));
        match self.packet.from {
            Origin::Node if to.is_loopback() => {
                self.step(SOURCE, "from the gateway's address: a guest cannot answer to 127.0.0.1");
            }
            Origin::Node => {}
            Origin::Guest(sender) if sender == guest => {
                self.step(FORWARD, "passes: an exposure translated it");
                self.step(SOURCE, "from the gateway's address, since the guest asks itself");
            }
            Origin::Guest(_) | Origin::Elsewhere(_) => {
                self.step(FORWARD, "passes: an exposure translated it");
            }
        }
        Some(End::Guest { name: name.clone(), port: target })
    }

    /// Returns the end of a packet for the node itself.
    fn enter(&mut self) -> End {
        let listener = self.facts.listener.clone();
        if matches!(self.packet.from, Origin::Guest(_)) {
            if let Some(allowed) = self.by_policy(INPUT) {
                return if allowed { End::Node { listener } } else { End::Refused };
            }
            let (egress, whose) = self.reach();
            let is_name_server = NAME_SERVERS.contains(&(self.packet.protocol, self.packet.port));
            match egress {
                Egress::All => self.step(INPUT, format!("passes: {whose} is all")),
                Egress::Internet if is_name_server => {
                    self.step(INPUT, format!("passes: a name server, and {whose} is internet"));
                }
                Egress::Internet | Egress::None => {
                    self.step(
                        INPUT,
                        format!("refused: {whose} is {egress}, without the node's services"),
                    );
                    self.hint = Some(format!(
                        "to allow it, add host:{}/{} to network.egress.allow",
                        self.packet.port, self.packet.protocol
                    ));
                    return End::Refused;
                }
            }
        }
        End::Node { listener }
    }

    /// Returns the end of a packet that is not for the node.
    fn forward(&mut self) -> End {
        let Packet { from, to, .. } = self.packet;
        let is_guest = self.facts.base_ruleset.pool.contains(to);
        match (from, is_guest) {
            (Origin::Node, true) => {
                let Some(name) = self.facts.function else {
                    self.step(ROUTING, "no function has this address");
                    return End::NoRoute;
                };
                self.step(ROUTING, "the node's own processes reach each port of a guest");
                End::Guest { name: name.clone(), port: self.packet.port }
            }
            (Origin::Elsewhere(_), true) => {
                self.step(FORWARD, "dropped: a guest is reached by published ports only");
                self.hint_at_publishing();
                End::Dropped
            }
            (Origin::Guest(_), true) => {
                self.step(
                    FORWARD,
                    "refused: functions reach each other by published ports of the node only",
                );
                self.hint_at_publishing();
                End::Refused
            }
            (Origin::Node | Origin::Elsewhere(_), false) => {
                self.step(ROUTING, "it does not concern a function");
                End::NotOurs
            }
            (Origin::Guest(_), false) => self.leave(),
        }
    }

    fn hint_at_publishing(&mut self) {
        let port = self.packet.port;
        let publish = |name| {
            format!(
                "publish the port: an exposure of {name} with targetPort {port}; then ask the node's address"
            )
        };
        self.hint = Some(match self.facts.function {
            Some(name) => publish(name),
            None => "no function has this address".to_owned(),
        });
    }

    /// Returns the end of a packet that a guest sends to another machine.
    fn leave(&mut self) -> End {
        let Some(route) = self.facts.route.clone() else {
            self.step(ROUTING, format!("no route to {}", self.packet.to));
            return End::NoRoute;
        };
        self.step(ROUTING, format!("by the route to {route}"));
        if let Some(end) = self.by_proxy() {
            return end;
        }
        let interface = route.interface;
        let allowed = self.by_policy(FORWARD).unwrap_or_else(|| self.by_reach(interface.as_ref()));
        if !allowed {
            return End::Refused;
        }
        self.step(SOURCE, "from the node's address there: others do not know the guest's");
        End::Leaves { interface }
    }

    /// Returns the end of a packet to a port that the guest's policy leads to a proxy.
    fn by_proxy(&mut self) -> Option<End> {
        let Packet { to, protocol, port, .. } = self.packet;
        let proxy = self.facts.policy?.via().filter(|proxy| proxy.takes(port))?;
        if protocol == Protocol::Tcp && to.is_ipv4() {
            let address = proxy.address();
            self.step(NAT, format!("translated to {address}: network.egress.via leads it there"));
            return Some(End::Translated { by: format!("the proxy {address}") });
        }
        if !Destination::WITH_PORTS.contains(&protocol) {
            return None;
        }
        self.step(
            FORWARD,
            format!(
                "refused: port {port} is led to the proxy of network.egress.via, by TCP over IPv4 only"
            ),
        );
        Some(End::Refused)
    }

    /// Returns the reach that counts where a policy names nothing, and whose it is, in words.
    fn reach(&self) -> (Egress, &'static str) {
        let own = self.facts.policy.and_then(EgressPolicy::default_reach);
        let of_node = (self.facts.base_ruleset.egress, "the node's egress");
        own.map_or(of_node, |egress| (egress, "network.egress.default"))
    }

    /// Returns whether the guest's policy names the destination as one that it reaches; `None` if it does not name it.
    fn by_policy(&mut self, chain: &'static str) -> Option<bool> {
        let Packet { to, protocol, port, .. } = self.packet;
        let to = Block::of_packet(to, protocol.number(), Some(port));
        let (entry, allowed) = reach::deciding(self.facts.policy?, to, self.facts.is_local)?;
        self.hint = Some(format!("to allow it, take {entry} from network.egress.deny"));
        let text = if allowed {
            format!("passes: network.egress.allow has {entry}")
        } else {
            format!("refused: network.egress.deny has {entry}")
        };
        self.step(chain, text);
        Some(allowed)
    }

    /// Returns whether a guest's reach has a destination beyond this interface.
    fn by_reach(&mut self, interface: Option<&InterfaceName>) -> bool {
        let Packet { to, protocol, port, .. } = self.packet;
        let base_ruleset = self.facts.base_ruleset;
        let (egress, whose) = self.reach();
        let special = Special::of(to);
        let by_uplink = interface.is_some_and(|name| base_ruleset.uplinks.contains(name));
        let is = |known: (Protocol, u16)| known == (protocol, port);
        let shown = interface.map_or_else(|| "several hops".to_owned(), ToString::to_string);
        let mut passes = |why: &str| {
            self.steps.push(Step {
                chain: FORWARD,
                decision: format!("passes: {whose} is {egress}, and {why}"),
            });
            true
        };
        let why = match egress {
            Egress::None if self.facts.policy.is_some_and(EgressPolicy::has_names) => {
                "reaches only what the daemon told it for the names of network.egress.allow"
                    .to_owned()
            }
            Egress::None => "reaches nothing".to_owned(),
            Egress::All if by_uplink => return passes(&format!("{shown} is an uplink")),
            Egress::Internet if by_uplink && NAME_SERVERS.into_iter().any(is) => {
                return passes("this is a name server");
            }
            Egress::Internet if is(MAIL) => "has no mail servers".to_owned(),
            _ => match special {
                Some(range) if egress == Egress::Internet => {
                    format!("has public addresses only: not {range}")
                }
                Some(range) => format!("has {range} behind uplinks only: not behind {shown}"),
                None if by_uplink || base_ruleset.any_uplink => {
                    return passes(&format!("{to} is public"));
                }
                None => format!("is for the uplinks that are set: not for {shown}"),
            },
        };
        self.step(FORWARD, format!("refused: {whose} is {egress}, which {why}"));
        let at = SocketAddr::new(to, port);
        self.hint = Some(format!("to allow it, add {at}/{protocol} to network.egress.allow"));
        false
    }
}

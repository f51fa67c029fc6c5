//! Compares the program's records with the kernel's state and with the answers of guests.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
};

use riklet_core::{
    definition::{self, Source},
    firewall::Entry,
    model::{Execution, Exposure, Function, Limits, Pool, PortRange, Protocol, Slot, Workload},
};
use serde_json::{Value, json};

use super::{
    CLIENT, Firewall, NODE_LAN, World,
    command::Output,
    foreign,
    guest::{Guest, Nic},
    traffic::{Endpoints, PATIENCE, Server, tcp_ask, tcp_server, udp_ask, udp_server},
};

/// Returns a function with these exposures, each `PROTOCOL [ADDRESS] PORTS GUEST_PORTS`.
pub(crate) fn workload(name: &str, exposures: &[&str]) -> Workload {
    Workload::Function(Function {
        name: name.parse().expect("a name"),
        execution: Execution::default(),
        exposures: exposures.iter().map(|text| exposure(text)).collect(),
        egress: None,
        limits: Limits::default(),
    })
}

fn exposure(text: &str) -> Exposure {
    let words: Vec<&str> = text.split(' ').collect();
    let (protocol, address, host, guest) = match *words {
        [protocol, host, guest] => (protocol, None, host, guest),
        [protocol, address, host, guest] => (protocol, Some(address), host, guest),
        _ => panic!("{text} is no exposure"),
    };
    let address = address.map(|address| address.parse().expect("an address"));
    let protocol = Protocol::from_name(protocol).expect("a protocol");
    let ports = |text: &str| text.parse().expect("ports");
    Exposure::new(protocol, address, ports(host), ports(guest)).expect("an exposure")
}

/// Returns the text that `up -` reads.
pub(crate) fn definitions(workloads: &[Workload]) -> String {
    workloads.iter().map(definition::to_value).collect::<Value>().to_string()
}

/// The record of one instance.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) workload: Workload,
    pub(crate) slot: Slot,
    pub(crate) guest: Ipv4Addr,
    /// The host's address on the TAP, with its prefix length.
    pub(crate) host: String,
}

impl Recorded {
    fn read(listed: &Value) -> Self {
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let function = json!({ "exposure": listed["exposures"] });
        let definition = json!({
            "apiVersion": "v1", "kind": listed["kind"], "name": listed["name"],
            "spec": { "function": function },
        });
        let source = Source { name: "list".to_owned(), text: definition.to_string() };
        let [workload] = <[_; 1]>::try_from(definition::parse(&[source]).expect("a definition"))
            .expect("one definition is one workload");
        Self {
            workload,
            slot: Slot::of_interface(&text(&listed["interface"])).expect("a TAP"),
            guest: text(&listed["guest"]["address"]).parse().expect("an address"),
            host: format!("{}/{}", text(&listed["host"]["address"]), listed["prefixLength"]),
        }
    }

    pub(crate) fn tap(&self) -> String {
        self.slot.interface().to_string()
    }

    /// Returns the firewall entries that the instance needs, in the program's words, one per port.
    fn entries(&self) -> impl Iterator<Item = String> {
        let exposures = self.workload.exposures().iter();
        let exposed = exposures.flat_map(|exposure| {
            exposure.ports().map(|(host_port, guest_port)| Entry::Exposure {
                protocol: exposure.protocol(),
                host_address: exposure.host_address(),
                host_ports: single_port(host_port),
                guest: self.guest.into(),
                guest_ports: single_port(guest_port),
            })
        });
        let hairpin = Entry::Hairpin { guest: self.guest.into() };
        let hairpin = (!self.workload.exposures().is_empty()).then_some(hairpin);
        exposed.chain(hairpin).map(|entry| entry.to_string())
    }
}

impl World {
    /// Brings up these workloads, which may fail.
    #[track_caller]
    pub(crate) fn try_up(&self, workloads: &[Workload]) -> Output {
        self.riklet(&["up", "-"], &definitions(workloads))
    }

    /// Returns the records by name.
    #[track_caller]
    pub(crate) fn recorded(&self) -> BTreeMap<String, Recorded> {
        let listed = self.riklet(&["list", "--output", "json"], "").success();
        let listed: Vec<Value> = serde_json::from_str(&listed).expect("a list");
        let recorded = listed.iter().map(Recorded::read);
        recorded.map(|recorded| (recorded.workload.name().to_string(), recorded)).collect()
    }

    /// Asserts that the kernel has exactly what is recorded, both according to the program and according to other
    /// tools. Returns the records.
    #[track_caller]
    pub(crate) fn assert_in_step(&self) -> BTreeMap<String, Recorded> {
        let recorded = self.assert_in_step_beside_ready_slots();
        let taps: BTreeSet<_> =
            recorded.values().map(|one| (one.tap(), one.host.clone())).collect();
        assert_eq!(self.taps(), taps, "TAPs, and recorded ones");
        recorded
    }

    /// Asserts the same, but for TAPs that are ready for further functions.
    #[track_caller]
    pub(crate) fn assert_in_step_beside_ready_slots(&self) -> BTreeMap<String, Recorded> {
        let checked = self.riklet(&["check"], "").success();
        assert_eq!(checked, "");
        let recorded = self.recorded();
        let taps = self.taps();
        let has_tap = |one: &&Recorded| taps.contains(&(one.tap(), one.host.clone()));
        let lost: Vec<_> = recorded.values().filter(|one| !has_tap(one)).collect();
        assert!(lost.is_empty(), "recorded ones without a TAP: {lost:?}; TAPs: {taps:?}");
        let entries: BTreeSet<_> = recorded.values().flat_map(Recorded::entries).collect();
        assert_eq!(self.firewall_entries(), entries, "entries of the firewall, and recorded ones");
        recorded
    }

    /// Returns the interfaces that have a slot's name and are not known to be foreign, once for each of their
    /// addresses.
    fn taps(&self) -> BTreeSet<(String, String)> {
        let links: Vec<Value> =
            serde_json::from_str(&self.node.tool(&["ip", "-j", "-d", "address"]))
                .expect("JSON of `ip`");
        let mut found = BTreeSet::new();
        for link in &links {
            let name = link["ifname"].as_str().unwrap_or_default();
            if Slot::of_interface(name).is_none() || link["ifalias"] == foreign::ALIAS {
                continue;
            }
            let addresses = link["addr_info"].as_array().into_iter().flatten();
            let mut addresses: Vec<_> = addresses
                .map(|a| format!("{}/{}", a["local"].as_str().unwrap_or_default(), a["prefixlen"]))
                .collect();
            if addresses.is_empty() {
                addresses.push("no address".to_owned());
            }
            found.extend(addresses.into_iter().map(|address| (name.to_owned(), address)));
        }
        found
    }

    /// Returns the firewall's entries for single instances, as the system's tools print them, in the program's words,
    /// one per port.
    fn firewall_entries(&self) -> BTreeSet<String> {
        match self.firewall {
            Firewall::Nftables => self.nft_entries(),
            Firewall::IptablesNft | Firewall::IptablesLegacy => self.iptables_entries(),
        }
    }

    fn nft_entries(&self) -> BTreeSet<String> {
        let ruleset = self.node.tool(&["nft", "-j", "list", "ruleset"]);
        let ruleset: Value = serde_json::from_str(&ruleset).expect("JSON of `nft`");
        let mut found = BTreeSet::new();
        for object in ruleset["nftables"].as_array().into_iter().flatten() {
            let set = if object["map"].is_null() { &object["set"] } else { &object["map"] };
            if set["table"] != "riklet" {
                continue;
            }
            for element in set["elem"].as_array().into_iter().flatten() {
                let of = |value: &Value| -> Vec<String> {
                    let parts = value["concat"].as_array().into_iter().flatten();
                    parts.map(|part| part.to_string().replace('"', "")).collect()
                };
                // The elements of the maps of ranges keep the port.
                let range = |value: &Value| {
                    let part = value["concat"].as_array().and_then(|parts| parts.last());
                    let ends = part.and_then(|part| part["range"].as_array());
                    let end = |index: usize| {
                        ends.and_then(|ends: &Vec<Value>| ends.get(index)?.as_u64())
                            .expect("a range")
                    };
                    end(0)..=end(1)
                };
                let key = of(if element.is_array() { &element[0] } else { element }).join(" ");
                let (guest, name) = (of(&element[1]).join(":"), set["name"].as_str());
                match (name, key.split(' ').collect::<Vec<_>>().as_slice()) {
                    (Some("exposures"), [protocol, port]) => {
                        found.insert(format!("{protocol} {port} -> {guest}"));
                    }
                    (Some("bound"), [address, protocol, port]) => {
                        found.insert(format!("{protocol} {address}:{port} -> {guest}"));
                    }
                    (Some("hairpin"), [from, _]) => {
                        found.insert(format!("hairpin {from}"));
                    }
                    (Some("ranges"), [protocol, _]) => {
                        let guest = element[1].as_str().expect("an address");
                        let each = |port| format!("{protocol} {port} -> {guest}:{port}");
                        found.extend(range(&element[0]).map(each));
                    }
                    (Some("bound-ranges"), [address, protocol, _]) => {
                        let guest = element[1].as_str().expect("an address");
                        let each = |port| format!("{protocol} {address}:{port} -> {guest}:{port}");
                        found.extend(range(&element[0]).map(each));
                    }
                    _ => {}
                }
            }
        }
        found
    }

    fn iptables_entries(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for chain in ["RIKLET", "RIKLET-HAIRPIN"] {
            let listed = self.program("iptables", &["-t", "nat", "-S", chain], "");
            for rule in listed.stdout.lines().filter(|line| line.starts_with("-A ")) {
                let words: Vec<&str> = rule.split(' ').collect();
                let value = |option: &str| {
                    let place = words.iter().position(|word| *word == option);
                    place.and_then(|place| words.get(place + 1)).map(|v| v.trim_end_matches("/32"))
                };
                match (value("--to-destination"), value("-s")) {
                    (Some(target), None) => {
                        let bound = value("-d").map(|a| format!("{a}:")).unwrap_or_default();
                        let (protocol, ports) = (value("-p"), value("--dport"));
                        let (protocol, ports) = (protocol.unwrap_or("?"), ports.unwrap_or("?"));
                        let each = |(host, guest)| format!("{protocol} {bound}{host} -> {guest}");
                        found.extend(translations(ports, target).map(each));
                    }
                    (None, Some(guest)) => drop(found.insert(format!("hairpin {guest}"))),
                    _ => drop(found.insert(rule.to_owned())),
                }
            }
        }
        found
    }

    /// Attaches a guest to the instance's TAP, with a TCP and a UDP server at each of its ports.
    #[track_caller]
    pub(crate) fn play(&self, recorded: &Recorded) -> Played {
        let pool = Pool::candidates().remove(0);
        let guest = Guest::attach(self, Nic::of_slot(pool, recorded.slot));
        assert_eq!(guest.nic.address, recorded.guest);
        let served: BTreeSet<_> =
            ports(recorded).map(|(exposure, _, port)| (exposure.protocol(), port)).collect();
        let serve = |(protocol, port)| match protocol {
            Protocol::Tcp => Some(tcp_server(&guest.namespace, (recorded.guest, port))),
            Protocol::Udp => Some(udp_server(&guest.namespace, (recorded.guest, port))),
            Protocol::Sctp => None,
        };
        let servers = served.into_iter().filter_map(serve).collect();
        Played { recorded: recorded.clone(), guest, _servers: servers }
    }
}

/// Returns the ports that a rule of iptables translates, and the target of each: `8000:8010` and `GUEST:1-11/8000`.
fn translations(ports: &str, target: &str) -> impl Iterator<Item = (u16, String)> {
    let number = |text: &str| text.parse::<u16>().expect("a port");
    let (first, last) = ports.split_once(':').unwrap_or((ports, ports));
    let (guest, to) = target.split_once(':').unwrap_or((target, first));
    let (to, base) = to.split_once('/').unwrap_or((to, first));
    assert_eq!(base, first, "{ports} {target}");
    let to = number(to.split_once('-').map_or(to, |(to, _)| to));
    let (first, last, guest) = (number(first), number(last), guest.to_owned());
    (first..=last).map(move |port| (port, format!("{guest}:{}", to + (port - first))))
}

fn single_port(port: u16) -> PortRange {
    PortRange::single(port).expect("a port")
}

/// Returns each port of an instance: its exposure, the host's port and the guest's port.
fn ports(recorded: &Recorded) -> impl Iterator<Item = (&Exposure, u16, u16)> {
    let exposures = recorded.workload.exposures().iter();
    exposures
        .flat_map(|exposure| exposure.ports().map(move |(host, guest)| (exposure, host, guest)))
}

/// A guest that serves the instance's exposures.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) recorded: Recorded,
    pub(crate) guest: Guest,
    _servers: Vec<Server>,
}

impl Played {
    /// Asserts that the client reaches every port, and that the guest sees the client's address.
    #[track_caller]
    pub(crate) fn assert_answers(&self, world: &World) {
        for (exposure, host, guest) in ports(&self.recorded) {
            let target = (exposure.host_address().unwrap_or(NODE_LAN.into()), host);
            let answer = match exposure.protocol() {
                Protocol::Tcp => tcp_ask(&world.client, target),
                Protocol::Udp => udp_ask(&world.client, target, PATIENCE)
                    .ok_or_else(|| io::ErrorKind::TimedOut.into()),
                Protocol::Sctp => continue,
            };
            let name = self.recorded.workload.name();
            let Endpoints { client, server } = answer.unwrap_or_else(|error| {
                panic!("{name} does not answer at {}:{host} ({exposure}): {error}", target.0)
            });
            assert_eq!(client.ip(), IpAddr::V4(CLIENT));
            assert_eq!(server, (self.recorded.guest, guest).into());
        }
    }
}

/// Asserts that the client reaches every port of every instance. Starts a guest for each.
#[track_caller]
pub(crate) fn assert_all_answer(world: &World, recorded: &BTreeMap<String, Recorded>) {
    let played: Vec<_> = recorded.values().map(|recorded| world.play(recorded)).collect();
    for played in &played {
        played.assert_answers(world);
    }
}

/// Returns the text without the identifier of the state directory in aliases. It differs from one directory to
/// another.
pub(crate) fn without_owner(text: &str) -> String {
    let mut parts = text.split("riklet-sdn@");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str("riklet-sdn");
        plain.push_str(part.get(16..).expect("an identifier"));
    }
    plain
}

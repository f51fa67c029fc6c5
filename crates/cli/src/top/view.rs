//! The view as data. Pure.

use std::{net::IpAddr, time::Duration};

use riklet_api::{Event, ExposureDocument, Health, ListEntry};
use riklet_core::model::InterfaceName;
use riklet_kernel::linux::stats::Traffic;
use serde::Serialize;

use super::sample::{Counted, Sample};
use crate::render;

/// The columns of the printed table.
pub(super) const HEADER: [&str; 9] =
    ["NAME", "INTERFACE", "GUEST", "STATE", "IN P/S", "IN B/S", "OUT P/S", "OUT B/S", "EXPOSURES"];

/// The contents of the view, which are also the document of `top --output json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    /// The interval of the rates in milliseconds; 0 without an earlier sample.
    pub(super) interval_ms: u64,
    pub(super) functions: Vec<Line>,
    pub(super) drift: Vec<String>,
    /// The daemon's slots; `None` without a daemon.
    pub(super) slots: Option<Slots>,
    pub(super) events: Vec<Event>,
}

/// One function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) interface: String,
    /// The same, by its former name.
    pub(super) tap: String,
    pub(super) guest: IpAddr,
    pub(super) state: String,
    /// The traffic to the guest.
    #[serde(rename = "in")]
    pub(super) incoming: Flow,
    /// The traffic from the guest.
    #[serde(rename = "out")]
    pub(super) outgoing: Flow,
    pub(super) exposures: Vec<ExposureDocument>,
}

/// The traffic in one direction: in total, and at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Flow {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) packets_per_second: u64,
    pub(super) bytes_per_second: u64,
}

/// The numbers of the daemon's reserved slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Slots {
    pub(super) creating: usize,
    pub(super) ready: usize,
    pub(super) draining: usize,
}

/// The order of the functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Order {
    #[default]
    Name,
    /// Most bytes taken first.
    In,
    /// Most bytes sent first.
    Out,
}

impl From<&Health> for Slots {
    fn from(health: &Health) -> Self {
        Self {
            creating: health.creating_slots,
            ready: health.ready_slots,
            draining: health.draining_slots,
        }
    }
}

impl View {
    /// Creates the view of a sample, with the rates since the counters before it.
    pub(super) fn new(before: Option<&Counted>, sample: &Sample) -> Self {
        let counted = &sample.counted;
        let passed = before.map(|before| counted.at.duration_since(before.at));
        let line = |listed: &ListEntry| {
            let instance = &listed.instance;
            let tap = InterfaceName::try_from(instance.interface.as_str()).ok();
            let now = tap.as_ref().and_then(|tap| counted.traffic.get(tap));
            let now = now.copied().unwrap_or_default();
            // An interface that is new, or was created anew, has counted from 0.
            let same = |traffic: &&Traffic| traffic.index == now.index;
            let before = before.and_then(|before| before.traffic.get(tap.as_ref()?).filter(same));
            let before = before.copied().unwrap_or_default();
            let flow =
                |count: fn(&Traffic) -> (u64, u64)| Flow::new(count(&before), count(&now), passed);
            Line {
                name: instance.name.clone(),
                interface: instance.interface.clone(),
                tap: instance.tap.clone(),
                guest: instance.guest.address,
                state: render::state(listed),
                incoming: flow(|traffic| (traffic.packets_in, traffic.bytes_in)),
                outgoing: flow(|traffic| (traffic.packets_out, traffic.bytes_out)),
                exposures: instance.exposures.clone(),
            }
        };
        let interval = passed.unwrap_or_default().as_millis();
        Self {
            interval_ms: u64::try_from(interval).unwrap_or(u64::MAX),
            functions: sample.functions.iter().map(line).collect(),
            drift: sample.drift.clone(),
            slots: sample.slots,
            events: sample.events.clone(),
        }
    }

    /// Sorts the functions; equal ones by name.
    pub(super) fn order(&mut self, order: Order) {
        let busiest = |line: &Line| match order {
            Order::Name => 0,
            Order::In => line.incoming.bytes_per_second,
            Order::Out => line.outgoing.bytes_per_second,
        };
        self.functions
            .sort_by(|a, b| busiest(b).cmp(&busiest(a)).then_with(|| a.name.cmp(&b.name)));
    }

    /// Returns the rows of the printed table.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        self.functions.iter().map(|line| line.row(|number| number.to_string())).collect()
    }
}

impl Line {
    /// Returns the cells of the function's row, with rates formatted by `number`.
    pub(super) fn row(&self, number: fn(u64) -> String) -> Vec<String> {
        let exposures: Vec<_> = self.exposures.iter().map(ToString::to_string).collect();
        vec![
            self.name.clone(),
            self.interface.clone(),
            self.guest.to_string(),
            self.state.clone(),
            number(self.incoming.packets_per_second),
            number(self.incoming.bytes_per_second),
            number(self.outgoing.packets_per_second),
            number(self.outgoing.bytes_per_second),
            if exposures.is_empty() { "-".to_owned() } else { exposures.join(", ") },
        ]
    }
}

impl Flow {
    /// Creates a flow from packets and bytes, before and now.
    fn new(before: (u64, u64), now: (u64, u64), passed: Option<Duration>) -> Self {
        let rate = |before: u64, now: u64| {
            passed.map_or(0, |passed| rate(now.saturating_sub(before), passed))
        };
        Self {
            packets: now.0,
            bytes: now.1,
            packets_per_second: rate(before.0, now.0),
            bytes_per_second: rate(before.1, now.1),
        }
    }
}

/// Returns the rounded rate per second.
fn rate(count: u64, passed: Duration) -> u64 {
    let micros = passed.as_micros().max(1);
    let rate = (u128::from(count) * 1_000_000 + micros / 2) / micros;
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Returns a number with at most four digits, and its unit.
pub(super) fn short(number: u64) -> String {
    let mut number = number;
    for unit in ["", "k", "M", "G", "T", "P"] {
        if number < 10_000 {
            return format!("{number}{unit}");
        }
        number /= 1000;
    }
    format!("{number}E")
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeMap, time::Instant};

    use super::*;

    fn listed(name: &str, slot: u8, link: &str) -> ListEntry {
        let tap = format!("rik{slot}");
        let end = |last, mac: &str| serde_json::json!({ "address": format!("10.231.0.{last}"), "mac": mac });
        let exposures = serde_json::json!([
            { "port": 8080, "targetPort": 80, "protocol": "TCP", "type": "NodePort" },
            { "port": "53-54", "targetPort": "53-54", "protocol": "UDP", "type": "NodePort" }
        ]);
        let value = serde_json::json!({
            "name": name, "kind": "Function", "slot": slot, "interface": tap, "tap": tap, "phase": "up", "link": link,
            "guest": end(slot * 4 + 2, "06:00:00:00:00:00"), "host": end(slot * 4 + 1, "02:00:00:00:00:00"),
            "prefixLength": 30, "mtu": 1500,
            "exposures": if slot == 0 { exposures } else { serde_json::json!([]) },
        });
        serde_json::from_value(value).unwrap()
    }

    fn traffic(index: u32, packets: u64) -> Traffic {
        Traffic {
            index,
            packets_in: packets,
            bytes_in: packets * 1000,
            packets_out: packets * 2,
            bytes_out: packets * 60,
        }
    }

    /// Returns the view of three functions after half a second: the first has sent much, the TAP of the second was
    /// created anew, and that of the third is new.
    pub(in crate::top) fn sampled() -> View {
        let name = |slot| InterfaceName::try_from(format!("rik{slot}").as_str()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "any moment")]
        let at = Instant::now();
        let counted = |at, taps: &[(u8, Traffic)]| Counted {
            at,
            traffic: taps
                .iter()
                .map(|(slot, traffic)| (name(*slot), *traffic))
                .collect::<BTreeMap<_, _>>(),
        };
        let before = counted(at, &[(0, traffic(7, 1_000)), (1, traffic(8, 9_000))]);
        let event = Event {
            token: "1-1".to_owned(),
            at_ms: 1_795_594_161_847,
            kind: "repaired".to_owned(),
            name: None,
            text: "+ TAP rik2: address 10.231.0.9/30\n~ sysctl".to_owned(),
            refused: None,
        };
        let sample = Sample {
            counted: counted(
                at + Duration::from_millis(500),
                &[(0, traffic(7, 51_000)), (1, traffic(9, 30)), (2, traffic(10, 1))],
            ),
            functions: vec![
                listed("hello", 0, "attached"),
                listed("quiet", 1, "ready"),
                listed("new", 2, "down"),
            ],
            drift: vec!["~ TAP rik2: up".to_owned()],
            slots: Some(Slots { creating: 0, ready: 64, draining: 3 }),
            events: vec![event],
        };
        View::new(Some(&before), &sample)
    }

    #[test]
    fn rates_are_per_second_of_elapsed_time() {
        let view = sampled();
        let [hello, quiet, new] = &*view.functions else { panic!("{view:?}") };
        let expected = Flow {
            packets: 51_000,
            bytes: 51_000_000,
            packets_per_second: 100_000,
            bytes_per_second: 100_000_000,
        };
        assert_eq!(hello.incoming, expected);
        assert_eq!(hello.outgoing.packets_per_second, 200_000);
        assert_eq!((quiet.incoming.packets_per_second, new.incoming.packets_per_second), (60, 2));
        assert_eq!(rate(1, Duration::from_secs(2)), 1, "rounded");
        assert_eq!(rate(1, Duration::from_secs(3)), 0);
        assert_eq!(rate(u64::MAX, Duration::ZERO), u64::MAX);
    }

    #[test]
    fn functions_are_ordered_by_traffic() {
        let mut view = sampled();
        let names =
            |view: &View| view.functions.iter().map(|line| line.name.clone()).collect::<Vec<_>>();
        view.order(Order::Name);
        assert_eq!(names(&view), ["hello", "new", "quiet"]);
        view.order(Order::In);
        assert_eq!(names(&view), ["hello", "quiet", "new"]);
        view.functions[2].outgoing.bytes_per_second = u64::MAX;
        view.order(Order::Out);
        assert_eq!(names(&view), ["new", "hello", "quiet"]);
    }

    #[test]
    fn numbers_have_at_most_four_digits_and_a_unit() {
        let numbers = [0, 9_999, 10_000, 9_999_999, 10_000_000, u64::MAX];
        assert_eq!(numbers.map(short), ["0", "9999", "10k", "9999k", "10M", "18E"]);
    }
}

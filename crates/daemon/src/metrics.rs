//! Metrics of the daemon, in the format of Prometheus and `OpenMetrics`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::engine::SlotCounts;
use riklet_api::ListEntry;
use riklet_core::{
    firewall::RefusingRule,
    model::{InstanceName, InterfaceName},
};
use riklet_kernel::{
    KernelError,
    linux::{Linux, stats::Traffic},
};

/// The media type of the text that [`Metrics::render`] returns.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The upper bound of the first bucket, in seconds. Each further bucket is twice as wide.
const SHORTEST: f64 = 0.000_05;
const BUCKETS: u16 = 18;

/// The counters of a running daemon. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    operations: Family<Operation, Histogram>,
    repairs: Counter,
    errors: Counter,
    names: Arc<Mutex<NameCounts>>,
}

/// The questions for names, by function and outcome.
type NameCounts = BTreeMap<String, BTreeMap<&'static str, u64>>;

/// The label of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
    outcome: &'static str,
}

/// The labels of a function and a rule that refuses its packets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRule {
    function: String,
    rule: &'static str,
}

/// The labels of a function and an outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    function: String,
    outcome: &'static str,
}

/// The label of a function.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFunction {
    function: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = || Histogram::new(exponential_buckets(SHORTEST, 2.0, BUCKETS));
        Self {
            operations: Family::new_with_constructor(buckets),
            repairs: Counter::default(),
            errors: Counter::default(),
            names: Arc::default(),
        }
    }
}

/// The values that are read for each request.
#[derive(Debug)]
pub struct Snapshot {
    counts: SlotCounts,
    functions: Vec<ListEntry>,
    /// The time that the engine has not answered for.
    busy: Duration,
    traffic: BTreeMap<InterfaceName, Traffic>,
    flows: BTreeMap<IpAddr, u64>,
    /// By the index of the TAP.
    refused: BTreeMap<(u32, RefusingRule), u64>,
    names: NameCounts,
}

impl Snapshot {
    /// Reads the kernel's counters, on any thread of the network namespace.
    ///
    /// # Errors
    /// Fails if the kernel does not report them.
    pub fn take(
        counts: SlotCounts,
        functions: Vec<ListEntry>,
        busy: Duration,
    ) -> Result<Self, KernelError> {
        let mut kernel = Linux::new();
        let (traffic, flows) = (kernel.traffic()?, kernel.flows_by_guest()?);
        let refused = kernel.refused_packets()?;
        let names = NameCounts::default();
        Ok(Self { counts, functions, busy, traffic, flows, refused, names })
    }
}

impl Metrics {
    /// Counts an operation (`up` or `down`), whether it was refused, and the time from the request to the answer.
    pub fn operation(&self, operation: &'static str, refused: bool, took: Duration) {
        let outcome = if refused { "refused" } else { "done" };
        let labels = Operation { operation, outcome };
        self.operations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a repair.
    pub(super) fn repaired(&self) {
        self.repairs.inc();
    }

    /// Counts a failure.
    pub(super) fn failed(&self) {
        self.errors.inc();
    }

    /// Counts a question of a function for a name, by its outcome.
    pub(super) fn asked(&self, function: &InstanceName, outcome: &'static str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let of_function = names.entry(function.to_string()).or_default();
        *of_function.entry(outcome).or_default() += 1;
    }

    /// Returns the questions for names of these functions. Those of others, which are no more, are forgotten.
    fn names_of(&self, functions: &[ListEntry]) -> NameCounts {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let listed: BTreeSet<_> = functions.iter().map(|listed| &*listed.instance.name).collect();
        names.retain(|function, _| listed.contains(&**function));
        names.clone()
    }

    /// Returns all metrics as text.
    #[must_use]
    pub fn render(&self, mut snapshot: Snapshot) -> String {
        snapshot.names = self.names_of(&snapshot.functions);
        let mut registry = Registry::with_prefix("riklet_sdn");
        registry.register_with_unit(
            "operation",
            "From a request to its answer",
            Unit::Seconds,
            self.operations.clone(),
        );
        registry.register("repairs", "What drifted and was repaired", self.repairs.clone());
        registry.register("errors", "What could not be done", self.errors.clone());
        registry.register_collector(Box::new(snapshot));
        let mut text = String::new();
        if text::encode(&mut text, &registry).is_err() {
            text.clear();
            let _always_possible = text.write_str("# EOF\n");
        }
        text
    }
}

/// A function that selects one of a TAP's counters.
type Counted = fn(&Traffic) -> u64;

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let SlotCounts { functions, creating, ready, draining } = self.counts;
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let gauges = [
            ("functions", "Functions that are recorded", i64::from(functions)),
            ("creating_slots", "Slots whose TAP is being created in advance", count(creating)),
            ("ready_slots", "Slots whose TAP was created in advance", count(ready)),
            ("draining_slots", "Slots whose TAP is to be deleted", count(draining)),
            (
                "slots",
                "Slots that are not free",
                i64::from(functions) + count(creating + ready + draining),
            ),
        ];
        for (name, help, value) in gauges {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode_gauge(&value)?;
        }
        let (name, help) = ("engine_busy", "Time that the engine has not answered for");
        let unit = Some(&Unit::Seconds);
        let mut gauge = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        gauge.encode_gauge(&self.busy.as_secs_f64())?;
        let traffic: [(&str, &str, Counted); 4] = [
            ("function_received_packets", "Packets that the guest took", |t| t.packets_in),
            ("function_received_bytes", "Bytes that the guest took", |t| t.bytes_in),
            ("function_sent_packets", "Packets that the guest sent", |t| t.packets_out),
            ("function_sent_bytes", "Bytes that the guest sent", |t| t.bytes_out),
        ];
        for (name, help, value) in traffic {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for listed in &self.functions {
                let tap = listed.instance.interface.parse::<InterfaceName>().ok();
                if let Some(found) = tap.and_then(|tap| self.traffic.get(&tap)) {
                    let labels = OfFunction { function: listed.instance.name.clone() };
                    let mut counter = family.encode_family(&labels)?;
                    counter.encode_counter::<NoLabelSet, _, u64>(&value(found), None)?;
                }
            }
        }
        let (name, help) = ("function_refused_packets", "Packets of the guest that were refused");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for listed in &self.functions {
            let tap = listed.instance.interface.parse::<InterfaceName>().ok();
            let Some(tap) = tap.and_then(|tap| self.traffic.get(&tap)) else { continue };
            for rule in RefusingRule::ALL {
                let Some(count) = self.refused.get(&(tap.index, rule)) else { continue };
                let function = listed.instance.name.clone();
                let labels = OfRule { function, rule: rule.as_str() };
                let mut counter = family.encode_family(&labels)?;
                counter.encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
        }
        let (name, help) = ("function_names", "Names that the guest asked for");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (function, outcomes) in &self.names {
            for (&outcome, count) in outcomes {
                let labels = OfOutcome { function: function.clone(), outcome };
                let mut counter = family.encode_family(&labels)?;
                counter.encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
        }
        let (name, help) = ("function_conntrack_entries", "Connections that are tracked");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for listed in &self.functions {
            let labels = OfFunction { function: listed.instance.name.clone() };
            let guest = &listed.instance.guest;
            let addresses = [guest.address].into_iter().chain(guest.address6.map(IpAddr::V6));
            let flows: u64 = addresses.filter_map(|address| self.flows.get(&address)).sum();
            let flows = i64::try_from(flows).unwrap_or(i64::MAX);
            family.encode_family(&labels)?.encode_gauge(&flows)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_rendered_in_the_prometheus_format() {
        let metrics = Metrics::default();
        metrics.operation("up", false, Duration::from_micros(300));
        metrics.repaired();
        let counts = SlotCounts { functions: 1, creating: 0, ready: 64, draining: 2 };
        let (functions, busy, traffic, flows, refused, names) = Default::default();
        metrics.asked(&"gone".parse().unwrap(), "refused");
        let snapshot = Snapshot { counts, functions, busy, traffic, flows, refused, names };
        let text = metrics.render(snapshot);
        assert!(!text.contains("gone") && metrics.names_of(&[]).is_empty(), "{text}");
        for line in [
            "# TYPE riklet_sdn_operation_seconds histogram",
            "riklet_sdn_operation_seconds_count{operation=\"up\",outcome=\"done\"} 1",
            "riklet_sdn_operation_seconds_bucket{le=\"0.0004\",operation=\"up\",outcome=\"done\"} 1",
            "riklet_sdn_repairs_total 1",
            "riklet_sdn_errors_total 0",
            "riklet_sdn_functions 1",
            "riklet_sdn_slots 67",
            "riklet_sdn_ready_slots 64",
            "riklet_sdn_engine_busy_seconds 0.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}

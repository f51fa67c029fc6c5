//! Measured times.

use std::time::Duration;

/// Repeated measurements of the time that one operation takes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub(crate) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    pub(crate) fn p50(&self) -> Duration {
        self.percentile(50)
    }

    pub(crate) fn p99(&self) -> Duration {
        self.percentile(99)
    }

    /// Returns the sample below which this percentage of all samples lies.
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
    }
}

/// The times of repeated ups and downs.
#[derive(Debug, Default, Clone)]
pub(crate) struct Cycles {
    pub(crate) up: Samples,
    pub(crate) down: Samples,
}

impl Cycles {
    pub(crate) fn push(&mut self, up: Duration, down: Duration) {
        self.up.push(up);
        self.down.push(down);
    }

    /// Returns the cells of a table row: the medians and the 99th percentiles.
    pub(crate) fn cells(&self) -> [String; 4] {
        [self.up.p50(), self.up.p99(), self.down.p50(), self.down.p99()].map(milliseconds)
    }
}

/// Formats a duration in milliseconds, with about three significant digits.
pub(crate) fn milliseconds(duration: Duration) -> String {
    let value = millis(duration);
    let digits = if value < 1.0 { 3 } else { 2 };
    format!("{value:.digits$} ms")
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Returns the first duration divided by the second.
pub(crate) fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64()
}

//! The figures, what they mean, and what the budget says of them.

use super::gateway::Scheme;

/// One line of the table.
pub(crate) struct Metric {
    pub(crate) key: &'static str,
    pub(crate) label: &'static str,
    pub(crate) unit: &'static str,
    /// Measured with the way there and back; what it takes without a gateway is subtracted.
    pub(crate) added: bool,
    /// Whether more is better.
    pub(crate) more: bool,
    /// As a ratio to nginx in the same run: over HTTP, and over HTTPS.
    pub(crate) budget: Option<(f64, f64)>,
}

/// Streams that are open at once while memory is measured.
pub(crate) const STREAMS: usize = 1000;

const fn less(key: &'static str, label: &'static str, unit: &'static str) -> Metric {
    Metric {
        key,
        label,
        unit,
        added: false,
        more: false,
        budget: None,
    }
}

const fn more(key: &'static str, label: &'static str, unit: &'static str) -> Metric {
    Metric {
        more: true,
        ..less(key, label, unit)
    }
}

const fn added(key: &'static str, label: &'static str, unit: &'static str) -> Metric {
    Metric {
        added: true,
        ..less(key, label, unit)
    }
}

const fn within(http: f64, https: f64, metric: Metric) -> Metric {
    Metric {
        budget: Some((http, https)),
        ..metric
    }
}

pub(crate) const METRICS: [Metric; 20] = [
    within(1.15, 0.95, added("p50", "added p50, one at a time", "µs")),
    added("p99", "added p99, one at a time", "µs"),
    within(1.15, 0.95, less("cpu", "CPU per request", "µs")),
    within(0.88, 1.0, more("rps", "requests a second, one core", "/s")),
    more("core", "its core's use meanwhile", ""),
    within(0.8, 0.8, added("ttfb", "added time to first byte", "µs")),
    within(
        1.0,
        1.0,
        added("chunk", "added delay of a lone event", "µs"),
    ),
    within(0.9, 0.9, more("burst", "burst of small events", "MB/s")),
    within(0.9, 0.9, more("bulk", "bulk stream, 16 KiB chunks", "MB/s")),
    less("event cpu", "CPU per event of a burst", "µs"),
    less("bulk cpu", "CPU per chunk of a bulk stream", "µs"),
    added("64k", "added by an upload of 64 KiB", "µs"),
    added("10m", "added by an upload of 10 MB", "ms"),
    within(0.6, 0.6, less("idle", "memory, idle", "MB")),
    within(1.15, 1.15, less("open", "memory, 1,000 streams open", "MB")),
    less("open 30k", "memory, 1,000 streams, requests of 30 KB", "MB"),
    more("held", "of 1,000 streams open at the upstream", ""),
    more("connections", "connections to the upstream for them", ""),
    within(0.6, 0.6, less("start", "first answer after start", "ms")),
    less("binary", "size of the binary", "MB"),
];

impl Metric {
    /// With the unit, if it has one.
    pub(crate) fn heading(&self) -> String {
        match self.unit {
            "" => self.label.into(),
            unit => format!("{}, {unit}", self.label),
        }
    }

    /// Whether a ratio to nginx is within the budget, if there is one.
    pub(crate) fn holds(&self, ratio: f64, scheme: Scheme) -> Option<bool> {
        let (http, https) = self.budget?;
        let limit = match scheme {
            Scheme::Http => http,
            Scheme::Https | Scheme::Http2 => https,
        };
        Some(if self.more {
            ratio >= limit
        } else {
            ratio <= limit
        })
    }

    /// The limit, as it is written.
    pub(crate) fn limit(&self, scheme: Scheme) -> Option<String> {
        let (http, https) = self.budget?;
        let limit = match scheme {
            Scheme::Http => http,
            Scheme::Https | Scheme::Http2 => https,
        };
        Some(format!("{} {limit}", if self.more { "≥" } else { "≤" }))
    }
}

//! The figures and their budget.

use super::gateway::{Kind, Scheme};

/// A figure, which is a line of the table.
pub(crate) struct Metric {
    pub(crate) key: &'static str,
    pub(crate) label: &'static str,
    pub(crate) unit: &'static str,
    /// The figure of an exchange without a gateway is subtracted.
    pub(crate) added: bool,
    /// Whether more is better.
    pub(crate) more: bool,
    /// All of these limits apply.
    pub(crate) budget: &'static [Limit],
}

/// A limit of a figure.
pub(crate) struct Limit {
    pub(crate) against: Yardstick,
    /// The limit with HTTP/1.1 towards the upstream, with and without TLS.
    http1: Option<f64>,
    http2: Option<f64>,
}

/// What pacegate's figure is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Yardstick {
    AxumReqwest,
    /// The bare hyper proxy with the same protocol towards the upstream.
    BareHyper,
    Nginx,
    /// No divisor.
    Nothing,
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
        budget: &[],
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

const fn within(budget: &'static [Limit], metric: Metric) -> Metric {
    Metric { budget, ..metric }
}

/// The same limit for all schemes.
const fn always(against: Yardstick, limit: f64) -> Limit {
    each(against, limit, limit)
}

const fn each(against: Yardstick, http1: f64, http2: f64) -> Limit {
    Limit {
        against,
        http1: Some(http1),
        http2: Some(http2),
    }
}

const fn over_http1(against: Yardstick, limit: f64) -> Limit {
    Limit {
        against,
        http1: Some(limit),
        http2: None,
    }
}

const fn over_http2(against: Yardstick, limit: f64) -> Limit {
    Limit {
        against,
        http1: None,
        http2: Some(limit),
    }
}

use Yardstick::{AxumReqwest, BareHyper, Nginx, Nothing};

pub(crate) const METRICS: [Metric; 20] = [
    within(
        &[each(BareHyper, 1.6, 1.4), over_http1(AxumReqwest, 0.95)],
        added("p50", "added p50, one at a time", "µs"),
    ),
    added("p99", "added p99, one at a time", "µs"),
    within(
        &[always(BareHyper, 1.5)],
        less("cpu", "CPU per request", "µs"),
    ),
    within(
        &[always(BareHyper, 0.67)],
        more("rps", "requests a second, one core", "/s"),
    ),
    more("core", "its core's use meanwhile", ""),
    within(
        &[over_http1(BareHyper, 1.7), over_http1(Nginx, 1.5)],
        added("ttfb", "added time to first byte", "µs"),
    ),
    within(
        &[over_http1(Nginx, 1.2)],
        added("chunk", "added delay of a lone event", "µs"),
    ),
    within(
        &[always(Nginx, 0.9)],
        more("burst", "burst of small events", "MB/s"),
    ),
    within(
        &[always(Nginx, 0.75)],
        more("bulk", "bulk stream, 16 KiB chunks", "MB/s"),
    ),
    less("event cpu", "CPU per event of a burst", "µs"),
    less("bulk cpu", "CPU per chunk of a bulk stream", "µs"),
    added("64k", "added by an upload of 64 KiB", "µs"),
    added("10m", "added by an upload of 10 MB", "ms"),
    within(&[always(Nothing, 10.0)], less("idle", "memory, idle", "MB")),
    within(
        &[always(BareHyper, 1.5)],
        less("open", "memory, 1,000 streams open", "MB"),
    ),
    within(
        &[always(BareHyper, 1.5)],
        less("open 30k", "memory, 1,000 streams, requests of 30 KB", "MB"),
    ),
    within(
        &[over_http2(Nothing, STREAMS as f64)],
        more("held", "of 1,000 streams open at the upstream", ""),
    ),
    within(
        &[over_http2(Nothing, 2.0)],
        more("connections", "connections to the upstream for them", ""),
    ),
    within(
        &[always(Nginx, 1.0)],
        less("start", "first answer after start", "ms"),
    ),
    within(
        &[always(Nothing, 11.0)],
        less("binary", "size of the binary", "MB"),
    ),
];

// === impl Metric ===

impl Metric {
    /// The label with the unit, if there is one.
    pub(crate) fn heading(&self) -> String {
        match self.unit {
            "" => self.label.into(),
            unit => format!("{}, {unit}", self.label),
        }
    }
}

// === impl Limit ===

impl Limit {
    /// The limit for `scheme`, if there is one.
    pub(crate) fn at(&self, scheme: Scheme) -> Option<f64> {
        match scheme {
            Scheme::Http | Scheme::Https => self.http1,
            Scheme::Http2 => self.http2,
        }
    }
}

// === impl Yardstick ===

impl Yardstick {
    /// The gateway whose figure is the divisor, if there is one.
    pub(crate) fn whose(self, scheme: Scheme) -> Option<Kind> {
        match (self, scheme) {
            (Self::AxumReqwest, _) => Some(Kind::AxumReqwest),
            (Self::BareHyper, Scheme::Http | Scheme::Https) => Some(Kind::HyperInline),
            (Self::BareHyper, Scheme::Http2) => Some(Kind::HyperHttp2),
            (Self::Nginx, _) => Some(Kind::Nginx),
            (Self::Nothing, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(key: &str, scheme: Scheme) -> Vec<(Yardstick, f64)> {
        let metric = METRICS.iter().find(|metric| metric.key == key).unwrap();
        let limits = metric.budget.iter();
        limits
            .filter_map(|limit| Some((limit.against, limit.at(scheme)?)))
            .collect()
    }

    #[test]
    fn a_lone_request_is_held_against_the_hyper_that_speaks_the_same_version() {
        assert_eq!(
            limits("p50", Scheme::Https),
            [(BareHyper, 1.6), (AxumReqwest, 0.95)]
        );
        assert_eq!(limits("p50", Scheme::Http2), [(BareHyper, 1.4)]);
        assert_eq!(BareHyper.whose(Scheme::Http), Some(Kind::HyperInline));
        assert_eq!(BareHyper.whose(Scheme::Http2), Some(Kind::HyperHttp2));
    }

    #[test]
    fn every_stream_over_http2_has_to_be_open_at_the_upstream() {
        assert_eq!(limits("held", Scheme::Http2), [(Nothing, 1000.0)]);
        assert_eq!(limits("held", Scheme::Https), []);
    }
}

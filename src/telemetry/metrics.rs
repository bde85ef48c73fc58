//! Metrics for operators: counters and gauges in the Prometheus text format.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use http::StatusCode;
use pacegate_layers::pacing::Gate;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType, counter::ConstCounter, counter::Counter, family::Family, gauge::ConstGauge,
        gauge::Gauge,
    },
    registry::Registry,
};

use crate::quotas::{QuotaLedger, QuotaUsage};

/// The metrics of the edge.
#[derive(Debug, Default)]
pub struct EdgeMetrics {
    /// Open client connections.
    pub connections: Gauge,
    /// Requests whose responses have not been sent to the end.
    pub in_flight: Gauge,
    responses: Family<ResponseLabels, Counter>,
    /// The counter for 200, to which nearly all responses belong.
    ok_responses: OnceLock<Counter>,
    /// Responses whose stream broke off after the headers.
    pub aborted: Counter,
}

/// The labels of the response counter.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResponseLabels {
    status: u16,
}

/// Reads the gates at every scrape.
#[derive(Debug)]
struct Gates(Vec<(UpstreamLabel, Gate)>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UpstreamLabel {
    upstream: String,
}

/// Reads the quota ledgers at every scrape.
#[derive(Debug)]
struct Quotas(Vec<(String, Arc<QuotaLedger>)>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct QuotaLabels {
    upstream: String,
    quota: String,
}

impl EdgeMetrics {
    /// Registers the families on `registry`, also on several registries.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "pacegate_connections",
            "Client connections that are open",
            self.connections.clone(),
        );
        registry.register(
            "pacegate_requests_in_flight",
            "Requests whose answers have not been sent to the end",
            self.in_flight.clone(),
        );
        registry.register(
            "pacegate_answers",
            "Answers begun, by status",
            self.responses.clone(),
        );
        registry.register(
            "pacegate_answers_aborted",
            "Answers whose stream broke off after the head",
            self.aborted.clone(),
        );
    }

    /// A response with `status` begins.
    pub fn count_response(&self, status: StatusCode) {
        let status = status.as_u16();
        let counter = || {
            self.responses
                .get_or_create(&ResponseLabels { status })
                .clone()
        };
        if status == StatusCode::OK.as_u16() {
            self.ok_responses.get_or_init(counter).inc();
        } else {
            counter().inc();
        }
    }
}

/// Registers the gates of the named upstreams on `registry`.
pub fn register_gates(registry: &mut Registry, gates: impl IntoIterator<Item = (String, Gate)>) {
    let gates = gates
        .into_iter()
        .map(|(upstream, gate)| (UpstreamLabel { upstream }, gate))
        .collect();
    registry.register_collector(Box::new(Gates(gates)));
}

/// Registers the quota ledgers of the named upstreams on `registry`.
pub fn register_quotas(
    registry: &mut Registry,
    ledgers: impl IntoIterator<Item = (String, Arc<QuotaLedger>)>,
) {
    registry.register_collector(Box::new(Quotas(ledgers.into_iter().collect())));
}

impl Gates {
    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        read: fn(&Gate) -> usize,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (label, gate) in &self.0 {
            let reading = i64::try_from(read(gate)).unwrap_or(i64::MAX);
            ConstGauge::new(reading).encode(metric.encode_family(label)?)?;
        }
        Ok(())
    }
}

impl Collector for Gates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.gauge(
            &mut encoder,
            "pacegate_queue_waiting",
            "Requests waiting for their turn",
            Gate::waiting,
        )?;
        self.gauge(
            &mut encoder,
            "pacegate_upstream_in_flight",
            "Requests dispatched whose response bodies have not ended",
            Gate::in_flight,
        )?;
        let mut metric = encoder.encode_descriptor(
            "pacegate_dispatches",
            "Requests let through to the upstream, retries included",
            None,
            MetricType::Counter,
        )?;
        for (label, gate) in &self.0 {
            ConstCounter::new(gate.dispatched()).encode(metric.encode_family(label)?)?;
        }
        Ok(())
    }
}

impl Quotas {
    fn gauge(
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        usage: &[(QuotaLabels, QuotaUsage)],
        read: fn(&QuotaUsage) -> usize,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, usage) in usage {
            let reading = i64::try_from(read(usage)).unwrap_or(i64::MAX);
            ConstGauge::new(reading).encode(metric.encode_family(labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Quotas {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut all = Vec::new();
        for (upstream, ledger) in &self.0 {
            all.extend(ledger.usage().into_iter().map(|usage| {
                let labels = QuotaLabels {
                    upstream: upstream.clone(),
                    quota: usage.quota.clone(),
                };
                (labels, usage)
            }));
        }
        Self::gauge(
            &mut encoder,
            "pacegate_quota_used",
            "Requests that count towards a quota now",
            &all,
            |usage| usage.used,
        )?;
        Self::gauge(
            &mut encoder,
            "pacegate_quota_limit",
            "Requests that a quota allows in its time",
            &all,
            |usage| usage.limit,
        )
    }
}

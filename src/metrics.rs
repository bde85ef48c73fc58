//! What an operator can watch: counts and gauges in the Prometheus text format.

use std::fmt;

use pacegate_layers::jitter_throttle::Gate;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType, counter::ConstCounter, counter::Counter, family::Family, gauge::ConstGauge,
        gauge::Gauge,
    },
    registry::Registry,
};

/// What the edge counts.
#[derive(Debug, Default)]
pub struct EdgeMetrics {
    /// Client connections that are open.
    pub connections: Gauge,
    /// Requests whose answers have not been sent to the end.
    pub in_flight: Gauge,
    /// Answers begun.
    pub answers: Family<AnswerLabels, Counter>,
    /// Answers whose stream broke off after the head.
    pub aborted: Counter,
}

/// What an answer is counted under.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct AnswerLabels {
    /// The status code.
    pub status: u16,
}

/// Reads the gates whenever somebody looks.
#[derive(Debug)]
struct Gates(Vec<(UpstreamLabel, Gate)>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UpstreamLabel {
    upstream: String,
}

impl EdgeMetrics {
    /// Registers the families on `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register(
            "pacegate_connections",
            "Client connections that are open",
            this.connections.clone(),
        );
        registry.register(
            "pacegate_requests_in_flight",
            "Requests whose answers have not been sent to the end",
            this.in_flight.clone(),
        );
        registry.register(
            "pacegate_answers",
            "Answers begun, by status",
            this.answers.clone(),
        );
        registry.register(
            "pacegate_answers_aborted",
            "Answers whose stream broke off after the head",
            this.aborted.clone(),
        );
        this
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

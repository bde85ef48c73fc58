//! All figures of a run, and what follows from them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    gateway::Scheme,
    machine::Foreign,
    measure::Figures,
    metric::{METRICS, Metric},
};

/// What the run was like.
#[derive(Serialize)]
pub(crate) struct Circumstances {
    pub(crate) command: String,
    pub(crate) machine: String,
    pub(crate) versions: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) streams: usize,
    pub(crate) load_before: f64,
    pub(crate) foreign: Foreign,
}

/// Figures by round.
#[derive(Default)]
pub(crate) struct Results {
    rounds: BTreeMap<(Scheme, String), Vec<Figures>>,
}

/// The middle of all rounds, and how far they lie apart.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    /// From the least to the most, as a share of the median.
    pub(crate) spread: f64,
}

pub(crate) const DIRECT: &str = "no gateway";
pub(crate) const YARDSTICK: &str = "nginx";
pub(crate) const OURS: &str = "pacegate";

/// More than this, in the figures of nginx or of the way without a gateway, and ratios mean little.
const CALM_SPREAD: f64 = 0.25;

/// More of the machine than this in other hands, likewise.
const CALM_SHARE: f64 = 0.05;

impl Results {
    pub(crate) fn add(&mut self, scheme: Scheme, gateway: &str, round: usize, figures: Figures) {
        let rounds = self.rounds.entry((scheme, gateway.to_owned())).or_default();
        if rounds.len() <= round {
            rounds.resize_with(round + 1, Figures::new);
        }
        rounds[round].extend(figures);
    }

    /// What is in the table: for `added` figures without the way itself, in the same round.
    pub(crate) fn figure(&self, scheme: Scheme, gateway: &str, metric: &Metric) -> Option<Figure> {
        self.summary(scheme, gateway, metric, metric.added)
    }

    /// What it takes without a gateway.
    pub(crate) fn way(&self, scheme: Scheme, metric: &Metric) -> Option<Figure> {
        self.summary(scheme, DIRECT, metric, false)
    }

    fn summary(
        &self,
        scheme: Scheme,
        gateway: &str,
        metric: &Metric,
        added: bool,
    ) -> Option<Figure> {
        let rounds = self.rounds.get(&(scheme, gateway.to_owned()))?;
        let direct = self.rounds.get(&(Scheme::Http, DIRECT.to_owned()));
        let mut values: Vec<f64> = rounds
            .iter()
            .enumerate()
            .filter_map(|(round, figures)| {
                let value = *figures.get(metric.key)?;
                let way = added.then(|| direct?.get(round)?.get(metric.key).copied());
                Some(value - way.flatten().unwrap_or(0.0))
            })
            .collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Some(Figure {
            median,
            spread: (most - least) / median.abs().max(f64::EPSILON),
        })
    }

    /// The median of what `gateway` is to nginx, round by round.
    pub(crate) fn ratio(&self, scheme: Scheme, gateway: &str, metric: &Metric) -> Option<f64> {
        let ours = self.figure(scheme, gateway, metric)?;
        let yardstick = self.figure(scheme, YARDSTICK, metric)?;
        Some(ours.median / yardstick.median)
    }

    pub(crate) fn gateways(&self, scheme: Scheme) -> Vec<&str> {
        let named = self.rounds.keys().filter(|(its, _)| *its == scheme);
        let mut names: Vec<&str> = named.map(|(_, name)| name.as_str()).collect();
        names.sort_by_key(|name| {
            ORDER
                .iter()
                .position(|known| known == name)
                .unwrap_or(ORDER.len())
        });
        names
    }

    /// Why the figures should not be trusted, if they should not.
    pub(crate) fn doubts(&self, circumstances: &Circumstances) -> Vec<String> {
        let mut doubts = Vec::new();
        let Foreign { busy, stolen } = circumstances.foreign;
        if busy > CALM_SHARE {
            let busy = busy * 100.0;
            doubts.push(format!("other programs took {busy:.0} % of the machine"));
        }
        if stolen > CALM_SHARE / 5.0 {
            let stolen = stolen * 100.0;
            doubts.push(format!("the host took {stolen:.0} % of the machine away"));
        }
        for scheme in [Scheme::Http, Scheme::Https] {
            for (name, key) in [(DIRECT, "p50"), (YARDSTICK, "p50"), (YARDSTICK, "cpu")] {
                let metric = METRICS.iter().find(|metric| metric.key == key);
                let figure = metric.and_then(|metric| self.summary(scheme, name, metric, false));
                if let Some(figure) = figure.filter(|figure| figure.spread > CALM_SPREAD) {
                    let spread = figure.spread * 100.0;
                    doubts.push(format!(
                        "{key} of {name} over {scheme:?} differs by {spread:.0} % between rounds"
                    ));
                }
            }
        }
        doubts
    }

    /// Lines of the budget that `pacegate` does not keep, and that it does.
    pub(crate) fn verdicts(&self, scheme: Scheme) -> Vec<(&'static Metric, f64, bool)> {
        METRICS
            .iter()
            .filter_map(|metric| {
                let ratio = self.ratio(scheme, OURS, metric)?;
                Some((metric, ratio, metric.holds(ratio, scheme)?))
            })
            .collect()
    }

    pub(crate) fn document(&self, circumstances: &Circumstances) -> serde_json::Value {
        let gateways: Vec<_> = self
            .rounds
            .iter()
            .map(|((scheme, name), rounds)| {
                let figures: BTreeMap<_, _> = METRICS
                    .iter()
                    .filter_map(|metric| {
                        let figure = self.figure(*scheme, name, metric)?;
                        let ratio = self.ratio(*scheme, name, metric);
                        let entry = serde_json::json!({
                            "label": metric.label, "unit": metric.unit, "median": figure.median,
                            "spread": figure.spread, "to_nginx": ratio,
                        });
                        Some((metric.key, entry))
                    })
                    .collect();
                serde_json::json!({ "scheme": scheme, "name": name, "figures": figures, "rounds": rounds })
            })
            .collect();
        serde_json::json!({
            "run": circumstances,
            "doubts": self.doubts(circumstances),
            "gateways": gateways,
        })
    }
}

const ORDER: [&str; 6] = [
    DIRECT,
    YARDSTICK,
    "haproxy",
    "bare hyper",
    "axum + reqwest",
    OURS,
];

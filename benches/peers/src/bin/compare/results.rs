//! All figures of a run, and what follows from them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    gateway::Scheme,
    machine::Foreign,
    measure::Figures,
    metric::{METRICS, Metric},
    middle::Middle,
    table::spelled,
};

/// What the run was like.
#[derive(Serialize)]
pub(crate) struct Circumstances {
    pub(crate) command: String,
    pub(crate) machine: String,
    pub(crate) versions: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) load_before: f64,
    pub(crate) foreign: Foreign,
}

/// The figures of each gateway, turn after turn. All gateways have the same turns, so that what
/// stands at one place was measured within a second or so.
#[derive(Default)]
pub(crate) struct Results {
    series: BTreeMap<(Scheme, String), Series>,
}

type Series = BTreeMap<&'static str, Vec<f64>>;

pub(crate) const DIRECT: &str = "no gateway";
pub(crate) const YARDSTICK: &str = "nginx";
pub(crate) const OURS: &str = "pacegate";

/// A ratio that is known no better than this says little.
const CALM_DOUBT: f64 = 0.1;

/// More of the machine than this in other hands, likewise.
const CALM_SHARE: f64 = 0.05;

impl Results {
    /// Notes what a turn has brought.
    pub(crate) fn add(&mut self, scheme: Scheme, gateway: &str, figures: Figures) {
        let series = self.series.entry((scheme, gateway.to_owned())).or_default();
        for (key, value) in figures {
            series.entry(key).or_default().push(value);
        }
    }

    /// What is in the table: for `added` figures without the way itself, in the same turn.
    pub(crate) fn figure(&self, scheme: Scheme, gateway: &str, metric: &Metric) -> Option<Middle> {
        Middle::of(self.values(scheme, gateway, metric)?)
    }

    /// What it takes without a gateway.
    pub(crate) fn way(&self, scheme: Scheme, metric: &Metric) -> Option<Middle> {
        Middle::of(self.series(scheme, DIRECT, metric)?.to_vec())
    }

    /// What `gateway` is to nginx, turn by turn: medians of figures that lie minutes apart would
    /// compare the machine with itself.
    pub(crate) fn ratio(&self, scheme: Scheme, gateway: &str, metric: &Metric) -> Option<Middle> {
        let theirs = self.values(scheme, YARDSTICK, metric)?;
        let ours = self.values(scheme, gateway, metric)?;
        Middle::of(
            ours.iter()
                .zip(&theirs)
                .map(|(our, their)| our / their)
                .collect(),
        )
    }

    fn values(&self, scheme: Scheme, gateway: &str, metric: &Metric) -> Option<Vec<f64>> {
        let all = self.series(scheme, gateway, metric)?;
        if !metric.added {
            return Some(all.to_vec());
        }
        let way = self.series(scheme, DIRECT, metric)?;
        Some(all.iter().zip(way).map(|(all, way)| all - way).collect())
    }

    fn series(&self, scheme: Scheme, gateway: &str, metric: &Metric) -> Option<&[f64]> {
        let series = self.series.get(&(scheme, gateway.to_owned()))?;
        series.get(metric.key).map(Vec::as_slice)
    }

    /// Those that stand beside each other.
    pub(crate) fn gateways(&self, scheme: Scheme) -> Vec<&'static str> {
        let measured = |name: &&str| self.series.contains_key(&(scheme, (*name).to_owned()));
        ORDER.into_iter().filter(measured).collect()
    }

    /// pacegate with its layers, and with fewer.
    pub(crate) fn pipelines(&self, scheme: Scheme) -> Vec<&str> {
        let named = self.series.keys().filter(|(its, _)| *its == scheme);
        let names = named.map(|(_, name)| name.as_str());
        names.filter(|name| name.starts_with(OURS)).collect()
    }

    /// Why the figures should not be trusted, if they should not.
    pub(crate) fn doubts(&self, circumstances: &Circumstances) -> Vec<String> {
        let mut doubts = Vec::new();
        if circumstances.rounds < 3 {
            doubts.push("fewer than three rounds do not say how well ratios are known".into());
        }
        let Foreign { busy, stolen } = circumstances.foreign;
        if busy > CALM_SHARE {
            let busy = busy * 100.0;
            doubts.push(format!("other programs took {busy:.0} % of the machine"));
        }
        if stolen > CALM_SHARE / 5.0 {
            let stolen = stolen * 100.0;
            doubts.push(format!("the host took {stolen:.0} % of the machine away"));
        }
        for scheme in Scheme::ALL {
            for (metric, ratio, _) in self.verdicts(scheme) {
                let Some(doubt) = ratio.doubt() else {
                    continue;
                };
                let doubt = doubt / ratio.median.abs();
                if doubt > CALM_DOUBT {
                    doubts.push(format!(
                        "{} over {}: {:.2} × {YARDSTICK} is known to ± {:.0} % only",
                        metric.label,
                        spelled(scheme),
                        ratio.median,
                        doubt * 100.0
                    ));
                }
            }
        }
        doubts
    }

    /// Lines of the budget that `pacegate` does not keep, and that it does.
    pub(crate) fn verdicts(&self, scheme: Scheme) -> Vec<(&'static Metric, Middle, bool)> {
        METRICS
            .iter()
            .filter_map(|metric| {
                let ratio = self.ratio(scheme, OURS, metric)?;
                Some((metric, ratio, metric.holds(ratio.median, scheme)?))
            })
            .collect()
    }

    pub(crate) fn document(&self, circumstances: &Circumstances) -> serde_json::Value {
        let gateways: Vec<_> = self
            .series
            .iter()
            .map(|((scheme, name), series)| {
                let figures: BTreeMap<_, _> = METRICS
                    .iter()
                    .filter_map(|metric| {
                        let figure = self.figure(*scheme, name, metric)?;
                        let ratio = self.ratio(*scheme, name, metric);
                        let entry = serde_json::json!({
                            "label": metric.label, "unit": metric.unit, "figure": figure, "to_nginx": ratio,
                        });
                        Some((metric.key, entry))
                    })
                    .collect();
                serde_json::json!({ "scheme": scheme, "name": name, "figures": figures, "turns": series })
            })
            .collect();
        serde_json::json!({
            "run": circumstances,
            "doubts": self.doubts(circumstances),
            "gateways": gateways,
        })
    }
}

const ORDER: [&str; 8] = [
    DIRECT,
    YARDSTICK,
    "haproxy",
    "bare hyper, pooled",
    "bare hyper, inline",
    "bare hyper, HTTP/2",
    "axum + reqwest",
    OURS,
];

//! All figures of a run, and their medians and ratios.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    gateway::{Kind, Scheme},
    judge::Judgement,
    machine::OtherPrograms,
    measure::Figures,
    metric::{METRICS, Metric, Yardstick},
    quartiles::Quartiles,
};

/// The circumstances of a run.
#[derive(Serialize)]
pub(crate) struct Circumstances {
    pub(crate) command: String,
    pub(crate) machine: String,
    pub(crate) versions: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) load_before: f64,
    pub(crate) foreign: OtherPrograms,
}

/// The figures of each gateway, by turn. All gateways have the same turns, so that figures at one index
/// were measured within about a second.
#[derive(Default)]
pub(crate) struct Results {
    series: BTreeMap<(Scheme, String), Series>,
}

type Series = BTreeMap<&'static str, Vec<f64>>;

pub(crate) const DIRECT: &str = "no gateway";
pub(crate) const OURS: &str = "pacegate";

/// If other programs use more of the machine, the figures are not reliable.
const CALM_SHARE: f64 = 0.05;

impl Results {
    /// Adds the figures of a turn.
    pub(crate) fn add(&mut self, scheme: Scheme, gateway: &str, figures: Figures) {
        let series = self.series.entry((scheme, gateway.to_owned())).or_default();
        for (key, value) in figures {
            series.entry(key).or_default().push(value);
        }
    }

    /// The figure of the table: `added` figures minus those without a gateway, in the same turn.
    pub(crate) fn figure(
        &self,
        scheme: Scheme,
        gateway: &str,
        metric: &Metric,
    ) -> Option<Quartiles> {
        Quartiles::of(self.values(scheme, gateway, metric)?)
    }

    /// The figure without a gateway.
    pub(crate) fn way(&self, scheme: Scheme, metric: &Metric) -> Option<Quartiles> {
        Quartiles::of(self.series(scheme, DIRECT, metric)?.to_vec())
    }

    /// The ratio of `gateway` to `yardstick`, turn by turn: figures that are minutes apart would differ
    /// by the machine's own changes.
    pub(crate) fn ratio(
        &self,
        scheme: Scheme,
        gateway: &str,
        metric: &Metric,
        yardstick: &str,
    ) -> Option<Quartiles> {
        let theirs = self.values(scheme, yardstick, metric)?;
        let ours = self.values(scheme, gateway, metric)?;
        Quartiles::of(
            ours.iter()
                .zip(&theirs)
                .map(|(our, their)| our / their)
                .collect(),
        )
    }

    /// The figure called `key`.
    pub(crate) fn median(&self, scheme: Scheme, gateway: &str, key: &str) -> Option<f64> {
        let metric = METRICS.iter().find(|metric| metric.key == key)?;
        Some(self.figure(scheme, gateway, metric)?.median)
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

    /// The gateways of the table.
    pub(crate) fn gateways(&self, scheme: Scheme) -> Vec<String> {
        let names = Kind::main_ones(scheme).into_iter().map(|kind| kind.name());
        names
            .filter(|name| self.series.contains_key(&(scheme, name.clone())))
            .collect()
    }

    /// pacegate with its layers, and with fewer.
    pub(crate) fn pipelines(&self, scheme: Scheme) -> Vec<String> {
        let named = self.series.keys().filter(|(its, _)| *its == scheme);
        let names = named.map(|(_, name)| name.clone());
        names.filter(|name| name.starts_with(OURS)).collect()
    }

    /// Why all figures are unreliable, if they are.
    pub(crate) fn doubts(&self, circumstances: &Circumstances) -> Vec<String> {
        let mut doubts = Vec::new();
        if circumstances.rounds < 3 {
            doubts.push("fewer than three rounds do not say how well ratios are known".into());
        }
        let OtherPrograms { busy, stolen } = circumstances.foreign;
        if busy > CALM_SHARE {
            let busy = busy * 100.0;
            doubts.push(format!("other programs took {busy:.0} % of the machine"));
        }
        if stolen > CALM_SHARE / 5.0 {
            let stolen = stolen * 100.0;
            doubts.push(format!("the host took {stolen:.0} % of the machine away"));
        }
        doubts
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
                        let to = |against: Yardstick| {
                            let yardstick = against.whose(*scheme)?;
                            self.ratio(*scheme, name, metric, &yardstick.name())
                        };
                        let entry = serde_json::json!({
                            "label": metric.label, "unit": metric.unit, "figure": figure,
                            "to_bare_hyper": to(Yardstick::BareHyper), "to_nginx": to(Yardstick::Nginx),
                        });
                        Some((metric.key, entry))
                    })
                    .collect();
                serde_json::json!({ "scheme": scheme, "name": name, "figures": figures, "turns": series })
            })
            .collect();
        let budget: Vec<_> = Scheme::ALL
            .into_iter()
            .flat_map(|scheme| {
                let judgements = Judgement::all(self, scheme).into_iter();
                judgements.map(move |judgement| judgement.document(scheme))
            })
            .collect();
        serde_json::json!({
            "run": circumstances,
            "doubts": self.doubts(circumstances),
            "budget": budget,
            "gateways": gateways,
        })
    }
}

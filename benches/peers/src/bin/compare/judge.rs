//! Checks the figures of a run against the budget.
//!
//! A figure over its budget does not fail the run: it is printed with its distance. A figure that was
//! not measured well enough is marked, whether it is over or not.

use serde_json::json;

use super::{
    gateway::Scheme,
    metric::{Limit, METRICS, Metric, STREAMS},
    quartiles::Quartiles,
    results::{OURS, Results},
    table::{known, number},
};

/// A limit, and the figure that it is compared with.
pub(crate) struct Judgement {
    pub(crate) metric: &'static Metric,
    /// The gateway whose figure is the divisor, if there is one.
    yardstick: Option<String>,
    limit: f64,
    value: Quartiles,
    /// Why the figure is not reliable, if it is not.
    pub(crate) doubt: Option<String>,
}

/// A ratio with a larger relative error is not reliable.
const CALM_DOUBT: f64 = 0.1;

/// A gateway whose core was less busy did not limit the rate of requests.
const BUSY: f64 = 0.9;

// === impl Judgement ===

impl Judgement {
    /// All limits for `scheme`.
    pub(crate) fn all(results: &Results, scheme: Scheme) -> Vec<Self> {
        let limits = METRICS
            .iter()
            .flat_map(|metric| metric.budget.iter().map(move |limit| (metric, limit)));
        limits
            .filter_map(|(metric, limit)| Self::of(results, scheme, metric, limit))
            .collect()
    }

    fn of(
        results: &Results,
        scheme: Scheme,
        metric: &'static Metric,
        limit: &'static Limit,
    ) -> Option<Self> {
        let yardstick = limit.against.whose(scheme).map(|kind| kind.name());
        let value = match &yardstick {
            Some(yardstick) => results.ratio(scheme, OURS, metric, yardstick),
            None => results.figure(scheme, OURS, metric),
        }?;
        let compared = [Some(OURS), yardstick.as_deref()];
        let compared: Vec<_> = compared.into_iter().flatten().collect();
        let doubt =
            unlike(results, scheme, metric, &compared).or_else(|| badly_known(metric, value));
        Some(Self {
            metric,
            yardstick,
            limit: limit.at(scheme)?,
            value,
            doubt,
        })
    }

    /// The factor by which the figure is over its limit, if it is.
    pub(crate) fn over(&self) -> Option<f64> {
        let factor = if self.metric.more {
            self.limit / self.value.median
        } else {
            self.value.median / self.limit
        };
        (factor > 1.0).then_some(factor)
    }

    /// The limit without its unit: `≤ 1.6`.
    pub(crate) fn bound(&self) -> String {
        let sign = if self.metric.more { "≥" } else { "≤" };
        format!("{sign} {}", self.limit)
    }

    /// The limit with its unit: `≤ 1.6 × nginx`, `≤ 10 MB`.
    pub(crate) fn limit(&self) -> String {
        self.bound() + &self.unit()
    }

    /// The figure with its unit, and with its error if it is a ratio.
    pub(crate) fn value(&self) -> String {
        let value = match self.yardstick {
            Some(_) => known(self.value),
            None => number(self.value.median),
        };
        value + &self.unit()
    }

    /// Whether the limit is met, and if not, the distance.
    pub(crate) fn verdict(&self) -> String {
        match self.over() {
            None => "ok".into(),
            Some(f64::INFINITY) => "over: there was none".into(),
            Some(factor) => format!("over by {factor:.2} ×"),
        }
    }

    fn unit(&self) -> String {
        match (&self.yardstick, self.metric.unit) {
            (Some(yardstick), _) => format!(" × {yardstick}"),
            (None, "") => String::new(),
            (None, unit) => format!(" {unit}"),
        }
    }

    /// The JSON for `compare.json`.
    pub(crate) fn document(&self, scheme: Scheme) -> serde_json::Value {
        json!({
            "scheme": scheme,
            "metric": self.metric.key,
            "against": self.yardstick,
            "limit": self.limit,
            "value": self.value,
            "kept": self.over().is_none(),
            "over": self.over(),
            "doubt": self.doubt,
        })
    }
}

/// Why the figures of `compared` are not comparable, if they are not.
fn unlike(results: &Results, scheme: Scheme, metric: &Metric, compared: &[&str]) -> Option<String> {
    let least = |key: &str, enough: f64| {
        compared.iter().find_map(|name| {
            let figure = results.median(scheme, name, key)?;
            (figure < enough).then_some((*name, figure))
        })
    };
    match metric.key {
        "open" | "open 30k" => least("held", STREAMS as f64).map(|(name, open)| {
            format!("{name} had {open:.0} of {STREAMS} streams open at the upstream")
        }),
        "rps" => least("core", BUSY).map(|(name, use_)| {
            let share = use_ * 100.0;
            format!("the core of {name} was busy for {share:.0} % of the time only")
        }),
        _ => None,
    }
}

/// Why a value is not reliable, if it is not.
fn badly_known(metric: &Metric, value: Quartiles) -> Option<String> {
    // The added time may be less than the noise of the exchange itself.
    if metric.added && value.median <= 0.0 {
        return Some("what is added was not more than nothing".into());
    }
    let Some(doubt) = value.doubt() else {
        return Some("it was measured fewer than three times".into());
    };
    let doubt = doubt / value.median;
    (doubt > CALM_DOUBT).then(|| format!("it is known to ± {:.0} % only", doubt * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{gateway::Kind, measure::Figures};

    /// Turns in which pacegate and a yardstick had these figures.
    fn run(scheme: Scheme, turns: &[(Kind, Figures)]) -> Results {
        let mut results = Results::default();
        for _ in 0..5 {
            for (kind, figures) in turns {
                results.add(scheme, &kind.name(), figures.clone());
            }
        }
        results
    }

    /// The judgement of `key` against `yardstick`.
    fn judged(results: &Results, scheme: Scheme, key: &str, yardstick: Option<Kind>) -> Judgement {
        let yardstick = yardstick.map(|kind| kind.name());
        Judgement::all(results, scheme)
            .into_iter()
            .find(|judgement| judgement.metric.key == key && judgement.yardstick == yardstick)
            .unwrap()
    }

    #[test]
    fn what_costs_more_than_its_limit_is_over_by_the_factor_between_them() {
        let results = run(
            Scheme::Http,
            &[
                (Kind::HyperInline, Figures::from([("cpu", 10.0)])),
                (Kind::pacegate(), Figures::from([("cpu", 18.0)])),
            ],
        );
        let cpu = judged(&results, Scheme::Http, "cpu", Some(Kind::HyperInline));
        assert_eq!(cpu.value(), "1.80 ± 0.00 × bare hyper, inline");
        assert_eq!(cpu.limit(), "≤ 1.5 × bare hyper, inline");
        assert_eq!(cpu.verdict(), "over by 1.20 ×");
        assert_eq!(cpu.doubt, None);
    }

    #[test]
    fn what_does_less_than_its_limit_is_over_by_the_factor_between_them_too() {
        let results = run(
            Scheme::Http2,
            &[
                (
                    Kind::Nginx,
                    Figures::from([("burst", 200.0), ("bulk", 100.0)]),
                ),
                (
                    Kind::pacegate(),
                    Figures::from([("burst", 90.0), ("bulk", 80.0)]),
                ),
            ],
        );
        let burst = judged(&results, Scheme::Http2, "burst", Some(Kind::Nginx));
        assert_eq!(burst.verdict(), "over by 2.00 ×");
        let bulk = judged(&results, Scheme::Http2, "bulk", Some(Kind::Nginx));
        assert_eq!(bulk.verdict(), "ok");
    }

    #[test]
    fn a_stream_that_breaks_each_time_is_over_budget() {
        let bulk = |speed: f64, cpu: f64| Figures::from([("bulk", speed), ("bulk cpu", cpu)]);
        let results = run(
            Scheme::Http2,
            &[
                (Kind::Nginx, bulk(100.0, 1.0)),
                (Kind::pacegate(), bulk(0.0, f64::NAN)),
            ],
        );
        let bulk = judged(&results, Scheme::Http2, "bulk", Some(Kind::Nginx));
        assert_eq!(
            (bulk.verdict(), bulk.doubt),
            ("over: there was none".into(), None)
        );
        assert_eq!(results.median(Scheme::Http2, OURS, "bulk cpu"), None);
    }

    #[test]
    fn what_a_gateway_adds_is_compared_without_the_way_itself() {
        let turn = |added: f64| Figures::from([("p50", 20.0 + added)]);
        let results = run(
            Scheme::Http2,
            &[
                (Kind::Direct, turn(0.0)),
                (Kind::HyperHttp2, turn(100.0)),
                (Kind::pacegate(), turn(150.0)),
            ],
        );
        let p50 = judged(&results, Scheme::Http2, "p50", Some(Kind::HyperHttp2));
        assert_eq!(p50.verdict(), "over by 1.07 ×");
    }

    #[test]
    fn a_size_is_held_against_its_limit_as_it_is() {
        let figures = Figures::from([("idle", 11.0)]);
        let results = run(Scheme::Https, &[(Kind::pacegate(), figures)]);
        let idle = judged(&results, Scheme::Https, "idle", None);
        assert_eq!(
            (idle.limit(), idle.value()),
            ("≤ 10 MB".into(), "11.0 MB".into())
        );
        assert_eq!(idle.verdict(), "over by 1.10 ×");
    }

    #[test]
    fn streams_that_wait_unseen_are_over_budget_and_make_the_memory_doubtful() {
        let streams = |open: f64| Figures::from([("held", open), ("open", 20.0)]);
        let results = run(
            Scheme::Http2,
            &[
                (Kind::HyperHttp2, streams(1000.0)),
                (Kind::pacegate(), streams(128.0)),
            ],
        );
        let held = judged(&results, Scheme::Http2, "held", None);
        assert_eq!(held.verdict(), "over by 7.81 ×");
        let open = judged(&results, Scheme::Http2, "open", Some(Kind::HyperHttp2));
        assert_eq!(
            open.doubt.as_deref(),
            Some("pacegate had 128 of 1000 streams open at the upstream")
        );
    }

    #[test]
    fn a_rate_that_the_load_decided_is_not_to_be_trusted() {
        let crowd = |core: f64| Figures::from([("rps", 40_000.0), ("core", core)]);
        let results = run(
            Scheme::Http,
            &[
                (Kind::HyperInline, crowd(0.7)),
                (Kind::pacegate(), crowd(0.99)),
            ],
        );
        let rps = judged(&results, Scheme::Http, "rps", Some(Kind::HyperInline));
        assert_eq!(
            rps.doubt.as_deref(),
            Some("the core of bare hyper, inline was busy for 70 % of the time only")
        );
    }

    #[test]
    fn what_is_badly_known_says_so_however_it_came_out() {
        let mut results = Results::default();
        for (ours, theirs) in [(10.0, 10.0), (15.0, 10.0), (5.0, 10.0), (9.0, 10.0)] {
            let bulk = |bulk| Figures::from([("bulk", bulk)]);
            results.add(Scheme::Http, "pacegate", bulk(ours));
            results.add(Scheme::Http, "nginx", bulk(theirs));
        }
        let bulk = judged(&results, Scheme::Http, "bulk", Some(Kind::Nginx));
        assert_eq!(bulk.verdict(), "ok");
        assert_eq!(bulk.doubt.as_deref(), Some("it is known to ± 27 % only"));
        let once = |added: f64| {
            let mut results = Results::default();
            for (name, p50) in [("no gateway", 20.0), ("bare hyper, inline", 20.0 - added)] {
                results.add(Scheme::Http, name, Figures::from([("p50", p50)]));
            }
            results.add(Scheme::Http, "pacegate", Figures::from([("p50", 50.0)]));
            let p50 = judged(&results, Scheme::Http, "p50", Some(Kind::HyperInline));
            p50.doubt.unwrap_or_default()
        };
        assert_eq!(once(1.0), "what is added was not more than nothing");
        assert_eq!(once(-1.0), "it was measured fewer than three times");
    }
}

//! The pipelines of a whole config, and which of their parts a reload keeps.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Weak},
};

use pacegate_layers::pacing::{Gate, WeakGate};
use tokio_util::task::TaskTracker;

use super::{
    AssembleError, Pipeline,
    assemble::{Reused, assemble_with},
    gate_pacing, ledgers,
};
use crate::{
    config::{Config, LayerName, Upstream},
    quotas::QuotaLedger,
};

/// All upstreams and their pipelines.
#[derive(Debug)]
pub struct UpstreamSet {
    entries: Vec<Entry>,
    /// The accounts in use, also by requests from before a reload: two gates would each keep the
    /// pace, and two ledgers on one file would both spend the remainder.
    accounts: HashMap<String, Account>,
    state_dir: Option<PathBuf>,
    tasks: TaskTracker,
}

/// What belongs to an account, whatever its settings.
#[derive(Clone, Debug)]
struct Account {
    gate: Option<WeakGate>,
    ledger: Option<Weak<QuotaLedger>>,
}

#[derive(Clone, Debug)]
struct Entry {
    upstream: Upstream,
    pipeline: Pipeline,
}

/// How many pipelines a reload has kept and built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Unchanged upstreams.
    pub kept: usize,
    /// New upstreams, and those with other settings.
    pub built: usize,
}

// === impl UpstreamSet ===

impl UpstreamSet {
    /// Builds the pipelines of all upstreams of `config`, as [`assemble`](super::assemble) does.
    ///
    /// # Errors
    ///
    /// The first upstream that cannot be built.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(config: &Config, tasks: TaskTracker) -> Result<Self, AssembleError> {
        let empty = Self {
            entries: Vec::new(),
            accounts: HashMap::new(),
            state_dir: config.state_dir.clone(),
            tasks,
        };
        Ok(empty.reload(&config.upstreams)?.0)
    }

    /// The set for `upstreams`. An unchanged upstream keeps its pipeline: gate, connections,
    /// credentials. A changed upstream keeps its gate, with its queue and what is in flight, its
    /// quota ledger and its retry budget, and these take on the new settings. With other
    /// credentials the gate forgets what the upstream has refused.
    ///
    /// # Errors
    ///
    /// The first upstream that cannot be built; then nothing has changed.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn reload(&self, upstreams: &[Upstream]) -> Result<(Self, Changes), AssembleError> {
        let mut changes = Changes { kept: 0, built: 0 };
        let mut entries = Vec::new();
        for upstream in upstreams {
            let old = self.entry(&upstream.name);
            entries.push(match old.filter(|old| old.upstream == *upstream) {
                Some(same) => {
                    changes.kept += 1;
                    same.clone()
                }
                None => {
                    changes.built += 1;
                    self.build(upstream, old)?
                }
            });
        }
        // Last, because requests of the old upstream use the same gate and ledger.
        for entry in &entries {
            entry.update_quotas()?;
        }
        for entry in &entries {
            entry.update_account(self.entry(&entry.upstream.name))?;
        }
        let mut accounts = self.accounts.clone();
        accounts.retain(|_, account| account.is_used());
        for entry in &entries {
            entry.add_to(&mut accounts);
        }
        let upstreams = Self {
            entries,
            accounts,
            state_dir: self.state_dir.clone(),
            tasks: self.tasks.clone(),
        };
        Ok((upstreams, changes))
    }

    /// The pipelines, in the order of the config.
    pub fn pipelines(&self) -> Vec<Pipeline> {
        self.entries.iter().map(|it| it.pipeline.clone()).collect()
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|it| it.upstream.name == name)
    }

    fn build(&self, upstream: &Upstream, old: Option<&Entry>) -> Result<Entry, AssembleError> {
        let account = self.accounts.get(&upstream.name);
        let throttled = upstream.pipeline.contains(&LayerName::JitterThrottle);
        let gate = account.and_then(Account::gate);
        let reused = Reused {
            ledger: account.and_then(Account::ledger),
            gate: gate.filter(|_| throttled),
            retry_budget: old.map(|old| old.pipeline.retry_budget.clone()),
        };
        Ok(Entry {
            upstream: upstream.clone(),
            pipeline: assemble_with(upstream, reused, self.state_dir.as_deref(), &self.tasks)?,
        })
    }
}

// === impl Account ===

impl Account {
    fn gate(&self) -> Option<Gate> {
        self.gate.as_ref()?.upgrade()
    }

    fn ledger(&self) -> Option<Arc<QuotaLedger>> {
        self.ledger.as_ref()?.upgrade()
    }

    fn is_used(&self) -> bool {
        self.gate().is_some() || self.ledger().is_some()
    }
}

// === impl Entry ===

impl Entry {
    /// Remembers gate and ledger; one that is no longer used stays while old requests use it.
    fn add_to(&self, accounts: &mut HashMap<String, Account>) {
        let account = accounts
            .entry(self.upstream.name.clone())
            .or_insert(Account {
                gate: None,
                ledger: None,
            });
        if let Some(gate) = &self.pipeline.gate {
            account.gate = Some(gate.downgrade());
        }
        if let Some(ledger) = &self.pipeline.quotas {
            account.ledger = Some(Arc::downgrade(ledger));
        }
    }

    /// Gives the settings to the gate and the retry budget, which `old` may have had, too.
    fn update_account(&self, old: Option<&Self>) -> Result<(), AssembleError> {
        let budget = self.upstream.retry_on_429.budget;
        self.pipeline.retry_budget.set_fraction(budget);
        let Some(gate) = &self.pipeline.gate else {
            return Ok(());
        };
        let pacing = gate_pacing(&self.upstream)
            .map_err(|error| AssembleError::of_pacing(&self.upstream.name, error))?;
        if let Some(pacing) = pacing {
            gate.configure(pacing, ledgers(self.pipeline.quotas.as_ref()));
        }
        if old.is_some_and(|old| old.upstream.credentials != self.upstream.credentials) {
            gate.forget_refusals();
        }
        Ok(())
    }

    fn update_quotas(&self) -> Result<(), AssembleError> {
        let Some(ledger) = &self.pipeline.quotas else {
            return Ok(());
        };
        ledger
            .set_quotas(&self.upstream.jitter_throttle.quotas)
            .map_err(|error| AssembleError::of_quotas(&self.upstream.name, error.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use pacegate_layers::pacing::Feedback as _;
    use tokio::{
        task::JoinSet,
        time::{Instant, advance},
    };

    use super::*;
    use crate::config::{self, ConfigSource, Sample};

    /// Upstreams by name, each with its TOML.
    fn config(folder: &Path, upstreams: &[(&str, &str)]) -> Config {
        let text: String = upstreams
            .iter()
            .map(|(name, more)| {
                format!(
                    "[[upstream]]\nname = \"{name}\"\npreset = \"local\"\n\
                     base-url = \"http://127.0.0.1:1/v1\"\n{more}\n"
                )
            })
            .collect();
        let file = folder.join("pacegate.toml");
        std::fs::write(&file, format!("state-dir = \"state\"\n{text}")).unwrap();
        config::sample(&Sample::File(file), &|_| None).unwrap()
    }

    fn throttle(requests: usize, max_queue: usize) -> String {
        format!(
            "jitter-throttle = {{ quotas = [{{ requests = {requests}, per = \"5h\" }}], \
             max-queue = {max_queue} }}"
        )
    }

    fn record(pipeline: &Pipeline) {
        use pacegate_layers::pacing::{Fraction, Ledger as _};
        let quotas = pipeline.quotas.as_ref().unwrap();
        let _decision = quotas.claim(Fraction::WHOLE);
        quotas.left();
    }

    fn usage(pipeline: &Pipeline) -> (usize, usize) {
        let usage = pipeline.quotas.as_ref().unwrap().usage();
        (usage[0].used, usage[0].limit)
    }

    /// Whether a permit of the first pipeline's gate is in flight at the second's.
    async fn share_a_gate(one: &Pipeline, two: &Pipeline) -> bool {
        let [one, two] = [one, two].map(|it| it.gate.as_ref().unwrap());
        let before = two.in_flight();
        let _permit = one.acquire(None).await.unwrap();
        two.in_flight() > before
    }

    #[tokio::test(start_paused = true)]
    async fn unchanged_upstreams_are_kept_and_the_others_built() {
        let folder = tempfile::tempdir().unwrap();
        let slow = "head-timeout = \"7s\"";
        let before = config(folder.path(), &[("a", ""), ("b", ""), ("c", "")]);
        let paced = throttle(9, 9);
        let after = config(
            folder.path(),
            &[("c", &paced), ("b", slow), ("a", ""), ("d", "")],
        );
        let old = UpstreamSet::start(&before, TaskTracker::new()).unwrap();
        let (new, changes) = old.reload(&after.upstreams).unwrap();
        assert_eq!(changes, Changes { kept: 1, built: 3 });
        let (old, new) = (old.pipelines(), new.pipelines());
        let [a, b, c] = [&old[0], &old[1], &old[2]];
        assert!(share_a_gate(a, &new[2]).await, "a is as it was");
        assert!(
            share_a_gate(b, &new[1]).await,
            "b has the same pace and account"
        );
        assert!(
            share_a_gate(c, &new[0]).await,
            "c is paced otherwise, but is one account"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_changes_the_pace_of_the_gate_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let paced = |interval: &str| {
            let text = format!(
                "jitter-throttle = {{ min-interval = \"{interval}\", jitter = \"0s..0s\" }}"
            );
            config(folder.path(), &[("a", &text)])
        };
        let first = UpstreamSet::start(&paced("60s"), TaskTracker::new()).unwrap();
        let old = first.pipelines().remove(0).gate.unwrap();
        let start = Instant::now();
        drop(old.acquire(None).await.unwrap());
        let mut waiting = JoinSet::new();
        let turn = old.acquire(None);
        waiting.spawn(async move {
            drop(turn.await.unwrap());
            Instant::now()
        });
        advance(Duration::from_secs(1)).await;
        let (second, _) = first.reload(&paced("5s").upstreams).unwrap();
        let left = waiting.join_next().await.unwrap().unwrap();
        assert_eq!(
            left - start,
            Duration::from_secs(5),
            "it waited at the old pace"
        );
        let new = second.pipelines().remove(0).gate.unwrap();
        drop(new.acquire(None).await.unwrap());
        assert_eq!(start.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_go_with_the_key_and_the_gate_stays() {
        let folder = tempfile::tempdir().unwrap();
        let load = |key: &str, path: &str| {
            let file = folder.path().join("keys.toml");
            let text = format!(
                "[[upstream]]\nname = \"a\"\npreset = \"openai\"\n\
                 base-url = \"http://127.0.0.1:1/{path}\"\n\
                 credentials = {{ kind = \"api-key\", key = {{ env = \"{key}\" }} }}\n"
            );
            std::fs::write(&file, text).unwrap();
            let variable =
                |name: &str| ["ONE", "TWO"].contains(&name).then(|| format!("sk-{name}"));
            let source = ConfigSource {
                config: Some(file),
                ..ConfigSource::new(&variable)
            };
            config::load(&source).unwrap().config
        };
        let first = UpstreamSet::start(&load("ONE", "v1"), TaskTracker::new()).unwrap();
        let gate = first.pipelines().remove(0).gate.unwrap();
        gate.exhausted(Instant::now() + Duration::from_secs(3600));
        let (moved, _) = first.reload(&load("ONE", "v2").upstreams).unwrap();
        let long = Duration::from_secs(3000);
        assert!(gate.estimate() > long, "another URL, the same key");
        let (_other, _) = moved.reload(&load("TWO", "v2").upstreams).unwrap();
        assert!(gate.estimate() < long, "another key");
    }

    #[tokio::test]
    async fn a_changed_upstream_shares_the_ledger_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let upstreams = |text: &str| config(folder.path(), &[("a", text)]);
        let first = UpstreamSet::start(&upstreams(&throttle(5, 1)), TaskTracker::new()).unwrap();
        let old = first.pipelines().remove(0);
        record(&old);
        let (second, _) = first.reload(&upstreams(&throttle(7, 2)).upstreams).unwrap();
        let new = second.pipelines().remove(0);
        // A request from before the reload leaves after it.
        record(&old);
        assert_eq!(usage(&new), (2, 7));
        assert_eq!(usage(&old), (2, 7));
    }

    #[tokio::test]
    async fn quotas_removed_and_restored_reuse_their_lock() {
        let folder = tempfile::tempdir().unwrap();
        let upstreams = |text: &str| config(folder.path(), &[("a", text)]);
        let first = UpstreamSet::start(&upstreams(&throttle(5, 1)), TaskTracker::new()).unwrap();
        let old = first.pipelines().remove(0);
        record(&old);
        let (without, _) = first.reload(&upstreams("").upstreams).unwrap();
        drop(first);
        assert!(without.pipelines()[0].quotas.is_none());
        let (again, _) = without
            .reload(&upstreams(&throttle(5, 1)).upstreams)
            .unwrap();
        assert_eq!(
            usage(&again.pipelines()[0]),
            (1, 5),
            "the old one is still alive"
        );
        drop((old, again));
        let (again, _) = without
            .reload(&upstreams(&throttle(5, 1)).upstreams)
            .unwrap();
        assert_eq!(usage(&again.pipelines()[0]), (1, 5), "read from the file");
    }
}

//! The pipelines of a whole config, and which of their parts a reload keeps.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Weak},
};

use tokio_util::task::TaskTracker;

use super::{
    AssembleError, Pipeline,
    assemble::{Reused, assemble_with},
};
use crate::{
    config::{Config, LayerName, Upstream},
    quotas::QuotaLedger,
};

/// All upstreams and their pipelines.
#[derive(Debug)]
pub struct UpstreamSet {
    entries: Vec<Entry>,
    /// Every quota ledger in use, also by requests from before a reload: two ledgers on one file
    /// would both spend the remainder.
    ledgers: HashMap<String, Weak<QuotaLedger>>,
    state_dir: Option<PathBuf>,
    tasks: TaskTracker,
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
            ledgers: HashMap::new(),
            state_dir: config.state_dir.clone(),
            tasks,
        };
        Ok(empty.reload(&config.upstreams)?.0)
    }

    /// The set for `upstreams`. An unchanged upstream keeps its pipeline: gate, connections,
    /// credentials. A changed upstream keeps its quota ledger. It keeps its gate, too, with its
    /// queue, if pacing, base URL and credentials are unchanged.
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
        // Last, because requests of the old upstream are counted in the same ledger.
        for entry in &entries {
            entry.update_quotas()?;
        }
        let mut ledgers = self.ledgers.clone();
        ledgers.retain(|_, ledger| ledger.strong_count() > 0);
        ledgers.extend(entries.iter().filter_map(Entry::ledger));
        let upstreams = Self {
            entries,
            ledgers,
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
        let reused = Reused {
            ledger: self.ledgers.get(&upstream.name).and_then(Weak::upgrade),
            gate: old
                .filter(|old| may_share_gate(&old.upstream, upstream))
                .and_then(|old| old.pipeline.gate.clone()),
        };
        Ok(Entry {
            upstream: upstream.clone(),
            pipeline: assemble_with(upstream, reused, self.state_dir.as_deref(), &self.tasks)?,
        })
    }
}

/// Whether both may share a gate: the same account at the same pace.
fn may_share_gate(old: &Upstream, new: &Upstream) -> bool {
    let listed = |upstream: &Upstream| upstream.pipeline.contains(&LayerName::JitterThrottle);
    listed(old)
        && listed(new)
        && old.jitter_throttle == new.jitter_throttle
        && old.base_url == new.base_url
        && old.credentials == new.credentials
}

// === impl Entry ===

impl Entry {
    fn ledger(&self) -> Option<(String, Weak<QuotaLedger>)> {
        let ledger = self.pipeline.quotas.as_ref()?;
        Some((self.upstream.name.clone(), Arc::downgrade(ledger)))
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
    use std::path::Path;

    use super::*;
    use crate::config::{self, Sample};

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
        assert!(!share_a_gate(c, &new[0]).await, "c is paced otherwise");
    }

    #[tokio::test(start_paused = true)]
    async fn another_account_gets_a_new_gate() {
        let folder = tempfile::tempdir().unwrap();
        let before = config(folder.path(), &[("a", "")]);
        let mut after = before.clone();
        after.upstreams[0].base_url = "http://127.0.0.2:1/v1".parse().unwrap();
        let old = UpstreamSet::start(&before, TaskTracker::new()).unwrap();
        let (new, _) = old.reload(&after.upstreams).unwrap();
        let (old, new) = (old.pipelines(), new.pipelines());
        assert!(!share_a_gate(&old[0], &new[0]).await);
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

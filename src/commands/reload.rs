//! The reload of the config on SIGHUP.

use tracing::{error, info, warn};

use super::{descriptors, serve::warn_lowered, source::ConfigArgs};
use crate::{
    config::{self, Config, Loaded},
    edge::Reloader,
    process,
    upstreams::record::Recorder,
    upstreams::{Pipeline, UpstreamSet},
};

/// The state of `serve` that a reload replaces.
pub(super) struct ReloadContext<'a> {
    pub(super) args: &'a ConfigArgs,
    pub(super) config: Config,
    pub(super) upstreams: UpstreamSet,
    pub(super) reloader: Reloader,
    pub(super) recorder: Option<&'a Recorder>,
}

/// The pipelines of `upstreams`, with arrivals written to `recorder`.
pub(super) fn with_recorder(upstreams: &UpstreamSet, recorder: Option<&Recorder>) -> Vec<Pipeline> {
    let mut pipelines = upstreams.pipelines();
    if let Some(recorder) = recorder {
        for pipeline in &mut pipelines {
            pipeline.service = recorder.watch(pipeline.service.clone());
        }
    }
    pipelines
}

// === impl ReloadContext ===

impl ReloadContext<'_> {
    /// Reads the config again. All of it takes effect, or nothing does.
    pub(super) fn reload(&mut self) {
        if let Err(error) = self.try_reload() {
            error!(
                error = format!("{error:#}"),
                "Config not reloaded; the old one stays in use"
            );
        }
    }

    fn try_reload(&mut self) -> anyhow::Result<()> {
        let Loaded {
            mut config,
            source,
            notices,
            ..
        } = self.load()?;
        let lowered = descriptors::fit(&mut config, process::descriptor_limit());
        let prepared = Reloader::prepare(&config)?;
        let (upstreams, changes) = self.upstreams.reload(&config.upstreams)?;
        self.reloader
            .reload(prepared, &config, with_recorder(&upstreams, self.recorder));
        self.upstreams = upstreams;
        self.config = config;
        for notice in notices {
            info!(
                key = notice.path,
                notice = notice.text,
                "Setting with less effect than it says"
            );
        }
        if let Some(notice) = lowered {
            warn_lowered(&notice);
        }
        info!(
            source,
            kept = changes.kept,
            built = changes.built,
            "Config reloaded"
        );
        Ok(())
    }

    /// Loads the config, and keeps the old values of what a process cannot change.
    fn load(&self) -> Result<Loaded, config::Error> {
        let mut loaded = config::load(&self.args.source())?;
        let old = &self.config;
        for (key, changed) in [
            ("listen", loaded.config.listen != old.listen),
            ("log", loaded.config.log != old.log),
            ("state-dir", loaded.config.state_dir != old.state_dir),
            ("workers", loaded.config.workers != old.workers),
        ] {
            if changed {
                warn!(
                    key,
                    "Only a restart changes this; the old value stays in use"
                );
            }
        }
        if loaded.config.listen != old.listen {
            // Loaded again with the old address, which decides whether client keys are needed.
            let mut source = self.args.source();
            source.listen = Some(old.listen.to_string());
            loaded = config::load(&source)?;
        }
        loaded.config.log = old.log.clone();
        loaded.config.state_dir.clone_from(&old.state_dir);
        loaded.config.workers = old.workers;
        Ok(loaded)
    }
}

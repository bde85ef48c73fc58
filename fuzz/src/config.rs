//! The config file. Input: its text.

use std::{cell::OnceCell, fs};

use pacegate::config::{self, ConfigSource, LayerName, Listen};
use tempfile::TempDir;

use super::input;

/// The value of the variable `KEY`: a key that may be used anywhere.
const SECRET: &str = "canary-0123456789abcdef0123456789abcdef";

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// A config that loads keeps the safety rules; the error of any other contains no secret.
pub fn run(input: &[u8]) {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(input::folder).path();
        let file = folder.join("pacegate.toml");
        fs::write(&file, input).unwrap();
        let env = |name: &str| match name {
            "HOME" => Some(folder.display().to_string()),
            "KEY" => Some(SECRET.to_owned()),
            _ => None,
        };
        let mut source = ConfigSource::new(&env);
        source.config = Some(file);
        match config::load(&source) {
            Ok(loaded) => check(&loaded.config),
            Err(error) => {
                let text = error.to_string();
                assert!(!text.trim().is_empty());
                // In a path a variable is no secret.
                let in_path = input.windows(2).any(|pair| pair == b"${");
                assert!(in_path || !text.contains(SECRET), "{text}");
            }
        }
    });
}

fn check(config: &config::Config) {
    if let Listen::Tcp(address) = config.listen {
        assert!(address.ip().is_loopback() || !config.client_keys.is_empty());
    }
    assert!(!config.upstreams.is_empty());
    assert!(!format!("{config:?}").contains(SECRET));
    for upstream in &config.upstreams {
        // A subset of the layers, in running order.
        let mut all = LayerName::ALL.iter();
        assert!(
            upstream
                .pipeline
                .iter()
                .all(|name| all.any(|it| it == name))
        );
        let listed = |layer| upstream.pipeline.contains(&layer);
        assert!(!listed(LayerName::TokenRefresh) || listed(LayerName::BearerAuth));
    }
}

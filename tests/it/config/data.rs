//! The files of `config/`, every one of them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use pacegate::config::{self, Config, HeaderField, HeaderRule, Model, Platform, RuleVerdict};

use super::Home;

/// Every file of `folder`, relative to the repository.
fn files(folder: &str) -> Vec<String> {
    let mut folders = vec![PathBuf::from(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let name = folder.join(entry.unwrap().file_name());
            if root().join(&name).is_dir() {
                folders.push(name);
            } else {
                files.push(name.display().to_string());
            }
        }
    }
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// A home in which every preset finds its key.
fn keyed() -> Home {
    [
        "DASHSCOPE_API_KEY",
        "BAILIAN_CODING_PLAN_API_KEY",
        "OPENROUTER_API_KEY",
        "OPENAI_API_KEY",
    ]
    .into_iter()
    .fold(Home::new(), |home, name| home.with(name, "k"))
}

/// The preset `local` with one key of another value.
fn local(key: &str, value: &str) -> Config {
    let text = format!("[[upstream]]\npreset = \"local\"\n{key} = \"{value}\"\n");
    Home::new().file(&text).unwrap().config
}

fn built_in() -> (Home, Config) {
    let home = Home::new();
    let config = home.load(|_| {}).unwrap().config;
    (home, config)
}

pub(super) fn opencode() -> serde_json::Value {
    let sample = config::opencode_sample();
    let lines = sample
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    serde_json::from_str(&lines.collect::<String>()).unwrap()
}

#[test]
fn every_file_is_loaded() {
    let keyed = keyed();
    for file in files("config") {
        let path = Path::new(&file);
        let name = path.file_stem().unwrap().to_str().unwrap();
        match path.parent().unwrap().to_str().unwrap() {
            "config/presets" => {
                let upstream = &keyed.preset(name).upstreams[0];
                assert_eq!(upstream.preset.as_deref(), Some(name));
                assert_eq!(upstream.name, name);
            }
            "config/profiles" => {
                let config = local("header-align.profile", name);
                assert_eq!(config.upstreams[0].header_align.profile, name);
            }
            "config/dialects" => {
                assert_eq!(local("dialect", name).upstreams[0].dialect.name, name);
            }
            "config/throttle" => {
                let config = local("jitter-throttle.profile", name);
                assert_eq!(config.upstreams[0].jitter_throttle.profile, name);
            }
            "config" => match path.file_name().unwrap().to_str().unwrap() {
                // What every upstream begins with; all of the above would fail without it.
                "upstream.toml" => {}
                // Those are in `deployment`; `tests/run` has the unit checked.
                "compose.yaml" | "container.toml" | "pacegate.service" => {}
                "pacegate.toml" => assert!(Home::new().file(&read(&file)).is_ok()),
                "opencode.jsonc" => assert!(opencode().is_object()),
                _ => panic!("nobody loads {file}"),
            },
            _ => panic!("nobody loads {file}"),
        }
    }
}

#[test]
fn only_data_names_a_vendor() {
    // The simulator stands in for vendors, in the words of each.
    let ours = |file: &String| !file.starts_with("src/simulator/");
    for file in files("src").into_iter().filter(ours) {
        assert!(!read(&file).to_lowercase().contains("qwen"), "{file}");
    }
}

#[test]
fn the_annotated_default_equals_the_built_in_one() {
    let (home, built_in) = built_in();
    let path = home.write("pacegate.toml", &read("config/pacegate.toml"));
    let annotated = home.load(|source| source.config = Some(path)).unwrap();
    assert_eq!(format!("{:?}", annotated.config), format!("{built_in:?}"));
}

#[test]
fn what_the_annotated_default_leaves_commented_out_is_the_presets_word_for_word() {
    let (home, built_in) = built_in();
    let text: String = read("config/pacegate.toml")
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let path = home.write("pacegate.toml", &text);
    let loaded = home.load(|source| source.config = Some(path)).unwrap();
    let mut config = loaded.config;
    assert!(config.upstreams[0].base_url_written);
    config.upstreams[0].base_url_written = false;
    assert_eq!(format!("{config:?}"), format!("{built_in:?}"));
    // Every key stands in the file: what is shown comes from there.
    let shown = loaded.annotated.to_string();
    let elsewhere: Vec<_> = shown
        .lines()
        .filter(|line| line.contains(" = ") && !line.contains("pacegate.toml:"))
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

#[test]
fn profiles_equal_what_was_captured() {
    for (profile, capture) in [
        ("qwen-code-0.10", "chat-qwen-code-0.10.4.head"),
        ("qwen-code-0.24", "chat-qwen-code-0.24.4.head"),
    ] {
        let text =
            format!("[[upstream]]\npreset = \"local\"\nheader-align.profile = \"{profile}\"\n");
        let home = Home::new();
        let path = home.write("pacegate.toml", &text);
        let loaded = home
            .load(|source| {
                source.config = Some(path);
                source.platform = Platform::of("linux", "x86_64");
            })
            .unwrap();
        let fields = &loaded.config.upstreams[0].header_align.fields;

        let head = read(&format!("tests/it/captures/{capture}"));
        let captured: Vec<_> = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value))
            .collect();
        let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
        let captured_names: Vec<_> = captured.iter().map(|(name, _)| name).collect();
        assert_eq!(names, captured_names, "{profile}");
        for (field, (_, value)) in fields.iter().zip(&captured) {
            assert_field_is(field, value);
        }
    }
}

fn assert_field_is(field: &HeaderField, captured: &str) {
    match (field.name.as_str(), &field.rule) {
        ("host" | "authorization" | "content-length", rule) => {
            assert_eq!(*rule, HeaderRule::Place, "{}", field.name);
        }
        ("accept-encoding", HeaderRule::Narrow(value)) | (_, HeaderRule::Set(value)) => {
            assert_eq!(value, captured, "{}", field.name);
        }
        (name, rule) => panic!("{name} is not set: {rule:?}"),
    }
}

#[test]
fn only_the_default_preset_pretends_to_be_another_client() {
    let home = keyed();
    for file in files("config/presets") {
        let name = Path::new(&file).file_stem().unwrap().to_str().unwrap();
        let align = &home.preset(name).upstreams[0].header_align;
        let neutral = name != "qwen-oauth";
        assert_eq!(align.profile == "neutral", neutral, "{name}");
        let dashscope = |field: &HeaderField| field.name.as_str().starts_with("x-dashscope");
        assert_eq!(!align.fields.iter().any(dashscope), neutral, "{name}");
    }
}

#[test]
fn every_dialect_retries_an_unknown_429_and_a_503_that_names_a_time() {
    for file in files("config/dialects") {
        let name = Path::new(&file).file_stem().unwrap().to_str().unwrap();
        let dialect = &local("dialect", name).upstreams[0].dialect;
        for status in [429, 503] {
            let general = dialect.rules.iter().find(|rule| {
                rule.status.iter().any(|other| other.as_u16() == status)
                    && rule.code.is_empty()
                    && rule.message.is_none()
                    && rule.limit.is_none()
            });
            let verdict = general.map(|rule| &rule.verdict);
            assert!(
                matches!(verdict, Some(RuleVerdict::Retry { .. })),
                "{name} {status}"
            );
        }
    }
}

#[test]
fn the_quota_profile_has_a_shorter_jitter_for_busy_times_and_the_reference_has_none() {
    let settings = |profile| {
        let config = local("jitter-throttle.profile", profile);
        config.upstreams[0].jitter_throttle.clone()
    };
    assert_eq!(settings("reference").busy, None);
    let busy = settings("quota").busy.unwrap();
    assert_eq!(busy.from.get(), 15);
    assert_eq!(busy.within, Duration::from_secs(60));
    assert_eq!(busy.jitter, (Duration::ZERO, Duration::from_millis(200)));
}

#[test]
fn the_opencode_sample_fits_the_built_in_default() {
    let (_home, config) = built_in();
    let sample = opencode();
    let provider = &sample["provider"]["pacegate"];
    assert_eq!(provider["npm"], "@ai-sdk/openai-compatible");
    assert_eq!(provider["options"]["baseURL"], "http://127.0.0.1:7223/v1");
    let models: Vec<_> = provider["models"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(id, model)| Model {
            id: id.clone(),
            context: model["limit"]["context"].as_u64(),
            output: model["limit"]["output"].as_u64(),
            input: serde_json::from_value(model["modalities"]["input"].clone()).unwrap(),
        })
        .collect();
    assert_eq!(models, config.upstreams[0].models);
    assert_eq!(sample["model"], "pacegate/coder-model");
}

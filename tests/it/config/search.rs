//! Which file is read, what wins over what, and what becomes of the values.

use std::{path::Path, time::Duration};

use pacegate::config::{
    Credentials, HeaderRule, LayerName, Listen, LogFormat, Per, Platform, QueueOrder,
};
use secrecy::ExposeSecret;

use super::Home;

const LOCAL: &str = "[[upstream]]\npreset = \"local\"\n";

fn workers(count: u8) -> String {
    format!("workers = {count}\n{LOCAL}")
}

#[test]
fn takes_the_first_file_of_the_search_order() {
    let home = Home::new();
    let read = |home: &Home, config: Option<&Path>| {
        let loaded = home.load(|source| source.config = config.map(Into::into));
        loaded.unwrap().config.workers.get()
    };
    assert_eq!(read(&home, None), 1, "the built-in default");
    home.write(".config/pacegate/pacegate.toml", &workers(2));
    assert_eq!(read(&home, None), 2, "below the home");
    home.write("xdg/pacegate/pacegate.toml", &workers(3));
    let xdg = home.path().join("xdg").display().to_string();
    let home = home.with("XDG_CONFIG_HOME", xdg);
    assert_eq!(read(&home, None), 3, "XDG_CONFIG_HOME");
    let named = home.write("named.toml", &workers(4));
    let home = home.with("PACEGATE_CONFIG", named.display().to_string());
    assert_eq!(read(&home, None), 4, "PACEGATE_CONFIG");
    let explicit = home.write("explicit.toml", &workers(5));
    assert_eq!(read(&home, Some(&explicit)), 5, "--config");
}

#[test]
fn refuses_a_file_that_was_named_and_is_not_there() {
    let message = Home::new()
        .load(|source| source.config = Some("/none/pacegate.toml".into()))
        .unwrap_err();
    assert!(
        message.starts_with("cannot read /none/pacegate.toml"),
        "{message}"
    );
    assert!(message.contains("hint: --config"), "{message}");
    let message = Home::new()
        .with("PACEGATE_CONFIG", "/none/pacegate.toml")
        .load(|_| {})
        .unwrap_err();
    assert!(message.contains("hint: PACEGATE_CONFIG"), "{message}");
}

#[test]
fn reads_no_file_when_a_preset_is_named() {
    let home = Home::new().with("PACEGATE_CONFIG", "/none");
    let loaded = home
        .load(|source| source.preset = Some("local".into()))
        .unwrap();
    assert_eq!(loaded.source, "preset local");
    let names: Vec<_> = loaded
        .config
        .upstreams
        .iter()
        .map(|upstream| (upstream.name.as_str(), upstream.base_url_written))
        .collect();
    assert_eq!(names, [("local", false)]);
}

#[test]
fn lets_the_command_line_win_over_the_file() {
    let home = Home::new();
    let text = format!("listen = \"127.0.0.1:1\"\nlog.level = \"warn\"\n{LOCAL}");
    let path = home.write("pacegate.toml", &text);
    let loaded = home
        .load(|source| {
            source.config = Some(path);
            source.listen = Some("127.0.0.1:2".into());
            source.log_level = Some("info,pacegate=debug".into());
            source.log_format = Some("json".into());
        })
        .unwrap();
    let two = "127.0.0.1:2".parse().unwrap();
    assert_eq!(loaded.config.listen, Listen::Tcp(two));
    assert_eq!(loaded.config.log.level, "info,pacegate=debug");
    assert_eq!(loaded.config.log.format, LogFormat::Json);
}

#[test]
fn blames_the_option_whose_value_is_wrong() {
    let message = Home::new()
        .load(|source| source.listen = Some("here".into()))
        .unwrap_err();
    assert!(
        message.starts_with("--listen: listen: expected"),
        "{message}"
    );
}

#[test]
fn lays_the_file_over_the_preset_over_the_throttle_profile() {
    let text = "[[upstream]]\nname = \"mine\"\npreset = \"local\"\nbase-url = \"http://localhost:1/v1/\"\n\
                [upstream.jitter-throttle]\nprofile = \"reference\"\nmin-interval = \"3s\"\norder = \"fifo\"\n";
    let loaded = Home::new().file(text).unwrap();
    let upstream = &loaded.config.upstreams[0];
    let throttle = &upstream.jitter_throttle;
    assert_eq!(upstream.name, "mine");
    assert_eq!(upstream.base_url, "http://localhost:1/v1");
    assert!(upstream.base_url_written);
    assert_eq!(throttle.min_interval, Duration::from_secs(3), "the file's");
    let jitter = (Duration::from_millis(500), Duration::from_millis(1500));
    assert_eq!(
        throttle.jitter, jitter,
        "of the profile that the file names"
    );
    assert_eq!(
        throttle.concurrency.map(Into::into),
        Some(4_usize),
        "the preset's"
    );
    assert_eq!(throttle.max_queue, 128, "everybody's");
    assert_eq!(throttle.order, QueueOrder::Fifo);
}

#[test]
fn keeps_a_presets_settings_for_a_layer_that_was_dropped_without_complaint() {
    let text = "[[upstream]]\npreset = \"local\"\npipeline = [\"header-align\"]\n";
    let loaded = Home::new().file(text).unwrap();
    assert_eq!(
        loaded.config.upstreams[0].pipeline,
        [LayerName::HeaderAlign]
    );
    assert_eq!(
        loaded.notices,
        [],
        "nothing is promised by a layer that isn't there"
    );
}

#[test]
fn reads_quotas_of_every_kind() {
    let text = format!(
        "{LOCAL}jitter-throttle.quotas = [\n\
         {{ requests = 1, per = \"5h\" }},\n\
         {{ requests = 2, per = \"day\" }},\n\
         {{ requests = 3, per = \"week\", zone = \"Asia/Shanghai\" }},\n\
         {{ requests = 4, per = \"month\", zone = \"Europe/Berlin\", anchor-day = 28 }},\n]\n"
    );
    let loaded = Home::new().file(&text).unwrap();
    let quotas = &loaded.config.upstreams[0].jitter_throttle.quotas;
    let per: Vec<_> = quotas.iter().map(|quota| quota.per.clone()).collect();
    assert_eq!(
        per,
        [
            Per::Window(Duration::from_secs(5 * 60 * 60)),
            Per::Day { zone: "UTC".into() },
            Per::Week {
                zone: "Asia/Shanghai".into()
            },
            Per::Month {
                zone: "Europe/Berlin".into(),
                anchor_day: 28
            },
        ]
    );
}

#[test]
fn says_that_counts_are_lost_where_there_is_no_place_to_keep_them() {
    let text = format!("{LOCAL}jitter-throttle.quotas = [{{ requests = 1, per = \"day\" }}]\n");
    assert_eq!(Home::new().file(&text).unwrap().notices, []);
    let homeless = Home::new().with("HOME", "").file(&text).unwrap();
    assert_eq!(homeless.notices.len(), 1);
    assert_eq!(
        homeless.notices[0].path,
        "upstream[0].jitter-throttle.quotas"
    );
}

#[test]
fn follows_secret_references_and_shows_none_of_them() {
    let home = Home::new().with("KEY", "canary-client");
    home.write("key", "canary-upstream\n");
    let text = "client-keys = [{ env = \"KEY\" }]\n[[upstream]]\npreset = \"openai\"\ncredentials.key = { file = \"key\" }\n";
    let loaded = home.file(text).unwrap();
    let config = &loaded.config;
    assert_eq!(config.client_keys[0].expose_secret(), "canary-client");
    let Credentials::ApiKey(key) = &config.upstreams[0].credentials else {
        panic!("not an API key")
    };
    assert_eq!(key.key.expose_secret(), "canary-upstream");
    let file = home.path().join("key");
    assert_eq!(key.reference, format!("file {}", file.display()));
    let shown = format!("{loaded:?} {}", loaded.annotated);
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn finds_relative_paths_beside_the_file_that_names_them() {
    let home = Home::new();
    home.write(
        "profiles/mine.toml",
        "headers = [{ name = \"x-os\", set = \"{os}\" }]\n",
    );
    let path = home.write(
        "pacegate.toml",
        "[[upstream]]\npreset = \"local\"\ntls.ca-file = \"extra.pem\"\nheader-align.profile = \"profiles/mine.toml\"\n",
    );
    let loaded = home
        .load(|source| {
            source.config = Some(path);
            source.platform = Platform::of("macos", "aarch64");
        })
        .unwrap();
    let upstream = &loaded.config.upstreams[0];
    assert_eq!(upstream.tls.ca_file, Some(home.path().join("extra.pem")));
    let value = &upstream.header_align.fields[0].rule;
    assert_eq!(*value, HeaderRule::Set("darwin".parse().unwrap()));
}

#[test]
fn sets_headers_in_place_or_at_the_end_and_removes_them() {
    let text = format!(
        "{LOCAL}[upstream.header-align]\npass = [\"accept\", \"content-type\"]\n\
         set = {{ \"X-New\" = \"1\", User-Agent = \"me/1\" }}\nremove = [\"content-length\", \"accept\"]\n"
    );
    let align = &Home::new().file(&text).unwrap().config.upstreams[0].header_align;
    let names: Vec<_> = align
        .fields
        .iter()
        .map(|field| field.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "host",
            "user-agent",
            "authorization",
            "accept-encoding",
            "x-new"
        ]
    );
    assert_eq!(
        align.fields[1].rule,
        HeaderRule::Set("me/1".parse().unwrap())
    );
    assert_eq!(align.pass, ["content-type"]);
}

#[test]
fn shares_the_credentials_file_of_the_vendors_program() {
    let file = |home: &Home| {
        let loaded = home.load(|_| {}).unwrap();
        match &loaded.config.upstreams[0].credentials {
            Credentials::OAuth(oauth) => oauth.file.clone(),
            other => panic!("not OAuth: {other:?}"),
        }
    };
    let home = Home::new();
    assert_eq!(file(&home), home.path().join(".qwen/oauth_creds.json"));
    let home = home.with("QWEN_HOME", "/elsewhere");
    assert_eq!(file(&home), Path::new("/elsewhere/oauth_creds.json"));
}

#[test]
fn asks_for_a_home_only_when_something_is_kept_there() {
    let homeless = Home::new().with("HOME", "");
    assert_eq!(homeless.preset("local").state_dir, None);
    let message = homeless.load(|_| {}).unwrap_err();
    assert!(
        message.contains("credentials.file: HOME is not set"),
        "{message}"
    );
    let home = Home::new().with("XDG_STATE_HOME", "/state");
    assert_eq!(
        home.preset("local").state_dir,
        Some("/state/pacegate".into())
    );
}

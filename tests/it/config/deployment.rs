//! The samples for running pacegate somewhere: its image, compose, a service manager.

use pacegate::config::Listen;
use secrecy::ExposeSecret;
use yaml_rust2::{Yaml, YamlLoader};

use super::{
    Home,
    data::{opencode, read},
};

const KEY: &str = "8f1c47d2e95ab03617c4de82f05b9a6d";

fn compose() -> Yaml {
    let mut documents = YamlLoader::load_from_str(&read("config/compose.yaml")).unwrap();
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

/// The words of a list.
fn words(list: &Yaml) -> Vec<&str> {
    let items = list.as_vec().unwrap().iter();
    items.map(|item| item.as_str().unwrap()).collect()
}

/// What a line of `file` says after `before`.
fn after<'a>(file: &'a str, before: &str) -> &'a str {
    let mut lines = file.lines();
    let line = lines.find_map(|line| line.trim().strip_prefix(before));
    line.unwrap().split_whitespace().next().unwrap()
}

#[test]
fn the_images_config_is_the_default_for_those_who_have_the_key() {
    let text = read("config/container.toml");
    let refusal = Home::new().file(&text).unwrap_err();
    assert!(refusal.contains("PACEGATE_CLIENT_KEY"), "{refusal}");
    let home = Home::new().with("PACEGATE_CLIENT_KEY", KEY);
    let image = home.file(&text).unwrap().config;
    assert_eq!(image.listen, Listen::Tcp(([0, 0, 0, 0], 7223).into()));
    assert_eq!(image.client_keys[0].expose_secret(), KEY);
    let default = home.load(|_| {}).unwrap().config;
    let [image, default] = [&image, &default].map(|config| format!("{:?}", config.upstreams));
    assert_eq!(image, default);
}

#[test]
fn the_sample_for_compose_publishes_on_loopback_alone_and_locks_down() {
    let compose = compose();
    let pacegate = &compose["services"]["pacegate"];
    assert_eq!(words(&pacegate["ports"]), ["127.0.0.1:7223:7223"]);
    assert_eq!(pacegate["read_only"], Yaml::Boolean(true));
    assert_eq!(
        pacegate["volumes"][0].as_str(),
        Some("state:/var/lib/pacegate")
    );
    for service in ["pacegate", "opencode"] {
        let service = &compose["services"][service];
        assert_eq!(words(&service["cap_drop"]), ["ALL"]);
        assert_eq!(words(&service["security_opt"]), ["no-new-privileges:true"]);
        let key = service["environment"]["PACEGATE_CLIENT_KEY"].as_str();
        assert!(
            key.unwrap().starts_with("${PACEGATE_CLIENT_KEY:?"),
            "no literal, no default"
        );
    }
    let config = Home::new().with("PACEGATE_CLIENT_KEY", KEY);
    let config = config.file(&read("config/container.toml")).unwrap().config;
    assert_eq!(
        config.allowed_hosts,
        ["pacegate"],
        "the name of the service"
    );
}

#[test]
fn the_opencode_beside_it_is_the_sample_with_a_key_and_another_address() {
    let compose = compose();
    let content = compose["configs"]["opencode"]["content"].as_str().unwrap();
    let beside: serde_json::Value = serde_json::from_str(content).unwrap();
    let mut sample = opencode();
    sample.as_object_mut().unwrap().remove("$schema");
    let options = &mut sample["provider"]["pacegate"]["options"];
    options["baseURL"] = "http://pacegate:7223/v1".into();
    options["apiKey"] = "{env:PACEGATE_CLIENT_KEY}".into();
    assert_eq!(beside, sample);
}

#[test]
fn versions_are_those_that_are_tested() {
    let manifest = read("Cargo.toml");
    let dockerfile = read("Dockerfile");
    let rust = after(&manifest, "rust-version = ").trim_matches('"');
    assert_eq!(after(&dockerfile, "FROM rust:"), format!("{rust}-bookworm"));
    let label = "org.opencontainers.image.version=";
    let version = after(&dockerfile, label).trim_matches('"');
    assert_eq!(version, env!("CARGO_PKG_VERSION"));

    let opencode = after(&read("tests/tools/install.sh"), "opencode_version=").to_owned();
    let install = format!("npm install --global opencode-ai@{opencode}\n");
    assert!(read("config/compose.yaml").contains(&install), "{install}");
}

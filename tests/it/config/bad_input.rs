//! Each kind of bad input gets a message that says where, what, and what to do.

use insta::assert_snapshot;

use super::{Home, refused};

/// A file with one upstream of preset `local` and `more` in its table.
fn local(more: &str) -> String {
    refused(&format!("[[upstream]]\npreset = \"local\"\n{more}"))
}

/// The same with credentials, so that every layer has its use.
fn pipeline(layers: &str) -> String {
    let text = format!(
        "[[upstream]]\npreset = \"dashscope\"\npipeline = {layers}\n[upstream.credentials]\nkey = {{ env = \"KEY\" }}\n"
    );
    Home::new().with("KEY", "k").file(&text).unwrap_err()
}

fn listening(listen: &str, key: &'static str) -> Result<(), String> {
    let keys = if key.is_empty() {
        "[]"
    } else {
        "[{ env = \"KEY\" }]"
    };
    let text =
        format!("listen = \"{listen}\"\nclient-keys = {keys}\n[[upstream]]\npreset = \"local\"\n");
    Home::new().with("KEY", key).file(&text).map(drop)
}

#[test]
fn names_the_line_of_what_is_not_toml() {
    let message = refused("listen = \"127.0.0.1:0\"\nlog = {\n\n[[upstream]\n");
    assert!(message.starts_with("pacegate.toml:"), "{message}");
    assert!(message.contains("not TOML"), "{message}");
    let message = refused("workers = 1\nworkers = 2\n");
    assert!(
        message.starts_with("pacegate.toml:2: not TOML"),
        "{message}"
    );
}

#[test]
fn suggests_the_key_that_was_meant() {
    assert_snapshot!(local("[upstream.jitter-throttle]\njiter = \"0s..1s\"\n"), @r#"
    pacegate.toml:4: upstream[0].jitter-throttle.jiter: unknown key
      hint: did you mean "jitter"?
    "#);
    assert_snapshot!(refused("lissten = \"127.0.0.1:0\"\n"), @r#"
    pacegate.toml:1: lissten: unknown key
      hint: did you mean "listen"?
    "#);
}

#[test]
fn suggests_the_layer_that_was_meant() {
    assert_snapshot!(local("pipeline = [\"header-allign\"]\n"), @r#"
    pacegate.toml:3: upstream[0].pipeline[0]: expected one of retry-on-429, token-refresh, jitter-throttle, header-align, bearer-auth, found "header-allign"
      hint: did you mean "header-align"?
    "#);
}

#[test]
fn suggests_the_preset_profile_or_dialect_that_was_meant() {
    assert_snapshot!(refused("[[upstream]]\npreset = \"opneai\"\n"), @r#"
    pacegate.toml:2: upstream[0].preset: unknown preset "opneai"
      hint: did you mean "openai"?
    "#);
    assert_snapshot!(local("dialect = \"dashscop\"\n"), @r#"
    pacegate.toml:3: upstream[0].dialect: unknown dialect "dashscop"
      hint: did you mean "dashscope"?
    "#);
    assert_snapshot!(local("header-align.profile = \"neutrl\"\n"), @r#"
    pacegate.toml:3: upstream[0].header-align.profile: unknown profile "neutrl"
      hint: did you mean "neutral"?
    "#);
    assert_snapshot!(local("jitter-throttle.profile = \"referense\"\n"), @r#"
    pacegate.toml:3: upstream[0].jitter-throttle.profile: expected one of quota, reference, found "referense"
      hint: did you mean "reference"?
    "#);
    assert_snapshot!(local("header-align.profile = \"mine/none.toml\"\n").replace(" (os error 2)", ""), @r"
    pacegate.toml:3: upstream[0].header-align.profile: cannot read the profile mine/none.toml: No such file or directory
      hint: relative paths start at the file that names them
    ");
}

#[test]
fn refuses_token_refresh_without_bearer_auth() {
    assert_snapshot!(local("pipeline = [\"token-refresh\"]"), @r"
    pacegate.toml:3: upstream[0].pipeline: token-refresh needs bearer-auth: nothing else sends the token that it refreshes
      hint: add bearer-auth, or delete token-refresh
    ");
}

#[test]
fn refuses_a_layer_listed_twice() {
    assert_snapshot!(local("pipeline = [\"header-align\", \"header-align\"]"), @r"
    pacegate.toml:3: upstream[0].pipeline: header-align is listed twice
      hint: delete one header-align
    ");
}

#[test]
fn refuses_settings_that_a_person_wrote_for_a_layer_that_is_not_there() {
    let text = "pipeline = [\"header-align\"]\n[upstream.jitter-throttle]\nconcurrency = 1\n";
    assert_snapshot!(local(text), @r#"
    pacegate.toml:4: upstream[0].jitter-throttle: settings for a layer that is not in the pipeline
      hint: add "jitter-throttle" to the pipeline, or delete them
    "#);
}

#[test]
fn refuses_credentials_and_pipelines_that_do_not_fit() {
    assert_snapshot!(local("pipeline = [\"bearer-auth\"]"), @r"
    pacegate.toml:3: upstream[0].pipeline: bearer-auth has nothing to send: the credentials are of kind none
      hint: delete bearer-auth from the pipeline, or set credentials
    ");
    assert_snapshot!(pipeline("[\"header-align\"]"), @r#"
    pacegate.toml:3: upstream[0].pipeline: the credentials are never sent: bearer-auth is missing
      hint: add bearer-auth, or set credentials with kind = "none"
    "#);
}

#[test]
fn refuses_a_reversed_jitter_and_shows_it_turned() {
    assert_snapshot!(local("jitter-throttle.jitter = \"1500ms..500ms\"\n"), @r#"
    pacegate.toml:3: upstream[0].jitter-throttle.jitter: expected a range with the smaller end first, found "1500ms..500ms"
      hint: write "500ms..1500ms"
    "#);
}

#[test]
fn refuses_values_without_their_unit_and_shows_one() {
    assert_snapshot!(local("connect-timeout = 10\n"), @r#"
    pacegate.toml:3: upstream[0].connect-timeout: expected a duration with its unit, found 10
      hint: write "30s"
    "#);
    assert_snapshot!(local("idle-timeout = \"10\"\n"), @r#"
    pacegate.toml:3: upstream[0].idle-timeout: expected a duration with its unit, found "10"
      hint: write "30s"
    "#);
    assert_snapshot!(local("jitter-throttle.jitter = \"1..2\"\n"), @r#"
    pacegate.toml:3: upstream[0].jitter-throttle.jitter: expected a range of durations with their units, found "1..2"
      hint: write "500ms..1500ms"
    "#);
    assert_snapshot!(local("retry-on-429.budget = 0.2\n"), @r#"
    pacegate.toml:3: upstream[0].retry-on-429.budget: expected a share from 0% to 100%, found 0.2
      hint: write "20%"
    "#);
    assert_snapshot!(refused("max-body = 1024\n"), @r#"
    pacegate.toml:1: max-body: expected a size with its unit, found 1024
      hint: write "32MiB"
    "#);
}

#[test]
fn refuses_quotas_that_mean_nothing() {
    for (quota, part) in [
        ("requests = 0, per = \"60s\"", "a whole number from 1"),
        ("requests = 5, per = \"0s\"", "a duration above 0s"),
        (
            "requests = 5, per = \"fortnight\"",
            "\"day\", \"week\", \"month\"",
        ),
        (
            "requests = 5, per = \"day\", zone = \"Asia/Atlantis\"",
            "name of a time zone",
        ),
        ("requests = 5, per = \"60s\", zone = \"UTC\"", "unknown key"),
        (
            "requests = 5, per = \"month\", anchor-day = 29",
            "from 1 to 28",
        ),
        ("per = \"day\"", "`requests` is missing"),
    ] {
        let message = local(&format!("jitter-throttle.quotas = [{{ {quota} }}]\n"));
        assert!(message.contains(part), "{quota}: {message}");
        assert!(
            message.contains("upstream[0].jitter-throttle.quotas[0]"),
            "{message}"
        );
    }
}

#[test]
fn refuses_a_secret_reference_to_nothing() {
    let key = |key: &str| {
        let text = format!("[[upstream]]\npreset = \"openai\"\ncredentials.key = {key}\n");
        let home = Home::new().with("EMPTY", "").with("BROKEN", "a\nb");
        home.write("empty", "\n");
        home.file(&text)
            .unwrap_err()
            .replace(&format!("{}/", home.path().display()), "")
    };
    assert_snapshot!(key("{ env = \"NONE\" }"), @r"
    pacegate.toml:3: upstream[0].credentials.key: no secret in env NONE: it is not set
      hint: put the secret into env NONE, or name another place
    ");
    assert_snapshot!(key("{ env = \"EMPTY\" }"), @r"
    pacegate.toml:3: upstream[0].credentials.key: no secret in env EMPTY: it is empty
      hint: put the secret into env EMPTY, or name another place
    ");
    assert_snapshot!(key("{ env = \"BROKEN\" }"), @r"
    pacegate.toml:3: upstream[0].credentials.key: no secret in env BROKEN: it has characters, such as line breaks, that no HTTP header can carry
      hint: put the secret into env BROKEN, or name another place
    ");
    assert_snapshot!(key("{ file = \"none\" }").replace(" (os error 2)", ""), @r"
    pacegate.toml:3: upstream[0].credentials.key: no secret in file none: No such file or directory
      hint: put the secret into file none, or name another place
    ");
    assert_snapshot!(key("{ file = \"empty\" }"), @r"
    pacegate.toml:3: upstream[0].credentials.key: no secret in file empty: it is empty
      hint: put the secret into file empty, or name another place
    ");
    assert_snapshot!(key("{}"), @r#"
    pacegate.toml:3: upstream[0].credentials.key: expected either env or file
      hint: write { env = "NAME" } for an environment variable, or { file = "PATH" }
    "#);
}

#[test]
fn refuses_a_literal_secret_without_showing_it() {
    let literal = "[[upstream]]\npreset = \"openai\"\ncredentials.key = \"canary\"\n";
    assert_snapshot!(refused(literal), @r#"
    pacegate.toml:3: upstream[0].credentials.key: expected a reference to a secret, found a literal string
      hint: write { env = "NAME" } for an environment variable, or { file = "PATH" }
    "#);
    for text in [
        literal,
        "client-keys = [\"canary\"]\n",
        "client-keys = \"canary\"\n",
        "client-keys = canary\n",
        "client-keys = [\"canary\n\"]\n",
        "[[upstream]]\npreset = \"openai\"\ncredentials = \"canary\"\n",
        "[[upstream]]\npreset = \"openai\"\nbase-url = \"https://u:canary@h/\"\n",
        "[[upstream]]\npreset = \"local\"\nheader-align.set = { \"x-api-key\" = \"canary\" }\n",
        "[[upstream]]\npreset = \"local\"\nheader-align.set = { \"api-key\" = \"canary\" }\n",
        "[[upstream]]\npreset = \"local\"\nheader-align.set = { \"x-a\" = \"canary\\n\" }\n",
    ] {
        let message = refused(text);
        assert!(!message.contains("canary"), "{message}");
    }
}

#[test]
fn refuses_an_upstreams_time_out_of_zero() {
    for key in ["connect-timeout", "head-timeout", "idle-timeout"] {
        let text = format!("[[upstream]]\npreset = \"local\"\n{key} = \"0s\"\n");
        let message = refused(&text);
        let expected = format!("{key}: expected a time above zero, found");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn refuses_to_serve_other_machines_without_a_key_that_cannot_be_guessed() {
    let weak = "0123456789abcdef";
    assert_snapshot!(listening("0.0.0.0:7223", "").unwrap_err(), @r#"
    pacegate.toml:1: listen: an address that other machines can reach needs a client key
      hint: set client-keys = [{ env = "PACEGATE_CLIENT_KEY" }], or listen on 127.0.0.1; make one with: openssl rand -hex 32
    "#);
    assert_snapshot!(listening("[::]:7223", weak).unwrap_err(), @r"
    pacegate.toml:2: client-keys[0]: the key in env KEY has less than 128 bits, and other machines can reach the address
      hint: make one with: openssl rand -hex 32
    ");
    assert_snapshot!(listening("127.0.0.1:7223", "changeme").unwrap_err(), @r"
    pacegate.toml:2: client-keys[0]: the key in env KEY is a sample that everybody knows
      hint: make one with: openssl rand -hex 32
    ");
    assert_eq!(listening("127.0.0.1:7223", weak), Ok(()));
    assert_eq!(listening("unix:/run/pacegate.sock", ""), Ok(()));
    let strong = "9f1c0b7ae35d48264ac1e7f09b6d2358";
    assert_eq!(listening("0.0.0.0:7223", strong), Ok(()));
}

#[test]
fn refuses_addresses_hosts_and_origins_of_another_form() {
    for (line, part) in [
        ("listen = \"localhost:7223\"", "an IP address and a port"),
        ("listen = \"unix:${NONE}/s\"", "NONE is not set"),
        (
            "[[upstream]]\nname = \"a\"",
            "the key `base-url` is missing",
        ),
        ("[[upstream]]", "the key `name` is missing"),
        ("listen = \"unix:\"", "a path after unix:"),
        ("allowed-hosts = [\"http://a\"]", "a host name"),
        ("allowed-hosts = [\"a:80\"]", "a host name"),
        ("allowed-origins = [\"a.example\"]", "an origin"),
        (
            "allowed-origins = [\"https://a.example/path\"]",
            "an origin",
        ),
        ("log.level = \"inof\"", "did you mean \"info\"?"),
        ("log.format = \"xml\"", "one of auto, json, pretty"),
        ("workers = 0", "a whole number from 1"),
        ("upstream = []", "no upstream"),
        ("[upstream]\npreset = \"local\"", "expected a list"),
    ] {
        let message = refused(line);
        assert!(message.contains(part), "{line}: {message}");
    }
}

#[test]
fn refuses_a_name_that_two_upstreams_have() {
    let twice = "[[upstream]]\nname = \"a\"\npreset = \"local\"\n".repeat(2);
    assert_snapshot!(refused(&twice), @r#"
    pacegate.toml:5: upstream[1].name: another upstream has this name
      hint: call one of the two something else
    "#);
    assert_snapshot!(local("name = \"My Upstream\"\n"), @r#"
    pacegate.toml:3: upstream[0].name: expected lower-case letters, digits and hyphens, found "My Upstream"
      hint: write "my-upstream"
    "#);
}

#[test]
fn refuses_to_send_tokens_in_the_clear() {
    let openai = |more: &str| {
        let text = format!("[[upstream]]\npreset = \"openai\"\n{more}\n");
        Home::new().with("OPENAI_API_KEY", "k").file(&text)
    };
    assert_snapshot!(openai("base-url = \"http://10.0.0.1/v1\"").unwrap_err(), @r#"
    pacegate.toml:3: upstream[0].base-url: expected https, since the token would be readable on the way, found "http://10.0.0.1/v1"
      hint: write https://, or credentials with kind = "none"
    "#);
    assert!(openai("base-url = \"http://127.0.0.1:1/v1\"").is_ok());
    let oauth =
        "[[upstream]]\npreset = \"qwen-oauth\"\ncredentials.token-url = \"http://10.0.0.1/t\"\n";
    assert_snapshot!(refused(oauth), @r#"
    pacegate.toml:3: upstream[0].credentials.token-url: expected https, since tokens go there, found "http://10.0.0.1/t"
      hint: write https://; http is only for this machine
    "#);
}

#[test]
fn accepts_plain_http_to_anywhere_without_credentials() {
    let text = "[[upstream]]\npreset = \"local\"\nbase-url = \"http://10.0.0.1/v1\"\n";
    assert!(Home::new().file(text).is_ok());
}

#[test]
fn refuses_client_headers_that_must_not_go_through() {
    assert_snapshot!(local("header-align.pass = [\"Authorization\"]\n"), @r"
    pacegate.toml:3: upstream[0].header-align.pass[0]: authorization cannot go through: it carries a secret, and those come from the upstream's credentials
      hint: delete it from the list
    ");
    for name in [
        "cookie",
        "proxy-authorization",
        "x-api-key",
        "host",
        "content-length",
        "connection",
        "transfer-encoding",
        "te",
        "upgrade",
        "keep-alive",
        "trailer",
    ] {
        let message = local(&format!("header-align.pass = [\"{name}\"]\n"));
        assert!(message.contains("cannot go through: it"), "{message}");
        let message = local(&format!("header-align.set = {{ {name} = \"x\" }}\n"));
        assert!(message.contains("cannot be set: it"), "{message}");
    }
}

#[test]
fn names_the_line_of_a_profile_of_ones_own() {
    let home = Home::new();
    home.write(
        "mine.toml",
        "headers = [\n  { name = \"a\", set = \"{bogus}\" },\n  { name = \"te\", set = \"x\" },\n  { name = \"b\", set = \"x\", narrow = \"y\" },\n]\n",
    );
    let text = "[[upstream]]\npreset = \"local\"\nheader-align.profile = \"mine.toml\"\n";
    assert_snapshot!(home.file(text).unwrap_err(), @r"
    mine.toml:2: headers[0].set: unknown placeholder {bogus}
      hint: known are: os, arch, stainless-os, stainless-arch, version
    mine.toml:3: headers[1]: te cannot have a value here: it is about one connection, and the upstream's is another one
      hint: leave only its name: a place
    mine.toml:4: headers[2]: expected one of set, set-if-absent and narrow, found more
      hint: keep one of them
    ");
}

#[test]
fn reports_every_problem_at_once() {
    let text =
        "workers = 0\nmax-body = 1\n[[upstream]]\npreset = \"local\"\nhttp = \"h3\"\nbogus = 1\n";
    assert_snapshot!(refused(text), @r#"
    pacegate.toml:1: workers: expected a whole number from 1 to 1024, found 0
      hint: write 1 or more, without quotes
    pacegate.toml:2: max-body: expected a size with its unit, found 1
      hint: write "32MiB"
    pacegate.toml:5: upstream[0].http: expected one of auto, h1, h2, found "h3"
      hint: known are: auto, h1, h2
    pacegate.toml:6: upstream[0].bogus: unknown key
      hint: known are: name, preset, base-url, dialect, models, pipeline, http, max-head, connect-timeout, head-timeout, idle-timeout, tls, response-headers, credentials, header-align, retry-on-429, token-refresh, jitter-throttle
    "#);
}

//! `pacegate check` and `pacegate config show`: the real program in an empty environment.

use std::process::{Command, Output};

use insta::assert_snapshot;

use super::Home;
use crate::support::gateway::limited;

impl Home {
    /// Runs pacegate in this home; the way there is left out of what it prints.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        self.outcome(&mut self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pacegate"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn outcome(&self, command: &mut Command) -> (Option<i32>, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        let printed = String::from_utf8([stdout, stderr].concat()).unwrap();
        let home = format!("{}/", self.path().display());
        (status.code(), printed.replace(&home, "~/"))
    }
}

#[test]
fn check_prints_what_would_run() {
    let home = Home::new();
    home.write(
        ".qwen/oauth_creds.json",
        r#"{ "access_token": "canary", "refresh_token": "canary" }"#,
    );
    let (code, printed) = home.run(&["check"]);
    assert_eq!(code, Some(0), "{printed}");
    assert_snapshot!(printed, @r"
    config   built-in default
    listen   http://127.0.0.1:7223
    clients  need no key

    upstream qwen (preset qwen-oauth)
      base-url     https://portal.qwen.ai/v1
      models       coder-model, vision-model
      dialect      qwen-oauth
      credentials  OAuth, file ~/.qwen/oauth_creds.json
      pipeline
        1 retry-on-429     at most 2 retries within 4m; waits 1m where the upstream names no time
        2 token-refresh    renews the token 5m before its end and when it is refused
        3 jitter-throttle  1s apart plus 500ms to 1s 500ms; at most 58 per 1m; at most 1000 per day (Asia/Shanghai); at most 8 in flight; sessions take turns; at most 128 waiting for at most 4m
        4 header-align     profile qwen-code-0.10; of the client's: accept, accept-encoding, content-type
        5 bearer-auth      sends the token of the credentials
    ");
}

#[test]
fn check_warns_of_a_credentials_file_that_is_not_there_or_half_written() {
    let home = Home::new();
    let (code, printed) = home.run(&["check"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        printed.contains("warning: ~/.qwen/oauth_creds.json: No such file"),
        "{printed}"
    );
    home.write(".qwen/oauth_creds.json", r#"{ "access_token": "can"#);
    let (code, printed) = home.run(&["check"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        printed.contains("not a whole credentials file"),
        "{printed}"
    );
}

#[test]
fn check_says_that_too_few_files_may_be_open() {
    let home = Home::new();
    let check = home.command(&["check", "--preset", "local"]);
    for (most, lowered) in [(256, Some(82)), (1116, None)] {
        let (code, printed) = home.outcome(&mut limited(most, &check));
        assert_eq!(code, Some(0), "{printed}");
        let note = "note: limits.max-connections: lowered from 512 to ";
        match lowered {
            Some(lowered) => assert!(printed.contains(&format!("{note}{lowered}, ")), "{printed}"),
            None => assert!(!printed.contains(note), "{printed}"),
        }
    }
}

#[test]
fn check_names_the_reference_and_not_the_secret() {
    let home = Home::new().with("OPENAI_API_KEY", "canary");
    let (code, printed) = home.run(&["check", "--preset", "openai"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        printed.contains("API key from env OPENAI_API_KEY"),
        "{printed}"
    );
    assert!(!printed.contains("canary"), "{printed}");
}

#[test]
fn check_exits_with_78_when_the_config_cannot_be_used() {
    let home = Home::new();
    home.write("bad.toml", "workers = 0\n");
    let (code, printed) = home.run(&["check", "--config", "bad.toml"]);
    assert_eq!(code, Some(78), "{printed}");
    assert_snapshot!(printed, @r"
    error: bad.toml:1: workers: expected a whole number from 1 to 1024, found 0
      hint: write 1 or more, without quotes
    ");
    let (code, printed) = home.run(&["check", "--preset", "openai"]);
    assert_eq!(code, Some(78), "{printed}");
    assert!(
        printed.contains("no secret in env OPENAI_API_KEY"),
        "{printed}"
    );
}

#[test]
fn a_file_and_a_preset_together_are_a_usage_error() {
    let arguments = ["check", "--config", "a.toml", "--preset", "local"];
    let (code, printed) = Home::new().run(&arguments);
    assert_eq!(code, Some(2), "{printed}");
}

#[test]
fn config_show_prints_every_value_and_where_it_came_from() {
    let home = Home::new();
    home.write(
        "mine.toml",
        "client-keys = [{ env = \"NOT_SET\" }]\n\n[[upstream]]\nname = \"mine\"\npreset = \"openai\"\n\
         credentials.key = { file = \"key\" }\nheader-align.set = { \"X-A.b\" = \"1\" }\n",
    );
    let (code, printed) = home.run(&[
        "config",
        "show",
        "--config",
        "mine.toml",
        "--log-level",
        "warn",
    ]);
    assert_eq!(code, Some(0), "{printed}");
    assert_snapshot!(printed, @r#"
    listen                    = "127.0.0.1:7223"                          # built-in
    client-keys               = [{ env = "NOT_SET" }]                     # mine.toml:1
    allowed-hosts             = []                                        # built-in
    allowed-origins           = []                                        # built-in
    max-body                  = "32MiB"                                   # built-in
    drain-timeout             = "8s"                                      # built-in
    workers                   = 1                                         # built-in
    state-dir                 = "${XDG_STATE_HOME:-~/.local/state}/pacegate"  # built-in
    log.level                 = "warn"                                    # --log-level
    log.format                = "auto"                                    # built-in
    limits.max-connections    = 512                                       # built-in
    limits.max-header-fields  = 64                                        # built-in
    limits.max-header-size    = "32KiB"                                   # built-in
    limits.max-target         = "8KiB"                                    # built-in
    limits.max-bodies         = "256MiB"                                  # built-in
    limits.first-byte-timeout = "10s"                                     # built-in
    limits.header-timeout     = "10s"                                     # built-in
    limits.keep-alive-timeout = "310s"                                    # built-in
    limits.body-idle-timeout  = "30s"                                     # built-in
    limits.body-timeout       = "120s"                                    # built-in
    limits.write-timeout      = "60s"                                     # built-in

    [[upstream]]
    name                         = "mine"                                    # mine.toml:4
    preset                       = "openai"                                  # mine.toml:5
    base-url                     = "https://api.openai.com/v1"               # preset openai
    dialect                      = "openai"                                  # preset openai
    models                       = []                                        # built-in
    pipeline                     = ["retry-on-429", "jitter-throttle", "header-align", "bearer-auth"]  # built-in
    http                         = "auto"                                    # built-in
    max-head                     = "64KiB"                                   # built-in
    connect-timeout              = "10s"                                     # built-in
    head-timeout                 = "300s"                                    # built-in
    idle-timeout                 = "300s"                                    # built-in
    tls.roots                    = "bundled"                                 # built-in
    response-headers.pass        = ["accept-ranges", "anthropic-*", "cache-control", "content-disposition", "content-encoding", "content-language", "content-range", "content-type", "date", "etag", "last-modified", "openai-*", "ratelimit", "ratelimit-*", "request-id", "retry-after", "retry-after-ms", "x-dashscope-*", "x-ratelimit-*", "x-request-id", "x-should-retry"]  # built-in
    response-headers.add         = []                                        # built-in
    header-align.profile         = "neutral"                                 # built-in
    header-align.pass            = ["accept", "accept-encoding", "content-type"]  # built-in
    header-align.set."X-A.b"     = "1"                                       # mine.toml:7
    header-align.remove          = []                                        # built-in
    retry-on-429.max-retries     = 2                                         # built-in
    retry-on-429.max-hold        = "240s"                                    # built-in
    retry-on-429.default-wait    = "60s"                                     # built-in
    retry-on-429.budget          = "20%"                                     # built-in
    token-refresh.early          = "5m"                                      # built-in
    jitter-throttle.min-interval = "1s"                                      # throttle profile quota
    jitter-throttle.jitter       = "500ms..1500ms"                           # throttle profile quota
    jitter-throttle.idle-jitter  = false                                     # throttle profile quota
    jitter-throttle.profile      = "quota"                                   # preset openai
    jitter-throttle.quotas       = []                                        # built-in
    jitter-throttle.max-queue    = 128                                       # built-in
    jitter-throttle.max-wait     = "240s"                                    # built-in
    jitter-throttle.order        = "fair"                                    # built-in
    jitter-throttle.busy.from    = 15                                        # throttle profile quota
    jitter-throttle.busy.within  = "60s"                                     # throttle profile quota
    jitter-throttle.busy.jitter  = "0ms..200ms"                              # throttle profile quota
    jitter-throttle.concurrency  = 8                                         # preset openai
    credentials.kind             = "api-key"                                 # preset openai
    credentials.key              = { file = "key" }                          # mine.toml:6
    "#);
}

#[test]
fn config_show_prints_a_file_that_means_the_same() {
    let home = Home::new();
    let (_, printed) = home.run(&["config", "show"]);
    home.write("shown.toml", &printed);
    let (code, again) = home.run(&["config", "show", "--config", "shown.toml"]);
    assert_eq!(code, Some(0), "{again}");
    let values = |text: &str| -> Vec<String> {
        let value = |line: &str| {
            line.split("  # ")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let mut values: Vec<_> = text.lines().map(value).collect();
        values.sort();
        values
    };
    assert_eq!(values(&printed), values(&again));
}

#[test]
fn a_pipeline_in_the_old_order_runs_in_the_fixed_one_and_one_note_says_so() {
    let home = Home::new().with("KEY", "secret");
    let upstream = |name: &str| {
        format!(
            "[[upstream]]\nname = \"{name}\"\npreset = \"openai\"\ncredentials.key = {{ env = \"KEY\" }}\n\
             pipeline = [\"header-align\", \"retry-on-429\", \"jitter-throttle\", \"bearer-auth\"]\n"
        )
    };
    home.write("old.toml", &(upstream("one") + &upstream("two")));
    let (code, printed) = home.run(&["check", "--config", "old.toml"]);
    assert_eq!(code, Some(0), "{printed}");
    let layers: Vec<_> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.split(' ').nth(1))
        .collect();
    let running = [
        "retry-on-429",
        "jitter-throttle",
        "header-align",
        "bearer-auth",
    ];
    assert_eq!(layers, running.repeat(2), "{printed}");
    let notes: Vec<_> = printed
        .lines()
        .filter(|line| line.starts_with("note: "))
        .collect();
    assert_snapshot!(notes.join("\n"), @"note: upstream[0].pipeline: the order of this list is no longer used; layers now run in one fixed order: retry-on-429, token-refresh, jitter-throttle, header-align, bearer-auth");

    let (code, printed) = home.run(&["config", "show", "--config", "old.toml"]);
    assert_eq!(code, Some(0), "{printed}");
    let shown = format!("{running:?}  # old.toml:");
    assert_eq!(printed.matches(&shown).count(), 2, "{printed}");
}

#[test]
fn config_show_refuses_what_check_refuses() {
    let home = Home::new();
    home.write("bad.toml", "bogus = 1\n");
    let (code, printed) = home.run(&["config", "show", "--config", "bad.toml"]);
    assert_eq!(code, Some(78), "{printed}");
}

//! `[[upstream]]`: merges the defaults into each, then reads and checks it.

use std::collections::HashSet;

use http::{Uri, uri::Scheme};

use super::{
    Credentials, HttpVersion, JitterThrottleSettings, LayerName, Model, Per, RetryOn429Settings,
    Roots, Tls, TokenRefreshSettings, Upstream, credentials,
    cursor::{Cursor, TableReader},
    data::{self, Folder},
    dialect,
    error::{Problem, suggestion},
    header_align, limits,
    loopback::is_loopback_host,
    pipeline,
    provenance::Provenance,
    response_headers, throttle,
    tree::Node,
    units,
};

/// HTTP/2 carries the limit in 32 bits.
const MOST_HEAD: usize = u32::MAX as usize;

/// Merges the defaults of every upstream, those of the preset, and `written`. The default name is
/// the preset's.
pub(super) fn with_defaults(written: Node, path: &str) -> Result<Node, Problem> {
    let mut layers = vec![data::upstream()?];
    // A preset that is not a string is left for the reader to refuse.
    if let Some(preset) = written.get("preset")
        && let Some(name) = preset.as_str()
    {
        let found = Folder::Presets.read(name).ok_or_else(|| {
            Problem::new(format!("unknown preset \"{name}\""))
                .at(preset.provenance.clone())
                .key(format!("{path}.preset"))
                .hint(suggestion(name, &Folder::Presets.names()))
        })?;
        layers.push(found?);
    }
    layers.push(written);

    let said = |key| layers.iter().rev().find_map(|layer: &Node| layer.get(key));
    let mut node = Node::table(Provenance::BuiltIn);
    // The most important keys come first, whichever layer sets them.
    for (key, value) in [
        ("name", said("name").or_else(|| said("preset"))),
        ("preset", said("preset")),
        ("base-url", said("base-url")),
    ] {
        if let Some(value) = value {
            node.set(key, value.clone());
        }
    }
    for mut layer in layers {
        throttle::expand_profile(&mut layer);
        node.merge(layer);
    }
    Ok(node)
}

/// Reads `[[upstream]]`: at least one, with unique names.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<Vec<Upstream>> {
    let items = cursor.items()?;
    if items.is_empty() {
        return cursor.refuse("no upstream", "add [[upstream]] with preset = \"local\"");
    }
    let mut names = HashSet::new();
    for item in &items {
        if let Some(name) = item.node.get("name")
            && name.as_str().is_some_and(|text| !names.insert(text))
        {
            item.child("name", name).note(
                "another upstream has this name",
                "call one of the two something else",
            );
        }
    }
    cursor.list(upstream)
}

/// Long, because each key of an upstream has its line here.
fn upstream(cursor: &Cursor<'_>) -> Option<Upstream> {
    let mut table = cursor.table()?;
    let name = table.required("name").and_then(|name| upstream_name(&name));
    let preset = table.optional_with("preset", Cursor::string);
    let base = table.required("base-url");
    let base_url = base.as_ref().and_then(base_url);
    let mut dialect = table.required("dialect").and_then(|at| dialect::read(&at));
    let models = table
        .required("models")
        .and_then(|models| models.list(model));
    let pipeline_at = table.required("pipeline");
    let pipeline = pipeline_at.as_ref().and_then(pipeline::read);
    let http = table.required("http").and_then(|http| {
        http.choice(&[
            ("auto", HttpVersion::Auto),
            ("h1", HttpVersion::H1),
            ("h2", HttpVersion::H2),
        ])
    });
    let max_head = limits::size(&mut table, "max-head", MOST_HEAD);
    let mut time = |key| limits::time(&mut table, key);
    let (connect_timeout, head_timeout, idle_timeout) = (
        time("connect-timeout"),
        time("head-timeout"),
        time("idle-timeout"),
    );
    let tls = table.required("tls").and_then(|at| tls(&at));
    let response_headers = table
        .required("response-headers")
        .and_then(|at| response_headers::read(&at));
    let credentials = table
        .required("credentials")
        .and_then(|at| credentials::read(&at));
    let header_align = layer(
        &mut table,
        LayerName::HeaderAlign,
        &pipeline,
        header_align::read,
    );
    let retry_on_429 = layer(&mut table, LayerName::RetryOn429, &pipeline, retry_on_429);
    let token_refresh = layer(
        &mut table,
        LayerName::TokenRefresh,
        &pipeline,
        token_refresh,
    );
    let jitter_throttle = layer(
        &mut table,
        LayerName::JitterThrottle,
        &pipeline,
        throttle::read,
    );
    table.finish();

    if let (Some(at), Some(url), Some(credentials)) = (&base, &base_url, &credentials) {
        check_secrecy(at, url, credentials);
    }
    if let (Some(at), Some(pipeline), Some(credentials)) = (&pipeline_at, &pipeline, &credentials) {
        check_bearer(at, pipeline, credentials);
    }
    if let (Some(dialect), Some(throttle)) = (&mut dialect, &jitter_throttle)
        && let Some(day) = month_anchor(cursor, throttle)
    {
        dialect.anchor_months(day);
    }
    Some(Upstream {
        name: name?,
        preset: preset?,
        base_url: base_url?,
        base_url_written: base.is_some_and(|base| base.provenance().is_written()),
        dialect: dialect?,
        models: models?,
        pipeline: pipeline?,
        http: http?,
        max_head: max_head?,
        connect_timeout: connect_timeout?,
        head_timeout: head_timeout?,
        idle_timeout: idle_timeout?,
        tls: tls?,
        response_headers: response_headers?,
        credentials: credentials?,
        header_align: header_align?,
        retry_on_429: retry_on_429?,
        token_refresh: token_refresh?,
        jitter_throttle: jitter_throttle?,
    })
}

/// The day of the month on which the account's months begin, if the user named one: a preset can
/// only guess.
fn month_anchor(cursor: &Cursor<'_>, throttle: &JitterThrottleSettings) -> Option<u8> {
    let settings = cursor.node.get(LayerName::JitterThrottle.name())?;
    if !settings.get("quotas")?.provenance.is_written() {
        return None;
    }
    throttle.quotas.iter().find_map(|quota| match quota.per {
        Per::Month { anchor_day, .. } => Some(anchor_day),
        _ => None,
    })
}

/// Reads a layer's settings. Settings that the user wrote for a layer that is not in the pipeline
/// are refused; those of a preset are ignored.
fn layer<'a, T>(
    table: &mut TableReader<'a>,
    layer: LayerName,
    pipeline: &Option<Vec<LayerName>>,
    read: impl FnOnce(&Cursor<'a>) -> Option<T>,
) -> Option<T> {
    let cursor = table.required(layer.name())?;
    let listed = pipeline
        .as_ref()
        .is_none_or(|pipeline| pipeline.contains(&layer));
    if !listed && cursor.provenance().is_written() {
        return cursor.refuse(
            "settings for a layer that is not in the pipeline",
            format!("add \"{}\" to the pipeline, or delete them", layer.name()),
        );
    }
    read(&cursor)
}

fn upstream_name(cursor: &Cursor<'_>) -> Option<String> {
    cursor.parse(
        "lower-case letters, digits and hyphens",
        "my-upstream",
        |name| {
            let fits =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (!name.is_empty() && name.bytes().all(fits)).then(|| name.to_owned())
        },
    )
}

fn base_url(cursor: &Cursor<'_>) -> Option<Uri> {
    let url = credentials::url(cursor)?;
    if url.query().is_some() {
        return cursor.expected("a URL without a query", "delete the ? and what follows");
    }
    // A URL without its trailing slash is still a URL.
    url.to_string().trim_end_matches('/').parse().ok()
}

fn check_secrecy(at: &Cursor<'_>, url: &Uri, credentials: &Credentials) {
    let plain =
        url.scheme() == Some(&Scheme::HTTP) && !is_loopback_host(url.host().unwrap_or_default());
    if plain && !matches!(credentials, Credentials::None) {
        at.note(
            format!(
                "expected https, since the token would be readable on the way, found {}",
                at.node
            ),
            "write https://, or credentials with kind = \"none\"",
        );
    }
}

fn check_bearer(at: &Cursor<'_>, pipeline: &[LayerName], credentials: &Credentials) {
    let listed = pipeline.contains(&LayerName::BearerAuth);
    let (message, hint) = match credentials {
        Credentials::None if listed => (
            "bearer-auth has nothing to send: the credentials are of kind none",
            "delete bearer-auth from the pipeline, or set credentials",
        ),
        Credentials::ApiKey(_) | Credentials::OAuth(_) if !listed => (
            "the credentials are never sent: bearer-auth is missing",
            "add bearer-auth, or set credentials with kind = \"none\"",
        ),
        _ => return,
    };
    at.note(message, hint);
}

fn model(cursor: &Cursor<'_>) -> Option<Model> {
    let mut table = cursor.table()?;
    let mut tokens =
        |key| table.optional_with(key, |at: &Cursor<'_>| at.integer(1, u64::from(u32::MAX)));
    let (context, output) = (tokens("context"), tokens("output"));
    let id = table.required("id").and_then(|id| id.string());
    let input = table.optional_with("input", Cursor::strings);
    table.finish();
    Some(Model {
        id: id?,
        context: context?,
        output: output?,
        input: input?.unwrap_or_else(|| vec!["text".into()]),
    })
}

fn tls(cursor: &Cursor<'_>) -> Option<Tls> {
    let mut table = cursor.table()?;
    let roots = table
        .required("roots")
        .and_then(|roots| roots.choice(&[("bundled", Roots::Bundled), ("system", Roots::System)]));
    let ca_file = table.optional_with("ca-file", Cursor::file);
    table.finish();
    Some(Tls {
        roots: roots?,
        ca_file: ca_file?,
    })
}

fn retry_on_429(cursor: &Cursor<'_>) -> Option<RetryOn429Settings> {
    let mut table = cursor.table()?;
    let max_retries = table
        .required("max-retries")
        .and_then(|most| most.integer(0, 100));
    let max_hold = table.required("max-hold").and_then(|hold| hold.duration());
    let default_wait = table
        .required("default-wait")
        .and_then(|wait| wait.duration());
    let budget = table
        .required("budget")
        .and_then(|budget| budget.parse("a share from 0% to 100%", "20%", units::percent));
    table.finish();
    Some(RetryOn429Settings {
        max_retries: max_retries?,
        max_hold: max_hold?,
        default_wait: default_wait?,
        budget: budget?,
    })
}

fn token_refresh(cursor: &Cursor<'_>) -> Option<TokenRefreshSettings> {
    let mut table = cursor.table()?;
    let early = table.required("early").and_then(|early| early.duration());
    table.finish();
    Some(TokenRefreshSettings { early: early? })
}

//! The upstreams: defaults laid under each, then read and checked against themselves.

use std::collections::HashSet;

use http::{Uri, uri::Scheme};

use super::{
    Credentials, HttpVersion, JitterThrottle, LayerName, Model, Per, RetryOn429, Roots, Tls,
    TokenRefresh, Upstream,
    credentials::{self, is_loopback},
    cursor::{Cursor, Fields},
    data::{self, Folder},
    dialect,
    error::{Problem, suggestion},
    header_align, limits, order,
    origin::Origin,
    response_headers, throttle,
    tree::Node,
    units,
};

/// HTTP/2 says the limit in 32 bits.
const MOST_HEAD: usize = u32::MAX as usize;

/// Lays the defaults of every upstream and those of its preset under `written`. Without a name it
/// gets its preset's.
pub(super) fn with_defaults(written: Node, path: &str) -> Result<Node, Problem> {
    let mut layers = vec![data::upstream()?];
    // A preset that isn't a string is the reader's to refuse.
    if let Some(preset) = written.get("preset")
        && let Some(name) = preset.as_str()
    {
        let found = Folder::Presets.read(name).ok_or_else(|| {
            Problem::new(format!("unknown preset \"{name}\""))
                .at(preset.origin.clone())
                .key(format!("{path}.preset"))
                .hint(suggestion(name, &Folder::Presets.names()))
        })?;
        layers.push(found?);
    }
    layers.push(written);

    let said = |key| layers.iter().rev().find_map(|layer: &Node| layer.get(key));
    let mut node = Node::table(Origin::BuiltIn);
    // First what people look for first, whoever says it.
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

/// Reads `[[upstream]]`: at least one, names unique.
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

/// Long, because every key of an upstream has its line here.
fn upstream(cursor: &Cursor<'_>) -> Option<Upstream> {
    let mut fields = cursor.fields()?;
    let name = fields
        .required("name")
        .and_then(|name| upstream_name(&name));
    let preset = fields.maybe("preset", Cursor::string);
    let base = fields.required("base-url");
    let base_url = base.as_ref().and_then(base_url);
    let mut dialect = fields.required("dialect").and_then(|at| dialect::read(&at));
    let models = fields
        .required("models")
        .and_then(|models| models.list(model));
    let pipeline_at = fields.required("pipeline");
    let pipeline = pipeline_at.as_ref().and_then(order::read);
    let http = fields.required("http").and_then(|http| {
        http.choice(&[
            ("auto", HttpVersion::Auto),
            ("h1", HttpVersion::H1),
            ("h2", HttpVersion::H2),
        ])
    });
    let max_head = limits::size(&mut fields, "max-head", MOST_HEAD);
    let mut time = |key| {
        fields
            .required(key)
            .and_then(|time: Cursor<'_>| time.duration())
    };
    let (connect_timeout, head_timeout, idle_timeout) = (
        time("connect-timeout"),
        time("head-timeout"),
        time("idle-timeout"),
    );
    let tls = fields.required("tls").and_then(|at| tls(&at));
    let response_headers = fields
        .required("response-headers")
        .and_then(|at| response_headers::read(&at));
    let credentials = fields
        .required("credentials")
        .and_then(|at| credentials::read(&at));
    let header_align = layer(
        &mut fields,
        LayerName::HeaderAlign,
        &pipeline,
        header_align::read,
    );
    let retry_on_429 = layer(&mut fields, LayerName::RetryOn429, &pipeline, retry_on_429);
    let token_refresh = layer(
        &mut fields,
        LayerName::TokenRefresh,
        &pipeline,
        token_refresh,
    );
    let jitter_throttle = layer(
        &mut fields,
        LayerName::JitterThrottle,
        &pipeline,
        throttle::read,
    );
    fields.finish();

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
        base_url_written: base.is_some_and(|base| base.origin().is_written()),
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

/// The day that the account's months begin on, if the person has told: a preset can only guess.
fn month_anchor(cursor: &Cursor<'_>, throttle: &JitterThrottle) -> Option<u8> {
    let settings = cursor.node.get(LayerName::JitterThrottle.name())?;
    if !settings.get("quotas")?.origin.is_written() {
        return None;
    }
    throttle.quotas.iter().find_map(|quota| match quota.per {
        Per::Month { anchor_day, .. } => Some(anchor_day),
        _ => None,
    })
}

/// Reads a layer's settings. Those that a person wrote for a layer that isn't there are refused;
/// a preset's are merely of no use.
fn layer<'a, T>(
    fields: &mut Fields<'a>,
    layer: LayerName,
    pipeline: &Option<Vec<LayerName>>,
    read: impl FnOnce(&Cursor<'a>) -> Option<T>,
) -> Option<T> {
    let cursor = fields.required(layer.name())?;
    let listed = pipeline
        .as_ref()
        .is_none_or(|pipeline| pipeline.contains(&layer));
    if !listed && cursor.origin().is_written() {
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
    // What was a URL with a slash at its end is one without it.
    url.to_string().trim_end_matches('/').parse().ok()
}

fn check_secrecy(at: &Cursor<'_>, url: &Uri, credentials: &Credentials) {
    let plain = url.scheme() == Some(&Scheme::HTTP) && !is_loopback(url);
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
    let mut fields = cursor.fields()?;
    let mut tokens = |key| fields.maybe(key, |at: &Cursor<'_>| at.integer(1, u64::from(u32::MAX)));
    let (context, output) = (tokens("context"), tokens("output"));
    let id = fields.required("id").and_then(|id| id.string());
    let input = fields.maybe("input", Cursor::strings);
    fields.finish();
    Some(Model {
        id: id?,
        context: context?,
        output: output?,
        input: input?.unwrap_or_else(|| vec!["text".into()]),
    })
}

fn tls(cursor: &Cursor<'_>) -> Option<Tls> {
    let mut fields = cursor.fields()?;
    let roots = fields
        .required("roots")
        .and_then(|roots| roots.choice(&[("bundled", Roots::Bundled), ("system", Roots::System)]));
    let ca_file = fields.maybe("ca-file", Cursor::file);
    fields.finish();
    Some(Tls {
        roots: roots?,
        ca_file: ca_file?,
    })
}

fn retry_on_429(cursor: &Cursor<'_>) -> Option<RetryOn429> {
    let mut fields = cursor.fields()?;
    let max_retries = fields
        .required("max-retries")
        .and_then(|most| most.integer(0, 100));
    let max_hold = fields.required("max-hold").and_then(|hold| hold.duration());
    let default_wait = fields
        .required("default-wait")
        .and_then(|wait| wait.duration());
    let budget = fields
        .required("budget")
        .and_then(|budget| budget.parse("a share from 0% to 100%", "20%", units::percent));
    fields.finish();
    Some(RetryOn429 {
        max_retries: max_retries?,
        max_hold: max_hold?,
        default_wait: default_wait?,
        budget: budget?,
    })
}

fn token_refresh(cursor: &Cursor<'_>) -> Option<TokenRefresh> {
    let mut fields = cursor.fields()?;
    let early = fields.required("early").and_then(|early| early.duration());
    fields.finish();
    Some(TokenRefresh { early: early? })
}

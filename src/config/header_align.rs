//! Settings of `header-align`: a header profile and the user's changes to it.

use http::{HeaderName, HeaderValue, header};
use pacegate_layers::header_align::{is_hop_by_hop, is_never_passed};

use super::{
    HeaderAlignSettings, HeaderField, HeaderRule, cursor::Cursor, data::Folder, error::suggestion,
    tree::inline_key,
};

/// Reads the settings.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<HeaderAlignSettings> {
    let mut table = cursor.table()?;
    let profile = table
        .required("profile")
        .and_then(|name| Some((name.string()?, profile(&name)?)));
    let pass = table
        .required("pass")
        .and_then(|names| names.list(client_header));
    let set = table.required("set").and_then(|set| set_headers(&set));
    let remove = table
        .required("remove")
        .and_then(|names| names.list(header_name));
    table.finish();

    let ((profile, mut fields), mut pass, set, remove) = (profile?, pass?, set?, remove?);
    for field in set {
        put(&mut fields, field);
    }
    fields.retain(|field| !remove.contains(&field.name));
    pass.retain(|name| !remove.contains(name));
    Some(HeaderAlignSettings {
        profile,
        pass,
        fields,
    })
}

/// Replaces the header of that name, or adds it at the end.
fn put(fields: &mut Vec<HeaderField>, field: HeaderField) {
    match fields.iter_mut().find(|other| other.name == field.name) {
        Some(other) => *other = field,
        None => fields.push(field),
    }
}

/// The headers of the profile whose name or path is the value of `cursor`.
fn profile(cursor: &Cursor<'_>) -> Option<Vec<HeaderField>> {
    let tree = Folder::Profiles.open(cursor, "profile")?;
    let mut table = Cursor::root(&tree, cursor.scope).table()?;
    let headers = table
        .required("headers")
        .and_then(|headers| headers.list(profile_field));
    table.finish();
    headers
}

fn profile_field(cursor: &Cursor<'_>) -> Option<HeaderField> {
    let mut table = cursor.table()?;
    let name = table.required("name").and_then(|name| header_name(&name));
    let set = table.optional_with("set", filled);
    let set_if_absent = table.optional_with("set-if-absent", filled);
    let narrow = table.optional_with("narrow", filled);
    table.finish();

    let name = name?;
    let rule = match (set?, set_if_absent?, narrow?) {
        (None, None, None) => HeaderRule::Place,
        // Captured clients send it; the HTTP client still manages the connection itself.
        (Some(value), None, None) if name == http::header::CONNECTION => HeaderRule::Set(value),
        (set, set_if_absent, narrow) => {
            if let Some(reason) = reserved(&name) {
                return cursor.refuse(
                    format!("{name} cannot have a value here: {reason}"),
                    "leave only its name: a place",
                );
            }
            match (set, set_if_absent, narrow) {
                (Some(value), None, None) => HeaderRule::Set(value),
                (None, Some(value), None) => HeaderRule::SetIfAbsent(value),
                (None, None, Some(value)) => HeaderRule::Narrow(value),
                _ => {
                    return cursor.refuse(
                        "expected one of set, set-if-absent and narrow, found more",
                        "keep one of them",
                    );
                }
            }
        }
    };
    Some(HeaderField { name, rule })
}

/// A header of requests to an OAuth endpoint: a value, or a reserved position.
pub(super) fn endpoint_field(cursor: &Cursor<'_>) -> Option<HeaderField> {
    let field = profile_field(cursor)?;
    match field.rule {
        HeaderRule::Place | HeaderRule::Set(_) => Some(field),
        HeaderRule::Narrow(_) | HeaderRule::SetIfAbsent(_) => cursor.refuse(
            "set-if-absent and narrow mean nothing here: no client's header comes by",
            "write set, or leave only the name: a place",
        ),
    }
}

/// A value with its placeholders filled in.
fn filled(cursor: &Cursor<'_>) -> Option<HeaderValue> {
    match cursor.scope.platform.fill(cursor.str()?) {
        Ok(text) => header_value(cursor, &text),
        Err(name) => cursor.refuse(
            format!("unknown placeholder {{{name}}}"),
            suggestion(
                &name,
                &["os", "arch", "stainless-os", "stainless-arch", "version"],
            ),
        ),
    }
}

fn set_headers(cursor: &Cursor<'_>) -> Option<Vec<HeaderField>> {
    // Read only to note a problem if it is no table.
    let _any_name_may_stand_here = cursor.table()?;
    let read: Vec<_> = cursor
        .node
        .entries()
        .iter()
        .map(|(name, value)| set_header(name, &cursor.child(&inline_key(name), value)))
        .collect();
    read.into_iter().collect()
}

fn set_header(name: &str, value: &Cursor<'_>) -> Option<HeaderField> {
    let Ok(name) = name.parse::<HeaderName>() else {
        return value.refuse(
            "this is no header name",
            "write letters, digits and hyphens",
        );
    };
    if let Some(reason) = reserved(&name) {
        return value.refuse(format!("{name} cannot be set: {reason}"), "delete it");
    }
    let rule = HeaderRule::Set(header_value(value, value.str()?)?);
    Some(HeaderField { name, rule })
}

fn client_header(cursor: &Cursor<'_>) -> Option<HeaderName> {
    let name = header_name(cursor)?;
    match reserved(&name) {
        Some(reason) => cursor.refuse(
            format!("{name} cannot go through: {reason}"),
            "delete it from the list",
        ),
        None => Some(name),
    }
}

fn header_name(cursor: &Cursor<'_>) -> Option<HeaderName> {
    cursor.parse("a header name", "accept", |name| name.parse().ok())
}

/// The message does not show the value, which may be a secret.
fn header_value(cursor: &Cursor<'_>, text: &str) -> Option<HeaderValue> {
    match HeaderValue::from_str(text) {
        Ok(value) => Some(value),
        Err(_) => cursor.refuse(
            "this is no header value",
            "write it without line breaks and control characters",
        ),
    }
}

/// Why a header's value may come neither from the client nor from a config.
fn reserved(name: &HeaderName) -> Option<&'static str> {
    Some(match name.as_str() {
        "host" => "it is the upstream's own name, from base-url",
        "content-length" => "it is counted from the body",
        _ if is_hop_by_hop(name) && name != header::PROXY_AUTHORIZATION => {
            "it is about one connection, and the upstream's is another one"
        }
        _ if is_never_passed(name) => {
            "it carries a secret, and those come from the upstream's credentials"
        }
        _ => return None,
    })
}

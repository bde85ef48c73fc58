//! The header template, precomputed from the configuration.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Rule, is_never_passed, named_in_connection};

/// The headers to send, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct HeaderTemplate {
    /// No name occurs twice.
    pub(super) fields: Vec<(HeaderName, Rule)>,
    pub(super) pass: Vec<HeaderName>,
}

impl HeaderTemplate {
    /// The headers to send, given those of a client. It only appends: removing a header from a
    /// [`HeaderMap`] moves the last one into its place.
    pub(super) fn align(&self, client: &HeaderMap) -> HeaderMap {
        let named = named_in_connection(client);
        // A client's value for a header that is never passed counts as absent.
        let theirs = |name: &HeaderName| -> Vec<&HeaderValue> {
            if is_never_passed(name) || named.contains(name) {
                return Vec::new();
            }
            client.get_all(name).iter().collect()
        };
        let mut aligned = HeaderMap::with_capacity(self.fields.len() + self.pass.len());
        for (name, rule) in &self.fields {
            let theirs = theirs(name);
            let values: &[&HeaderValue] = match rule {
                Rule::Narrow(list) if offers(&theirs, list) => &[list],
                Rule::Place => &[&EMPTY],
                Rule::Set(value) => &[value],
                Rule::SetIfAbsent(value) if theirs.is_empty() => &[value],
                Rule::Narrow(_) | Rule::SetIfAbsent(_) => &theirs,
            };
            append(&mut aligned, name, values);
        }
        for name in &self.pass {
            if !aligned.contains_key(name) {
                append(&mut aligned, name, &theirs(name));
            }
        }
        aligned
    }
}

static EMPTY: HeaderValue = HeaderValue::from_static("");

fn append(to: &mut HeaderMap, name: &HeaderName, values: &[&HeaderValue]) {
    for value in values {
        to.append(name, (*value).clone());
    }
}

/// Whether the client's lists contain every member of `wanted`. A member with `q=0` is not offered.
fn offers(client: &[&HeaderValue], wanted: &HeaderValue) -> bool {
    members(wanted).all(|wanted| {
        let mut offered = client.iter().flat_map(|list| members(list));
        offered.any(|member| member.eq_ignore_ascii_case(wanted))
    })
}

/// The members of a list, without those whose weight is zero ([RFC 9110 §12.4.2]).
///
/// [RFC 9110 §12.4.2]: https://www.rfc-editor.org/rfc/rfc9110#section-12.4.2
fn members(list: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let members = list.as_bytes().split(|byte| *byte == b',');
    members.filter_map(|member| {
        let mut params = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = params.next().filter(|name| !name.is_empty())?;
        let refused = params
            .filter_map(|param| param.split_at_checked(2))
            .filter(|(key, _)| key.eq_ignore_ascii_case(b"q="))
            .any(|(_, weight)| {
                std::str::from_utf8(weight).is_ok_and(|weight| weight.parse() == Ok(0.0_f32))
            });
        (!refused).then_some(name)
    })
}

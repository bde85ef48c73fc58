//! The header template, precomputed from the configuration.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Rule, is_never_passed, named_in_connection, offer::offers};

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

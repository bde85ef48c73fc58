//! The list of fields, and what it makes of a client's headers.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Rule, is_never_passed, named_in_connection, offer::offers};

/// What is sent, in this order.
#[derive(Clone, Debug, Default)]
pub(super) struct HeaderTemplate {
    /// No name is in it twice.
    pub(super) fields: Vec<(HeaderName, Rule)>,
    pub(super) pass: Vec<HeaderName>,
}

impl HeaderTemplate {
    /// The headers to send for those of a client. It only appends: a field that is removed from a
    /// [`HeaderMap`] leaves its place to the last one.
    pub(super) fn align(&self, client: &HeaderMap) -> HeaderMap {
        let named = named_in_connection(client);
        // A client's value for what is never passed on counts as none.
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

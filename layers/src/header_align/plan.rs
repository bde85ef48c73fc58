//! What to build for each request, with everything decided that no request has a say in.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{HeaderAlignLayer, Rule, is_never_passed, offer::Offer, strip_hop_by_hop};

/// The list of a [`HeaderAlignLayer`], worked out.
#[derive(Debug)]
pub(super) struct Plan {
    /// The fields as most requests get them: a copy of a map costs a third of what it costs to build
    /// one, and a value that is replaced keeps its place.
    likely: HeaderMap,
    /// The fields in which the client has a say.
    open: Vec<(HeaderName, Open)>,
    last: Option<HeaderName>,
    pass: Vec<HeaderName>,
}

#[derive(Debug)]
enum Open {
    /// The likely value if the client sent none, else the client's.
    IfAbsent,
    /// The likely value if the client offers all of it, else the client's, and no field if it sent
    /// none.
    IfOffered(Offer),
}

// === impl Plan ===

impl Plan {
    /// A client's value for what is never passed on counts as none, and what a field decides need not
    /// be passed.
    pub(super) fn new(layer: &HeaderAlignLayer) -> Self {
        let mut plan = Self {
            likely: HeaderMap::new(),
            open: Vec::new(),
            last: None,
            pass: Vec::new(),
        };
        for (name, rule) in &layer.fields {
            let (value, open) = match rule {
                Rule::Narrow(_) if is_never_passed(name) => continue,
                Rule::Narrow(list) => (list, Some(Open::IfOffered(Offer::new(list)))),
                Rule::Place => (&HeaderValue::from_static(""), None),
                Rule::SetIfAbsent(value) if !is_never_passed(name) => (value, Some(Open::IfAbsent)),
                Rule::Set(value) | Rule::SetIfAbsent(value) => (value, None),
            };
            plan.likely.insert(name, value.clone());
            plan.open.extend(open.map(|open| (name.clone(), open)));
        }
        plan.last = plan.likely.keys().last().cloned();
        for name in &layer.pass {
            if !plan.likely.contains_key(name) && !plan.pass.contains(name) {
                plan.pass.push(name.clone());
            }
        }
        plan
    }

    pub(super) fn align(&self, client: &HeaderMap) -> HeaderMap {
        // Nothing that is about one connection is looked at below, unless a client says of a field that
        // it is.
        if client.get_all(header::CONNECTION).iter().any(names_fields) {
            let mut stripped = client.clone();
            strip_hop_by_hop(&mut stripped);
            return self.align(&stripped);
        }
        let mut aligned = self.likely.clone();
        for (name, open) in &self.open {
            let theirs = client.get_all(name);
            match open {
                Open::IfOffered(offer) if offer.is_in(&theirs) => continue,
                Open::IfAbsent | Open::IfOffered(_) => {}
            }
            let mut theirs = theirs.iter();
            match (theirs.next(), open) {
                (Some(first), _) => {
                    aligned.insert(name, first.clone());
                    append_all(&mut aligned, name, theirs);
                }
                (None, Open::IfAbsent) => {}
                // The last field can go without moving another.
                (None, Open::IfOffered(_)) if self.last.as_ref() == Some(name) => {
                    aligned.remove(name);
                }
                (None, Open::IfOffered(_)) => aligned = without(&aligned, name),
            }
        }
        for name in &self.pass {
            append_all(&mut aligned, name, client.get_all(name));
        }
        aligned
    }
}

/// Whether a value of `Connection` holds more than what nearly all of them are.
fn names_fields(connection: &HeaderValue) -> bool {
    let options: [&[u8]; 2] = [b"keep-alive", b"close"];
    !options
        .iter()
        .any(|option| option.eq_ignore_ascii_case(connection.as_bytes()))
}

fn append_all<'a>(
    to: &mut HeaderMap,
    name: &HeaderName,
    values: impl IntoIterator<Item = &'a HeaderValue>,
) {
    for value in values {
        to.append(name, value.clone());
    }
}

fn without(headers: &HeaderMap, name: &HeaderName) -> HeaderMap {
    let others = headers.iter().filter(|(other, _)| *other != name);
    others
        .map(|(other, value)| (other.clone(), value.clone()))
        .collect()
}

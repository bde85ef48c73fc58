//! What to build for each request, with everything decided that no request has a say in.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, GetAll},
};

use super::{HeaderAlignLayer, Part, Rule, is_never_passed, offer::Offer, strip_hop_by_hop};

/// The list of a [`HeaderAlignLayer`], worked out.
#[derive(Debug)]
pub(super) struct Plan {
    /// The fields as most requests get them: a copy of a map costs a third of what it costs to build
    /// one, and a value that is replaced keeps its place.
    likely: HeaderMap,
    last: Option<HeaderName>,
    /// The same fields for who writes one after the other.
    steps: Vec<Step>,
    pass: Vec<HeaderName>,
}

#[derive(Debug)]
enum Step {
    /// Field lines that are the same in every request.
    Lines(Vec<u8>),
    /// The likely value, unless a layer further in has set another.
    Place(HeaderName, HeaderValue),
    /// The likely value, unless the client has its say.
    Open(HeaderName, HeaderValue, Open),
}

#[derive(Debug)]
enum Open {
    /// The likely value if the client sent none, else the client's.
    IfAbsent,
    /// The likely value if the client offers all of it, else the client's, and no field if it sent
    /// none.
    IfOffered(Offer),
}

/// Whose value is sent in a field.
enum Choice {
    Likely,
    Theirs,
    Neither,
}

// === impl Plan ===

impl Plan {
    /// A client's value for what is never passed on counts as none, and what a field decides need not
    /// be passed.
    pub(super) fn new(layer: &HeaderAlignLayer) -> Self {
        let mut plan = Self {
            likely: HeaderMap::new(),
            last: None,
            steps: Vec::new(),
            pass: Vec::new(),
        };
        for (name, rule) in &layer.fields {
            let empty = HeaderValue::from_static("");
            let (value, open) = match rule {
                Rule::Narrow(_) if is_never_passed(name) => continue,
                Rule::Narrow(list) => (list, Some(Open::IfOffered(Offer::new(list)))),
                Rule::Place => (&empty, None),
                Rule::SetIfAbsent(value) if !is_never_passed(name) => (value, Some(Open::IfAbsent)),
                Rule::Set(value) | Rule::SetIfAbsent(value) => (value, None),
            };
            plan.likely.insert(name, value.clone());
            plan.step(name, value, open);
        }
        plan.last = plan.likely.keys().last().cloned();
        for name in &layer.pass {
            if !plan.likely.contains_key(name) && !plan.pass.contains(name) {
                plan.pass.push(name.clone());
            }
        }
        plan
    }

    fn step(&mut self, name: &HeaderName, value: &HeaderValue, open: Option<Open>) {
        let step = match open {
            Some(open) => Step::Open(name.clone(), value.clone(), open),
            None if value.is_empty() || is_never_passed(name) => {
                Step::Place(name.clone(), value.clone())
            }
            None => {
                let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat();
                if let Some(Step::Lines(lines)) = self.steps.last_mut() {
                    lines.extend(line);
                    return;
                }
                Step::Lines(line)
            }
        };
        self.steps.push(step);
    }

    pub(super) fn align(&self, client: &HeaderMap) -> HeaderMap {
        if names_fields(client) {
            let mut stripped = client.clone();
            strip_hop_by_hop(&mut stripped);
            return self.align(&stripped);
        }
        let mut aligned = self.likely.clone();
        for step in &self.steps {
            let Step::Open(name, _, open) = step else {
                continue;
            };
            let theirs = client.get_all(name);
            match open.choose(&theirs) {
                Choice::Likely => {}
                Choice::Theirs => replace(&mut aligned, name, &theirs),
                // The last field can go without moving another.
                Choice::Neither if self.last.as_ref() == Some(name) => {
                    aligned.remove(name);
                }
                Choice::Neither => aligned = without(&aligned, name),
            }
        }
        for name in &self.pass {
            for value in client.get_all(name) {
                aligned.append(name, value.clone());
            }
        }
        aligned
    }

    /// Whether [`parts`](Self::parts) can do without a map: `client` limits no field to its connection,
    /// and the fields of `inner` take no place but those that are kept.
    pub(super) fn is_simple(&self, client: &HeaderMap, inner: &HeaderMap) -> bool {
        let has_place = |name: &HeaderName| {
            let mut steps = self.steps.iter();
            steps.any(|step| matches!(step, Step::Place(place, _) if place == name))
        };
        let is_listed =
            |name: &HeaderName| self.likely.contains_key(name) || self.pass.contains(name);
        let fits = |name: &HeaderName| has_place(name) || !is_listed(name);
        !names_fields(client) && inner.keys().all(fits)
    }

    /// Hands what [`align`](Self::align) builds to `write`, without building it. The fields of `inner`
    /// are in the places that are kept for them, or else after the others.
    pub(super) fn parts(
        &self,
        client: &HeaderMap,
        inner: &HeaderMap,
        write: &mut impl FnMut(Part<'_>),
    ) {
        let mut left = inner.len();
        for step in &self.steps {
            match step {
                Step::Lines(lines) => write(Part::Lines(lines)),
                Step::Place(name, likely) => {
                    let set = inner.get_all(name);
                    left -= all(name, &set, write);
                    if set.iter().next().is_none() {
                        write(Part::Field(name, likely));
                    }
                }
                Step::Open(name, likely, open) => {
                    let theirs = client.get_all(name);
                    match open.choose(&theirs) {
                        Choice::Likely => write(Part::Field(name, likely)),
                        Choice::Theirs => {
                            all(name, &theirs, write);
                        }
                        Choice::Neither => {}
                    }
                }
            }
        }
        for name in &self.pass {
            all(name, &client.get_all(name), write);
        }
        if left > 0 {
            for (name, value) in inner {
                if !self.likely.contains_key(name) {
                    write(Part::Field(name, value));
                }
            }
        }
    }
}

/// Whether a client says of fields that they are about its connection. If not, none that is gets looked
/// at when its headers are aligned.
fn names_fields(client: &HeaderMap) -> bool {
    let options: [&[u8]; 2] = [b"keep-alive", b"close"];
    let is_option = |value: &HeaderValue| {
        let mut options = options.iter();
        options.any(|option| option.eq_ignore_ascii_case(value.as_bytes()))
    };
    !client.get_all(header::CONNECTION).iter().all(is_option)
}

/// Sets the field `name` of `to` to all of `values`, in its place.
pub(super) fn replace(to: &mut HeaderMap, name: &HeaderName, values: &GetAll<'_, HeaderValue>) {
    let mut values = values.iter().cloned();
    if let Some(first) = values.next() {
        to.insert(name, first);
    }
    for value in values {
        to.append(name, value);
    }
}

fn without(headers: &HeaderMap, name: &HeaderName) -> HeaderMap {
    let others = headers.iter().filter(|(other, _)| *other != name);
    others
        .map(|(other, value)| (other.clone(), value.clone()))
        .collect()
}

/// Writes a field for each of `values`, and counts them.
fn all(
    name: &HeaderName,
    values: &GetAll<'_, HeaderValue>,
    write: &mut impl FnMut(Part<'_>),
) -> usize {
    let fields = values.iter().map(|value| write(Part::Field(name, value)));
    fields.count()
}

// === impl Open ===

impl Open {
    fn choose(&self, theirs: &GetAll<'_, HeaderValue>) -> Choice {
        match self {
            Self::IfOffered(offer) if offer.is_in(theirs) => Choice::Likely,
            _ if theirs.iter().next().is_some() => Choice::Theirs,
            Self::IfAbsent => Choice::Likely,
            Self::IfOffered(_) => Choice::Neither,
        }
    }
}

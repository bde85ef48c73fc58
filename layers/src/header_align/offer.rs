//! Whether a client takes everything that is in a list.

use std::sync::OnceLock;

use http::{HeaderValue, header::GetAll};

/// The members of a list that is sent if the client offers every one of them.
#[derive(Debug)]
pub(super) struct Offer {
    /// No two are the same.
    members: Vec<Vec<u8>>,
    /// The first list that was found to hold all of them. A client sends the same one with every
    /// request.
    found: OnceLock<Vec<u8>>,
}

impl Offer {
    pub(super) fn new(list: &HeaderValue) -> Self {
        let mut known: Vec<Vec<u8>> = Vec::new();
        for member in members(list).filter_map(offered) {
            if !known.iter().any(|known| known.eq_ignore_ascii_case(member)) {
                known.push(member.to_vec());
            }
        }
        Self {
            members: known,
            found: OnceLock::new(),
        }
    }

    /// Whether `client`'s lists hold every member. One that the client refuses with `q=0` is not
    /// offered; of a list with more than 64, nobody is found to offer all.
    pub(super) fn is_in(&self, client: &GetAll<'_, HeaderValue>) -> bool {
        let mut lists = client.iter();
        let only = lists.next().filter(|_| lists.next().is_none());
        let Some(only) = only else {
            return self.is_in_all_of(client);
        };
        if self
            .found
            .get()
            .is_some_and(|found| found == only.as_bytes())
        {
            return true;
        }
        let is_in = self.is_in_all_of([only]);
        if is_in {
            self.found.get_or_init(|| only.as_bytes().to_vec());
        }
        is_in
    }

    fn is_in_all_of<'a>(&self, client: impl IntoIterator<Item = &'a HeaderValue>) -> bool {
        let mut found = 0_u64;
        for list in client {
            for member in members(list).filter_map(offered) {
                let mut known = self.members.iter().take(64);
                if let Some(at) = known.position(|known| known.eq_ignore_ascii_case(member)) {
                    found |= 1 << at;
                }
            }
        }
        found.count_ones() as usize == self.members.len()
    }
}

fn members(list: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    list.as_bytes().split(|byte| *byte == b',')
}

/// The name of a list member, unless its weight is zero ([RFC 9110 §12.4.2]).
///
/// [RFC 9110 §12.4.2]: https://www.rfc-editor.org/rfc/rfc9110#section-12.4.2
fn offered(member: &[u8]) -> Option<&[u8]> {
    if !member.contains(&b';') {
        return Some(member.trim_ascii()).filter(|name| !name.is_empty());
    }
    let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let refused = parts
        .filter_map(|part| part.split_at_checked(2))
        .filter(|(key, _)| key.eq_ignore_ascii_case(b"q="))
        .any(|(_, weight)| {
            std::str::from_utf8(weight).is_ok_and(|weight| weight.parse() == Ok(0.0_f32))
        });
    (!refused).then_some(name)
}

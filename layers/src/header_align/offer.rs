//! Whether a client accepts every member of a list.

use http::HeaderValue;

/// Whether the client's lists contain every member of `wanted`. A member with `q=0` is not offered.
pub(super) fn offers(client: &[&HeaderValue], wanted: &HeaderValue) -> bool {
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

//! `application/x-www-form-urlencoded`, with `%20` for a space: servers read it like `+`, and the
//! captured clients send it.

/// Encodes `fields` in the order given; escapes all characters that are not unreserved in [RFC 3986
/// §2.3].
///
/// [RFC 3986 §2.3]: https://www.rfc-editor.org/rfc/rfc3986#section-2.3
pub(super) fn encode(fields: &[(&str, &str)]) -> String {
    let mut form = String::new();
    for (name, value) in fields {
        if !form.is_empty() {
            form.push('&');
        }
        push_encoded(&mut form, name);
        form.push('=');
        push_encoded(&mut form, value);
    }
    form
}

fn push_encoded(form: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                form.push(char::from(byte));
            }
            _ => form.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_and_encodes_what_would_end_a_field() {
        assert_eq!(
            encode(&[("b", "1 2"), ("a", "x&y=z+é~")]),
            "b=1%202&a=x%26y%3Dz%2B%C3%A9~"
        );
    }
}

//! One request head, line by line as its bytes come.
//!
//! The grammar is that of [RFC 9112], without what it lets a lenient server take.
//!
//! [RFC 9112]: https://www.rfc-editor.org/rfc/rfc9112

use super::{Body, END, HeadLimits, violation::Violation};

/// What is known of a head so far.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the line begins that is not complete yet, and up to where it was looked at.
    line: usize,
    looked: usize,
    /// Where the first field begins.
    header: usize,
    began: Began,
    fields: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
}

/// What the lines so far were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Began {
    #[default]
    Nothing,
    BlankLine,
    Http10,
    Http11,
}

/// More digits are a length that nobody sends, or an overflow.
const LENGTH_DIGITS: usize = 18;

/// What field names and methods consist of (RFC 9110, section 5.6.2), without the underscore: where
/// headers become variables it is the same as a hyphen.
const NAME: [bool; 256] = table(b"!#$%&'*+-.^`|~");

/// What a target consists of, escapes aside (RFC 3986, section 3.3 and 3.4), and the brackets that some clients
/// leave as they are in a query.
const TARGET: [bool; 256] = table(b"-._~!$&'()*+,;=:@/?[]");

// === impl Head ===

impl Head {
    /// Looks at what was added to `bytes`, which begin where the head begins. At the head's end:
    /// its length, and what follows it.
    pub(super) fn advance(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
    ) -> Result<Option<(usize, Body)>, Violation> {
        loop {
            let end = self.looked + text_end(&bytes[self.looked..]);
            self.looked = end;
            let line_end = match bytes.get(end..) {
                Some([] | [b'\r']) | None => None,
                Some([b'\r', b'\n', ..]) => Some(Ok(end + 2)),
                Some([b'\n', ..]) => Some(Err(Violation::LineEnd)),
                Some(_) => Some(Err(Violation::ControlCharacter)),
            };
            // Where a line is found to be wrong is where it would have been found byte by byte.
            let seen = match line_end {
                None => bytes.len(),
                Some(Err(Violation::LineEnd)) => end + 1,
                Some(_) => end + 1 + usize::from(bytes[end] == b'\r'),
            };
            match self.began {
                Began::Nothing | Began::BlankLine if seen > limits.line() => {
                    return Err(Violation::TargetTooLong);
                }
                Began::Http10 | Began::Http11 if seen - self.header > limits.bytes + END => {
                    return Err(Violation::HeadTooLarge);
                }
                _ => {}
            }
            let Some(line_end) = line_end else {
                return Ok(None);
            };
            let next = line_end?;
            let line = &bytes[self.line..end];
            (self.line, self.looked) = (next, next);
            match self.began {
                Began::Nothing | Began::BlankLine => {
                    self.request_line(line, limits)?;
                    self.header = next;
                }
                Began::Http10 | Began::Http11 if line.is_empty() => {
                    return Ok(Some((next, self.body()?)));
                }
                Began::Http10 | Began::Http11 => self.field(line, limits)?,
            }
        }
    }

    fn request_line(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), Violation> {
        if line.is_empty() {
            if self.began == Began::BlankLine {
                return Err(Violation::BlankLines);
            }
            self.began = Began::BlankLine;
            return Ok(());
        }
        let (method, rest) = line.split_at(
            line.iter()
                .take_while(|byte| byte.is_ascii_uppercase())
                .count(),
        );
        let Some(rest) = rest.strip_prefix(b" ").filter(|_| !method.is_empty()) else {
            return Err(Violation::RequestLine);
        };
        if method == b"CONNECT" {
            return Err(Violation::Method);
        }
        let (target, rest) = rest.split_at(target_end(rest));
        self.began = match rest {
            b" HTTP/1.1" => Began::Http11,
            b" HTTP/1.0" => Began::Http10,
            [] => return Err(Violation::RequestLine),
            [b' ', ..] if target.is_empty() => return Err(Violation::RequestLine),
            [b' ', ..] => return Err(Violation::Version),
            _ => return Err(Violation::Target),
        };
        if target.len() > limits.target {
            return Err(Violation::TargetTooLong);
        }
        match target {
            b"*" | [b'/', ..] => Ok(()),
            _ => Err(Violation::Target),
        }
    }

    fn field(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), Violation> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Violation::Folded);
        }
        self.fields += 1;
        if self.fields > limits.fields {
            return Err(Violation::HeadTooLarge);
        }
        let (name, rest) = line.split_at(count(line, &NAME));
        let Some(value) = rest.strip_prefix(b":").filter(|_| !name.is_empty()) else {
            return Err(Violation::FieldName);
        };
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            4 if is("host") => self.hosts += 1,
            7 if is("upgrade") => return Err(Violation::Upgrade),
            7 if is("trailer") => return Err(Violation::Trailers),
            14 if is("content-length") => {
                let length = decimal(value.trim_ascii()).ok_or(Violation::ContentLength)?;
                if self.length.replace(length).is_some() {
                    return Err(Violation::ContentLength);
                }
            }
            17 if is("transfer-encoding") => {
                let known = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
                if !known || self.chunked || self.began == Began::Http10 {
                    return Err(Violation::TransferCoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// What follows a complete head.
    fn body(&self) -> Result<Body, Violation> {
        if self.hosts != 1 {
            return Err(Violation::Host);
        }
        match (self.length, self.chunked) {
            (None, true) => Ok(Body::Chunked),
            (Some(_), true) => Err(Violation::ContentLength),
            (length, false) => Ok(Body::Length(length.unwrap_or_default())),
        }
    }
}

const fn table(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
}

/// How many bytes at the beginning of `text` are in `table`.
fn count(text: &[u8], table: &[bool; 256]) -> usize {
    let other = text.iter().position(|byte| !table[usize::from(*byte)]);
    other.unwrap_or(text.len())
}

/// Where the first control character is, tabs aside; without one, the end.
fn text_end(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = text[at..].first_chunk() {
        let controls = controls(u64::from_le_bytes(*word));
        if controls == 0 {
            at += word.len();
            continue;
        }
        at += controls.trailing_zeros() as usize / 8;
        if text[at] != b'\t' {
            return at;
        }
        at += 1;
    }
    let rest = &text[at..];
    let control = rest
        .iter()
        .position(|byte| byte.is_ascii_control() && *byte != b'\t');
    control.map_or(text.len(), |here| at + here)
}

/// Eight bytes at once: the lowest bit set is the top bit of the first control character. What is
/// below a blank, or nothing once the bits of a delete are flipped, borrows from that bit.
fn controls(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let flipped = word ^ (ONES * 0x7f);
    let low = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = flipped.wrapping_sub(ONES) & !flipped;
    (low | delete) & (ONES * 0x80)
}

/// Where the target ends: at whatever cannot be a part of it.
fn target_end(text: &[u8]) -> usize {
    let mut end = count(text, &TARGET);
    while let [b'%', one, two, rest @ ..] = &text[end..] {
        if !(one.is_ascii_hexdigit() && two.is_ascii_hexdigit()) {
            break;
        }
        end += 3 + count(rest, &TARGET);
    }
    end
}

/// A length without sign, blank or leading zero.
fn decimal(digits: &[u8]) -> Option<u64> {
    let plain = digits.len() <= LENGTH_DIGITS
        && digits.iter().all(u8::is_ascii_digit)
        && (digits.len() == 1 || digits.first() != Some(&b'0'));
    plain.then(|| str::from_utf8(digits).ok()?.parse().ok())?
}

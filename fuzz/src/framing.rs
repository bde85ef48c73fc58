//! Where requests begin and end. Input: a line whose bytes are the lengths of the pieces, then what
//! a client says.

use bytes::Bytes;

use super::{
    input,
    rig::{self, Asked},
};

/// A request, read the simplest way there is.
#[derive(Debug)]
struct Request {
    method: String,
    target: String,
    body: Vec<u8>,
}

/// More costs time and shows nothing new.
const LONGEST: usize = 4096;
const MOST_PIECES: usize = 8;

/// What the upstream is asked for is what the simplest reading finds, in this order: no request is
/// made of another one's body, none of two, and none has another's. How the bytes come decides no
/// more than how early the connection ends.
pub fn run(input: &[u8]) {
    let (lengths, said) = input::first_line(input);
    let said = &said[..said.len().min(LONGEST)];
    let found = requests(said);
    let (_, whole) = rig::say(&[said]);
    assert_found(&whole, &found);
    let (_, cut) = rig::say(&input::cut(said, lengths, MOST_PIECES));
    assert_found(&cut, &found);
    let both = whole.len().min(cut.len());
    assert_eq!(whole[..both], cut[..both]);
}

/// Each of `asked` is one of `found`, later than the one before.
fn assert_found(asked: &[Asked], found: &[Request]) {
    let mut rest = found.iter();
    for asked in asked {
        let is = |found: &Request| {
            let target = asked.target.strip_prefix("/base");
            asked.method == found.method
                && target.is_some_and(|target| found.target.ends_with(target))
                && asked.body == Bytes::copy_from_slice(&found.body)
        };
        assert!(rest.any(is), "{asked:?} is none of {found:?}");
    }
}

/// The requests in `said`, up to what is none.
fn requests(mut said: &[u8]) -> Vec<Request> {
    let mut all = Vec::new();
    while let Some((request, rest)) = request(said) {
        all.push(request);
        said = rest;
    }
    all
}

fn request(said: &[u8]) -> Option<(Request, &[u8])> {
    let said = said.strip_prefix(b"\r\n").unwrap_or(said);
    let (head, rest) = split(said, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let mut line = lines.next()?.split(' ');
    let (method, target) = (line.next()?.to_owned(), line.next()?.to_owned());
    let (mut length, mut chunked) = (0, false);
    for field in lines {
        let (name, value) = field.split_once(':')?;
        match &*name.to_ascii_lowercase() {
            "content-length" => length = value.trim().parse().ok()?,
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    let (body, rest) = if chunked {
        chunks(rest)?
    } else {
        let (body, rest) = rest.split_at_checked(length)?;
        (body.to_vec(), rest)
    };
    let request = Request {
        method,
        target,
        body,
    };
    Some((request, rest))
}

fn chunks(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let (length, after) = split(rest, b"\r\n")?;
        let length = usize::from_str_radix(str::from_utf8(length).ok()?, 16).ok()?;
        let (data, after) = after.split_at_checked(length)?;
        body.extend_from_slice(data);
        rest = after.strip_prefix(b"\r\n")?;
        if length == 0 {
            return Some((body, rest));
        }
    }
}

/// What stands before the first `mark`, and behind it.
fn split<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(mark.len()).position(|it| it == mark)?;
    Some((&bytes[..at], &bytes[at + mark.len()..]))
}

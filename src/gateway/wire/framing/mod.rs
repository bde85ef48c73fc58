//! Where one request ends and the next begins, read strictly.
//!
//! The HTTP server behind this takes what it can make sense of, and where it has made up its mind
//! (a length beside a transfer coding, a coding named twice, lines that end in LF alone) nothing
//! of the doubt is left to be seen. So every byte passes here first: a head goes on when it is
//! complete and beyond doubt, a body as it comes, and after the first violation nothing at all.
//!
//! [`Framed`] does that to a connection. It answers nothing itself: a stand-in takes the refused
//! request's place, in its order, and the edge refuses that like any other request.

mod chunks;
mod framed;
mod head;
#[cfg(test)]
mod tests;
mod violation;

#[cfg(test)]
pub(in crate::gateway) use self::violation::all;
pub(in crate::gateway) use self::{
    framed::Framed,
    violation::{REFUSED_AS, Violation},
};

use self::{chunks::Chunks, head::Head};
use crate::config::Limits;

/// How large a request head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct HeadLimits {
    /// Header fields.
    fields: usize,
    /// All of them together with their line ends, in bytes.
    bytes: usize,
    /// The request target, in bytes.
    target: usize,
}

/// A connection's requests, one after the other.
#[derive(Debug)]
struct Framing {
    limits: HeadLimits,
    at: Place,
}

#[derive(Debug)]
enum Place {
    Head(Head),
    /// In a body, of which so much is left.
    Length(u64),
    Chunks(Chunks),
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Chunked,
    Length(u64),
}

/// What may be said of the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scanned {
    /// So many of them may go on.
    clear: usize,
    violation: Option<Violation>,
}

// === impl HeadLimits ===

impl HeadLimits {
    /// The longest request line, and an empty line before it.
    fn line(&self) -> usize {
        /// A method, a version, spaces and line ends.
        const BESIDE_THE_TARGET: usize = 64;
        self.target.saturating_add(BESIDE_THE_TARGET)
    }

    /// The largest head.
    pub(in crate::gateway) fn head(&self) -> usize {
        self.line().saturating_add(self.bytes).saturating_add(END)
    }
}

/// The empty line at the end of a head.
const END: usize = 2;

impl From<&Limits> for HeadLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            fields: limits.max_header_fields,
            bytes: limits.max_header_size,
            target: limits.max_target,
        }
    }
}

// === impl Framing ===

impl Framing {
    fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            at: Place::Head(Head::default()),
        }
    }

    /// Looks at `bytes`: those that were not cleared before, and what has come since.
    fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut clear = 0;
        let violation = loop {
            let rest = &bytes[clear..];
            let next = match &mut self.at {
                Place::Head(head) => match head.advance(rest, &self.limits) {
                    Err(violation) => break Some(violation),
                    Ok(None) => break None,
                    Ok(Some((length, body))) => {
                        clear += length;
                        match body {
                            Body::Chunked => Place::Chunks(Chunks::START),
                            Body::Length(left) => Place::Length(left),
                        }
                    }
                },
                Place::Length(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    clear += here;
                    *left -= here as u64;
                    if *left > 0 {
                        break None;
                    }
                    Place::Head(Head::default())
                }
                Place::Chunks(chunks) => match chunks.advance(rest) {
                    Err(violation) => break Some(violation),
                    Ok(None) => {
                        clear = bytes.len();
                        break None;
                    }
                    Ok(Some(length)) => {
                        clear += length;
                        Place::Head(Head::default())
                    }
                },
            };
            self.at = next;
        };
        Scanned { clear, violation }
    }

    /// Whether the next byte is a request's first, or still in its head.
    fn in_head(&self) -> bool {
        matches!(self.at, Place::Head(_))
    }
}

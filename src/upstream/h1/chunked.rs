//! The chunked coding ([RFC 9112 §7.1]), read as it comes.
//!
//! [RFC 9112 §7.1]: https://www.rfc-editor.org/rfc/rfc9112#section-7.1

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Status;

use super::Violation;

/// Chunks that are there together are handed on together up to this size: a stream of tokens arrives
/// as dozens of small ones a packet, and each frame costs a write downstream. It is the size of a
/// TLS record; larger frames gain nothing more.
const COALESCE_LIMIT: usize = 16 * 1024;

/// What `u64` holds. Without a limit zeros could go on for ever.
const SIZE_DIGITS: u8 = 16;

/// Nobody uses extensions, and they count as no data anywhere.
const MAX_EXTENSION: usize = 4 * 1024;

const MAX_TRAILERS: usize = 16 * 1024;

const MAX_TRAILER_FIELDS: usize = 100;

/// A decoder; what it is given may be split anywhere.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Chunked {
    state: State,
    /// The lines behind the last chunk, and then what they say.
    lines: Vec<u8>,
    trailers: Option<Box<HeaderMap>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Size {
        size: u64,
        digits: u8,
    },
    /// Blanks behind a size, which some servers pad it with.
    Padding {
        size: u64,
    },
    Extension {
        size: u64,
        length: usize,
    },
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataEnd,
    DataEndLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
    Ended,
    Failed(Violation),
}

// === impl Chunked ===

impl Chunked {
    /// Takes from the front of `input` what makes one frame, and returns its data: one chunk as it
    /// lies there, or the copy of many. What is wrong is said after the data before it.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Bytes, Violation> {
        let mut first = 0..0;
        let mut joined = BytesMut::new();
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            let State::Data { left } = self.state else {
                if matches!(self.state, State::Ended | State::Failed(_)) {
                    break;
                }
                self.state = self.step(byte).unwrap_or_else(State::Failed);
                at += 1;
                continue;
            };
            let here = input.len() - at;
            let size = usize::try_from(left).map_or(here, |left| left.min(here));
            let length = first.len().max(joined.len());
            if length > 0 && length + size > COALESCE_LIMIT {
                break;
            }
            if length == 0 {
                first = at..at + size;
            } else {
                if joined.is_empty() {
                    joined.reserve(COALESCE_LIMIT.min(length + here));
                    joined.extend_from_slice(&input[first.clone()]);
                }
                joined.extend_from_slice(&input[at..at + size]);
            }
            at += size;
            self.state = match left - size as u64 {
                0 => State::DataEnd,
                left => State::Data { left },
            };
        }
        let data = if joined.is_empty() {
            input.slice(first)
        } else {
            joined.freeze()
        };
        input.advance(at);
        if input.is_empty() {
            // Even an empty rest would keep all that was read.
            *input = Bytes::new();
        }
        match self.state {
            State::Failed(violation) if data.is_empty() => Err(violation),
            _ => Ok(data),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    pub(super) fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().map(|trailers| *trailers)
    }

    /// The state after `byte`, which is no data.
    fn step(&mut self, byte: u8) -> Result<State, Violation> {
        Ok(match (self.state, byte) {
            (State::Size { digits: 0, .. }, b'\r' | b' ' | b'\t' | b';') => {
                return Err(Violation::ChunkSize);
            }
            (State::Size { size, .. } | State::Padding { size }, b'\r') => State::SizeEnd { size },
            (State::Size { size, .. } | State::Padding { size }, b' ' | b'\t') => {
                State::Padding { size }
            }
            (State::Size { size, .. } | State::Padding { size }, b';') => {
                State::Extension { size, length: 0 }
            }
            (State::Size { size, digits }, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(Violation::ChunkSize)?;
                if digits == SIZE_DIGITS {
                    return Err(Violation::ChunkSize);
                }
                State::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (State::Extension { size, .. }, b'\r') => State::SizeEnd { size },
            (State::Extension { size, length }, _) => {
                if byte == b'\n' || length == MAX_EXTENSION {
                    return Err(Violation::ChunkExtension);
                }
                State::Extension {
                    size,
                    length: length + 1,
                }
            }
            (State::SizeEnd { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeEnd { size }, b'\n') => State::Data { left: size },
            (State::Padding { .. } | State::SizeEnd { .. }, _) => return Err(Violation::ChunkSize),
            (State::DataEnd, b'\r') => State::DataEndLf,
            (State::DataEndLf, b'\n') => State::default(),
            (State::DataEnd | State::DataEndLf, _) => return Err(Violation::ChunkEnd),
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::LastLf, b'\n') => {
                self.end()?;
                State::Ended
            }
            (State::LastLf, _) | (State::TrailerStart | State::Trailer, b'\n') => {
                return Err(Violation::Trailers);
            }
            (State::TrailerLf, _) if byte != b'\n' => return Err(Violation::Trailers),
            (State::TrailerStart | State::Trailer | State::TrailerLf, _) => {
                if self.lines.len() == MAX_TRAILERS {
                    return Err(Violation::Trailers);
                }
                self.lines.push(byte);
                match byte {
                    b'\r' => State::TrailerLf,
                    b'\n' => State::TrailerStart,
                    _ => State::Trailer,
                }
            }
            // `decode` takes no step from these.
            (same @ (State::Data { .. } | State::Ended | State::Failed(_)), _) => same,
        })
    }

    fn end(&mut self) -> Result<(), Violation> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.extend_from_slice(b"\r\n");
        let trailers = parse_trailers(&lines).ok_or(Violation::Trailers)?;
        self.trailers = Some(Box::new(trailers));
        Ok(())
    }
}

fn parse_trailers(lines: &[u8]) -> Option<HeaderMap> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let Ok(Status::Complete((_, fields))) = httparse::parse_headers(lines, &mut fields) else {
        return None;
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::try_from(field.name).ok()?;
        let value = HeaderValue::from_bytes(field.value).ok()?;
        trailers.append(name, value);
    }
    Some(trailers)
}

// === impl State ===

impl Default for State {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

#[cfg(test)]
mod tests;

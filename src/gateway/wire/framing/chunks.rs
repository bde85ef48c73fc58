//! A chunked body, as far as finding its end needs.

use super::violation::Violation;

/// Where in a chunked body the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    /// In a length, of which so many digits have come.
    Length { digits: usize, length: u64 },
    /// Behind the CR of a length.
    LengthEnd { length: u64 },
    /// In the data, of which so much is left.
    Data { left: u64 },
    /// Behind the data.
    DataEnd,
    /// Behind the CR that follows the data.
    DataLf,
    /// Behind the last chunk, where trailers would be.
    Last,
    /// Behind the CR of the body's last line.
    LastLf,
}

/// Four GiB; longer lengths are an attempt at an overflow.
const LENGTH_DIGITS: usize = 8;

// === impl Chunks ===

impl Chunks {
    pub(super) const START: Self = Self::Length {
        digits: 0,
        length: 0,
    };

    /// Looks at the next `bytes`; at the body's end, how many of them belong to it.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Violation> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            *self = match (*self, byte) {
                (Self::Data { left }, _) => {
                    let here = left.min((bytes.len() - at + 1) as u64);
                    // No more than the bytes that are there.
                    at += here as usize - 1;
                    match left - here {
                        0 => Self::DataEnd,
                        left => Self::Data { left },
                    }
                }
                (
                    Self::Length {
                        digits: 1..,
                        length,
                    },
                    b'\r',
                ) => Self::LengthEnd { length },
                (Self::Length { digits, length }, _) => {
                    let digit = char::from(byte).to_digit(16).ok_or(Violation::Chunk)?;
                    if digits == LENGTH_DIGITS {
                        return Err(Violation::Chunk);
                    }
                    Self::Length {
                        digits: digits + 1,
                        length: length << 4 | u64::from(digit),
                    }
                }
                (Self::LengthEnd { length: 0 }, b'\n') => Self::Last,
                (Self::LengthEnd { length }, b'\n') => Self::Data { left: length },
                (Self::DataEnd, b'\r') => Self::DataLf,
                (Self::DataLf, b'\n') => Self::START,
                (Self::Last, b'\r') => Self::LastLf,
                (Self::Last, _) => return Err(Violation::Trailers),
                (Self::LastLf, b'\n') => return Ok(Some(at)),
                _ => return Err(Violation::Chunk),
            };
        }
        Ok(None)
    }
}

//! Output that comes in pieces.

use std::{io::IoSlice, mem::MaybeUninit};

use tokio::io::ReadBuf;

/// What is copied. The system takes so much in one piece a third of a microsecond sooner than in two.
const SMALL: usize = 2 * 1024;

/// Lets `write` have all of `pieces` as one: the only one that has bytes, or a copy of them, or none if
/// they are too large for that.
pub(crate) fn as_one<T>(pieces: &[IoSlice<'_>], write: impl FnOnce(Option<&[u8]>) -> T) -> T {
    let mut filled = pieces.iter().filter(|piece| !piece.is_empty());
    if let (Some(only), None) = (filled.next(), filled.next()) {
        return write(Some(only));
    }
    if pieces.iter().map(|piece| piece.len()).sum::<usize>() > SMALL {
        return write(None);
    }
    let mut room = [const { MaybeUninit::uninit() }; SMALL];
    let mut one = ReadBuf::uninit(&mut room);
    for piece in pieces {
        one.put_slice(piece);
    }
    write(Some(one.filled()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(pieces: &[&[u8]]) -> Option<Vec<u8>> {
        let pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        as_one(&pieces, |one| one.map(<[u8]>::to_vec))
    }

    #[test]
    fn small_pieces_are_joined_in_their_order() {
        assert_eq!(one(&[b"ab", b"", b"c"]).unwrap(), b"abc");
        assert_eq!(one(&[&[1; SMALL - 1], &[2]]).unwrap().len(), SMALL);
        assert!(one(&[]).unwrap().is_empty());
    }

    #[test]
    fn large_ones_stay_as_they_are() {
        assert!(one(&[&[1; SMALL], &[2]]).is_none());
        assert_eq!(one(&[b"", &[1; 2 * SMALL]]).unwrap().len(), 2 * SMALL);
    }
}

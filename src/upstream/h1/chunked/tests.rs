use proptest::{collection::vec, prelude::*};

use super::*;

/// What `pieces` decode to: the data, and the end of the story.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Result<Chunked, Violation>) {
    let (mut chunked, mut data) = (Chunked::default(), Vec::new());
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        let mut whole = input.split().freeze();
        loop {
            let before = whole.len();
            match chunked.decode(&mut whole) {
                Ok(more) => data.extend_from_slice(&more),
                Err(violation) => return (data, Err(violation)),
            }
            if whole.len() == before {
                break;
            }
        }
        input.extend_from_slice(&whole);
    }
    (data, Ok(chunked))
}

fn whole(text: &str) -> (String, Result<bool, Violation>) {
    let (data, outcome) = decode([text.as_bytes()]);
    let outcome = outcome.map(|chunked| chunked.has_ended());
    (String::from_utf8(data).unwrap(), outcome)
}

#[test]
fn chunks_make_a_body_and_the_last_one_its_end() {
    let ended = |data: &str| (data.to_owned(), Ok(true));
    assert_eq!(
        whole("3\r\none\r\n0A\r\n0123456789\r\n0\r\n\r\n"),
        ended("one0123456789")
    );
    assert_eq!(whole("0\r\n\r\n"), ended(""));
    assert_eq!(
        whole("1 \t\r\na\r\n1;x=\"y\";z\r\nb\r\n1 ;x\r\nc\r\n000;x\r\n\r\n"),
        ended("abc")
    );
    let open = |data: &str| (data.to_owned(), Ok(false));
    assert_eq!(whole("3\r\non"), open("on"));
    assert_eq!(whole("3\r\none\r\n0\r\n"), open("one"));
    assert_eq!(whole("3\r\none\r\n0\r\n\r"), open("one"));
}

#[test]
fn what_comes_behind_the_end_is_left_there() {
    let mut input = Bytes::from_static(b"1\r\na\r\n0\r\n\r\nHTTP/1.1");
    let mut chunked = Chunked::default();
    assert_eq!(chunked.decode(&mut input).unwrap(), "a");
    assert!(chunked.has_ended());
    assert_eq!(input, "HTTP/1.1");
}

#[test]
fn what_is_malformed_is_refused_after_the_data_before_it() {
    use Violation::{ChunkEnd, ChunkExtension, ChunkSize, Trailers};

    for (text, violation) in [
        ("\r\n", ChunkSize),
        (" 1\r\na", ChunkSize),
        (";x\r\n", ChunkSize),
        ("0x1\r\na", ChunkSize),
        ("+1\r\na", ChunkSize),
        ("-1\r\na", ChunkSize),
        ("g\r\n", ChunkSize),
        ("1\na", ChunkSize),
        ("1\rxa", ChunkSize),
        ("1 1\r\n", ChunkSize),
        ("11111111111111111\r\n", ChunkSize),
        ("00000000000000001\r\na", ChunkSize),
        ("1;x\na", ChunkExtension),
        ("1\r\nab", ChunkEnd),
        ("1\r\na\n", ChunkEnd),
        ("1\r\na\rx", ChunkEnd),
        ("0\r\n\n", Trailers),
        ("0\r\n\rx", Trailers),
        ("0\r\nx: y\n\r\n", Trailers),
        ("0\r\nx: y\rz\r\n\r\n", Trailers),
    ] {
        let outcome = whole(&format!("2\r\nok\r\n{text}"));
        let data = outcome.0.trim_start_matches("ok");
        assert!(outcome.0.starts_with("ok") && data.len() <= 1, "{text:?}");
        assert_eq!(outcome.1, Err(violation), "{text:?}");
    }
}

#[test]
fn the_largest_size_is_a_size() {
    let (data, outcome) = whole("ffffffffffffffff\r\nab");
    assert_eq!((&*data, outcome), ("ab", Ok(false)));
}

#[test]
fn an_extension_may_be_as_long_as_its_limit_and_no_longer() {
    let with = |length| whole(&format!("1;{}\r\na\r\n", "x".repeat(length)));
    assert_eq!(with(MAX_EXTENSION), ("a".to_owned(), Ok(false)));
    assert_eq!(with(MAX_EXTENSION + 1).1, Err(Violation::ChunkExtension));
}

#[test]
fn trailers_are_fields_up_to_their_limits() {
    let trailers = |lines: &str| {
        let (_, outcome) = decode([format!("0\r\n{lines}\r\n").as_bytes()]);
        outcome.map(|mut chunked| chunked.take_trailers())
    };
    assert_eq!(trailers(""), Ok(None));
    let two = trailers("x-sum: 7\r\nX-Sum: 8\r\n").unwrap().unwrap();
    assert_eq!(two.get_all("x-sum").iter().collect::<Vec<_>>(), ["7", "8"]);
    for bad in ["no field\r\n", "x y: 1\r\n", ": 1\r\n", "x: \u{1}\r\n"] {
        assert_eq!(trailers(bad), Err(Violation::Trailers), "{bad:?}");
    }
    let long = |length: usize| trailers(&format!("x: {}\r\n", "y".repeat(length - 5)));
    assert!(long(MAX_TRAILERS).unwrap().is_some());
    assert_eq!(long(MAX_TRAILERS + 1), Err(Violation::Trailers));
    assert!(trailers(&"x: y\r\n".repeat(MAX_TRAILER_FIELDS)).is_ok());
    let many = trailers(&"x: y\r\n".repeat(MAX_TRAILER_FIELDS + 1));
    assert_eq!(many, Err(Violation::Trailers));
}

#[test]
fn chunks_are_joined_up_to_the_limit_and_a_single_one_is_not_copied() {
    let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", "x".repeat(size));
    let mut input = Bytes::from(chunk(COALESCE_LIMIT / 2).repeat(3) + &chunk(3 * COALESCE_LIMIT));
    let mut chunked = Chunked::default();
    assert_eq!(chunked.decode(&mut input).unwrap().len(), COALESCE_LIMIT);
    assert_eq!(
        chunked.decode(&mut input).unwrap().len(),
        COALESCE_LIMIT / 2
    );
    let place = input.as_ptr_range();
    let large = chunked.decode(&mut input).unwrap();
    assert_eq!(large.len(), 3 * COALESCE_LIMIT);
    assert!(place.contains(&large.as_ptr()));
    assert!(input.is_empty());
}

proptest! {
    #[test]
    fn where_the_bytes_are_split_changes_nothing(
        chunks in vec(vec(any::<u8>(), 1..40), 0..8),
        trailer in proptest::option::of("[a-z]{1,8}"),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend_from_slice(format!("{:X};e\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n");
        if let Some(value) = &trailer {
            wire.extend_from_slice(format!("x-t: {value}\r\n").as_bytes());
        }
        wire.extend_from_slice(b"\r\n");

        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
        cuts.extend([0, wire.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|cut| &wire[cut[0]..cut[1]]).collect();
        for pieces in [pieces, wire.chunks(1).collect()] {
            let (data, outcome) = decode(pieces);
            prop_assert_eq!(&data, &chunks.concat());
            let mut chunked = outcome.unwrap();
            prop_assert!(chunked.has_ended());
            let found = chunked.take_trailers();
            let found = found.map(|trailers| trailers["x-t"].to_str().unwrap().to_owned());
            prop_assert_eq!(&found, &trailer);
        }
    }

    #[test]
    fn any_bytes_give_the_same_outcome_whole_and_one_by_one(
        text in "[0-9a-fA-F;x \t\r\n:]{0,60}|([1-3]\r\n[a-z]{1,3}\r\n){0,4}(0\r\n)?(x: y\r\n)?\r?\n?",
    ) {
        let outcome = |pieces: Vec<&[u8]>| {
            let (data, outcome) = decode(pieces);
            (data, outcome.map(|chunked| chunked.has_ended()))
        };
        prop_assert_eq!(outcome(vec![text.as_bytes()]), outcome(text.as_bytes().chunks(1).collect()));
    }
}

use proptest::{collection::vec, prelude::*};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::{super::Connection, *};

/// The defaults.
const LIMITS: HeadLimits = HeadLimits {
    fields: 64,
    bytes: 32 * 1024,
    target: 8 * 1024,
};

/// What comes of a byte stream: how much of it was cleared, and why no more.
fn verdict(pieces: &[&[u8]]) -> (usize, Option<Violation>) {
    let mut framing = Framing::new(LIMITS);
    let (mut held, mut cleared) = (Vec::new(), 0);
    for piece in pieces {
        held.extend_from_slice(piece);
        let scanned = framing.scan(&held);
        held.drain(..scanned.clear);
        cleared += scanned.clear;
        if let Some(violation) = scanned.violation {
            return (heads_only(&framing, cleared), Some(violation));
        }
    }
    (cleared, None)
}

/// How much of a broken body was passed on depends on when it came.
fn heads_only(framing: &Framing, cleared: usize) -> usize {
    if framing.in_head() { cleared } else { 0 }
}

fn split<'a>(bytes: &'a [u8], at: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = at.iter().map(|at| at.index(bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut from = 0;
    cuts.into_iter()
        .map(|to| {
            let piece = &bytes[from..to];
            from = to;
            piece
        })
        .collect()
}

/// A request whose fields have this size together.
fn head_of(size: usize) -> Vec<u8> {
    let fields = "host: h\r\nx: ";
    let value = "a".repeat(size - fields.len() - 2);
    format!("GET / HTTP/1.1\r\n{fields}{value}\r\n\r\n").into_bytes()
}

/// A request that nobody could misread.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    let field = ("[a-zA-Z][a-zA-Z0-9.!-]{0,12}", "[ \t]?[ -~]{0,20}").prop_filter(
        "these have a meaning",
        |(name, _)| {
            let name = name.to_ascii_lowercase();
            !["host", "upgrade", "trailer"].contains(&&*name)
        },
    );
    let body = prop_oneof![
        Just(None),
        vec(vec(any::<u8>(), 1..40), 0..4).prop_map(|chunks| Some((true, chunks))),
        vec(vec(any::<u8>(), 0..40), 0..2).prop_map(|data| Some((false, data))),
    ];
    let line = (
        "GET|POST|DELETE",
        "/[a-z0-9/._~-]{0,20}(\\?[a-z=&%2F\\[\\]]{0,6}=%2f)?",
    );
    (any::<bool>(), line, vec(field, 0..8), body).prop_map(|(blank, line, fields, body)| {
        let line = (line.0, line.1.replace("%2F", "F").replace('%', "%41"));
        let mut head = if blank { "\r\n" } else { "" }.to_owned();
        head += &format!("{} {} HTTP/1.1\r\nHost: localhost\r\n", line.0, line.1);
        for (name, value) in fields {
            head += &format!("{name}:{value}\r\n");
        }
        let mut bytes = Vec::new();
        match body {
            None => {}
            Some((true, chunks)) => {
                head += "Transfer-Encoding: Chunked\r\n";
                for chunk in chunks {
                    bytes.extend(format!("{:X}\r\n", chunk.len()).into_bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            }
            Some((false, data)) => {
                bytes = data.concat();
                head += &format!("content-length: {}\r\n", bytes.len());
            }
        }
        [head.as_bytes(), b"\r\n", &bytes].concat()
    })
}

/// Bytes that are nearly a request: most of what random bytes never reach.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /v1/x HTTP/1.0\r\n",
        "host: h\r\n",
        "content-length: 3\r\n",
        "content-length: 03\r\n",
        "transfer-encoding: chunked\r\n",
        "transfer-encoding: identity\r\n",
        "x: 1\r\n y\r\n",
        "a_b: c\r\n",
        "\r\n",
        "\n",
        "\r",
        "\0",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nx: y\r\n\r\n",
        "5;x=y\r\n",
        "upgrade: h2c\r\n",
    ]);
    vec(piece, 0..14).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn the_verdict_does_not_depend_on_how_the_bytes_arrive(
        bytes in prop_oneof![
            nearly(),
            vec(any::<u8>(), 0..80),
            (valid(), nearly()).prop_map(|(one, two)| [one, two].concat()),
            (32_700_usize..32_800).prop_map(head_of),
        ],
        at in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        prop_assert_eq!(verdict(&split(&bytes, &at)), verdict(&[&bytes]));
    }

    #[test]
    fn a_well_formed_sequence_passes_whole(
        requests in vec(valid(), 1..4),
        at in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let bytes = requests.concat();
        prop_assert_eq!(verdict(&split(&bytes, &at)), (bytes.len(), None));
    }

    #[test]
    fn a_connection_reads_as_what_was_cleared(
        requests in vec(valid(), 1..4),
        capacity in 1_usize..100,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = requests.concat();
        let read = runtime.block_on(async {
            let (mut client, server) = duplex(capacity);
            let mut framed = Framed::new(server, Connection::new(), LIMITS);
            let mut read = Vec::new();
            let send = async {
                client.write_all(&bytes).await.unwrap();
                drop(client);
            };
            let (_sent, outcome) = tokio::join!(send, framed.read_to_end(&mut read));
            outcome.unwrap();
            read
        });
        prop_assert_eq!(read, bytes);
    }
}

#[test]
fn the_limits_are_exact() {
    let most = LIMITS;
    let largest = head_of(most.bytes);
    assert_eq!(verdict(&[&largest]), (largest.len(), None));
    let larger = head_of(most.bytes + 1);
    assert_eq!(verdict(&[&larger]), (0, Some(Violation::HeadTooLarge)));

    let fields = |count: usize| {
        let fields: String = (1..count)
            .map(|number| format!("x-{number}: 1\r\n"))
            .collect();
        format!("GET / HTTP/1.1\r\nhost: h\r\n{fields}\r\n").into_bytes()
    };
    assert_eq!(verdict(&[&fields(most.fields)]).1, None);
    let more = fields(most.fields + 1);
    assert_eq!(verdict(&[&more]).1, Some(Violation::HeadTooLarge));

    let target = |length: usize| {
        let path = "a".repeat(length - 1);
        format!("GET /{path} HTTP/1.1\r\nhost: h\r\n\r\n").into_bytes()
    };
    assert_eq!(verdict(&[&target(most.target)]).1, None);
    let longer = target(most.target + 1);
    assert_eq!(verdict(&[&longer]).1, Some(Violation::TargetTooLong));
    // One that never ends.
    let endless = format!("GET /{}", "a".repeat(most.bytes)).into_bytes();
    assert_eq!(verdict(&[&endless]).1, Some(Violation::TargetTooLong));
}

#[test]
fn what_stands_in_for_a_request_says_why() {
    for violation in all() {
        let stand_in = String::from_utf8(violation.stand_in()).unwrap();
        let (_, rest) = stand_in.split_once("refused_as: ").unwrap();
        let (which, _) = rest.split_once("\r\n").unwrap();
        assert_eq!(Violation::from_stand_in(which.as_bytes()), Some(violation));
        // A client that sends the same is refused for the name.
        let forged = stand_in
            .replace("\r\n\r\n", "\r\nhost: h\r\n\r\n")
            .into_bytes();
        assert_eq!(verdict(&[&forged]), (0, Some(Violation::FieldName)));
    }
}

#[tokio::test]
async fn a_refused_request_is_replaced_in_its_order_and_nothing_follows() {
    let good = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nok";
    let bad = b"GET / HTTP/1.1\r\nhost: h\r\na_b: c\r\n\r\n";
    for cut in 0..good.len() + bad.len() {
        let (mut client, server) = duplex(4096);
        let mut framed = Framed::new(server, Connection::new(), LIMITS);
        let all = [&good[..], bad, good].concat();
        let mut read = Vec::new();
        client.write_all(&all[..cut]).await.unwrap();
        let mut reading = Box::pin(framed.read_to_end(&mut read));
        assert!(futures_util::poll!(&mut reading).is_pending());
        client.write_all(&all[cut..]).await.unwrap();
        drop(client);
        assert!(futures_util::poll!(&mut reading).is_pending(), "it goes on");
        drop(reading);
        let expected = [&good[..], &Violation::FieldName.stand_in()].concat();
        assert_eq!(read, expected, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_its_framing_fails_with_the_reason() {
    let (mut client, server) = duplex(4096);
    let mut framed = Framed::new(server, Connection::new(), LIMITS);
    let bytes = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0x2\r\n";
    client.write_all(bytes).await.unwrap();
    let error = framed.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(Violation::behind(&error), Some(Violation::Chunk));
}

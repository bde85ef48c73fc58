//! What a client offers and nobody has to take, and names that are unusual: both are valid HTTP.

use super::{pair, plain, raw, request};

const JSON: &str = "content-type: application/json\r\n";

/// What the JDK's client sends with every first request, and curl with `--http2`.
const OFFER: &str = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
                     http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n";

/// An offer of another protocol is ignored by who cannot use it ([RFC 9110 §7.8]).
///
/// [RFC 9110 §7.8]: https://www.rfc-editor.org/rfc/rfc9110#section-7.8
#[tokio::test]
async fn an_offer_of_another_protocol_is_ignored_and_goes_no_further() {
    let (simulator, gateway) = pair(&[], "").await;
    let body = plain("m");
    // The connection goes on as it was: what follows is another request.
    let mut bytes = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{JSON}{OFFER}\
         content-length: {}\r\n\r\n{body}\
         GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{OFFER}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend(request("GET /v1/files", "", ""));
    let answers = raw(&gateway, &bytes).await;
    assert_eq!(
        answers.matches("HTTP/1.1 200 OK\r\n").count(),
        3,
        "{answers}"
    );
    assert!(!answers.to_lowercase().contains("upgrade"), "{answers}");

    let arrivals = simulator.arrivals();
    assert!(!arrivals.is_empty());
    for arrival in &arrivals {
        assert_eq!(arrival.version, "HTTP/1.1");
        for field in ["upgrade", "http2-settings"] {
            assert_eq!(arrival.header(field), None, "{arrival:#?}");
        }
        let connection = arrival.header("connection").unwrap_or_default();
        assert!(!connection.contains("Upgrade"), "{arrival:#?}");
    }
}

/// An underscore is a character of a token ([RFC 9110 §5.6.2]); clients send `session_id`.
///
/// [RFC 9110 §5.6.2]: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2
#[tokio::test]
async fn a_field_may_have_an_underscore_in_its_name() {
    let (simulator, gateway) = pair(&[], "").await;
    let fields = format!("{JSON}session_id: 4b1d\r\n");
    let chat = request("POST /v1/chat/completions", &fields, &plain("m"));
    let answer = raw(&gateway, &chat).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(simulator.arrivals().len(), 1);
}

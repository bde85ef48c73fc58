//! Takes a request's body in, once and under a cap, and reads from it what routing needs.

use std::{borrow::Cow, error::Error as StdError, io, time::Duration};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use pacegate_layers::error::{BoxError, chain};
use serde::{Deserialize, Deserializer};
use tokio::time::timeout;

use super::body_budget::BodyBudget;

/// How bodies are taken in.
#[derive(Debug)]
pub(crate) struct BodyReader {
    /// The largest, and what all together may weigh.
    pub(crate) max_body: usize,
    pub(crate) max_bodies: usize,
    /// The longest silence in one, and from its first byte to its last.
    pub(crate) idle_timeout: Duration,
    pub(crate) timeout: Duration,
    /// Those that are held.
    pub(crate) bodies: BodyBudget,
}

/// How much of a body that is too large is thrown away before the answer: a client that is still
/// sending when the connection closes may never read why.
const DISCARD: usize = 64 * 1024 * 1024;

/// Why a body was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestBodyError {
    #[error("the client broke off its request body")]
    Broken(#[source] BoxError),
    #[error(
        "the request bodies that pacegate holds weigh as much as max-bodies allows ({0}); this one \
         has to come again"
    )]
    Crowded(bytesize::ByteSize),
    #[error("the request body stopped arriving; send it again")]
    Idle,
    #[error(
        "the chunked request body is malformed: a chunk is its length in hexadecimal digits, CR LF, \
         so many bytes, CR LF"
    )]
    Malformed,
    #[error("the request body names no model; expected a string under \"model\"")]
    NoModel,
    #[error("the request body is not a JSON object: {0}")]
    NotJson(String),
    #[error("the request body took longer than body-timeout allows; send it again")]
    Slow,
    #[error("the request body is larger than max-body in pacegate's config allows ({0})")]
    TooLarge(bytesize::ByteSize),
}

/// What a body asks for, as far as we need to know; the rest is only checked to be JSON.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct ChatParams<'a> {
    #[serde(borrow, default, deserialize_with = "or_borrowed")]
    pub(crate) model: Option<Cow<'a, str>>,
    /// Whether the answer is to be an event stream.
    #[serde(default, deserialize_with = "or_false")]
    pub(crate) stream: bool,
}

// === impl RequestBodyError ===

impl RequestBodyError {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Broken(_) | Self::Malformed | Self::NoModel | Self::NotJson(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Crowded(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Idle | Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Broken(_) | Self::Idle | Self::Slow => "request_incomplete",
            Self::Crowded(_) => "overloaded",
            Self::Malformed => "malformed_request",
            Self::NoModel => "model_missing",
            Self::NotJson(_) => "invalid_json",
            Self::TooLarge(_) => "request_too_large",
        }
    }
}

// === impl BodyReader ===

impl BodyReader {
    /// Reads `body` to its end.
    ///
    /// # Errors
    ///
    /// [`RequestBodyError`]: it is too large, or too much beside the others; it is silent for too long or
    /// takes too long; the client fails.
    pub(crate) async fn collect<B>(&self, body: B) -> Result<Bytes, RequestBodyError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        timeout(self.timeout, self.read(body))
            .await
            .unwrap_or(Err(RequestBodyError::Slow))
    }

    async fn read<B>(&self, mut body: B) -> Result<Bytes, RequestBodyError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let discard_beyond = self.max_body.saturating_add(DISCARD);
        let size = |bytes| bytesize::ByteSize(bytes as u64);
        if body.size_hint().lower() > discard_beyond as u64 {
            return Err(RequestBodyError::TooLarge(size(self.max_body)));
        }
        let mut taken = Some((Whole::Empty, self.bodies.reserve()));
        let mut refused = None;
        let mut length = 0_usize;
        while let Some(frame) = self.next(&mut body).await? {
            let Ok(data) = frame.into_data() else {
                continue;
            };
            length = length.saturating_add(data.len());
            if length > discard_beyond {
                break;
            }
            let Some((whole, weight)) = &mut taken else {
                continue;
            };
            if length > self.max_body {
                refused = Some(RequestBodyError::TooLarge(size(self.max_body)));
                taken = None;
            } else if !weight.add(data.len(), self.max_bodies) {
                refused = Some(RequestBodyError::Crowded(size(self.max_bodies)));
                taken = None;
            } else {
                whole.push(data, body.size_hint().lower());
            }
        }
        match (refused, taken) {
            (None, Some((Whole::Empty, _))) => Ok(Bytes::new()),
            (None, Some((whole, weight))) => Ok(weight.of(whole.into_bytes())),
            (refused, _) => Err(refused.unwrap_or(RequestBodyError::TooLarge(size(self.max_body)))),
        }
    }

    async fn next<B>(
        &self,
        body: &mut B,
    ) -> Result<Option<http_body::Frame<Bytes>>, RequestBodyError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        timeout(self.idle_timeout, body.frame())
            .await
            .map_err(|_elapsed| RequestBodyError::Idle)?
            .transpose()
            .map_err(|error| {
                let error = error.into();
                if is_malformed(&*error) {
                    RequestBodyError::Malformed
                } else {
                    RequestBodyError::Broken(error)
                }
            })
    }
}

/// Whether a body that failed with `error` was not chunked as HTTP has it. hyper tells by the kind of
/// the cause.
fn is_malformed(error: &(dyn StdError + 'static)) -> bool {
    chain(error).any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        let kind = cause.map(io::Error::kind);
        matches!(
            kind,
            Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
        )
    })
}

/// What a request asks for, after checking that its body is a JSON object.
///
/// # Errors
///
/// [`RequestBodyError::NotJson`] with the place of the mistake.
pub(crate) fn chat_params(body: &[u8]) -> Result<ChatParams<'_>, RequestBodyError> {
    // serde would take an array for the same thing.
    if body
        .trim_ascii_start()
        .first()
        .is_some_and(|byte| *byte != b'{')
    {
        return Err(RequestBodyError::NotJson("it does not begin with {".into()));
    }
    serde_json::from_slice(body).map_err(|error| {
        // The error's own text may quote the body; its place and kind do not.
        let kind = match error.classify() {
            serde_json::error::Category::Data => "unexpected kind of value",
            serde_json::error::Category::Eof => "it ends too early",
            _ => "syntax error",
        };
        let (line, column) = (error.line(), error.column());
        RequestBodyError::NotJson(format!("{kind} at line {line}, column {column}"))
    })
}

/// serde borrows what it finds for a `Cow`, but not for an optional one.
fn or_borrowed<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Cow<'de, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let text = Option::<Text<'de>>::deserialize(deserializer)?;
    Ok(text.map(|Text(text)| text))
}

/// Some clients send null for what they leave open.
fn or_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The body so far: one piece is kept as it came, without a copy.
enum Whole {
    Empty,
    One(Bytes),
    Many(BytesMut),
}

impl Whole {
    fn push(&mut self, data: Bytes, expected: u64) {
        *self = match std::mem::replace(self, Self::Empty) {
            Self::Empty => Self::One(data),
            Self::One(first) => {
                let expected = usize::try_from(expected).unwrap_or_default();
                let mut all = BytesMut::with_capacity(first.len() + data.len() + expected);
                all.extend_from_slice(&first);
                all.extend_from_slice(&data);
                Self::Many(all)
            }
            Self::Many(mut all) => {
                all.extend_from_slice(&data);
                Self::Many(all)
            }
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::One(data) => data,
            Self::Many(all) => all.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http_body_util::{Empty, Full, StreamBody};
    use tower::BoxError;

    use super::*;

    fn pieces(
        pieces: &[&'static str],
    ) -> impl Body<Data = Bytes, Error = BoxError> + Unpin + use<> {
        let frames: Vec<_> = pieces
            .iter()
            .map(|piece| Ok(http_body::Frame::data(Bytes::from_static(piece.as_bytes()))))
            .collect();
        StreamBody::new(stream::iter(frames))
    }

    fn body_reader(max_body: usize) -> BodyReader {
        BodyReader {
            max_body,
            max_bodies: 8,
            idle_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(120),
            bodies: BodyBudget::default(),
        }
    }

    /// One byte each `gap`, for ever.
    fn trickle(gap: Duration) -> impl Body<Data = Bytes, Error = BoxError> + Unpin {
        let frames = stream::repeat(()).then(move |()| async move {
            tokio::time::sleep(gap).await;
            Ok(http_body::Frame::data(Bytes::from_static(b"x")))
        });
        StreamBody::new(Box::pin(frames))
    }

    #[tokio::test]
    async fn joins_the_pieces() {
        let body = body_reader(5)
            .collect(pieces(&["ab", "cd", "e"]))
            .await
            .unwrap();
        assert_eq!(body, "abcde");
        assert!(
            body_reader(0)
                .collect(Empty::new())
                .await
                .unwrap()
                .is_empty()
        );
    }

    #[tokio::test]
    async fn one_byte_too_many_is_refused() {
        let abcde = pieces(&["ab", "cd", "e"]);
        let error = body_reader(4).collect(abcde).await.unwrap_err();
        assert!(matches!(error, RequestBodyError::TooLarge(_)));
        let whole = Full::new("abcde".into());
        let error = body_reader(4).collect(whole).await.unwrap_err();
        assert_eq!(error.status(), 413);
    }

    #[tokio::test]
    async fn one_byte_too_many_of_all_bodies_together_is_refused_until_one_is_gone() {
        let body_reader = body_reader(8);
        let first = body_reader
            .collect(pieces(&["ab", "cd", "e"]))
            .await
            .unwrap();
        let second = body_reader.collect(pieces(&["fgh"])).await.unwrap();
        let error = body_reader.collect(pieces(&["i"])).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (503, "overloaded"));
        drop(second);
        let error = body_reader
            .collect(pieces(&["fg", "h", "i"]))
            .await
            .unwrap_err();
        assert_eq!(error.code(), "overloaded");
        assert_eq!(
            body_reader.bodies.held(),
            5,
            "what was refused still weighs"
        );
        body_reader.collect(pieces(&["fgh"])).await.unwrap();
        drop(first);
        assert_eq!(body_reader.bodies.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_given_up() {
        let never = StreamBody::new(stream::pending::<Result<http_body::Frame<Bytes>, BoxError>>());
        let start = tokio::time::Instant::now();
        let error = body_reader(4)
            .collect(never.boxed_unsync())
            .await
            .unwrap_err();
        assert!(matches!(error, RequestBodyError::Idle));
        assert_eq!(start.elapsed(), Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_has_its_time_and_no_more() {
        let start = tokio::time::Instant::now();
        let slow = trickle(Duration::from_secs(29));
        let error = body_reader(999).collect(slow).await.unwrap_err();
        assert!(matches!(error, RequestBodyError::Slow), "{error}");
        assert_eq!(error.status(), 408);
        assert_eq!(start.elapsed(), Duration::from_secs(120));
    }

    #[test]
    fn finds_what_is_wished_and_checks_the_rest() {
        let full = ChatParams {
            model: Some("m1".into()),
            stream: true,
        };
        let body = br#"{"a":[1],"model":"m\u0031","stream":true}"#;
        assert_eq!(chat_params(body).unwrap(), full);
        assert_eq!(
            chat_params(br#"{"a":1,"stream":null}"#).unwrap(),
            ChatParams::default()
        );
        for (broken, place) in [
            ("", "it ends too early at line 1, column 0"),
            (r#"{"model":"x""#, "it ends too early at line 1, column 12"),
            (r#"{"model":"x"} y"#, "syntax error at line 1, column 15"),
            (r#"["x"]"#, "does not begin with {"),
            (r#"{"model":7}"#, "unexpected kind of value"),
        ] {
            let error = chat_params(broken.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(place), "{broken}: {error}");
        }
    }
}

//! Event streams, read up to their first event. Input: a line whose bytes are the lengths of the
//! chunks, then the stream.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use pacegate_layers::{RetryOn429Layer, error::BoxError, retry_on_429::Classify};
use tokio::runtime::Builder;
use tower::{Layer, ServiceExt, service_fn};

use super::{dialects, input};

/// A longer stream is classified by what has arrived, which depends on the chunks.
const LONGEST: usize = 4096;

/// The chunks of a stream, as a body.
struct Chunks(std::vec::IntoIter<Bytes>);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let chunk = self.0.next();
        std::task::Poll::Ready(chunk.map(|chunk| Ok(http_body::Frame::data(chunk))))
    }
}

/// The chunks make no difference, and a stream that passes arrives unchanged.
pub fn run(input: &[u8]) {
    let (lengths, stream) = input::first_line(input);
    let stream = Bytes::copy_from_slice(&stream[..stream.len().min(LONGEST)]);
    let cut = cut(stream.clone(), lengths);
    for classifier in &*dialects::ALL {
        let whole = pass(classifier.clone(), vec![stream.clone()]);
        let pieces = pass(classifier.clone(), cut.clone());
        assert_eq!(whole, pieces);
        if let Ok((_, body)) = whole {
            assert_eq!(body, stream);
        }
    }
}

fn cut(mut stream: Bytes, lengths: &[u8]) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    for length in lengths {
        let length = usize::from(*length).clamp(1, stream.len().max(1));
        chunks.push(stream.split_to(length.min(stream.len())));
    }
    chunks.push(stream);
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

/// The status and body that the client gets, or the error.
fn pass(
    classifier: impl Classify + Clone + Send + Sync + 'static,
    chunks: Vec<Bytes>,
) -> Result<(u16, Bytes), String> {
    // Without retries the client gets the first response.
    let layer = RetryOn429Layer::new(classifier).max_retries(0);
    let service = layer.layer(service_fn(move |_: Request<Full<Bytes>>| {
        let mut response = Response::new(Chunks(chunks.clone().into_iter()));
        let kind = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        async move { Ok::<_, BoxError>(response) }
    }));
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let request = Request::new(Full::new(Bytes::new()));
        let response = service.oneshot(request).await;
        let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Ok((head.status.as_u16(), body))
    })
}

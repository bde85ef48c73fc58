//! The same responses over HTTP/2.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use anyhow::anyhow;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Either, Full};
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Interval, interval},
};

use super::{
    BEAT, BURST, ConnectionContext, EVENT, JSON, PARTS, TICK, TICKS, open_streams::OpenStream,
    stamped, wanted,
};

/// The most streams of a connection: nginx's default, which many providers use.
const MOST_STREAMS: u32 = 128;

/// The body of a stream.
struct Events {
    /// Whether it was polled before: the first poll waits, so that the response headers are sent by
    /// themselves, as over HTTP/1.1.
    begun: bool,
    /// `None` for an event with the time when it is sent.
    event: Option<Bytes>,
    left: usize,
    pace: Option<Interval>,
    /// Keeps the stream open until the client closes, and counts it.
    open: Option<OpenStream>,
}

/// Responds to all requests of a connection.
pub(super) async fn serve<S>(socket: S, context: ConnectionContext) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request| answer(context.clone(), request));
    let served = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(MOST_STREAMS)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(socket), service);
    Ok(served.await?)
}

async fn answer(
    context: ConnectionContext,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Either<Full<Bytes>, Events>>> {
    let path = request.uri().path_and_query().map(ToString::to_string);
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let wanted = wanted(path.as_deref().unwrap_or_default());
    let (kind, body) = match wanted {
        "json" => {
            let json = Full::new(Bytes::from_static(JSON.as_bytes()));
            ("application/json", Either::Left(json))
        }
        wanted => (
            "text/event-stream",
            Either::Right(Events::of(wanted, &context)?),
        ),
    };
    let response = Response::builder().header(header::CONTENT_TYPE, kind);
    Ok(response.body(body)?)
}

// === impl Events ===

impl Events {
    fn of(wanted: &str, context: &ConnectionContext) -> anyhow::Result<Self> {
        let one = Self {
            begun: false,
            event: Some(Bytes::from_static(EVENT)),
            left: 1,
            pace: None,
            open: None,
        };
        Ok(match wanted {
            "first" => one,
            "ticks" => Self {
                event: None,
                left: TICKS,
                pace: Some(interval(TICK)),
                ..one
            },
            "burst" => Self { left: BURST, ..one },
            "bulk" => Self {
                event: Some(context.answers.part.clone()),
                left: PARTS,
                ..one
            },
            "open" => Self {
                left: usize::MAX,
                pace: Some(interval(BEAT)),
                ..one
            },
            "hold" => Self {
                open: Some(context.open_streams.open(context.connection)),
                ..one
            },
            _ => return Err(anyhow!("nothing like {wanted:?} is offered")),
        })
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if !std::mem::replace(&mut self.begun, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.left == 0 {
            return match self.open {
                Some(_) => Poll::Pending,
                None => Poll::Ready(None),
            };
        }
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_tick(cx));
        }
        self.left -= 1;
        let event = self.event.clone().unwrap_or_else(|| stamped().into());
        Poll::Ready(Some(Ok(Frame::data(event))))
    }
}

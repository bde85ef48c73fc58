//! The same answers over HTTP/2.

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

use super::{BEAT, BURST, EVENT, JSON, Link, PARTS, TICK, TICKS, held::Hold, stamped, wanted};

/// Streams of a connection, as nginx allows them and what stands in front of many providers.
const MOST_STREAMS: u32 = 128;

/// The body of a stream.
struct Events {
    /// Whether the head has been given the time to leave by itself, as it does over HTTP/1.1.
    begun: bool,
    /// None for the time at which it is sent.
    event: Option<Bytes>,
    left: usize,
    pace: Option<Interval>,
    /// Keeps it open for as long as the other side stays.
    hold: Option<Hold>,
}

/// Answers all requests of a connection.
pub(super) async fn serve<S>(socket: S, link: Link) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request| answer(link.clone(), request));
    let served = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(MOST_STREAMS)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(socket), service);
    Ok(served.await?)
}

async fn answer(
    link: Link,
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
            Either::Right(Events::of(wanted, &link)?),
        ),
    };
    let response = Response::builder().header(header::CONTENT_TYPE, kind);
    Ok(response.body(body)?)
}

// === impl Events ===

impl Events {
    fn of(wanted: &str, link: &Link) -> anyhow::Result<Self> {
        let one = Self {
            begun: false,
            event: Some(Bytes::from_static(EVENT)),
            left: 1,
            pace: None,
            hold: None,
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
                event: Some(link.answers.part.clone()),
                left: PARTS,
                ..one
            },
            "open" => Self {
                left: usize::MAX,
                pace: Some(interval(BEAT)),
                ..one
            },
            "hold" => Self {
                hold: Some(link.held.open(link.connection)),
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
            return match self.hold {
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

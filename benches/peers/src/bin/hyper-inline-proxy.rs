//! A minimal hyper proxy with HTTP/1.1 towards the upstream: its connections have no tasks, but are
//! polled by the future that waits for the response, and later by the response body.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::Full;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1,
    service::service_fn,
};
use peers::{Io, ProxyArgs, Upstream};

/// The upstream and its idle connections, the most recent one last.
struct Pool {
    upstream: Upstream,
    #[expect(
        clippy::vec_box,
        reason = "a pointer, not a few hundred bytes, goes to and fro between pool and bodies"
    )]
    idle: Mutex<Vec<Box<Connection>>>,
}

/// The request sender, and the connection that does the I/O.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: http1::Connection<Io, Full<Bytes>>,
}

/// The body of a response, which polls its connection.
struct ResponseBody {
    incoming: Incoming,
    /// `None` once the body has ended.
    connection: Option<Box<Connection>>,
    pool: Arc<Pool>,
    wanted: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = ProxyArgs::from_args()?;
    let pool = Arc::new(Pool {
        upstream: Upstream::new(&args.upstream, args.tls)?,
        idle: Mutex::default(),
    });
    let service = service_fn(move |request| forward(Arc::clone(&pool), request));
    peers::serve(args.listen, service).await
}

async fn forward(
    pool: Arc<Pool>,
    request: Request<Incoming>,
) -> anyhow::Result<Response<ResponseBody>> {
    let mut request = peers::collected(request).await?;
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    let host = pool.upstream.host()?;
    request.headers_mut().insert(header::HOST, host);
    let mut connection = pool.connection().await?;
    let answer = connection.sender.send_request(request);
    let mut answer = pin!(tokio::task::unconstrained(answer));
    let response = poll_fn(|cx| {
        let over = connection.poll_over(cx).is_ready();
        // The response comes from the connection that was just polled: a waker would only poll twice.
        let waker = if over { cx.waker() } else { Waker::noop() };
        answer.as_mut().poll(&mut Context::from_waker(waker))
    });
    let (mut head, incoming) = response.await?.into_parts();
    peers::without_hop_by_hop(&mut head.headers);
    let mut body = ResponseBody {
        incoming,
        connection: Some(connection),
        pool,
        wanted: false,
    };
    if body.incoming.is_end_stream() {
        body.release();
    }
    Ok(Response::from_parts(head, body))
}

// === impl Pool ===

impl Pool {
    async fn connection(&self) -> anyhow::Result<Box<Connection>> {
        while let Some(mut connection) = self.pop() {
            if connection.is_reusable() {
                return Ok(connection);
            }
        }
        let io = self.upstream.connect().await?;
        let (sender, driver) = http1::handshake(io).await?;
        Ok(Box::new(Connection { sender, driver }))
    }

    fn pop(&self) -> Option<Box<Connection>> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn push(&self, connection: Box<Connection>) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }
}

// === impl Connection ===

impl Connection {
    /// Drives the I/O. Ready once the connection has ended; the response future reports why.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.driver).poll(cx).map(drop)
    }

    /// Whether it accepts another request, which is known after a poll.
    fn is_reusable(&mut self) -> bool {
        let unwoken = &mut Context::from_waker(Waker::noop());
        self.poll_over(unwoken).is_pending() && self.sender.is_ready()
    }
}

// === impl ResponseBody ===

impl ResponseBody {
    fn release(&mut self) {
        if let Some(mut connection) = self.connection.take()
            && connection.is_reusable()
        {
            self.pool.push(connection);
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut incoming = Pin::new(&mut self.incoming);
        let unwoken = &mut Context::from_waker(Waker::noop());
        if !std::mem::replace(&mut self.wanted, true) {
            // hyper reads a body only after it was polled.
            let next = incoming.as_mut().poll_frame(unwoken);
            if next.is_ready() {
                return next;
            }
        }
        let over = match &mut self.connection {
            Some(connection) => connection.poll_over(cx).is_ready(),
            None => true,
        };
        if over {
            self.connection = None;
            return incoming.poll_frame(cx);
        }
        incoming.poll_frame(unwoken)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = self.poll_incoming(cx);
        match &frame {
            Poll::Ready(Some(Err(_))) => self.connection = None,
            Poll::Ready(None) => self.release(),
            // The server does not poll past a known length.
            Poll::Ready(Some(Ok(_))) if self.incoming.is_end_stream() => self.release(),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

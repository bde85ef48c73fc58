//! One connection: the request that is being written, and what has come and was not used yet.

use std::{
    io::{self, IoSlice},
    mem::{MaybeUninit, take},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::{
    Violation,
    receipt::Receipt,
    response_head::{self, ResponseHead},
};
use crate::upstream::{connections::Open, exchange::Failed, patience::Patience, stream::Stream};

/// A connection to the upstream. Dropping it closes it.
///
/// While it waits it holds no buffer: what has come is read into room on the stack, and kept only as
/// far as it was filled.
pub(in crate::upstream) struct Connection {
    stream: Stream,
    pub(super) limits: Limits,
    /// What is still to be written.
    sending: Option<Sending>,
    /// Why it cannot be.
    send_error: Option<io::Error>,
    /// What has been read and belongs to what comes next.
    pub(super) unread: Bytes,
    /// Once more came at once than was asked for: where the next read goes.
    flood: Option<BytesMut>,
    receipt: Receipt,
    to_head: bool,
    /// Interim responses before the head.
    interim: usize,
    /// Whether it may serve another request once this one is over.
    persists: bool,
    patience: Patience,
    _open: Open,
}

/// What an upstream may take of our time and memory.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct Limits {
    /// See `ClientOptions`.
    pub(in crate::upstream) max_head: usize,
    pub(in crate::upstream) head_timeout: Duration,
    pub(in crate::upstream) idle_timeout: Duration,
}

/// A request on its way out.
struct Sending {
    head: Vec<u8>,
    body: Bytes,
    written: usize,
}

/// What one read takes: a TLS record.
const READ: usize = 16 * 1024;

/// What it takes where that was not enough: just less than what glibc maps anew each time.
const LARGE_READ: usize = 124 * 1024;

/// What a head may take beside its fields.
const STATUS_LINE: usize = 1024;

/// A server that has hints to give gives one or two.
const MAX_INTERIM: usize = 16;

// === impl Connection ===

impl Connection {
    pub(in crate::upstream) fn new(stream: Stream, limits: Limits, open: Open) -> Self {
        Self {
            stream,
            limits,
            sending: None,
            send_error: None,
            unread: Bytes::new(),
            flood: None,
            receipt: Receipt::Given,
            to_head: false,
            interim: 0,
            persists: false,
            patience: Patience::new(limits.head_timeout),
            _open: open,
        }
    }

    /// Whether the other side has neither closed it nor said anything unasked.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.stream.is_quiet()
    }

    /// Begins an exchange.
    pub(super) fn begin(&mut self, method: &Method, head: Vec<u8>, body: Bytes) {
        self.sending = Some(Sending {
            head,
            body,
            written: 0,
        });
        self.receipt = Receipt::Given;
        self.to_head = method == Method::HEAD;
        self.interim = 0;
    }

    /// Writes what can be written of the request. An error is kept: an answer may have come before
    /// it.
    pub(super) fn send(&mut self, cx: &mut Context<'_>) {
        if self.sending.is_some()
            && self.send_error.is_none()
            && let Poll::Ready(sent) = self.poll_send(cx)
        {
            match sent {
                Ok(()) => self.sending = None,
                Err(error) => self.send_error = Some(error),
            }
        }
    }

    /// Whether it is certain that not a byte of the request has left, or ever will.
    pub(super) fn has_sent_nothing(&self) -> bool {
        let sending = self.sending.as_ref();
        self.send_error.is_some()
            && self.stream.fails_whole()
            && sending.is_some_and(|sending| sending.written == 0)
    }

    /// The head of the response. It may come before all of the request is written.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Failed>> {
        loop {
            match self.take_head() {
                Ok(None) => {}
                Ok(Some(head)) => {
                    self.patience.rewarded();
                    return Poll::Ready(Ok(head));
                }
                Err(failed) => return Poll::Ready(Err(failed)),
            }
            let Poll::Ready(read) = self.poll_read(cx) else {
                let limit = self.limits.head_timeout;
                ready!(self.patience.poll_end(limit, cx));
                return Poll::Ready(Err(Failed::TimedOut));
            };
            match read {
                Ok(more) if more.is_empty() => return Poll::Ready(Err(self.broken())),
                Ok(more) if self.unread.is_empty() => self.unread = more,
                Ok(more) => {
                    let mut joined = BytesMut::from(take(&mut self.unread));
                    joined.extend_from_slice(&more);
                    self.unread = joined.freeze();
                }
                Err(error) => {
                    self.send_error.get_or_insert(error);
                    return Poll::Ready(Err(self.broken()));
                }
            }
        }
    }

    fn take_head(&mut self) -> Result<Option<ResponseHead>, Failed> {
        while !self.unread.is_empty() {
            let head = match response_head::take(&mut self.unread, self.to_head) {
                Ok(Some(head)) => head,
                Ok(None)
                    if self.unread.len() >= self.limits.max_head.saturating_add(STATUS_LINE) =>
                {
                    return Err(Failed::HeadTooLarge);
                }
                Ok(None) => return Ok(None),
                Err(Violation::Head(httparse::Error::TooManyHeaders)) => {
                    return Err(Failed::HeadTooLarge);
                }
                Err(violation) => return Err(Failed::Broken(violation.into())),
            };
            let status = head.response.status();
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(Failed::Switched);
            }
            if !status.is_informational() {
                // What is still to be written would be read as the next request.
                self.persists =
                    head.persists && self.sending.is_none() && self.send_error.is_none();
                return Ok(Some(head));
            }
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(Failed::Broken(Violation::Interim.into()));
            }
        }
        Ok(None)
    }

    fn broken(&mut self) -> Failed {
        let error = self.send_error.take();
        Failed::Broken(
            error
                .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
                .into(),
        )
    }

    /// Reads more of the body; false at the end of what the other side sends.
    ///
    /// # Errors
    ///
    /// `None` if nothing has come for too long.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Option<io::Error>>> {
        self.send(cx);
        let Poll::Ready(read) = self.poll_read(cx) else {
            ready!(self.patience.poll_end(self.limits.idle_timeout, cx));
            return Poll::Ready(Err(None));
        };
        self.patience.rewarded();
        self.unread = read?;
        Poll::Ready(Ok(!self.unread.is_empty()))
    }

    /// Some of what has come goes on to the client.
    pub(super) fn on_passed_on(&mut self) {
        self.receipt.on_passed_on();
    }

    /// Whether another request may be sent once the response has been read to its end: that it is
    /// the end shows in that nothing follows.
    pub(super) fn is_reusable(&self) -> bool {
        self.persists && self.unread.is_empty()
    }

    /// Gives back what only an exchange needs.
    pub(super) fn rest(&mut self) {
        self.flood = None;
    }

    /// Head and body together, as the system takes them.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = Pin::new(&mut self.stream);
        if let Some(sending) = &mut self.sending {
            while let Some(left) = sending.left() {
                match ready!(stream.as_mut().poll_write_vectored(cx, &left))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => sending.written += written,
                }
            }
        }
        stream.poll_flush(cx)
    }

    /// What has come; empty at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let read = self.poll_stream(cx);
        if read.is_ready() {
            self.receipt.on_read();
        } else if self.receipt.on_wait() {
            self.stream.acknowledge();
        }
        read
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let stream = Pin::new(&mut self.stream);
        if let Some(room) = &mut self.flood {
            // What has been written downstream makes room again; TLS gives a record at a time.
            if !room.try_reclaim(LARGE_READ) && room.capacity() < READ {
                room.reserve(LARGE_READ);
            }
            let read = poll_read_buf(stream, cx, room);
            let data = room.split().freeze();
            if data.len() < READ {
                self.flood = None;
            }
            return read.map_ok(|_| data);
        }
        let mut room = [const { MaybeUninit::uninit() }; READ];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(stream.poll_read(cx, &mut read))?;
        self.flood = (read.remaining() == 0).then(BytesMut::new);
        Poll::Ready(Ok(Bytes::copy_from_slice(read.filled())))
    }
}

// === impl Sending ===

impl Sending {
    fn left(&self) -> Option<[IoSlice<'_>; 2]> {
        let head = self.head.get(self.written..).unwrap_or_default();
        let body = self
            .body
            .get(self.written.saturating_sub(self.head.len())..)?;
        if head.is_empty() && body.is_empty() {
            return None;
        }
        Some([IoSlice::new(head), IoSlice::new(body)])
    }
}

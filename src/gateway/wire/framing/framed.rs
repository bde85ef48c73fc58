//! A connection that reads as a sequence of well-formed requests.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tracing::debug;

use super::{super::connection::Connection, Framing, HeadLimits, Violation};

/// How long, and how much, is read and thrown away after the answer to a request that was not read
/// to its end: a socket that closes with bytes unread is reset, and the answer lost with it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// Passes on what [`Framing`] clears.
///
/// A request that comes in one piece, as nearly all do, is looked at where the server's own buffer
/// has it. Only the beginning of a head whose end has not come yet is kept here.
#[derive(Debug)]
pub(in crate::gateway) struct Framed<I> {
    io: I,
    connection: Connection,
    framing: Framing,
    /// What is not passed on yet, of which `clear` bytes may be.
    held: Vec<u8>,
    clear: usize,
    refused: Option<Refused>,
    linger: Option<Linger>,
}

/// What there is to read after a violation.
#[derive(Clone, Copy, Debug)]
enum Refused {
    /// Nothing: the stand-in is the last request.
    Head,
    /// An error, which the reader of the body gets.
    Body(Violation),
}

#[derive(Debug)]
struct Linger {
    over: Pin<Box<Sleep>>,
    left: usize,
}

// === impl Framed ===

impl<I> Framed<I> {
    pub(in crate::gateway) fn new(io: I, connection: Connection, limits: HeadLimits) -> Self {
        Self {
            io,
            connection,
            framing: Framing::new(limits),
            held: Vec::new(),
            clear: 0,
            refused: None,
            linger: None,
        }
    }

    /// Scans what stands in `buf` from `start` on, or in `self.held` if anything is held, and
    /// leaves in `buf` what is clear of it.
    fn sift(&mut self, buf: &mut ReadBuf<'_>, start: usize) {
        let scanned = if self.held.is_empty() {
            let scanned = self.framing.scan(&buf.filled()[start..]);
            let clear = start + scanned.clear;
            if scanned.violation.is_none() {
                self.held.extend_from_slice(&buf.filled()[clear..]);
            }
            buf.set_filled(clear);
            scanned
        } else {
            self.held.extend_from_slice(&buf.filled()[start..]);
            buf.set_filled(start);
            let scanned = self.framing.scan(&self.held);
            self.clear = scanned.clear;
            scanned
        };
        self.connection.set_in_body(!self.framing.in_head());
        if let Some(violation) = scanned.violation {
            debug!(%violation, "Refusing a malformed request");
            self.held.truncate(self.clear);
            if self.framing.in_head() {
                self.held.extend(violation.stand_in());
                self.clear = self.held.len();
                self.refused = Some(Refused::Head);
            } else {
                self.refused = Some(Refused::Body(violation));
            }
        }
    }

    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let here = self.clear.min(buf.remaining());
        buf.put_slice(&self.held[..here]);
        self.held.drain(..here);
        self.clear -= here;
        if self.held.is_empty() {
            // An idle connection keeps no buffer.
            self.held = Vec::new();
        }
    }
}

impl<I: AsyncRead + Unpin> Framed<I> {
    /// Reads and throws away until the other side has closed as well.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| Linger {
            over: Box::pin(sleep(LINGER)),
            left: LINGER_BYTES,
        });
        let mut scratch = [0; 8192];
        while linger.left > 0 && linger.over.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {
                    linger.left = linger.left.saturating_sub(buf.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Framed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let start = buf.filled().len();
        while buf.filled().len() == start {
            if this.clear > 0 {
                this.hand_over(buf);
                break;
            }
            match this.refused {
                None => {}
                // The answer is all that is still to come; nobody needs to be woken for more.
                Some(Refused::Head) => return Poll::Pending,
                Some(Refused::Body(violation)) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, violation);
                    return Poll::Ready(Err(error));
                }
            }
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            if buf.filled().len() == start {
                break;
            }
            this.sift(buf, start);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Framed<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        if self.refused.is_some() || !self.framing.in_head() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

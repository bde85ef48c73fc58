//! Bytes to and from the upstream, with or without TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::gather::as_one;

/// One type for both, so that what speaks HTTP on it is compiled once.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

// === impl Stream ===

impl Stream {
    /// Whether nothing has come, neither bytes nor an end. It costs no system call where the system
    /// has not said that there is something to read.
    ///
    /// What comes inside TLS may be for TLS alone, such as a ticket; that is nothing, too. A task that
    /// has used up its turn sees nothing, whatever is there.
    pub(super) fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(tcp) => {
                let seen = tcp.try_io(Interest::READABLE, || Ok(()));
                seen.is_err() || is_blocked(&tcp.try_read(&mut [0]))
            }
            Self::Tls(tls) => {
                // Nobody is woken for it: an idle connection is nobody's, and one that is about to
                // be used will be polled.
                let unwoken = &mut Context::from_waker(Waker::noop());
                let read = Pin::new(tls).poll_read(unwoken, &mut ReadBuf::new(&mut [0]));
                read.is_pending()
            }
        }
    }

    /// Acknowledges what has been read, now, and what comes next not before it is read.
    pub(super) fn acknowledge(&self) {
        #[cfg(target_os = "linux")]
        {
            let tcp = match self {
                Self::Plain(tcp) => tcp,
                Self::Tls(tls) => tls.get_ref().0,
            };
            // If the socket does not take it, it acknowledges when it sees fit.
            let _best_effort = tcp
                .set_quickack(true)
                .and_then(|()| tcp.set_quickack(false));
        }
    }

    /// Whether HTTP/2 was agreed on.
    pub(super) fn chose_h2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// Whether a write that fails has written nothing. TLS may have sent a part of a record.
    pub(super) fn fails_whole(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

fn is_blocked<T>(outcome: &io::Result<T>) -> bool {
    matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(io) => as_one(bufs, |one| match one {
                Some(one) => Pin::new(io).poll_write(cx, one),
                None => Pin::new(io).poll_write_vectored(cx, bufs),
            }),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

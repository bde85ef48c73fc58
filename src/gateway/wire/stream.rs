//! A client's socket, whichever kind it is.

use std::{
    io,
    net::Shutdown,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BufMut;
use socket2::SockRef;
use tokio::{
    io::{Interest, ReadBuf},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// hyper doubles a connection's buffer whenever a read fills it, beginning with 8 KiB, and keeps it
/// for as long as the answer takes: a thousand streams would keep the size of their requests. Reads
/// of half of it never fill it.
const MOST_AT_ONCE: usize = 4 * 1024;

/// Where clients come from. Clones are the same socket.
#[derive(Clone, Debug)]
pub(in crate::gateway) enum Stream {
    Tcp(Arc<TcpStream>),
    Unix(Arc<UnixStream>),
}

impl Stream {
    pub(in crate::gateway) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let read = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_buf(&mut (&mut *buf).limit(MOST_AT_ONCE))
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_buf(&mut (&mut *buf).limit(MOST_AT_ONCE))
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }

    pub(in crate::gateway) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let written = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_write_vectored(bufs)
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_write_vectored(bufs)
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    pub(in crate::gateway) fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => SockRef::from(&**stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => SockRef::from(&**stream).shutdown(Shutdown::Write),
        }
    }

    /// Whether the other side has closed, as far as the operating system has said so already.
    pub(in crate::gateway) async fn is_closed(&self) -> bool {
        // Ready at once while there is something to read, and when it is closed.
        let ready = async {
            match self {
                Self::Tcp(stream) => stream.ready(Interest::READABLE).await,
                Self::Unix(stream) => stream.ready(Interest::READABLE).await,
            }
        };
        let ready = timeout(Duration::ZERO, ready).await;
        ready.is_ok_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
    }

    /// Makes the other side see a reset, not an end, when the last clone is dropped.
    pub(in crate::gateway) fn reset_when_dropped(&self) {
        if let Self::Tcp(stream) = self {
            // If it fails the client sees a FIN in the middle of a chunked body: an error too.
            let _best_effort = stream.set_zero_linger();
        }
    }
}

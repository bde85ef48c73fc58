//! A client's socket, whichever kind it is.

use std::{
    io,
    net::Shutdown,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::BufMut;
use socket2::SockRef;
use tokio::{
    io::{Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::gather::as_one;

/// Where clients come from. Clones are the same socket.
#[derive(Clone, Debug)]
pub(in crate::gateway) enum Stream {
    Tcp(Arc<TcpStream>),
    Unix(Arc<UnixStream>),
}

impl Stream {
    /// Reads at most `most` bytes.
    pub(in crate::gateway) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_readable(cx))?;
            match self.read(buf, most) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Whether a read would find something: bytes, or the end.
    pub(in crate::gateway) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    fn read(&self, buf: &mut ReadBuf<'_>, most: usize) -> io::Result<()> {
        let mut buf = buf.limit(most);
        let space = buf.remaining_mut();
        let mut outcome = Err(io::ErrorKind::WouldBlock.into());
        // A short read has left nothing behind, and saying so spares the one that would find that
        // out. It is said of what was known before the read: whatever has come since stays known.
        let mut drained = |read: io::Result<usize>| {
            outcome = read;
            match outcome {
                Ok(read) if 0 < read && read < space => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        };
        let _said = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || {
                drained(stream.try_read_buf(&mut buf))
            }),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || {
                drained(stream.try_read_buf(&mut buf))
            }),
        };
        outcome.map(drop)
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
                    as_one(bufs, |one| match one {
                        Some(one) => stream.try_write(one),
                        None => stream.try_write_vectored(bufs),
                    })
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    as_one(bufs, |one| match one {
                        Some(one) => stream.try_write(one),
                        None => stream.try_write_vectored(bufs),
                    })
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
    pub(in crate::gateway) fn is_closed(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let ready = match self {
            Self::Tcp(stream) => pin!(stream.ready(Interest::READABLE)).poll(cx),
            Self::Unix(stream) => pin!(stream.ready(Interest::READABLE)).poll(cx),
        };
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Makes the other side see a reset, not an end, when the last clone is dropped.
    pub(in crate::gateway) fn reset_when_dropped(&self) {
        if let Self::Tcp(stream) = self {
            // If it fails the client sees a FIN in the middle of a chunked body: an error too.
            let _best_effort = stream.set_zero_linger();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio_test::{assert_pending, assert_ready, task::spawn};

    use super::*;

    /// Reads once; what it got, and whether it would try to read more without being told to.
    async fn read(stream: &Stream, space: usize, most: usize) -> (usize, bool) {
        let mut space = vec![0; space];
        let mut buf = ReadBuf::new(&mut space);
        let read = poll_fn(|cx| stream.poll_read(cx, &mut buf, most));
        read.await.unwrap();
        let mut again = spawn(poll_fn(|cx| stream.poll_readable(cx)));
        (buf.filled().len(), again.poll().is_ready())
    }

    #[tokio::test]
    async fn a_short_read_is_known_to_have_left_nothing_and_a_full_one_is_not() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let stream = Stream::Unix(Arc::new(ours));
        theirs.write_all(b"0123456789").await.unwrap();
        assert_eq!(read(&stream, 4, 100).await, (4, true));
        assert_eq!(read(&stream, 100, 3).await, (3, true));
        assert_eq!(read(&stream, 100, 100).await, (3, false));
        theirs.write_all(b"more").await.unwrap();
        assert_eq!(read(&stream, 100, 100).await, (4, false));
    }

    #[tokio::test]
    async fn an_end_behind_a_short_read_is_not_forgotten() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let stream = Stream::Unix(Arc::new(ours));
        let mut end = spawn(poll_fn(|cx| stream.poll_readable(cx)));
        assert_pending!(end.poll());
        theirs.write_all(b"last").await.unwrap();
        drop(theirs);
        assert_eq!(read(&stream, 100, 100).await, (4, true));
        assert!(stream.is_closed());
        assert_ready!(end.poll()).unwrap();
        assert_eq!(read(&stream, 100, 100).await, (0, true));
    }
}

//! Whether a client has left before its answer was whole.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

use super::{connection::Connection, stream::Stream};

/// How often a connection is looked at that holds back what its client has sent meanwhile.
const CHECK: Duration = Duration::from_millis(250);

/// Watches a connection while an answer is made and sent.
///
/// hyper could do that by reading on, but would have a buffer for it all the time, and would not see
/// a client that has sent the beginning of another request before it left.
#[derive(Debug)]
pub(super) struct Hangup {
    stream: Stream,
    connection: Connection,
    check: Option<Pin<Box<Sleep>>>,
}

// === impl Hangup ===

impl Hangup {
    pub(super) fn new(stream: Stream, connection: Connection) -> Self {
        Self {
            stream,
            connection,
            check: None,
        }
    }

    /// Ready when the client has hung up in the middle of an answer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.connection.only_answers() {
            // The server reads, and sees an end itself.
            self.check = None;
            return Poll::Pending;
        }
        loop {
            // An error is one that a read would have got as well, and the connection's end.
            if ready!(self.stream.poll_readable(cx)).is_err() || self.stream.is_closed() {
                return Poll::Ready(());
            }
            // There is something to read already, so nothing wakes anybody for its end.
            let check = self.check.get_or_insert_with(|| Box::pin(sleep(CHECK)));
            ready!(check.as_mut().poll(cx));
            self.check = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc};

    use tokio::{
        io::AsyncWriteExt,
        net::UnixStream,
        time::{Instant, timeout},
    };
    use tokio_test::{assert_pending, task::spawn};

    use super::*;

    fn pair() -> (Hangup, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ours = Stream::Unix(Arc::new(ours));
        (Hangup::new(ours, Connection::new()), theirs)
    }

    async fn readable(hangup: &Hangup) {
        let readable = poll_fn(|cx| hangup.stream.poll_readable(cx));
        readable.await.unwrap();
    }

    async fn hung_up(hangup: &mut Hangup) -> Duration {
        let start = Instant::now();
        let left = poll_fn(|cx| hangup.poll(cx));
        timeout(Duration::from_secs(5), left).await.unwrap();
        start.elapsed()
    }

    #[tokio::test]
    async fn a_client_that_leaves_during_an_answer_is_noticed_at_once() {
        let (mut hangup, client) = pair();
        hangup.connection.begin_answer();
        let mut watch = spawn(());
        assert_pending!(watch.enter(|cx, _| hangup.poll(cx)));
        drop(client);
        assert!(hung_up(&mut hangup).await < CHECK);
    }

    #[tokio::test]
    async fn a_client_that_leaves_unread_bytes_behind_is_noticed_as_well() {
        let (mut hangup, mut client) = pair();
        hangup.connection.begin_answer();
        client.write_all(b"the next request").await.unwrap();
        readable(&hangup).await;
        let mut watch = spawn(());
        assert_pending!(watch.enter(|cx, _| hangup.poll(cx)));
        drop(client);
        hung_up(&mut hangup).await;
    }

    #[tokio::test]
    async fn nobody_hangs_up_between_requests_or_in_the_middle_of_a_body() {
        let (mut hangup, client) = pair();
        drop(client);
        readable(&hangup).await;
        let mut watch = spawn(());
        assert_pending!(watch.enter(|cx, _| hangup.poll(cx)));
        hangup.connection.begin_answer();
        hangup.connection.set_in_body(true);
        assert_pending!(watch.enter(|cx, _| hangup.poll(cx)));
        hangup.connection.set_in_body(false);
        hung_up(&mut hangup).await;
    }
}

//! When another connection is begun, and what follows when that fails.
//!
//! Requests that wait for a connection share those that are being opened: one is begun only if there
//! are fewer than the requests need. While the origin's protocol is unknown that is a single one,
//! because over HTTP/2 it may serve them all.
//!
//! An origin that cannot be reached is tried by one connection at a time, at most every
//! [`RETRY_INTERVAL`]. The request that makes the try fails with it, and so do others that have waited
//! for `connect-timeout` by then. After [`MAX_FAILURES`] in a row, requests fail without a try of their
//! own, except for the one that makes the next try. A certificate that does not verify is no such failure:
//! the upstream is there, each request gets a definite answer about as fast as a response, and no
//! layer retries it.

use std::time::Duration;

use pacegate_layers::error::{BoxError, NotSent, chain_text};
use tokio::time::Instant;

use super::{
    error::{CertificateError, ConnectError, ConnectTimeout, Unreachable},
    h2::Capacity,
};
use crate::config::HttpVersion;

/// What is known about connecting to one origin.
pub(super) struct Dialing {
    protocol: Option<Protocol>,
    /// `connect-timeout`.
    timeout: Duration,
    /// Requests that wait for a connection.
    waiting: usize,
    /// Connections that are being opened.
    opening: usize,
    failure: Option<Failure>,
    /// The latest certificate that did not verify.
    certificate: Option<(Instant, CertificateError)>,
}

/// The HTTP version that an origin speaks, by the latest ALPN result or by the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// What a request that waits for a connection does next.
#[derive(Debug)]
pub(super) enum Next {
    /// Begins a connection. It counts as being opened until [`Dialing::finish`].
    Dial,
    Fail(BoxError),
    /// Waits for a change.
    Wait,
    /// Waits for a change, at most until then.
    WaitUntil(Instant),
}

/// The latest failures in a row.
struct Failure {
    in_a_row: u32,
    /// When the latest try began.
    began: Instant,
    /// When the latest failure was counted.
    counted: Instant,
    /// When the latest connection failed.
    latest: Instant,
    error: ConnectError,
}

/// Every how often an origin that cannot be reached is tried: often enough to notice soon that it is
/// back, and an idle proxy or a captive portal is not worn out by a dozen agents that retry.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// A restart of the upstream or a switch of networks takes about two tries.
pub(super) const MAX_FAILURES: u32 = 3;

/// At 100 streams each, the least that RFC 9113 recommends to allow (§6.5.2), these are more streams
/// than pacegate has clients. An origin that allows fewer than that means to serve less.
pub(super) const MAX_H2_CONNECTIONS: usize = 64;

// === impl Dialing ===

impl Dialing {
    pub(super) fn new(http: HttpVersion, https: bool, timeout: Duration) -> Self {
        Self {
            timeout,
            protocol: match http {
                HttpVersion::Auto if https => None,
                HttpVersion::Auto | HttpVersion::H1 => Some(Protocol::Http1),
                HttpVersion::H2 => Some(Protocol::Http2),
            },
            waiting: 0,
            opening: 0,
            failure: None,
            certificate: None,
        }
    }

    /// One more request waits.
    pub(super) fn join(&mut self) {
        self.waiting += 1;
    }

    /// One request less waits.
    pub(super) fn leave(&mut self) {
        self.waiting -= 1;
    }

    /// What a request that has been waiting since `began` does at `now`, when the connections over
    /// HTTP/2 allow `h2`.
    pub(super) fn next(&mut self, h2: &Capacity, began: Instant, now: Instant) -> Next {
        if let Some((_, error)) = self.certificate.as_ref().filter(|(at, _)| *at >= began) {
            return Next::Fail(error.clone().into());
        }
        if let Some(failure) = &mut self.failure {
            // Otherwise a connection that is there serves the request later.
            let can_fail = !h2.is_usable;
            let deadline = (can_fail && failure.latest >= began).then(|| began + self.timeout);
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Next::Fail(NotSent(copy(&failure.error).into()).into());
            }
            let retry_at = failure.began + RETRY_INTERVAL;
            if self.opening == 0 && now >= retry_at {
                failure.began = now;
                self.opening = 1;
                return Next::Dial;
            }
            if can_fail && failure.in_a_row >= MAX_FAILURES {
                let retry_after = retry_at.saturating_duration_since(now);
                return Next::Fail(failure.unreachable(retry_after));
            }
            let retry_at = (self.opening == 0).then_some(retry_at);
            let until = retry_at.into_iter().chain(deadline).min();
            return until.map_or(Next::Wait, Next::WaitUntil);
        }
        if self.opens_enough(h2) {
            return h2.young_until.map_or(Next::Wait, Next::WaitUntil);
        }
        self.opening += 1;
        Next::Dial
    }

    /// Whether the connections being opened are going to serve all waiting requests.
    fn opens_enough(&self, h2: &Capacity) -> bool {
        match self.protocol {
            None => self.opening > 0,
            Some(Protocol::Http1) => self.opening >= self.waiting,
            Some(Protocol::Http2) => {
                let opening = self.opening + h2.young;
                let streams = match h2.limit {
                    Some(limit) => opening.saturating_mul(limit),
                    // It may be any number.
                    None if opening > 0 => usize::MAX,
                    None => 0,
                };
                h2.refuses_all
                    || h2.connections + self.opening >= MAX_H2_CONNECTIONS
                    || streams >= self.waiting
            }
        }
    }

    /// A connection is no longer being opened.
    pub(super) fn finish(&mut self) {
        self.opening -= 1;
    }

    /// A connection has agreed on `protocol`.
    pub(super) fn agreed_on(&mut self, protocol: Protocol) {
        self.protocol = Some(protocol);
    }

    /// A request got a new connection.
    pub(super) fn succeeded(&mut self) {
        self.failure = None;
        self.certificate = None;
    }

    /// A connection that was begun at `began` could not be opened, because of `error`.
    pub(super) fn failed(&mut self, began: Instant, error: &BoxError, now: Instant) {
        if let Some(error) = error.downcast_ref::<CertificateError>() {
            self.failure = None;
            self.certificate = Some((now, error.clone()));
        }
        let NotSent(error) = match error.downcast_ref() {
            Some(error) => error,
            None => return,
        };
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            self.count_failure(began, error, now);
        }
    }

    fn count_failure(&mut self, began: Instant, error: &ConnectError, now: Instant) {
        let failure = self.failure.get_or_insert_with(|| Failure {
            in_a_row: 0,
            began,
            counted: began,
            latest: now,
            error: copy(error),
        });
        // Of those that were begun together, only one counts.
        if began >= failure.counted {
            failure.in_a_row += 1;
            failure.counted = now;
        }
        failure.latest = now;
        failure.error = copy(error);
    }
}

// === impl Failure ===

impl Failure {
    fn unreachable(&self, retry_after: Duration) -> BoxError {
        let source = copy(&self.error);
        Unreachable {
            source,
            retry_after,
        }
        .into()
    }
}

/// The same error. Causes have a single owner, so those of other types become text.
fn copy(error: &ConnectError) -> ConnectError {
    ConnectError {
        stage: error.stage,
        address: error.address.clone(),
        source: match error.source.downcast_ref() {
            Some(ConnectTimeout(limit)) => ConnectTimeout(*limit).into(),
            None => chain_text(&*error.source).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::error::Stage;

    const SECOND: Duration = Duration::from_secs(1);

    fn refused() -> BoxError {
        NotSent(
            ConnectError {
                stage: Stage::Connect,
                address: "api.test:443".into(),
                source: "refused".into(),
            }
            .into(),
        )
        .into()
    }

    /// The number of connections that all waiting requests begin.
    fn begun(dialing: &mut Dialing, h2: &Capacity, now: Instant) -> usize {
        let next = (0..dialing.waiting).map(|_| dialing.next(h2, now, now));
        next.filter(|next| matches!(next, Next::Dial)).count()
    }

    fn crowd(http: HttpVersion, https: bool, waiting: usize) -> Dialing {
        let mut dialing = Dialing::new(http, https, 10 * SECOND);
        (0..waiting).for_each(|_| dialing.join());
        dialing
    }

    #[test]
    fn connections_are_opened_in_parallel_once_the_origin_speaks_http1() {
        let (none, now) = (Capacity::default(), Instant::now());
        let mut dialing = crowd(HttpVersion::Auto, true, 20);
        assert_eq!(begun(&mut dialing, &none, now), 1);
        dialing.agreed_on(Protocol::Http1);
        assert_eq!(begun(&mut dialing, &none, now), 19);
        // Those that are being opened suffice for a request that comes when another one has left.
        dialing.leave();
        dialing.join();
        assert_eq!(begun(&mut dialing, &none, now), 0);
        for (http, https) in [(HttpVersion::Auto, false), (HttpVersion::H1, true)] {
            assert_eq!(begun(&mut crowd(http, https, 20), &none, now), 20);
        }
    }

    #[test]
    fn further_connections_over_http2_match_the_limit() {
        let now = Instant::now();
        let mut dialing = crowd(HttpVersion::H2, true, 1000);
        assert_eq!(begun(&mut dialing, &Capacity::default(), now), 1);
        dialing.finish();
        let young = Capacity {
            connections: 1,
            young: 1,
            young_until: Some(now + SECOND),
            is_usable: true,
            ..Capacity::default()
        };
        assert!(
            matches!(dialing.next(&young, now, now), Next::WaitUntil(at) if at == now + SECOND)
        );
        let known = Capacity {
            connections: 1,
            limit: Some(128),
            is_usable: true,
            ..Capacity::default()
        };
        assert_eq!(begun(&mut dialing, &known, now), 8);

        // A limit that is still unknown when it should be known means nothing for the next one.
        let mut dialing = crowd(HttpVersion::H2, true, 1000);
        let unknown = Capacity {
            limit: None,
            ..known
        };
        assert_eq!(begun(&mut dialing, &unknown, now), 1);

        let mut dialing = crowd(HttpVersion::H2, true, 1000);
        let tiny = Capacity {
            limit: Some(1),
            ..known
        };
        assert_eq!(begun(&mut dialing, &tiny, now), MAX_H2_CONNECTIONS - 1);

        let mut dialing = crowd(HttpVersion::H2, true, 2);
        let refuses_all = Capacity {
            limit: Some(0),
            refuses_all: true,
            ..known
        };
        assert_eq!(begun(&mut dialing, &refuses_all, now), 0);
    }

    #[test]
    fn an_origin_that_cannot_be_reached_is_tried_one_by_one_every_five_seconds() {
        let (none, start) = (Capacity::default(), Instant::now());
        let mut dialing = crowd(HttpVersion::Auto, false, 20);
        assert_eq!(begun(&mut dialing, &none, start), 20);
        for _ in 0..20 {
            dialing.failed(start, &refused(), start + SECOND);
            dialing.finish();
        }
        // The burst is one failure.
        let mut began = start;
        for in_a_row in 1..MAX_FAILURES {
            let next = dialing.next(&none, began + SECOND, began + SECOND);
            let retry_at = began + RETRY_INTERVAL;
            assert!(
                matches!(next, Next::WaitUntil(at) if at == retry_at),
                "{in_a_row}: {next:?}"
            );
            assert_eq!(begun(&mut dialing, &none, retry_at), 1);
            assert!(matches!(
                dialing.next(&none, retry_at, retry_at),
                Next::Wait
            ));
            dialing.failed(retry_at, &refused(), retry_at + SECOND);
            dialing.finish();
            began = retry_at;
        }
        let Next::Fail(error) = dialing.next(&none, began + SECOND, began + SECOND) else {
            panic!("it tries on");
        };
        let error: Box<Unreachable> = error.downcast().unwrap();
        assert_eq!(error.retry_after, 4 * SECOND);
        assert_eq!(
            error.source.to_string(),
            "connecting to api.test:443 failed"
        );

        // One tries, the others fail meanwhile.
        let retry_at = began + RETRY_INTERVAL;
        assert!(matches!(
            dialing.next(&none, retry_at, retry_at),
            Next::Dial
        ));
        assert!(matches!(
            dialing.next(&none, retry_at, retry_at),
            Next::Fail(_)
        ));
        dialing.finish();
        dialing.succeeded();
        assert_eq!(begun(&mut dialing, &none, retry_at), 20);
    }

    #[test]
    fn with_a_connection_left_no_request_fails_because_a_further_one_cannot_be_opened() {
        let now = Instant::now();
        let mut dialing = crowd(HttpVersion::H2, true, 2);
        for nth in 1..=MAX_FAILURES {
            let began = now + nth * RETRY_INTERVAL;
            if nth > 1 {
                assert!(matches!(
                    dialing.next(&Capacity::default(), began, began),
                    Next::Dial
                ));
                dialing.finish();
            }
            dialing.failed(began, &refused(), began);
        }
        let full = Capacity {
            connections: 1,
            limit: Some(1),
            is_usable: true,
            ..Capacity::default()
        };
        let later = now + MAX_FAILURES * RETRY_INTERVAL + SECOND;
        assert!(matches!(
            dialing.next(&full, later, later),
            Next::WaitUntil(_)
        ));
    }

    #[test]
    fn a_refused_certificate_delays_no_further_try() {
        let (none, now) = (Capacity::default(), Instant::now());
        let mut dialing = crowd(HttpVersion::Auto, true, 2);
        let error: BoxError = CertificateError {
            host: "api.test".into(),
            reason: rustls::CertificateError::Expired,
        }
        .into();
        assert!(matches!(dialing.next(&none, now, now), Next::Dial));
        dialing.failed(now, &error, now + SECOND);
        dialing.finish();
        // A request that waited for that connection sees it; a later one tries again.
        let later = now + 2 * SECOND;
        let Next::Fail(error) = dialing.next(&none, now, later) else {
            panic!("it tries on");
        };
        assert!(error.is::<CertificateError>());
        assert!(matches!(dialing.next(&none, later, later), Next::Dial));
    }

    #[test]
    fn requests_that_waited_for_the_whole_time_out_fail_with_the_connection() {
        let (none, start) = (Capacity::default(), Instant::now());
        let mut dialing = crowd(HttpVersion::Auto, true, 3);
        assert!(matches!(dialing.next(&none, start, start), Next::Dial));
        let late = start + 9 * SECOND;
        let end = start + 10 * SECOND;
        dialing.failed(start, &refused(), end);
        dialing.finish();
        let Next::Fail(error) = dialing.next(&none, start, end) else {
            panic!("it waits on");
        };
        assert!(matches!(dialing.next(&none, late, end), Next::Dial));
        let deadline = late + 10 * SECOND;
        assert!(matches!(dialing.next(&none, late, end), Next::WaitUntil(at) if at == deadline));
        assert!(NotSent::in_chain(&*error).is_some(), "{error:?}");
    }
}

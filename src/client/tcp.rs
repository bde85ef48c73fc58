//! Opens TCP connections: looks the name up, then tries its addresses, each a little later than the
//! one before ([RFC 8305]).
//!
//! [RFC 8305]: https://www.rfc-editor.org/rfc/rfc8305

use std::{
    future::{Future, ready},
    io, iter,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{
        HttpConnector,
        dns::{GaiResolver, Name},
    },
    rt::TokioIo,
};
use pacegate_layers::error::{BoxError, chain_text};
use tokio::{net::TcpStream, task::JoinSet, time::sleep};
use tower::{Service, ServiceExt, service_fn};

use super::{connector::StageTracker, error::Stage};

/// Opens connections to the hosts of URLs, and reports its stage.
#[derive(Clone)]
pub(super) struct TcpConnector<R = GaiResolver> {
    resolver: R,
    /// The address that is tried first if the host has it.
    preferred: Option<IpAddr>,
    stage: StageTracker,
    /// The stage once the name is known.
    connecting: Stage,
}

/// An attempt that failed.
#[derive(Debug, thiserror::Error)]
#[error("{address}")]
struct AttemptError {
    address: IpAddr,
    source: BoxError,
}

/// The head start of an address before the next one is tried, as [RFC 8305 §5] recommends.
///
/// [RFC 8305 §5]: https://www.rfc-editor.org/rfc/rfc8305#section-5
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The silence before the first keep-alive probe. Firewalls and NATs forget a silent connection after
/// a few minutes, and a model may think for longer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// With the two above, a peer that is gone is noticed within 30 s.
const KEEPALIVE_RETRIES: u32 = 3;

/// The longest time for which written bytes or probes may stay unacknowledged. Keep-alive sends no
/// probe while bytes are unacknowledged, and Linux would resend them for 15 minutes.
///
/// Linux also closes a connection whose peer acknowledges, but has had no room for further bytes for
/// that long: a server that does not read a large request for 25 s is taken for dead.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const USER_TIMEOUT: Duration = Duration::from_secs(25);

// === impl TcpConnector ===

impl TcpConnector {
    /// A connector that sets `stage` to [`Stage::Resolve`] while it looks a name up, and to
    /// `connecting` after that.
    pub(super) fn new(stage: &StageTracker, connecting: Stage, preferred: Option<IpAddr>) -> Self {
        Self {
            resolver: GaiResolver::new(),
            preferred,
            stage: stage.clone(),
            connecting,
        }
    }
}

impl<R> TcpConnector<R>
where
    R: Service<Name, Response: Iterator<Item = SocketAddr>, Error: Into<BoxError>>,
{
    /// A connection to the host and port of `url`.
    ///
    /// # Errors
    ///
    /// If the name cannot be looked up, or no address accepts the connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends all attempts.
    pub(super) async fn connect(self, url: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        let host = url.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = match host.parse() {
            // The port is in the URL.
            Ok(address) => vec![SocketAddr::new(address, 0)],
            Err(_) => {
                self.stage.set(Stage::Resolve);
                let found = self.resolver.oneshot(host.parse()?).await;
                in_order(found.map_err(Into::into)?.collect(), self.preferred)
            }
        };
        if addresses.is_empty() {
            return Err("the name has no address".into());
        }
        self.stage.set(self.connecting);
        first_success(addresses, |address| connect_to(url.clone(), address))
            .await
            .map_err(summary)
    }
}

/// `addresses` with `preferred` first, if it is one of them, and the families taking turns
/// ([RFC 8305 §4]).
///
/// [RFC 8305 §4]: https://www.rfc-editor.org/rfc/rfc8305#section-4
fn in_order(mut addresses: Vec<SocketAddr>, preferred: Option<IpAddr>) -> Vec<SocketAddr> {
    if let Some(index) = addresses
        .iter()
        .position(|address| Some(address.ip()) == preferred)
    {
        addresses[..=index].rotate_right(1);
    }
    let v4_first = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let count = addresses.len();
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == v4_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::with_capacity(count);
    while ordered.len() < count {
        ordered.extend(first.next());
        ordered.extend(second.next());
    }
    ordered
}

/// The first stream that `connect` opens to one of `addresses`. The next address is tried
/// [`ATTEMPT_DELAY`] after the latest, or as soon as an attempt fails.
///
/// # Errors
///
/// Those of all attempts.
///
/// # Cancel safety
///
/// Dropping the future aborts all attempts; so does its end.
async fn first_success<A, T, F>(
    addresses: Vec<A>,
    connect: impl Fn(A) -> F,
) -> Result<T, Vec<BoxError>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, BoxError>> + Send + 'static,
{
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failures = Vec::new();
    loop {
        let next = waiting.next();
        let all_begun = next.is_none();
        if let Some(address) = next {
            attempts.spawn(connect(address));
        }
        tokio::select! {
            ended = attempts.join_next() => match ended {
                None => return Err(failures),
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => failures.push(error),
                Some(Err(panicked)) => failures.push(panicked.into()),
            },
            () = sleep(ATTEMPT_DELAY), if !all_begun => {}
        }
    }
}

async fn connect_to(url: Uri, address: SocketAddr) -> Result<TokioIo<TcpStream>, BoxError> {
    let only = service_fn(move |_: Name| ready(Ok::<_, io::Error>(iter::once(address))));
    let mut connector = HttpConnector::new_with_resolver(only);
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let connected = connector.oneshot(url).await;
    connected.map_err(|error| {
        AttemptError {
            address: address.ip(),
            source: error.into(),
        }
        .into()
    })
}

/// One error that tells of all `failures`.
fn summary(mut failures: Vec<BoxError>) -> BoxError {
    if failures.len() == 1 {
        return failures.remove(0);
    }
    let texts: Vec<_> = failures.iter().map(|error| chain_text(&**error)).collect();
    texts.join("; ").into()
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::{
        net::{TcpListener, TcpSocket},
        time::{Instant, timeout},
    };

    use super::*;

    /// Connects to an address that is a number of milliseconds, after that time; an odd one fails.
    async fn mock(address: u64) -> Result<u64, BoxError> {
        sleep(Duration::from_millis(address)).await;
        if address % 2 == 1 {
            return Err(format!("{address} is down").into());
        }
        Ok(address)
    }

    /// The address that wins, or the errors, and the milliseconds that it took.
    async fn race(addresses: &[u64]) -> (Result<u64, String>, u128) {
        let start = Instant::now();
        let outcome = first_success(addresses.to_vec(), mock).await;
        let outcome = outcome.map_err(|failures| summary(failures).to_string());
        (outcome, start.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_address_delays_the_next_one_by_a_quarter_of_a_second() {
        assert_eq!(race(&[60_000, 10]).await, (Ok(10), 260));
        assert_eq!(race(&[60_000, 60_002, 10]).await, (Ok(10), 510));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_fails_lets_the_next_one_begin_at_once() {
        assert_eq!(race(&[1, 10]).await, (Ok(10), 11));
        // The second begins after 250 ms; the first fails at 301 ms, before the second's time is up.
        assert_eq!(race(&[301, 60_000, 10]).await, (Ok(10), 311));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_wins_if_it_is_done_first() {
        assert_eq!(race(&[300, 200]).await, (Ok(300), 300));
        assert_eq!(race(&[20_000, 60_000, 60_002]).await, (Ok(20_000), 20_000));
    }

    #[tokio::test(start_paused = true)]
    async fn all_errors_are_reported_once_every_address_has_failed() {
        let texts = "501 is down; 1001 is down".to_owned();
        assert_eq!(race(&[1001, 501]).await, (Err(texts), 1001));
        assert_eq!(race(&[7]).await, (Err("7 is down".to_owned()), 7));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_aborts_all_other_attempts() {
        let (attempt, mut others) = tokio::sync::mpsc::channel::<()>(1);
        let connect = move |address| {
            let attempt = attempt.clone();
            async move {
                let _held_by_the_attempt = attempt;
                mock(address).await
            }
        };
        let won = first_success(vec![60_000, 60_002, 10], connect).await;
        assert_eq!(won.unwrap(), 10);
        assert!(others.recv().await.is_none(), "closed by the last attempt");
    }

    #[test]
    fn families_take_turns_behind_the_preferred_address() {
        let parsed = |list: &str| -> Vec<SocketAddr> {
            let addresses = list.split(' ').map(|address| address.parse().unwrap());
            addresses
                .map(|address| SocketAddr::new(address, 0))
                .collect()
        };
        let found = parsed("::1 ::2 1.1.1.1 ::3 2.2.2.2");
        let ordered = parsed("::1 1.1.1.1 ::2 2.2.2.2 ::3");
        assert_eq!(in_order(found.clone(), None), ordered);
        let other_host = "3.3.3.3".parse().ok();
        assert_eq!(in_order(found.clone(), other_host), ordered);
        let ordered = parsed("2.2.2.2 ::1 1.1.1.1 ::2 ::3");
        assert_eq!(in_order(found, "2.2.2.2".parse().ok()), ordered);
        let found = parsed("1.1.1.1 2.2.2.2 3.3.3.3");
        let ordered = parsed("3.3.3.3 1.1.1.1 2.2.2.2");
        assert_eq!(in_order(found, other_host), ordered);
    }

    /// A connector to which every name has `addresses`, or cannot be looked up.
    fn connector(
        addresses: &[IpAddr],
        preferred: Option<IpAddr>,
    ) -> TcpConnector<
        impl Service<Name, Response: Iterator<Item = SocketAddr>, Error: Into<BoxError>> + use<>,
    > {
        let addresses: Vec<_> = addresses.iter().map(|ip| (*ip, 0).into()).collect();
        TcpConnector {
            resolver: service_fn(move |_| ready(Ok::<_, BoxError>(addresses.clone().into_iter()))),
            preferred,
            stage: StageTracker::default(),
            connecting: Stage::Proxy,
        }
    }

    /// The host of the other end, within a time that no timer of the connector comes near.
    async fn peer<R>(connector: TcpConnector<R>, url: &Uri) -> IpAddr
    where
        R: Service<Name, Response: Iterator<Item = SocketAddr>, Error: Into<BoxError>>,
    {
        let connecting = connector.connect(url.clone());
        let stream = timeout(Duration::from_secs(20), connecting).await;
        let stream = stream.expect("stuck at a dead address").unwrap();
        stream.inner().peer_addr().unwrap().ip()
    }

    /// A loopback address that drops every SYN, since its queue of connections to accept is full.
    struct DeadAddress {
        ip: IpAddr,
        _listener: TcpListener,
        _queued: Vec<TcpStream>,
    }

    impl DeadAddress {
        async fn bind(port: u16) -> Self {
            let ip = IpAddr::from([127, 0, 0, 2]);
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((ip, port).into()).unwrap();
            let listener = socket.listen(1).unwrap();
            let mut queued = Vec::new();
            while let Ok(stream) = timeout(ATTEMPT_DELAY, TcpStream::connect((ip, port))).await {
                queued.push(stream.unwrap());
                assert!(queued.len() < 100, "the queue never fills");
            }
            Self {
                ip,
                _listener: listener,
                _queued: queued,
            }
        }
    }

    /// A listener that accepts connections to `127.0.0.1`, and the URL of a name at its port.
    async fn live() -> (TcpListener, IpAddr, Uri) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://name.test:{}", address.port());
        (listener, address.ip(), url.parse().unwrap())
    }

    #[tokio::test]
    async fn a_dead_address_costs_one_step_be_it_the_first_or_the_preferred_one() {
        let (_listener, live, url) = live().await;
        let dead = DeadAddress::bind(url.port_u16().unwrap()).await;
        for connector in [
            connector(&[dead.ip, live], None),
            connector(&[live, dead.ip], Some(dead.ip)),
        ] {
            let start = Instant::now();
            assert_eq!(peer(connector, &url).await, live);
            assert!(start.elapsed() >= ATTEMPT_DELAY, "the dead one goes first");
        }
    }

    #[tokio::test]
    async fn the_preferred_address_goes_first() {
        let (_listener, first, url) = live().await;
        let second = IpAddr::from([127, 0, 0, 3]);
        let port = url.port_u16().unwrap();
        let _listener_too = TcpListener::bind((second, port)).await.unwrap();
        let addresses = [first, second];
        assert_eq!(peer(connector(&addresses, None), &url).await, first);
        let preferring = connector(&addresses, Some(second));
        assert_eq!(peer(preferring, &url).await, second);
    }

    #[tokio::test]
    async fn every_address_that_refuses_is_named() {
        let (listener, live, url) = live().await;
        drop(listener);
        let other = IpAddr::from([127, 0, 0, 3]);
        let refused = connector(&[live, other], None).connect(url).await;
        let text = refused.unwrap_err().to_string();
        let refused = "tcp connect error: Connection refused";
        for ip in [live, other] {
            assert!(text.contains(&format!("{ip}: {refused}")), "{text}");
        }
    }

    #[tokio::test]
    async fn the_stage_says_whether_the_name_or_the_host_is_at_fault() {
        let (_listener, live, url) = live().await;
        let nameless = connector(&[], None);
        let stage = nameless.stage.clone();
        nameless.connect(url.clone()).await.unwrap_err();
        assert_eq!(stage.get(), Stage::Resolve);

        let named = connector(&[live], None);
        let stage = named.stage.clone();
        named.connect(url.clone()).await.unwrap();
        assert_eq!(stage.get(), Stage::Proxy);

        let literal = format!("http://{live}:{}", url.port_u16().unwrap());
        let addressed = connector(&[], None);
        let stage = addressed.stage.clone();
        addressed.connect(literal.parse().unwrap()).await.unwrap();
        assert_eq!(stage.get(), Stage::Proxy);
    }

    #[tokio::test]
    async fn a_silent_peer_is_noticed_within_half_a_minute() {
        let (_listener, live, url) = live().await;
        let stream = connector(&[live], None).connect(url).await.unwrap();
        let socket = SockRef::from(stream.inner());
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        let probing = (
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
            socket.tcp_keepalive_retries().unwrap(),
        );
        let seconds = Duration::from_secs;
        assert_eq!(probing, (seconds(15), seconds(5), 3));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(seconds(25)));
    }
}

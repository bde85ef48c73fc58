//! A connection is reserved before a request is sent, and the request is written at once.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use pacegate::client::{Client, ResponseBody};
use pacegate_layers::error::{BoxError, NotProcessed, NotSent, Stale};
use tokio::{
    join,
    task::coop,
    time::{Instant, sleep, timeout},
};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Service, ServiceExt};

use super::support::*;

fn request() -> Request<Full<Bytes>> {
    Request::post("/chat/completions")
        .body(Full::from("{}"))
        .unwrap()
}

/// A client with one idle connection, and the server's end of it.
async fn warm(server: &Server) -> (Client, Peer) {
    let client = client(server);
    let ((peer, _), response) = join!(server.answer(OK), get(&client, "/models"));
    text(response.unwrap()).await.unwrap();
    assert_eq!(client.idle_connections(), 1);
    (client, peer)
}

/// A task that asks `client` whether it is ready.
fn asking(client: &mut Client) -> task::Spawn<impl Future<Output = Result<(), BoxError>> + '_> {
    task::spawn(poll_fn(|cx| client.poll_ready(cx)))
}

async fn reserve(client: &mut Client) {
    client.ready().await.unwrap();
}

#[tokio::test]
async fn with_a_free_connection_the_first_poll_is_ready_and_the_first_poll_of_the_call_writes() {
    let server = Server::bind().await;
    let (mut client, mut peer) = warm(&server).await;
    assert_ready_ok!(asking(&mut client).poll());
    assert_ready_ok!(asking(&mut client).poll());
    let mut response = task::spawn(client.call(request()));
    assert_pending!(response.poll());
    // The response future is not polled again.
    let head = timeout(LONG, peer.request()).await.unwrap();
    assert!(head.starts_with("POST /v1/chat/completions "), "{head}");
}

/// tokio lets a task do only so much in one turn; then no socket is ready.
#[tokio::test]
async fn a_turn_that_is_used_up_delays_no_request() {
    let server = Server::bind().await;
    let (mut client, mut peer) = warm(&server).await;
    let (send, mut work) = tokio::sync::mpsc::unbounded_channel();
    (0..1000).for_each(|_| send.send(()).unwrap());
    let mut response = None;
    poll_fn(|cx| {
        while coop::has_budget_remaining() && work.poll_recv(cx).is_ready() {}
        assert_ready_ok!(client.poll_ready(cx));
        let mut call = client.call(request());
        assert_pending!(call.as_mut().poll(cx));
        response = Some(call);
        std::task::Poll::Ready(())
    })
    .await;
    timeout(LONG, peer.request()).await.unwrap();
}

#[tokio::test]
async fn a_reserved_connection_that_is_closed_wakes_the_task_and_is_stale() {
    let server = Server::bind().await;
    let (mut client, peer) = warm(&server).await;
    let fresh = client.clone();
    let mut ready = asking(&mut client);
    assert_ready_ok!(ready.poll());
    drop(peer);
    let woken = async {
        while !ready.is_woken() {
            sleep(SHORT / 10).await;
        }
    };
    timeout(LONG, woken).await.expect("it should be woken");
    drop(ready);
    assert_eq!(client.open_connections(), 1);
    let error = assert_ready_err!(asking(&mut client).poll());
    assert!(error.is::<Stale>(), "{error:?}");
    assert_eq!(client.open_connections(), 0);
    let ((_peer, _), response) = join!(server.answer(OK), fresh.oneshot(request()));
    response.unwrap();
}

#[tokio::test]
async fn a_request_on_a_connection_that_has_just_been_closed_is_not_processed() {
    for reset in [false, true] {
        let server = Server::bind().await;
        let (mut client, peer) = warm(&server).await;
        reserve(&mut client).await;
        if reset {
            peer.io.set_zero_linger().unwrap();
        }
        drop(peer);
        sleep(SHORT).await;
        let error = client.call(request()).await.unwrap_err();
        let NotSent(cause) = error.downcast_ref().unwrap();
        assert!(cause.is::<NotProcessed>(), "{error:?}");
    }
}

#[tokio::test]
async fn a_reservation_is_not_cloned_and_goes_back_when_it_is_dropped() {
    let server = Server::bind().await;
    let (mut client, mut peer) = warm(&server).await;
    reserve(&mut client).await;
    assert_eq!(client.idle_connections(), 0);
    let mut other = client.clone();
    assert_pending!(asking(&mut other).poll());
    let error = other.clone().call(request()).await.unwrap_err();
    assert!(error.is::<Stale>(), "{error:?}");

    // One that waits for a connection gets it, too.
    join!(reserve(&mut other), async { drop(client) });
    let (_, response) = join!(peer.answer(OK), other.call(request()));
    assert_eq!(text(response.unwrap()).await.unwrap(), "ok");
}

#[tokio::test]
async fn another_base_url_makes_reservations_stale_and_the_same_one_does_not() {
    let (old, new) = (Server::bind().await, Server::bind().await);
    let (mut client, _peer) = warm(&old).await;
    reserve(&mut client).await;
    client.set_base_url(old.url()).unwrap();
    assert_ready_ok!(asking(&mut client).poll());

    let deeper = format!("http://{}/other", old.address());
    client.set_base_url(deeper.parse().unwrap()).unwrap();
    let error = assert_ready_err!(asking(&mut client).poll());
    assert!(error.is::<Stale>(), "{error:?}");
    assert_eq!(client.idle_connections(), 1, "the connection is good");

    let mut client = client.clone();
    reserve(&mut client).await;
    client.set_base_url(new.url()).unwrap();
    let error = assert_ready_err!(asking(&mut client).poll());
    assert!(error.is::<Stale>(), "{error:?}");
}

#[tokio::test]
async fn a_request_that_waits_for_a_connection_goes_on_at_another_base_url() {
    let certificate = Certificate::for_name("localhost");
    let file = certificate.file();
    let (silent, server) = (Server::bind().await, Server::bind().await);
    let client = Client::new(silent.https_url(), trusting(&file)).unwrap();
    let mut waiting = client.clone();
    let mut ready = asking(&mut waiting);
    assert_pending!(ready.poll());
    let _hanging = silent.accept().await;
    client.set_base_url(server.url()).unwrap();
    assert!(ready.is_woken());
    let serving = async { server.accept().await };
    let (_peer, outcome) = timeout(LONG, async { join!(serving, ready) })
        .await
        .unwrap();
    outcome.unwrap();
}

#[tokio::test]
async fn a_connection_that_becomes_idle_serves_a_request_that_waits_for_a_new_one() {
    let certificate = Certificate::for_name("localhost");
    let file = certificate.file();
    let server = Server::bind().await;
    let client = Client::new(server.https_url(), trusting(&file)).unwrap();
    let serving = async {
        let config = certificate.server(&["http/1.1"]);
        let mut peer = server.accept().await.tls(config).await.unwrap();
        peer.request().await;
        // This one gets no handshake.
        let hanging = server.accept().await;
        peer.send(OK).await;
        peer.answer(OK).await;
        (peer, hanging)
    };
    let asking = futures((0..2).map(|_| async {
        let response = post(&client, "{}").await.unwrap();
        text(response).await.unwrap()
    }));
    let both = async { join!(serving, asking) };
    let (_peers, said) = timeout(LONG, both).await.unwrap();
    assert_eq!(said, ["ok", "ok"]);
}

#[tokio::test]
async fn connections_are_opened_in_parallel_once_the_upstream_has_chosen_http1() {
    const HANDSHAKE: Duration = Duration::from_millis(300);
    const CROWD: usize = 20;

    let certificate = Certificate::for_name("localhost");
    let file = certificate.file();
    let server = Server::bind().await;
    let mut options = trusting(&file);
    options.connect_timeout = Duration::from_secs(3);
    let client = Client::new(server.https_url(), options).unwrap();
    let config = certificate.server(&[]);
    let serving = async {
        let first = server.accept().await;
        let others = async {
            let mut others = Vec::new();
            while others.len() < CROWD - 1 {
                others.push(server.accept().await);
            }
            others
        };
        // Slower than all others together, which do not begin before.
        let mut others = pin!(others);
        assert!(timeout(HANDSHAKE, &mut others).await.is_err());
        let mut served = vec![first.tls(config.clone()).await.unwrap()];
        let others = others.await;
        sleep(HANDSHAKE).await;
        for peer in others {
            served.push(peer.tls(config.clone()).await.unwrap());
        }
        for peer in &mut served {
            peer.answer(OK).await;
        }
        served
    };
    let started = Instant::now();
    let asking = futures((0..CROWD).map(|_| post(&client, "{}")));
    let (_peers, responses) = join!(serving, asking);
    assert!(responses.iter().all(Result::is_ok));
    assert!(started.elapsed() >= 2 * HANDSHAKE);
    assert_eq!(client.open_connections(), CROWD);
}

#[tokio::test]
async fn a_keep_alive_of_the_upstream_is_obeyed() {
    let server = Server::bind().await;
    let client = client(&server);
    // Less the second that a request may take: not at all.
    let briefly = "HTTP/1.1 200 OK\r\nkeep-alive: timeout=1, max=9\r\ncontent-length: 2\r\n\r\nok";
    for _ in 0..2 {
        let ((_peer, _), response) = join!(server.answer(briefly), get(&client, "/models"));
        let response: http::Response<ResponseBody> = response.unwrap();
        text(response).await.unwrap();
        assert_eq!(client.idle_connections(), 0);
    }
}

#[tokio::test]
async fn nothing_idle_for_longer_than_a_minute_is_used_again() {
    let server = Server::bind().await;
    let (client, mut peer) = warm(&server).await;
    let mut holder = client.clone();
    reserve(&mut holder).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_ready_ok!(asking(&mut holder).poll());
    tokio::time::advance(Duration::from_secs(2)).await;
    let error = assert_ready_err!(asking(&mut holder).poll());
    tokio::time::resume();
    assert!(error.is::<Stale>(), "{error:?}");
    peer.rest().await;
}

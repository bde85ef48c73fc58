//! An upstream that cannot be reached: how often it is tried, and what requests are told.

use std::{future::poll_fn, time::Duration};

use pacegate::client::{
    Client,
    error::{ConnectError, Stage, Unreachable},
};
use pacegate_layers::error::{BoxError, NotSent};
use tokio::{
    join,
    net::TcpListener,
    time::{Instant, sleep, sleep_until},
};
use tokio_test::{assert_pending, task};
use tower::Service;

use super::support::*;

const SECOND: Duration = Duration::from_secs(1);

/// The error of a request that made the try itself.
fn tried(error: &BoxError) -> Option<&ConnectError> {
    NotSent::in_chain(&**error)?.0.downcast_ref()
}

// A refused connection is refused at once, so it needs no real time.
#[tokio::test(start_paused = true)]
async fn it_is_tried_every_five_seconds_and_others_are_told_at_once() {
    let server = Server::bind().await;
    let address = server.address();
    let client = client(&server);
    drop(server);
    let start = Instant::now();
    for nth in 0..3 {
        let error = post(&client, "{}").await.unwrap_err();
        let cause = tried(&error).expect("each of the first three is a try");
        assert_eq!(cause.stage, Stage::Connect);
        let seconds = start.elapsed().as_secs_f64().round();
        assert_eq!(seconds, 5.0 * f64::from(nth));
    }
    let before = Instant::now();
    let error = post(&client, "{}").await.unwrap_err();
    let unreachable: &Unreachable = error.downcast_ref().unwrap();
    assert!(NotSent::in_chain(&*error).is_none(), "it would be retried");
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(unreachable.retry_after > 4 * SECOND && unreachable.retry_after <= 5 * SECOND);
    let text = format!("connecting to {address} failed");
    assert_eq!(unreachable.source.to_string(), text);

    // One tries, the others are told meanwhile.
    sleep_until(start + 16 * SECOND).await;
    let errors = futures((0..5).map(|_| post(&client, "{}"))).await;
    let errors = errors.into_iter().map(Result::unwrap_err);
    assert_eq!(errors.filter(|error| tried(error).is_some()).count(), 1);

    // Another origin begins anew.
    let elsewhere = Server::bind().await;
    client.set_base_url(elsewhere.url()).unwrap();
    drop(elsewhere);
    assert!(tried(&post(&client, "{}").await.unwrap_err()).is_some());
}

#[tokio::test]
async fn one_success_makes_it_reachable() {
    let server = Server::bind().await;
    let address = server.address();
    let client = client(&server);
    drop(server);
    tokio::time::pause();
    for _ in 0..3 {
        post(&client, "{}").await.unwrap_err();
    }
    assert!(post(&client, "{}").await.unwrap_err().is::<Unreachable>());
    tokio::time::advance(6 * SECOND).await;
    tokio::time::resume();
    let server = TcpListener::bind(address).await.unwrap();
    let serving = async {
        let mut peers = Vec::new();
        for _ in 0..2 {
            let mut peer = Peer::new(server.accept().await.unwrap().0);
            peer.answer(OK).await;
            peers.push(peer);
        }
        peers
    };
    let asking = async {
        let first = post(&client, "{}").await.unwrap();
        let second = post(&client, "{}").await.unwrap();
        (first, second)
    };
    // Both within moments: no try is delayed any more.
    let before = Instant::now();
    join!(serving, asking);
    assert!(before.elapsed() < 4 * SECOND);
}

/// A request would otherwise connect again and again.
#[tokio::test]
async fn a_connection_that_is_closed_before_it_is_used_is_a_failure() {
    let server = Server::bind().await;
    let mut client: Client = client(&server);
    let other = client.clone();
    let mut ready = task::spawn(poll_fn(|cx| client.poll_ready(cx)));
    assert_pending!(ready.poll());
    drop(server.accept().await);
    sleep(SHORT).await;
    let error = ready.await.unwrap_err();
    let cause = tried(&error).unwrap();
    assert_eq!(cause.stage, Stage::Connect);
    tokio::select! {
        _ = post(&other, "{}") => panic!("there is no connection"),
        _ = server.accept() => panic!("the next try is not due"),
        () = sleep(SHORT) => {}
    }
}

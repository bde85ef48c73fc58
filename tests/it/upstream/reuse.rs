//! Which connections serve another request, and which requests are sent again.

use std::{
    future::{Future, poll_fn},
    sync::atomic::{AtomicUsize, Ordering},
};

use pacegate::client::Client;
use pacegate_layers::error::NotSent;
use tokio::{
    io::AsyncWriteExt,
    join,
    task::coop,
    time::{sleep, timeout},
};

use super::support::*;

/// An answer to a request that nobody has sent.
const UNASKED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";

#[tokio::test]
async fn what_comes_behind_an_answer_costs_the_connection() {
    for end in [OK.to_owned(), format!("{CHUNKED}{}0\r\n\r\n", chunk("ok"))] {
        let server = Server::bind().await;
        let client = client(&server);
        let answer = end + UNASKED;
        let ((mut peer, _), response) = join!(server.answer(&answer), get(&client, "/models"));
        assert_eq!(text(response.unwrap()).await.unwrap(), "ok");
        assert_eq!(client.open_connections(), 0);
        peer.rest().await;
    }
}

#[tokio::test]
async fn what_comes_while_a_connection_is_idle_costs_it() {
    let server = Server::bind().await;
    let client = client(&server);
    let (first, response) = join!(server.answer(OK), get(&client, "/models"));
    let (mut peer, _) = first;
    text(response.unwrap()).await.unwrap();
    peer.send(UNASKED).await;
    sleep(SHORT).await;
    let ((_peer, _), response) = join!(server.answer(OK), get(&client, "/models"));
    assert_eq!(text(response.unwrap()).await.unwrap(), "ok");
    assert!(peer.rest().await.is_empty(), "it was sent a request");
}

#[tokio::test]
async fn what_comes_behind_an_answer_or_later_costs_the_connection_over_tls_too() {
    for pause in [false, true] {
        let certificate = Certificate::for_name("localhost");
        let file = certificate.file();
        let server = Server::bind().await;
        let client = Client::new(server.https_url(), trusting(&file)).unwrap();
        let serving = async {
            let config = certificate.server(&["http/1.1"]);
            let mut peer = server.accept().await.tls(config.clone()).await.unwrap();
            if pause {
                peer.answer(OK).await;
                sleep(SHORT / 2).await;
                peer.send(UNASKED).await;
            } else {
                peer.answer(&format!("{OK}{UNASKED}")).await;
            }
            let mut second = server.accept().await.tls(config).await.unwrap();
            second.answer(OK).await;
            assert!(peer.rest().await.is_empty(), "it was sent a request");
            second
        };
        let asking = async {
            for _ in 0..2 {
                let response = get(&client, "/models").await.unwrap();
                assert_eq!(text(response).await.unwrap(), "ok");
                sleep(SHORT).await;
            }
        };
        let _peer = join!(serving, asking);
        assert_eq!(client.open_connections(), 1);
    }
}

#[tokio::test]
async fn a_tls_connection_that_was_closed_while_idle_is_not_used() {
    let certificate = Certificate::for_name("localhost");
    let file = certificate.file();
    let server = Server::bind().await;
    let client = Client::new(server.https_url(), trusting(&file)).unwrap();
    let config = certificate.server(&["http/1.1"]);
    for goodbye in [true, false] {
        let serving = async {
            let mut peer = server.accept().await.tls(config.clone()).await.unwrap();
            peer.answer(OK).await;
            if goodbye {
                peer.io.shutdown().await.unwrap();
            }
        };
        let asking = async {
            let response = get(&client, "/models").await.unwrap();
            assert_eq!(text(response).await.unwrap(), "ok");
        };
        join!(serving, asking);
        sleep(SHORT).await;
    }
}

/// tokio lets a task do only so much in one turn; then nothing is ready, not even what is there.
#[tokio::test]
async fn a_turn_that_is_used_up_hides_neither_a_live_connection_nor_a_dead_one() {
    for closed in [false, true] {
        let certificate = Certificate::for_name("localhost");
        let file = certificate.file();
        let server = Server::bind().await;
        let client = Client::new(server.https_url(), trusting(&file)).unwrap();
        let config = certificate.server(&["http/1.1"]);
        let serving = async {
            let mut peer = server.accept().await.tls(config.clone()).await.unwrap();
            peer.answer(OK).await;
            if closed {
                sleep(SHORT / 2).await; // not together with the answer
                drop(peer);
                peer = server.accept().await.tls(config.clone()).await.unwrap();
            }
            peer.answer(OK).await;
            peer
        };
        let asking = async {
            text(get(&client, "/models").await.unwrap()).await.unwrap();
            sleep(SHORT).await;
            let (send, mut work) = tokio::sync::mpsc::unbounded_channel();
            (0..1000).for_each(|_| send.send(()).unwrap());
            let mut second = std::pin::pin!(get(&client, "/models"));
            let response = poll_fn(|cx| {
                while coop::has_budget_remaining() && work.poll_recv(cx).is_ready() {}
                second.as_mut().poll(cx)
            });
            text(response.await.unwrap()).await.unwrap()
        };
        let (_peer, said) = timeout(LONG, async { join!(serving, asking) })
            .await
            .unwrap();
        assert_eq!(said, "ok");
        assert_eq!(client.open_connections(), 1);
    }
}

#[tokio::test]
async fn connections_that_were_closed_are_passed_over_however_many_there_are() {
    let server = Server::bind().await;
    let client = client(&server);
    let serving = async {
        let mut peers = Vec::new();
        for _ in 0..3 {
            peers.push(server.accept().await);
        }
        for peer in &mut peers {
            peer.answer(OK).await;
        }
        peers
    };
    let asking = async {
        for response in futures((0..3).map(|_| get(&client, "/models"))).await {
            text(response.unwrap()).await.unwrap();
        }
    };
    let (mut peers, ()) = join!(serving, asking);
    assert_eq!(client.idle_connections(), 3);
    // The one that has come first is used last.
    let mut alive = peers.swap_remove(0);
    drop(peers);
    sleep(SHORT).await;
    let (_request, response) = join!(alive.answer(OK), get(&client, "/models"));
    assert_eq!(text(response.unwrap()).await.unwrap(), "ok");
    assert_eq!(client.open_connections(), 1);
}

#[tokio::test]
async fn an_unwritten_request_is_sent_once_more_and_not_again() {
    let server = Server::bind().await;
    let client = client(&server);
    let (first, response) = join!(server.answer(OK), get(&client, "/models"));
    text(response.unwrap()).await.unwrap();
    drop(first);
    sleep(SHORT).await;

    let accepted = AtomicUsize::new(0);
    let serving = async {
        loop {
            let peer = server.accept().await;
            accepted.fetch_add(1, Ordering::Relaxed);
            peer.io.set_zero_linger().unwrap();
        }
    };
    let asking = async {
        let error = post(&client, "{}").await.unwrap_err();
        sleep(SHORT).await;
        error
    };
    let error = tokio::select! {
        () = serving => unreachable!(),
        error = asking => error,
    };
    assert_eq!(accepted.load(Ordering::Relaxed), 1, "{error:?}");
}

#[tokio::test]
async fn a_connection_that_is_closed_before_the_request_left_is_said_not_to_have_got_it() {
    let server = Server::bind().await;
    let mut client = client(&server);
    let request = http::Request::get("/models").body(http_body_util::Full::default());
    // Connected by the system, and reset before the client takes its next turn.
    let mut call =
        tokio_test::task::spawn(tower_service::Service::call(&mut client, request.unwrap()));
    tokio_test::assert_pending!(call.poll());
    let peer = server.accept().await;
    peer.io.set_zero_linger().unwrap();
    drop(peer);
    sleep(SHORT).await;
    let error = timeout(LONG, call).await.unwrap().unwrap_err();
    assert!(NotSent::in_chain(&*error).is_some(), "{error:?}");
}

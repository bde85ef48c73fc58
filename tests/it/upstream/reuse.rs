//! Which connections serve another request.

use std::future::{Future, poll_fn};

use pacegate::client::Client;
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
        let mut first = None;
        let mut others = Vec::new();
        for mut peer in peers {
            let request = peer.answer(OK).await;
            if request.starts_with("GET /v1/0") {
                first = Some(peer);
            } else {
                others.push(peer);
            }
        }
        (first.unwrap(), others)
    };
    let asking = async {
        let paths = ["/0", "/1", "/2"];
        for response in futures(paths.iter().map(|path| get(&client, path))).await {
            text(response.unwrap()).await.unwrap();
        }
    };
    let ((mut alive, others), ()) = join!(serving, asking);
    assert_eq!(client.idle_connections(), 3);
    // The one that has been idle for longest is used last.
    drop(others);
    sleep(SHORT).await;
    let (_request, response) = join!(alive.answer(OK), get(&client, "/models"));
    assert_eq!(text(response.unwrap()).await.unwrap(), "ok");
    assert_eq!(client.open_connections(), 1);
}

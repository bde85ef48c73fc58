//! Connections, requests on the wire, and what happens before a response head.

use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use pacegate::client::{
    Client,
    error::{ConnectError, ConnectTimeout, ConnectionLost, HeadTimeout, Stage},
};
use pacegate_layers::{context::RequestContext, error::NotSent};
use tokio::{join, time::Instant};
use tower::ServiceExt;

use super::support::*;
use crate::support::lateness::Lateness;

#[tokio::test]
async fn a_connection_is_used_again_once_the_body_has_ended() {
    let server = Server::bind().await;
    let client = client(&server);
    let serving = async {
        let (mut peer, _) = server.answer(OK).await;
        peer.answer(&format!("{CHUNKED}{}0\r\n\r\n", chunk("ok")))
            .await;
        // No body at all: nobody polls for its end.
        peer.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
        peer.answer(OK).await;
        peer
    };
    let asking = async {
        for _ in 0..4 {
            let response = get(&client, "/models").await.unwrap();
            assert!(["ok", ""].contains(&&*text(response).await.unwrap()));
            assert_eq!(
                (client.open_connections(), client.idle_connections()),
                (1, 1)
            );
        }
    };
    let (mut peer, ()) = join!(serving, asking);
    drop(client);
    assert!(peer.rest().await.is_empty());
}

#[tokio::test]
async fn requests_at_once_get_a_connection_each() {
    let server = Server::bind().await;
    let client = client(&server);
    let serving = async {
        let (mut one, mut two) = (server.accept().await, server.accept().await);
        join!(one.answer(OK), two.answer(OK));
        (one, two)
    };
    let asking = async { text(get(&client, "/models").await.unwrap()).await.unwrap() };
    let asking_too = async { text(get(&client, "/models").await.unwrap()).await.unwrap() };
    let _peers = join!(serving, asking, asking_too);
    assert_eq!(client.idle_connections(), 2);
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_is_noticed_and_not_used() {
    let server = Server::bind().await;
    let client = client(&server);
    let (_, first) = join!(server.answer(OK), get(&client, "/models"));
    text(first.unwrap()).await.unwrap();
    assert_eq!(client.idle_connections(), 1);
    tokio::time::sleep(SHORT).await; // the peer has been dropped; its FIN arrives

    let ((_peer, request), second) = join!(server.answer(OK), get(&client, "/models"));
    assert_eq!(text(second.unwrap()).await.unwrap(), "ok");
    assert!(request.starts_with("GET /v1/models "));
    assert_eq!(client.open_connections(), 1);
}

#[tokio::test]
async fn a_connection_that_is_to_be_closed_is_not_kept() {
    let server = Server::bind().await;
    let client = client(&server);
    let closing = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let ((_peer, _), response) = join!(server.answer(closing), get(&client, "/models"));
    text(response.unwrap()).await.unwrap();
    assert_eq!(
        (client.open_connections(), client.idle_connections()),
        (0, 0)
    );
}

#[tokio::test]
async fn a_request_that_was_read_is_never_sent_again() {
    let server = Server::bind().await;
    let client = client(&server);
    let serving = async {
        let (mut peer, _) = server.answer(OK).await;
        peer.request().await;
        drop(peer);
        // A second delivery would come at once.
        tokio::time::timeout(SHORT, server.accept()).await.is_err()
    };
    let asking = async {
        text(get(&client, "/models").await.unwrap()).await.unwrap();
        post(&client, "{}").await.unwrap_err()
    };
    let (delivered_once, error) = join!(serving, asking);
    assert!(delivered_once);
    assert!(error.is::<ConnectionLost>(), "{error:?}");
    assert!(NotSent::in_chain(&*error).is_none());
}

#[tokio::test]
async fn garbage_instead_of_a_head_is_broken() {
    let server = Server::bind().await;
    let client = client(&server);
    let (_, response) = join!(
        server.answer("SSH-2.0-OpenSSH_9\r\n\r\n"),
        post(&client, "{}")
    );
    assert!(response.unwrap_err().is::<ConnectionLost>());
}

#[tokio::test]
async fn a_refused_connection_is_not_sent_and_names_the_address_and_stage() {
    let server = Server::bind().await;
    let client = client(&server);
    let address = server.address().to_string();
    drop(server);
    let error = post(&client, "{}").await.unwrap_err();
    let NotSent(cause) = NotSent::in_chain(&*error).unwrap();
    let cause = cause.downcast_ref::<ConnectError>().unwrap();
    assert_eq!((cause.stage, &cause.address), (Stage::Connect, &address));
}

#[tokio::test]
async fn a_handshake_that_hangs_meets_the_connect_timeout() {
    const LIMIT: Duration = Duration::from_millis(500);
    let server = Server::bind().await;
    let mut options = options();
    options.connect_timeout = LIMIT;
    let client = Client::new(server.https_url(), options).unwrap();
    let lateness = Lateness::watch();
    let started = Instant::now();
    // Eight at once: those that wait for the outcome of the first run out of time with it.
    let asking = (0..8).map(|_| post(&client, "{}"));
    for response in futures(asking).await {
        let error = response.unwrap_err();
        let NotSent(cause) = NotSent::in_chain(&*error).unwrap();
        let cause = cause.downcast_ref::<ConnectError>().unwrap();
        assert!(cause.source.is::<ConnectTimeout>(), "{cause:?}");
    }
    lateness.assert_within("eight at once", started.elapsed(), LIMIT * 4);
    assert_eq!(client.open_connections(), 0);
}

#[tokio::test]
async fn a_head_that_does_not_come_meets_the_head_timeout_and_frees_the_connection() {
    let server = Server::bind().await;
    let mut options = options();
    options.head_timeout = SHORT;
    let client = Client::new(server.url(), options).unwrap();
    let ((mut peer, _), response) = join!(server.answer("HTTP/1.1 200"), post(&client, "{}"));
    let error = response.unwrap_err();
    assert!(error.is::<HeadTimeout>(), "{error:?}");
    peer.rest().await;
    assert_eq!(client.open_connections(), 0);
}

#[tokio::test]
async fn dropping_a_request_closes_its_connection_at_once() {
    let server = Server::bind().await;
    let client = client(&server);
    let mut peer = tokio::select! {
        (peer, _) = server.answer("") => peer,
        _ = post(&client, "{}") => panic!("nobody answered"),
    };
    peer.rest().await;
    assert_eq!(client.open_connections(), 0);
}

#[tokio::test]
async fn fields_leave_in_their_order_with_host_in_its_place() {
    let server = Server::bind().await;
    let client = client(&server);
    let mut request = Request::post("/chat/completions?x=1")
        .header("x-first", "1")
        .header(header::HOST, "placeholder.test")
        .header("accept", "application/json")
        .header("authorization", "Bearer t")
        .header("content-length", "999")
        .header("x-last", "2")
        .body(Full::from("{}"))
        .unwrap();
    request
        .headers_mut()
        .append("accept", HeaderValue::from_static("*/*"));
    let ((_peer, head), response) = join!(server.answer(OK), client.oneshot(request));
    response.unwrap();
    assert_eq!(
        head,
        format!(
            "POST /v1/chat/completions?x=1 HTTP/1.1\r\nx-first: 1\r\nhost: {}\r\n\
             accept: application/json\r\naccept: */*\r\nauthorization: Bearer t\r\n\
             content-length: 2\r\nx-last: 2\r\n\r\n",
            server.address(),
        )
    );
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let server = Server::bind().await;
    let client = client(&server);
    let redirect = "HTTP/1.1 307 Temporary Redirect\r\nlocation: /v2\r\ncontent-length: 0\r\n\r\n";
    let (_, response) = join!(server.answer(redirect), post(&client, "{}"));
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(response.headers()[header::LOCATION], "/v2");
}

#[tokio::test]
async fn another_base_url_gets_new_connections_and_its_own_host() {
    let (old, new) = (Server::bind().await, Server::bind().await);
    let client = client(&old);
    let ((mut peer, _), response) = join!(old.answer(OK), get(&client, "/models"));
    text(response.unwrap()).await.unwrap();

    client.set_base_url(new.url()).unwrap();
    assert_eq!(client.base_url(), new.url());
    peer.rest().await; // the idle connection to the old origin is closed
    let ((_peer, head), response) = join!(new.answer(OK), get(&client, "/models"));
    text(response.unwrap()).await.unwrap();
    assert!(
        head.contains(&format!("host: {}\r\n", new.address())),
        "{head}"
    );

    let deeper = format!("http://{}/other", new.address());
    client.set_base_url(deeper.parse().unwrap()).unwrap();
    assert_eq!(
        client.idle_connections(),
        1,
        "the same origin keeps its connections"
    );
    assert!(client.set_base_url("/nowhere".parse().unwrap()).is_err());
    assert_eq!(client.base_url(), *deeper);
}

#[tokio::test]
async fn a_request_counts_as_an_attempt_once_there_is_a_connection() {
    let server = Server::bind().await;
    let client = client(&server);
    let context = RequestContext::new();
    let request = Request::get("/models")
        .extension(context.clone())
        .body(Full::default())
        .unwrap();
    let (_, response) = join!(server.answer(OK), client.clone().oneshot(request.clone()));
    response.unwrap();
    assert_eq!(context.attempts(), 1);
    drop(server);
    client.oneshot(request).await.unwrap_err();
    assert_eq!(context.attempts(), 1);
}

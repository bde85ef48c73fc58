//! Answers that come in other ways than most: ahead of time, piecemeal, or not as HTTP has it.

use http::{Method, Request, StatusCode, Version};
use http_body_util::Full;
use pacegate::client::{
    Client,
    error::{ConnectionLost, Truncated, UnexpectedUpgrade},
};
use pacegate_layers::error::NotSent;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
    time::sleep,
};
use tower::ServiceExt;

use super::support::*;

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let server = Server::bind().await;
    let client = client(&server);
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\ncontent-length: 9\r\n\r\n";
    let answer = format!("HTTP/1.1 100 Continue\r\n\r\n{}{OK}", hints.repeat(3));
    let serving = async {
        let (mut peer, _) = server.answer(&answer).await;
        peer.request().await;
        // Not all at once, either.
        for piece in [&answer[..30], &answer[30..], ""] {
            peer.send(piece).await;
            sleep(SHORT / 5).await;
        }
        peer
    };
    let asking = async {
        for _ in 0..2 {
            let response = post(&client, "{}").await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert!(!response.headers().contains_key("link"));
            assert_eq!(text(response).await.unwrap(), "ok");
        }
    };
    let _peer = join!(serving, asking);
    assert_eq!(client.idle_connections(), 1);
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let server = Server::bind().await;
    let client = client(&server);
    let switched = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n";
    let ((mut peer, _), response) = join!(server.answer(switched), post(&client, "{}"));
    assert!(response.unwrap_err().is::<UnexpectedUpgrade>());
    peer.rest().await;
}

/// More than both sides' sockets hold.
const LARGE: usize = 32 << 20;

const REFUSAL: &str = "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\n\r\nbig";

#[tokio::test]
async fn an_answer_that_comes_before_the_request_was_read_is_delivered() {
    let server = Server::bind().await;
    let client = client(&server);
    let serving = async {
        let mut peer = server.accept().await;
        peer.io.read_exact(&mut [0; 1000]).await.unwrap();
        peer.send(REFUSAL).await;
        peer.rest().await; // the client hangs up
    };
    let asking = async {
        let response = post(&client, vec![b'x'; LARGE]).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(text(response).await.unwrap(), "big");
        assert_eq!(
            (client.open_connections(), client.idle_connections()),
            (0, 0),
            "the rest of the body would be read as a request"
        );
    };
    join!(serving, asking);
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_was_read_is_delivered_over_tls() {
    let certificate = Certificate::for_name("localhost");
    let file = certificate.file();
    let server = Server::bind().await;
    let client = Client::new(server.https_url(), trusting(&file)).unwrap();
    let serving = async {
        let config = certificate.server(&["http/1.1"]);
        let mut peer = server.accept().await.tls(config).await.unwrap();
        peer.io.read_exact(&mut [0; 1000]).await.unwrap();
        peer.send(REFUSAL).await;
        peer.rest().await;
    };
    let asking = async {
        let response = post(&client, vec![b'x'; LARGE]).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(text(response).await.unwrap(), "big");
        assert_eq!(client.open_connections(), 0);
    };
    join!(serving, asking);
}

#[tokio::test]
async fn an_upload_that_is_cut_off_behind_an_answer_still_has_that_answer() {
    let server = Server::bind().await;
    let client = client(&server);
    let mut call = std::pin::pin!(post(&client, vec![b'x'; LARGE]));
    let begun = async {
        let mut peer = server.accept().await;
        peer.io.read_exact(&mut [0; 1000]).await.unwrap();
        peer
    };
    let mut peer = tokio::select! {
        peer = begun => peer,
        _ = &mut call => panic!("nobody answered"),
    };
    // The client takes no turn before all of this has happened. What was not read makes the end a
    // reset.
    peer.send(REFUSAL).await;
    drop(peer);
    sleep(SHORT).await;
    let response = call.await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(text(response).await.unwrap(), "big");
    assert_eq!(client.open_connections(), 0);
}

#[tokio::test]
async fn an_upload_that_is_cut_off_without_an_answer_is_broken_and_not_repeated() {
    let server = Server::bind().await;
    let client = client(&server);
    let serving = async {
        let mut peer = server.accept().await;
        peer.io.read_exact(&mut [0; 1000]).await.unwrap();
        peer.io.set_zero_linger().unwrap();
        drop(peer);
        tokio::time::timeout(SHORT, server.accept()).await.is_err()
    };
    let (once, response) = join!(serving, post(&client, vec![b'x'; LARGE]));
    let error = response.unwrap_err();
    assert!(error.is::<ConnectionLost>(), "{error:?}");
    assert!(NotSent::in_chain(&*error).is_none());
    assert!(once);
}

#[tokio::test]
async fn an_upload_goes_on_while_its_answer_comes() {
    let server = Server::bind().await;
    let client = client(&server);
    let serving = async {
        let mut peer = server.accept().await;
        peer.io.read_exact(&mut [0; 1000]).await.unwrap();
        peer.send(&format!("{CHUNKED}{}", chunk("begun"))).await;
        // It ends its answer once it has read everything: more than the body, with the head.
        let (mut read, mut room) = (1000, vec![0; 1 << 20]);
        while read < LARGE {
            let more = peer.io.read(&mut room).await.unwrap();
            assert_ne!(more, 0, "after {read}");
            read += more;
        }
        peer.send("0\r\n\r\n").await;
        peer
    };
    let asking = async {
        let response = post(&client, vec![b'x'; LARGE]).await.unwrap();
        text(response).await.unwrap()
    };
    let (_peer, said) = join!(serving, asking);
    assert_eq!(said, "begun");
}

#[tokio::test]
async fn a_megabyte_passes_byte_for_byte_over_tls() {
    let certificate = Certificate::for_name("localhost");
    let file = certificate.file();
    let server = Server::bind().await;
    let client = Client::new(server.https_url(), trusting(&file)).unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let serving = async {
        let config = certificate.server(&["http/1.1"]);
        let mut io = server.accept().await.tls(config).await.unwrap().io;
        let mut read = Vec::new();
        while !read.ends_with(&bytes[bytes.len() - 1000..]) {
            assert_ne!(io.read_buf(&mut read).await.unwrap(), 0);
        }
        assert!(read.ends_with(&bytes), "the request body has changed");
        io.write_all(CHUNKED.as_bytes()).await.unwrap();
        for piece in bytes.chunks(70_000) {
            let head = format!("{:x}\r\n", piece.len());
            io.write_all(&[head.as_bytes(), piece, b"\r\n"].concat())
                .await
                .unwrap();
        }
        io.write_all(b"0\r\n\r\n").await.unwrap();
        io.flush().await.unwrap();
        io
    };
    let asking = async {
        let response = post(&client, bytes.clone()).await.unwrap();
        let collected = http_body_util::BodyExt::collect(response.into_body()).await;
        assert!(
            collected.unwrap().to_bytes() == bytes,
            "the response body has changed"
        );
    };
    let _io = join!(serving, asking);
    assert_eq!(client.idle_connections(), 1);
}

#[tokio::test]
async fn http_1_0_answers_end_with_their_connection_unless_they_say_otherwise() {
    for (head, kept) in [
        ("HTTP/1.0 200 OK\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n", false),
        (
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n",
            true,
        ),
    ] {
        let server = Server::bind().await;
        let client = client(&server);
        let answer = format!("{head}ok");
        let serving = async {
            let (peer, _) = server.answer(&answer).await;
            kept.then_some(peer)
        };
        let asking = async {
            let response = get(&client, "/models").await.unwrap();
            assert_eq!(response.version(), Version::HTTP_10);
            text(response).await.unwrap()
        };
        let (_peer, said) = join!(serving, asking);
        assert_eq!(said, "ok", "{head}");
        assert_eq!(client.idle_connections(), usize::from(kept), "{head}");
    }
}

#[tokio::test]
async fn what_has_no_body_by_its_nature_ends_at_once() {
    for (method, answer) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        (
            Method::GET,
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
        ),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n"),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ] {
        let server = Server::bind().await;
        let client = client(&server);
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        let ((_peer, _), response) = join!(server.answer(answer), client.clone().oneshot(request));
        assert_eq!(client.idle_connections(), 1, "{answer}");
        assert_eq!(text(response.unwrap()).await.unwrap(), "");
    }
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_is_the_same() {
    let server = Server::bind().await;
    let client = client(&server);
    let answer = format!(
        "{CHUNKED}{}{}0\r\nx-sum: 7\r\n\r\n",
        chunk("some "),
        chunk("words")
    );
    let serving = async {
        let (mut peer, _) = server.answer("").await;
        peer.io.set_nodelay(true).unwrap();
        for byte in answer.as_bytes() {
            peer.io.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        peer
    };
    let asking = async { text(post(&client, "{}").await.unwrap()).await.unwrap() };
    let (_peer, said) = join!(serving, asking);
    assert_eq!(said, "some words");
    assert_eq!(client.idle_connections(), 1);
}

#[tokio::test]
async fn a_head_that_is_not_clear_about_its_end_is_broken() {
    for fields in [
        "content-length: 2\r\ntransfer-encoding: chunked",
        "content-length: 2\r\ncontent-length: 3",
        "content-length: +2",
        "content-length: 99999999999999999999",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: identity",
        "transfer-encoding : chunked",
        "x: 1\r\n folded: 2",
    ] {
        let server = Server::bind().await;
        let client = client(&server);
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        let ((mut peer, _), response) = join!(server.answer(&answer), post(&client, "{}"));
        let error = response.unwrap_err();
        assert!(error.is::<ConnectionLost>(), "{fields}: {error:?}");
        assert!(NotSent::in_chain(&*error).is_none(), "{fields}");
        peer.rest().await;
        assert_eq!(client.open_connections(), 0);
    }
}

#[tokio::test]
async fn the_same_length_several_times_is_one_length() {
    for fields in [
        "content-length: 2, 2",
        "content-length: 2\r\ncontent-length: 2",
    ] {
        let server = Server::bind().await;
        let client = client(&server);
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nok");
        let ((_peer, _), response) = join!(server.answer(&answer), post(&client, "{}"));
        let response = response.unwrap();
        let lengths: Vec<_> = response
            .headers()
            .get_all("content-length")
            .iter()
            .collect();
        assert_eq!(lengths, ["2"], "{fields}");
        assert_eq!(text(response).await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn a_length_without_a_body_is_kept_once_or_not_at_all() {
    for (fields, kept) in [
        ("content-length: 5\r\ncontent-length: 5", &["5"][..]),
        ("content-length: 5, 5", &["5"]),
        ("content-length: 5\r\ncontent-length: 6", &[]),
    ] {
        let server = Server::bind().await;
        let client = client(&server);
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::HEAD;
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
        let ((_peer, _), response) = join!(server.answer(&answer), client.clone().oneshot(request));
        let response = response.unwrap();
        let lengths: Vec<_> = response
            .headers()
            .get_all("content-length")
            .iter()
            .collect();
        assert_eq!(lengths, kept, "{fields}");
    }
}

#[tokio::test]
async fn a_malformed_chunk_is_an_error_after_the_data_before_it() {
    for bad in [
        "-1\r\n",
        "0x2\r\nab",
        "2\nab",
        "2\r\nabc\r\n",
        "ffffffffffffffff0\r\n",
        "0\r\nx\r\n\r\n",
    ] {
        let server = Server::bind().await;
        let client = client(&server);
        let answer = format!("{CHUNKED}{}{bad}", chunk("good"));
        let ((mut peer, _), response) = join!(server.answer(&answer), post(&client, "{}"));
        let mut body = response.unwrap().into_body();
        assert_eq!(data(&mut body).await, "good", "{bad}");
        let error = loop {
            match frame(&mut body).await.unwrap() {
                Ok(part) => assert_eq!(part.into_data().unwrap(), "ab", "{bad}"),
                Err(error) => break error,
            }
        };
        assert!(error.is::<Truncated>(), "{bad}: {error:?}");
        assert!(frame(&mut body).await.is_none());
        peer.rest().await;
    }
}

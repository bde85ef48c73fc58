//! What the record says, and who can read it.

use std::{net::Ipv4Addr, time::Duration};

use http::StatusCode;
use pacegate::simulator::{ChatLimits, Options, ResponseEnd};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use super::{PLAIN, STREAMED, chat, idle, sha256_hex, start};
use crate::support::client::{get, post_json};

#[tokio::test]
async fn records_order_times_and_what_was_answered() {
    let simulator = start(Options {
        latency: Duration::from_millis(30),
        ..Options::default()
    })
    .await;
    let url = format!("{}/chat/completions", simulator.base_url());
    let headers = [
        ("x-one", "1"),
        ("accept", "a"),
        ("x-two", "2"),
        ("b-last", "3"),
    ];
    post_json(&url, STREAMED, &headers).await.unwrap();
    time::sleep(Duration::from_millis(20)).await;
    get(&format!("{}/models?q=1", simulator.base_url()))
        .await
        .unwrap();
    idle(&simulator).await;

    let [chat, models] = &simulator.arrivals()[..] else {
        panic!("expected two arrivals")
    };
    let names: Vec<_> = chat.headers.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "host",
        "content-type",
        "x-one",
        "accept",
        "x-two",
        "b-last",
        "content-length",
    ];
    assert_eq!(names, expected);
    assert_eq!(chat.header("x-two"), Some("2"));
    assert_eq!((chat.sequence, models.sequence), (0, 1));
    assert_eq!(
        (chat.model.as_deref(), chat.stream, chat.status),
        (Some("m"), Some(true), Some(200))
    );
    assert_eq!(chat.body_sha256, Some(sha256_hex(STREAMED.as_bytes())));
    assert_eq!(models.target, "/v1/models?q=1");
    assert_ne!(chat.connection, models.connection);
    assert_eq!(chat.peer, Some(Ipv4Addr::LOCALHOST.into()));
    let done = chat.done_us.unwrap();
    assert!(done - chat.at_us >= 30_000 && models.at_us - done >= 20_000);
    assert!(
        [chat, models]
            .iter()
            .all(|one| one.outcome == Some(ResponseEnd::Completed))
    );
}

#[tokio::test]
async fn counts_an_arrival_from_the_first_byte_of_each_head() {
    let simulator = start(Options::default()).await;
    let mut client = TcpStream::connect(simulator.address()).await.unwrap();
    let pause = Duration::from_millis(60);
    let mut began = Vec::new();
    for _ in 0..2 {
        time::sleep(pause).await;
        began.push(simulator.record_start().elapsed());
        client.write_all(b"GET /v1/models HT").await.unwrap();
        time::sleep(pause).await;
        client
            .write_all(b"TP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        while client.read_u8().await.unwrap() != b']' {}
    }
    for (arrival, began) in simulator.arrivals().iter().zip(began) {
        let late = Duration::from_micros(arrival.at_us).checked_sub(began);
        assert!(late.unwrap() < pause, "{late:?}");
        let took = Duration::from_micros(arrival.done_us.unwrap() - arrival.at_us);
        assert!(took >= pause - Duration::from_millis(10), "{took:?}");
    }
}

#[tokio::test]
async fn notices_when_a_client_leaves_before_the_head_and_in_the_stream() {
    let simulator = start(Options {
        faults: ["stall", "stall@2"]
            .map(|fault| fault.parse().unwrap())
            .into(),
        limits: ChatLimits {
            windows: Vec::new(),
            concurrency: Some(1),
        },
        ..Options::default()
    })
    .await;
    for (number, status) in [(1, None), (2, Some(200))] {
        let stalled = async {
            let is_there = || {
                let arrivals = simulator.arrivals();
                arrivals.len() == number && arrivals[number - 1].status == status
            };
            while !is_there() {
                time::sleep(Duration::from_millis(2)).await;
            }
            time::sleep(Duration::from_millis(50)).await;
        };
        tokio::select! {
            _ = chat(&simulator, STREAMED) => panic!("it stalls"),
            () = stalled => {}
        }
        idle(&simulator).await;
    }
    // Both places were given back.
    assert_eq!(
        chat(&simulator, STREAMED).await.unwrap().status,
        StatusCode::OK
    );

    let arrivals = simulator.arrivals();
    assert_eq!(arrivals[0].outcome, Some(ResponseEnd::ClientLeft));
    assert_eq!(arrivals[0].status, None);
    assert_eq!(arrivals[1].outcome, Some(ResponseEnd::ClientLeft));
    assert_eq!(arrivals[1].status, Some(200));
}

#[tokio::test]
async fn is_controlled_from_the_same_port_without_recording_it() {
    let simulator = start(Options::default()).await;
    let control = |verb: &str| format!("{}/simulator/{verb}", simulator.origin());
    let faults = r#"["every/503:retry-after=1"]"#;
    post_json(&control("faults"), faults, &[]).await.unwrap();
    assert_eq!(
        chat(&simulator, PLAIN).await.unwrap().status,
        StatusCode::SERVICE_UNAVAILABLE
    );

    let arrivals = get(&control("arrivals")).await.unwrap().json();
    assert_eq!(arrivals.as_array().unwrap().len(), 1);
    assert_eq!(arrivals[0]["status"], 503);
    assert_eq!(arrivals[0]["outcome"], "completed");

    post_json(&control("reset"), "", &[]).await.unwrap();
    assert_eq!(get(&control("arrivals")).await.unwrap().json(), json!([]));
    assert_eq!(
        chat(&simulator, PLAIN).await.unwrap().status,
        StatusCode::OK
    );

    let refused = post_json(&control("faults"), r#"["sometimes"]"#, &[])
        .await
        .unwrap();
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.text().contains("unknown kind"));
}

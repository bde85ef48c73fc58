//! Requests that the upstream says it has not processed: each is sent again, as if never sent.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use pacegate::simulator::Options;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::{
    Outcome, SLACK, ask, burst,
    mock::{
        Connection, ENHANCE_YOUR_CALM, HTTP_1_1_REQUIRED, Head, Mock, NO_ERROR, REFUSED_STREAM,
    },
    paced,
    recorder::Recorder,
    served,
};
use crate::{
    support::{
        gateway::{Gateway, PATIENCE},
        lateness::{Lateness, not_judged},
    },
    upstream::support::Certificate,
};

const H2: &str = "http = \"h2\"";
const AT_ONCE: &str = "min-interval = \"0s\"\nconcurrency = 16";

/// Long enough for a burst to arrive.
const QUIET: Duration = Duration::from_millis(300);

fn answered(heads: &[Head]) -> Vec<Head> {
    heads.iter().filter(|head| head.answered).copied().collect()
}

/// The connection ends after its GOAWAY, or is left open for the client to close.
async fn go_away_above_two(ends: bool) {
    let mock = Mock::start(move |mut connection| async move {
        if connection.number > 0 {
            return connection.answer_all().await;
        }
        let first = connection.request().await.unwrap();
        connection.answer(first).await;
        let streams = connection.requests(QUIET).await;
        // The first two were processed.
        let (processed, _) = streams.split_at(streams.len().min(2));
        let last = *processed.last().unwrap();
        connection.go_away(last, NO_ERROR).await;
        for stream in processed {
            connection.answer(*stream).await;
        }
        if !ends {
            connection.ignore_all().await;
        }
    })
    .await;
    let gateway = Gateway::start(&paced(&mock.base_url(), H2, AT_ONCE));
    ask(&gateway).await.assert_ok();
    served(&gateway, 6).await;
    let heads = mock.heads();
    assert_eq!(answered(&heads).len(), 7, "{heads:?}");
    let unprocessed = heads.len() - 7;
    assert!(unprocessed > 0, "none was above the id: {heads:?}");
    let first = heads.iter().filter(|head| head.connection == 0).count();
    assert_eq!(first, 3 + unprocessed, "{heads:?}");
}

#[tokio::test]
async fn streams_above_the_last_id_of_a_goaway_are_sent_again() {
    go_away_above_two(false).await;
}

#[tokio::test]
async fn streams_above_a_goaway_that_ends_the_connection_are_sent_again() {
    go_away_above_two(true).await;
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_through_the_gate() {
    let mock = Mock::start(|mut connection| async move {
        while let Some(stream) = connection.request().await {
            match (connection.number, stream) {
                (0, 1) => connection.reset(stream, REFUSED_STREAM).await,
                _ => connection.answer(stream).await,
            }
        }
    })
    .await;
    let interval = Duration::from_millis(300);
    let pacing = "min-interval = \"300ms\"\nconcurrency = 16";
    let gateway = Gateway::start(&paced(&mock.base_url(), H2, pacing));
    let lateness = Lateness::watch();
    served(&gateway, 3).await;
    let heads = mock.heads();
    assert_eq!(heads.len(), 4, "{heads:?}");
    let least = interval - Duration::from_millis(5);
    for pair in answered(&heads).windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap + lateness.most() >= least, "{gap:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_refused_each_time_is_not_sent_for_ever() {
    let mock = Mock::start(|mut connection| async move {
        while let Some(stream) = connection.request().await {
            connection.reset(stream, REFUSED_STREAM).await;
        }
    })
    .await;
    let gateway = Gateway::start(&paced(&mock.base_url(), H2, AT_ONCE));
    let outcome = ask(&gateway).await;
    let answer = outcome.answer.unwrap();
    assert_eq!(answer.status, 502, "{}", answer.text());
    let heads = mock.heads();
    assert!((2..=3).contains(&heads.len()), "{heads:?}");
    assert!(!answer.text().contains("may have"), "{}", answer.text());
}

/// Asks a TLS upstream that speaks both versions and answers only over HTTP/1.1.
async fn http1_only_for_this(goes_away: bool) {
    let certificate = Certificate::for_name("localhost");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = TlsAcceptor::from(certificate.server(&["h2", "http/1.1"]));
    TaskTracker::new().spawn(async move {
        for number in 0.. {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut tls = tls.accept(tcp).await.unwrap();
            TaskTracker::new().spawn(async move {
                if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                    let log = Arc::default();
                    let Some(mut h2) = Connection::begin(number, tls, log).await else {
                        return;
                    };
                    while let Some(stream) = h2.request().await {
                        if goes_away {
                            h2.go_away(0, HTTP_1_1_REQUIRED).await;
                        } else {
                            h2.reset(stream, HTTP_1_1_REQUIRED).await;
                        }
                    }
                    return;
                }
                let mut read = Vec::new();
                while !read.ends_with(b"[]}") {
                    assert_ne!(tls.read_buf(&mut read).await.unwrap(), 0);
                }
                let head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                tls.write_all(head).await.unwrap();
                tls.shutdown().await.unwrap();
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    fs::copy(certificate.file().path(), folder.path().join("ca.pem")).unwrap();
    let base_url = format!("https://localhost:{port}/v1");
    let keys = "tls = { ca-file = \"ca.pem\" }";
    let gateway = Gateway::start_in(folder, &paced(&base_url, keys, AT_ONCE));
    for _ in 0..2 {
        ask(&gateway).await.assert_ok();
    }
}

#[tokio::test]
async fn a_stream_that_needs_http1_is_sent_over_http1() {
    http1_only_for_this(false).await;
}

#[tokio::test]
async fn a_connection_that_needs_http1_is_replaced_by_one_over_http1() {
    http1_only_for_this(true).await;
}

/// As a 429 without a Retry-After does.
async fn calm_slows_everybody_down(goes_away: bool) {
    let mock = Mock::start(move |mut connection| async move {
        while let Some(stream) = connection.request().await {
            match (connection.number, stream, goes_away) {
                (0, 1, false) => connection.reset(stream, ENHANCE_YOUR_CALM).await,
                (0, 1, true) => connection.go_away(0, ENHANCE_YOUR_CALM).await,
                _ => connection.answer(stream).await,
            }
        }
    })
    .await;
    let keys = "http = \"h2\"\nretry-on-429 = { default-wait = \"2s\" }";
    let gateway = Gateway::start(&paced(&mock.base_url(), keys, AT_ONCE));
    let others = async {
        sleep(SLACK).await;
        burst(&gateway, 2).await
    };
    let (first, others) = tokio::join!(ask(&gateway), others);
    for outcome in others.iter().chain([&first]) {
        let answer = outcome.answer.as_ref().unwrap();
        assert!([200, 429].contains(&answer.status.as_u16()), "{answer:?}");
    }
    others.iter().for_each(Outcome::assert_ok);
    let heads = mock.heads();
    let calm = heads[1].at - heads[0].at;
    assert!(calm >= Duration::from_millis(1980), "{calm:?}");
}

#[tokio::test]
async fn enhance_your_calm_for_a_stream_slows_everybody_down() {
    calm_slows_everybody_down(false).await;
}

#[tokio::test]
async fn enhance_your_calm_for_a_connection_slows_everybody_down() {
    calm_slows_everybody_down(true).await;
}

/// A running nginx. It is killed when dropped.
struct Nginx {
    child: Child,
    folder: TempDir,
    port: u16,
}

impl Nginx {
    /// In front of `upstream`, over HTTP/2; each connection ends after `requests`. `None` if nginx is
    /// not installed.
    async fn start(upstream: &str, requests: u32) -> Option<Self> {
        let installed = Command::new("nginx")
            .arg("-v")
            .stderr(Stdio::null())
            .status();
        if !installed.is_ok_and(|status| status.success()) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("cert.pem"), certificate.pem()).unwrap();
        fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        // nginx takes no port 0: this one was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/{name};"))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
             events {{ }}
             http {{
               access_log off; {temporary}
               server {{
                 listen 127.0.0.1:{port} ssl http2;
                 ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem;
                 keepalive_requests {requests};
                 location / {{ proxy_pass {upstream}; }}
               }}
             }}"
        );
        fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .arg("-c")
            .arg(folder.path().join("nginx.conf"))
            .arg("-e")
            .arg(folder.path().join("error.log"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self {
            child,
            folder,
            port,
        };
        let listening = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let listening = tokio::time::timeout(PATIENCE, listening).await;
        let log = fs::read_to_string(nginx.folder.path().join("error.log"));
        listening.unwrap_or_else(|_| panic!("nginx does not start: {log:?}"));
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[tokio::test]
async fn no_request_is_lost_where_nginx_ends_a_connection() {
    let recorder = Recorder::start(Options {
        latency: Duration::from_millis(20),
        ..Options::default()
    })
    .await;
    let Some(nginx) = Nginx::start(&recorder.simulator().origin(), 10).await else {
        not_judged("nginx is not installed: no server of others ends HTTP/2 connections here");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let ca = nginx.folder.path().join("cert.pem");
    fs::copy(ca, home.path().join("ca.pem")).unwrap();
    let base_url = format!("https://localhost:{}/v1", nginx.port);
    let keys = "tls = { ca-file = \"ca.pem\" }";
    let pacing = "min-interval = \"0s\"\nconcurrency = 8";
    let gateway = Gateway::start_in(home, &paced(&base_url, keys, pacing));
    served(&gateway, 60).await;
    assert_eq!(recorder.simulator().arrivals().len(), 60);
}

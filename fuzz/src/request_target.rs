//! What a request line can make the gateway ask its upstream for. Input: the target.
//!
//! The gateway is the real one, on a socket; so is the way to the upstream, which writes down what
//! it was asked for.

use std::{
    cell::OnceCell,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use pacegate::{gateway::Gateway, pipeline::assemble};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
    runtime::{Builder, Runtime},
};
use tokio_util::task::TaskTracker;

use super::input;

/// Gateway and upstream on one thread, which runs while something is asked.
struct Rig {
    runtime: Runtime,
    socket: PathBuf,
    asked: Asked,
    _folder: TempDir,
}

/// Host and target of what arrived.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

thread_local! {
    static RIG: OnceCell<Rig> = const { OnceCell::new() };
}

/// Whatever is asked for, the upstream sees one plain path under its base, or nothing.
pub fn run(input: &[u8]) {
    // What ends the line is another request's, and that is not what is tried here.
    if input.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return;
    }
    RIG.with(|rig| {
        let rig = rig.get_or_init(Rig::start);
        let answer = rig.ask(input);
        let asked = std::mem::take(&mut *rig.asked.lock().unwrap());
        let status: u16 = answer[9..12].parse().unwrap();
        match &asked[..] {
            [] => assert!(status == 200 || (400..500).contains(&status), "{answer}"),
            [(host, target)] => {
                assert_eq!(status, 200);
                assert!(host.starts_with("127.0.0.1:"), "{host}");
                assert_plain(target);
            }
            more => panic!("asked {} times", more.len()),
        }
    });
}

fn assert_plain(target: &str) {
    let (path, _query) = target.split_once('?').unwrap_or((target, ""));
    assert!(path.starts_with("/base/v1/"), "{target}");
    let path = path.to_ascii_lowercase();
    assert!(!path.contains("%2f") && !path.contains("%5c") && !path.contains('\\'));
    assert!(!path.contains("//"), "{target}");
    let decoded = path.replace("%2e", ".");
    assert!(
        !decoded.split('/').any(|it| it == "." || it == ".."),
        "{target}"
    );
    assert!(!target.contains(['#', ' ']) && !target.contains(char::is_control));
}

// === impl Rig ===

impl Rig {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let folder = input::folder();
        let socket = folder.path().join("socket");
        let asked = Asked::default();
        runtime.block_on(Self::serve(&runtime, &socket, Arc::clone(&asked)));
        Self {
            runtime,
            socket,
            asked,
            _folder: folder,
        }
    }

    async fn serve(runtime: &Runtime, socket: &Path, asked: Asked) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(upstream(listener, asked));
        let config = input::configured(&format!(
            "listen = \"unix:{}\"\n\
             [[upstream]]\nname = \"one\"\npreset = \"local\"\n\
             base-url = \"http://{address}/base/v1\"\n",
            socket.display()
        ));
        let pipelines = config.upstreams.iter();
        let pipelines = pipelines.map(|upstream| assemble(upstream, None, &TaskTracker::new()));
        let pipelines = pipelines.collect::<Result<_, _>>().unwrap();
        let gateway = Gateway::bind(&config, pipelines).await.unwrap();
        runtime.spawn(gateway.serve(std::future::pending()));
    }

    /// The whole answer.
    fn ask(&self, target: &[u8]) -> String {
        let request = [
            b"GET ",
            target,
            b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ];
        self.runtime.block_on(async {
            let mut stream = UnixStream::connect(&self.socket).await.unwrap();
            stream.write_all(&request.concat()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            String::from_utf8(answer).unwrap()
        })
    }
}

async fn upstream(listener: TcpListener, asked: Asked) {
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let asked = Arc::clone(&asked);
        let service = service_fn(move |request: Request<Incoming>| {
            let host = request.headers().get(header::HOST);
            let host = host.map_or("", |host| host.to_str().unwrap()).to_owned();
            let target = request.uri().to_string();
            asked.lock().unwrap().push((host, target));
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

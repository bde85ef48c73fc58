//! A gateway and its upstream on one thread, which runs while a request is sent.
//!
//! The gateway is the real one, on a socket; so is the connection to the upstream, which records
//! its requests.

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use pacegate::{edge::Gateway, upstreams::assemble};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
    runtime::{Builder, Runtime},
};
use tokio_util::task::TaskTracker;

use super::input;

/// A request as it arrived at the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// Its `host` field.
    pub host: String,
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// Its whole body.
    pub body: Bytes,
}

struct Rig {
    runtime: Runtime,
    socket: PathBuf,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
    _folder: TempDir,
}

thread_local! {
    static RIG: OnceCell<Rig> = const { OnceCell::new() };
}

/// Sends `request`, which must be the last one of its connection. Returns the whole response, and
/// the requests that reached the upstream.
pub fn send(request: &[u8]) -> (String, Vec<ReceivedRequest>) {
    with(async |stream, response| {
        stream.write_all(request).await.unwrap();
        stream.read_to_end(response).await.unwrap();
    })
}

fn with(
    exchange: impl AsyncFnOnce(&mut UnixStream, &mut Vec<u8>),
) -> (String, Vec<ReceivedRequest>) {
    RIG.with(|rig| {
        let rig = rig.get_or_init(Rig::start);
        let mut response = Vec::new();
        rig.runtime.block_on(async {
            let mut stream = UnixStream::connect(&rig.socket).await.unwrap();
            exchange(&mut stream, &mut response).await;
        });
        let received = std::mem::take(&mut *rig.received.lock().unwrap());
        (String::from_utf8(response).unwrap(), received)
    })
}

// === impl Rig ===

impl Rig {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let folder = input::folder();
        let socket = folder.path().join("socket");
        let received = Arc::default();
        runtime.block_on(Self::serve(&runtime, &socket, Arc::clone(&received)));
        Self {
            runtime,
            socket,
            received,
            _folder: folder,
        }
    }

    async fn serve(runtime: &Runtime, socket: &Path, received: Arc<Mutex<Vec<ReceivedRequest>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(upstream(listener, received));
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
}

async fn upstream(listener: TcpListener, received: Arc<Mutex<Vec<ReceivedRequest>>>) {
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let received = Arc::clone(&received);
        let service = service_fn(move |request: Request<Incoming>| {
            let received = Arc::clone(&received);
            async move {
                let (head, body) = request.into_parts();
                let host = head.headers.get(header::HOST);
                let request = ReceivedRequest {
                    host: host.map_or("", |host| host.to_str().unwrap()).to_owned(),
                    method: head.method.to_string(),
                    target: head.uri.to_string(),
                    body: body.collect().await?.to_bytes(),
                };
                received.lock().unwrap().push(request);
                Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
            }
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

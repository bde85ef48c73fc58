//! What a client sends, byte for byte.

use std::sync::{Arc, Mutex};

use pacegate::simulator::Simulator;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::TaskTracker;

/// A way to the simulator that writes down what the client sends: its origin, and the bytes.
pub(crate) async fn tap(simulator: &Simulator) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let (address, wire) = (simulator.address(), Arc::default());
    let copy: Arc<Mutex<Vec<u8>>> = Arc::clone(&wire);
    TaskTracker::new().spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(address).await.unwrap();
            let ((mut from, mut to), (mut back, mut out)) =
                (client.into_split(), server.into_split());
            let copy = Arc::clone(&copy);
            let tasks = TaskTracker::new();
            tasks.spawn(async move { tokio::io::copy(&mut back, &mut to).await });
            tasks.spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = from.read(&mut buffer).await {
                    copy.lock().unwrap().extend_from_slice(&buffer[..read]);
                    out.write_all(&buffer[..read]).await.unwrap();
                }
            });
        }
    });
    (origin, wire)
}

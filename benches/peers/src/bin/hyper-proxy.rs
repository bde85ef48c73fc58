//! A minimal proxy with hyper and hyper-util's client: the cost of these two alone.

use std::sync::Arc;

use anyhow::Context;
use http::{HeaderName, Request, Uri, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use peers::ProxyArgs;
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = ProxyArgs::from_args()?;
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(args.tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
    let upstream: Arc<Uri> = Arc::new(args.upstream.parse()?);
    let listener = TcpListener::bind(args.listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, upstream) = (client.clone(), Arc::clone(&upstream));
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (client, upstream) = (client.clone(), Arc::clone(&upstream));
            async move {
                *request.uri_mut() = aimed(request.uri(), &upstream)?;
                for name in [header::HOST, HeaderName::from_static("connection")] {
                    request.headers_mut().remove(name);
                }
                anyhow::Ok(client.request(request).await?)
            }
        });
        tokio::spawn(async move {
            // A client that disconnects is not an error.
            let _ended = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn aimed(uri: &Uri, upstream: &Uri) -> anyhow::Result<Uri> {
    let mut parts = upstream.clone().into_parts();
    let path = uri.path_and_query().context("a request without a path")?;
    parts.path_and_query = Some(path.clone());
    Ok(Uri::from_parts(parts)?)
}

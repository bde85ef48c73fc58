//! The usual way to write a proxy: an axum handler that forwards to reqwest.

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use http::{StatusCode, header};
use peers::ProxyArgs;
use tokio::net::TcpListener;

#[derive(Clone)]
struct Forward {
    client: reqwest::Client,
    upstream: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = ProxyArgs::from_args()?;
    let forward = Forward {
        client: reqwest::Client::builder()
            .tls_backend_preconfigured(args.tls)
            .no_proxy()
            .build()?,
        upstream: args.upstream,
    };
    let app = Router::new().fallback(forward_to).with_state(forward);
    let listener = TcpListener::bind(args.listen).await?;
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // Without it the socket is only slower.
        let _best_effort = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await?;
    Ok(())
}

async fn forward_to(
    State(forward): State<Forward>,
    request: Request,
) -> Result<Response, StatusCode> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", forward.upstream);
    head.headers.remove(header::HOST);
    head.headers.remove(header::CONNECTION);
    let answer = forward
        .client
        .request(head.method, url)
        .headers(head.headers)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send()
        .await
        .map_err(|_| StatusCode::BAD_GATEWAY)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    Ok(response)
}

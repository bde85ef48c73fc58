//! A client that hides nothing: one HTTP/1.1 connection for each request.

use std::error::Error;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::task::TaskTracker;

/// Whatever went wrong, connection or protocol.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header's text; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// `GET url`.
pub(crate) async fn get(url: &str) -> Result<Answer, BoxError> {
    whole(send(Request::get(url).body(Bytes::new())?).await?).await
}

/// `POST url` with a JSON body and further headers.
pub(crate) async fn post_json(
    url: &str,
    body: impl Into<Bytes>,
    headers: &[(&str, &str)],
) -> Result<Answer, BoxError> {
    let mut request = Request::post(url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    whole(send(request.body(body.into())?).await?).await
}

/// Sends a request and returns at the head. `host` goes first, as most clients do it.
pub(crate) async fn send(request: Request<Bytes>) -> Result<Response<Incoming>, BoxError> {
    let address = request
        .uri()
        .authority()
        .ok_or("the URL has no host")?
        .to_string();
    send_over(TcpStream::connect(address).await?, request).await
}

/// The same over a connection that is there already.
pub(crate) async fn send_over<I>(
    stream: I,
    request: Request<Bytes>,
) -> Result<Response<Incoming>, BoxError>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the response's body, or when it is dropped.
    TaskTracker::new().spawn(connection);

    let (mut head, body) = request.into_parts();
    let mut headers = HeaderMap::new();
    headers.insert(
        HOST,
        head.uri
            .authority()
            .ok_or("the URL has no host")?
            .as_str()
            .parse()?,
    );
    headers.extend(std::mem::take(&mut head.headers));
    head.headers = headers;
    head.uri = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str())
        .parse()?;
    Ok(sender
        .send_request(Request::from_parts(head, Full::new(body)))
        .await?)
}

/// Reads an answer to its end.
pub(crate) async fn whole(response: Response<Incoming>) -> Result<Answer, BoxError> {
    let (head, body) = response.into_parts();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
    })
}

//! From a request to its answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, LOCATION},
    request::Parts,
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use super::{
    Access, Shared,
    chat::{CREATED, Chat, Content},
    faults::{Fault, Plan, Refusal, Rule},
    hint::Hint,
    limits::Gate,
    oauth,
    record::{self, Open, Outcome},
    script::{Script, Steps},
    wire::Line,
    wording::Notice,
};

type Reply = Response<Steps>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Answers one request, and sees to it that the record tells the whole of it.
pub(super) async fn answer(
    shared: Arc<Shared>,
    line: Arc<Line>,
    request: Request<Incoming>,
) -> Response<Script> {
    let control = request.uri().path().starts_with("/simulator/");
    // Control requests get an entry in a book that nobody reads.
    let mut entry = if control {
        Arc::new(record::Record::new(Instant::now())).open(&request, &line)
    } else {
        shared.record.open(&request, &line)
    };
    let (head, body) = request.into_parts();
    let reply = match body.collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            entry.received(&body);
            if control {
                shared.control(&head, &body)
            } else {
                shared.route(&head, body, &line, &mut entry).await
            }
        }
        // The connection broke: nobody will read this.
        Err(_broken) => status(StatusCode::BAD_REQUEST, &Value::Null),
    };
    entry.answered(reply.status().as_u16());
    reply.map(|steps| {
        let steps = if head.method == Method::HEAD {
            Steps::fixed("")
        } else {
            steps
        };
        Script::new(steps, entry, line)
    })
}

// === impl Shared ===

impl Shared {
    async fn route(&self, head: &Parts, body: Bytes, line: &Line, entry: &mut Open) -> Reply {
        match (&head.method, head.uri.path()) {
            (&Method::POST, "/api/v1/oauth2/device/code") => {
                let origin = self.origin(head);
                let answer = self.issuer.lock().device(&body, &origin, Instant::now());
                oauth_reply(answer).await
            }
            (&Method::POST, "/api/v1/oauth2/token") => {
                let answer = self.issuer.lock().token(&body, Instant::now());
                oauth_reply(answer).await
            }
            (_, path) if !path.starts_with("/v1/") => self.error(404),
            _ if !self.admits(head) => self.error(401),
            (&Method::POST, "/v1/chat/completions") => self.chat(body, line, entry).await,
            (&Method::GET, "/v1/models") => self.models(),
            _ => echo(head, &body),
        }
    }

    async fn chat(&self, body: Bytes, line: &Line, entry: &mut Open) -> Reply {
        let Ok(chat) = serde_json::from_slice::<Chat>(&body) else {
            return self.error(400);
        };
        match Gate::admit(&self.gate, Instant::now()) {
            Ok(slot) => entry.hold(slot),
            Err(refused) => {
                let wording = self.options.wording;
                return notice(&wording.limited(refused.reason, refused.limit, refused.wait));
            }
        }
        let fault = self.faults.lock().strike();
        pause(self.options.latency).await;
        match &fault {
            Some(Fault::Redirect(location)) => return redirect(location),
            Some(Fault::Refuse(refusal)) => return self.refuse(refusal),
            Some(Fault::Reset(None)) => {
                entry.finish(Outcome::Aborted);
                line.reset();
                return std::future::pending().await;
            }
            Some(Fault::Stall(None)) => return std::future::pending().await,
            _ => {}
        }
        let mut content = Content::new(&self.options, &chat, entry.sequence(), &body);
        if let Some(fault) = fault {
            content = content.spoil(&fault, self.options.wording);
        }
        let mut reply = Response::new(content.steps);
        reply
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content.kind));
        if let Some(encoding) = content.encoding {
            reply
                .headers_mut()
                .insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        reply
    }

    fn models(&self) -> Reply {
        let models = self.options.models.iter().map(|id| {
            json!({ "id": id, "object": "model", "created": CREATED, "owned_by": "simulator" })
        });
        let models: Vec<_> = models.collect();
        status(StatusCode::OK, &json!({ "object": "list", "data": models }))
    }

    fn admits(&self, head: &Parts) -> bool {
        let token = head
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        match (&self.options.access, token) {
            (Access::Open, _) => true,
            (_, None) => false,
            (Access::AnyToken, Some(_)) => true,
            (Access::Issued, Some(token)) => self.issuer.lock().accepts(token, Instant::now()),
            (Access::Tokens(tokens), Some(token)) => tokens.iter().any(|known| known == token),
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Reply {
        let wording = self.options.wording;
        let mut words = match refusal.reason {
            Some(reason) => wording.reached(reason),
            None => wording.error(refusal.status),
        };
        words.status = refusal.status;
        for hint in &refusal.hints {
            if let Hint::Message(seconds) = hint {
                words.hint_in_message(seconds);
            }
        }
        let mut reply = notice(&words);
        for (name, value) in refusal.hints.iter().flat_map(Hint::headers) {
            set(&mut reply, name, &value);
        }
        reply
    }

    fn error(&self, code: u16) -> Reply {
        notice(&self.options.wording.error(code))
    }

    fn control(&self, head: &Parts, body: &Bytes) -> Reply {
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/simulator/arrivals") => {
                status(StatusCode::OK, &json!(self.record.arrivals()))
            }
            (&Method::POST, "/simulator/faults") => {
                match serde_json::from_slice::<Vec<Rule>>(body) {
                    Ok(rules) => {
                        *self.faults.lock() = Plan::new(rules);
                        status(StatusCode::OK, &json!({}))
                    }
                    Err(error) => {
                        let error = json!({ "error": { "message": error.to_string() } });
                        status(StatusCode::BAD_REQUEST, &error)
                    }
                }
            }
            (&Method::POST, "/simulator/reset") => {
                self.reset();
                status(StatusCode::OK, &json!({}))
            }
            _ => self.error(404),
        }
    }

    fn origin(&self, head: &Parts) -> String {
        let scheme = if self.options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let host = head.headers.get("host").and_then(|host| host.to_str().ok());
        let authority = head.uri.authority().map(|authority| authority.as_str());
        format!("{scheme}://{}", authority.or(host).unwrap_or("localhost"))
    }
}

/// What any request that has no meaning here was.
fn echo(head: &Parts, body: &Bytes) -> Reply {
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let document = json!({
        "method": head.method.as_str(),
        "target": head.uri.path_and_query().map_or("*", |target| target.as_str()),
        "headers": headers,
        "body_bytes": body.len(),
        "body_sha256": record::sha256_hex(body),
    });
    status(StatusCode::OK, &document)
}

async fn oauth_reply(answer: oauth::Answer) -> Reply {
    pause(answer.delay).await;
    let mut reply = Response::new(Steps::fixed(answer.body));
    *reply.status_mut() = code(answer.status);
    reply.headers_mut().insert(CONTENT_TYPE, JSON);
    reply
}

/// Sleeps, if at all: a timer rounds up to its next millisecond, even from zero.
async fn pause(delay: Duration) {
    if !delay.is_zero() {
        time::sleep(delay).await;
    }
}

fn redirect(location: &str) -> Reply {
    let mut reply = Response::new(Steps::fixed(""));
    *reply.status_mut() = StatusCode::FOUND;
    set(&mut reply, LOCATION.as_str(), location);
    reply
}

fn notice(notice: &Notice) -> Reply {
    let mut reply = status(code(notice.status), &notice.body());
    for (name, value) in &notice.headers {
        set(&mut reply, name, value);
    }
    reply
}

fn status(code: StatusCode, body: &Value) -> Reply {
    let mut reply = Response::new(Steps::fixed(body.to_string()));
    *reply.status_mut() = code;
    reply.headers_mut().insert(CONTENT_TYPE, JSON);
    reply
}

/// Sets a header, unless the text cannot be one.
fn set(reply: &mut Reply, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

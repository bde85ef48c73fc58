//! Routes a request to its response.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, LOCATION},
    request::Parts,
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use super::{
    Access, SimulatorState,
    chat::{CREATED, Chat, Content},
    connection::ConnectionHandle,
    faults::{Fault, FaultPlan, FaultResponse, FaultRule},
    hint::Hint,
    limits::ChatLimiter,
    oauth,
    record::{self, PendingArrival, ResponseEnd},
    script::{BodySteps, ScriptedBody},
    wording::WordedError,
};

type SimulatedResponse = Response<BodySteps>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Responds to one request and records it.
///
/// # Errors
///
/// The error code with which the stream is to be reset.
pub(super) async fn respond(
    state: Arc<SimulatorState>,
    connection: Arc<ConnectionHandle>,
    request: Request<Incoming>,
    arrived_at: Instant,
) -> Result<Response<ScriptedBody>, h2::Error> {
    let control = request.uri().path().starts_with("/simulator/");
    // Control requests are not recorded: their arrival goes to a log of its own.
    let mut arrival = if control {
        Arc::new(record::ArrivalLog::new(Instant::now())).open(&request, &connection, arrived_at)
    } else {
        state.log.open(&request, &connection, arrived_at)
    };
    let (parts, body) = request.into_parts();
    let mut response = match body.collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            connection.request_received();
            arrival.body_received(&body);
            if control {
                state.control(&parts, &body)
            } else {
                state.route(&parts, body, &connection, &mut arrival).await?
            }
        }
        // The connection broke, so this response is never sent.
        Err(_broken) => json_response(StatusCode::BAD_REQUEST, &Value::Null),
    };
    arrival.status_sent(response.status().as_u16());
    if connection.is_at_last_request() && parts.version == Version::HTTP_11 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response.map(|steps| {
        let steps = if parts.method == Method::HEAD {
            BodySteps::fixed("")
        } else {
            steps
        };
        ScriptedBody::new(steps, arrival, connection)
    }))
}

// === impl SimulatorState ===

impl SimulatorState {
    async fn route(
        &self,
        parts: &Parts,
        body: Bytes,
        connection: &ConnectionHandle,
        arrival: &mut PendingArrival,
    ) -> Result<SimulatedResponse, h2::Error> {
        Ok(match (&parts.method, parts.uri.path()) {
            (&Method::POST, "/api/v1/oauth2/device/code") => {
                let origin = self.origin(parts);
                let answer = self.issuer.lock().device(&body, &origin, Instant::now());
                oauth_response(answer).await
            }
            (&Method::POST, "/api/v1/oauth2/token") => {
                let answer = self.issuer.lock().token(&body, Instant::now());
                oauth_response(answer).await
            }
            (_, path) if !path.starts_with("/v1/") => self.error(404),
            _ if !self.admits(parts) => self.error(401),
            (&Method::POST, "/v1/chat/completions") => {
                return self.chat(body, connection, arrival).await;
            }
            (&Method::GET, "/v1/models") => self.models(),
            _ => echo(parts, &body),
        })
    }

    async fn chat(
        &self,
        body: Bytes,
        connection: &ConnectionHandle,
        arrival: &mut PendingArrival,
    ) -> Result<SimulatedResponse, h2::Error> {
        let Ok(chat) = serde_json::from_slice::<Chat>(&body) else {
            return Ok(self.error(400));
        };
        match ChatLimiter::admit(&self.limiter, Instant::now()) {
            Ok(permit) => arrival.hold_permit(permit),
            Err(reached) => {
                let wording = self.options.wording;
                let error = wording.limited(reached.reason, reached.limit, reached.wait);
                return Ok(worded_error(&error));
            }
        }
        let fault = self.faults.lock().next_fault();
        // A server refuses a stream before it works on it.
        if let Some(Fault::StreamReset(error)) = &fault {
            arrival.finish(ResponseEnd::Aborted);
            return Err(error.reason().into());
        }
        pause(self.options.latency).await;
        match &fault {
            Some(Fault::Redirect(location)) => return Ok(redirect(location)),
            Some(Fault::Refuse(fault)) => return Ok(self.refuse(fault)),
            Some(Fault::Reset(None)) => {
                arrival.finish(ResponseEnd::Aborted);
                connection.reset();
                return std::future::pending().await;
            }
            Some(Fault::Stall(None)) => return std::future::pending().await,
            _ => {}
        }
        let mut content = Content::new(&self.options, &chat, arrival.sequence(), &body);
        if let Some(fault) = fault {
            content = content.with_fault(&fault, self.options.wording);
        }
        let mut response = Response::new(content.steps);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content.kind));
        if let Some(encoding) = content.encoding {
            response
                .headers_mut()
                .insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        Ok(response)
    }

    fn models(&self) -> SimulatedResponse {
        let models = self.options.models.iter().map(|id| {
            json!({ "id": id, "object": "model", "created": CREATED, "owned_by": "simulator" })
        });
        let models: Vec<_> = models.collect();
        json_response(StatusCode::OK, &json!({ "object": "list", "data": models }))
    }

    fn admits(&self, parts: &Parts) -> bool {
        let token = parts
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

    fn refuse(&self, fault: &FaultResponse) -> SimulatedResponse {
        let wording = self.options.wording;
        let mut words = match fault.reason {
            Some(reason) => wording.reached(reason),
            None => wording.error(fault.status),
        };
        words.status = fault.status;
        for hint in &fault.hints {
            if let Hint::Message(seconds) = hint {
                words.hint_in_message(seconds);
            }
        }
        let mut response = worded_error(&words);
        for (name, value) in fault.hints.iter().flat_map(Hint::headers) {
            set(&mut response, name, &value);
        }
        response
    }

    fn error(&self, code: u16) -> SimulatedResponse {
        worded_error(&self.options.wording.error(code))
    }

    fn control(&self, parts: &Parts, body: &Bytes) -> SimulatedResponse {
        match (&parts.method, parts.uri.path()) {
            (&Method::GET, "/simulator/arrivals") => {
                json_response(StatusCode::OK, &json!(self.log.arrivals()))
            }
            (&Method::POST, "/simulator/faults") => {
                match serde_json::from_slice::<Vec<FaultRule>>(body) {
                    Ok(rules) => {
                        *self.faults.lock() = FaultPlan::new(rules);
                        json_response(StatusCode::OK, &json!({}))
                    }
                    Err(error) => {
                        let error = json!({ "error": { "message": error.to_string() } });
                        json_response(StatusCode::BAD_REQUEST, &error)
                    }
                }
            }
            (&Method::POST, "/simulator/reset") => {
                self.reset();
                json_response(StatusCode::OK, &json!({}))
            }
            _ => self.error(404),
        }
    }

    fn origin(&self, parts: &Parts) -> String {
        let scheme = if self.options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let host = parts
            .headers
            .get("host")
            .and_then(|host| host.to_str().ok());
        let authority = parts.uri.authority().map(|authority| authority.as_str());
        format!("{scheme}://{}", authority.or(host).unwrap_or("localhost"))
    }
}

/// Describes the request in the response.
fn echo(parts: &Parts, body: &Bytes) -> SimulatedResponse {
    let headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let document = json!({
        "method": parts.method.as_str(),
        "target": parts.uri.path_and_query().map_or("*", |target| target.as_str()),
        "headers": headers,
        "body_bytes": body.len(),
        "body_sha256": record::sha256_hex(body),
    });
    json_response(StatusCode::OK, &document)
}

async fn oauth_response(answer: oauth::OAuthResponse) -> SimulatedResponse {
    pause(answer.delay).await;
    let mut response = Response::new(BodySteps::fixed(answer.body));
    *response.status_mut() = code(answer.status);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// Sleeps unless `delay` is zero, because a timer rounds zero up to a millisecond.
pub(super) async fn pause(delay: Duration) {
    if !delay.is_zero() {
        time::sleep(delay).await;
    }
}

fn redirect(location: &str) -> SimulatedResponse {
    let mut response = Response::new(BodySteps::fixed(""));
    *response.status_mut() = StatusCode::FOUND;
    set(&mut response, LOCATION.as_str(), location);
    response
}

fn worded_error(error: &WordedError) -> SimulatedResponse {
    let mut response = json_response(code(error.status), &error.body());
    for (name, value) in &error.headers {
        set(&mut response, name, value);
    }
    response
}

fn json_response(code: StatusCode, body: &Value) -> SimulatedResponse {
    let mut response = Response::new(BodySteps::fixed(body.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// Sets a header, unless `value` is not a valid one.
fn set(response: &mut SimulatedResponse, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

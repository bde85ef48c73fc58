//! `POST /v1/chat/completions`: the same text every time, plain or streamed.

use std::iter;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Options, ResponseKind,
    faults::Fault,
    script::{BodyStep, BodySteps},
    wording::Wording,
};

/// The fields of a chat request that shape its response.
#[derive(Debug, Deserialize)]
pub(super) struct Chat {
    model: String,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// The content headers and the body of a response.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) encoding: Option<&'static str>,
    pub(super) kind: &'static str,
    pub(super) steps: BodySteps,
}

/// `created` of every response: a constant, so that equal requests get equal bytes.
pub(super) const CREATED: u64 = 1_700_000_000;

/// A chat completion, compressed with gzip.
const GZIPPED: &[u8] = include_bytes!("completion.json.gz");

const JSON: &str = "application/json";

/// The text repeats these words.
const WORDS: [&str; 8] = [
    "One ",
    "word ",
    "after ",
    "another, ",
    "at ",
    "the ",
    "right ",
    "moment. ",
];

// === impl Content ===

impl Content {
    /// The response to chat `number` with the request body `body`.
    pub(super) fn new(options: &Options, chat: &Chat, number: u64, body: &Bytes) -> Self {
        match options.response {
            ResponseKind::Blob(length) => Self::whole(blob(length)),
            ResponseKind::Chat if chat.stream == Some(true) => Self {
                encoding: None,
                kind: "text/event-stream; charset=utf-8",
                steps: BodySteps::streamed(stream(options, chat, number, body.len())),
            },
            ResponseKind::Chat => Self::whole(completion(options, chat, number, body.len())),
            ResponseKind::Echo => Self::whole(body.clone()),
            ResponseKind::Gzip => Self {
                encoding: Some("gzip"),
                ..Self::whole(GZIPPED)
            },
        }
    }

    /// Adds `fault` to the body. Faults before the response headers change nothing.
    pub(super) fn with_fault(self, fault: &Fault, wording: Wording) -> Self {
        let (chunks, last) = match fault {
            Fault::EarlyEnd(chunks) => (*chunks, None),
            Fault::ErrorEvent(chunks) => (*chunks, Some(BodyStep::Data(wording.event().into()))),
            Fault::Reset(Some(chunks)) => (*chunks, Some(BodyStep::Reset)),
            Fault::Stall(Some(chunks)) => (*chunks, Some(BodyStep::Stall)),
            Fault::Truncate(chunks) => (*chunks, Some(BodyStep::Abort)),
            Fault::Redirect(_)
            | Fault::Refuse(_)
            | Fault::Reset(None)
            | Fault::Stall(None)
            | Fault::StreamReset(_) => return self,
        };
        Self {
            steps: self.steps.cut(chunks, last),
            ..self
        }
    }

    fn whole(bytes: impl Into<Bytes>) -> Self {
        Self {
            encoding: None,
            kind: JSON,
            steps: BodySteps::fixed(bytes),
        }
    }
}

fn completion(options: &Options, chat: &Chat, number: u64, asked: usize) -> Bytes {
    let text: String = words().take(options.chunks).collect();
    let document = json!({
        "id": format!("chatcmpl-{number}"),
        "object": "chat.completion",
        "created": CREATED,
        "model": chat.model,
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": text },
            "finish_reason": "stop",
        }],
        "usage": usage(asked, options.chunks),
    });
    document.to_string().into()
}

/// Role, content, finish, usage if requested, `[DONE]`. Lazy: a long stream is never in memory.
fn stream(
    options: &Options,
    chat: &Chat,
    number: u64,
    asked: usize,
) -> impl Iterator<Item = BodyStep> + Send + use<> {
    let event = chunk(number, &chat.model);
    let first = event(
        json!([choice(json!({ "role": "assistant", "content": "" }), None)]),
        None,
    );
    let finish = event(json!([choice(json!({}), Some("stop"))]), None);
    let wanted = chat
        .stream_options
        .as_ref()
        .and_then(|options| options.include_usage);
    let usage =
        (wanted == Some(true)).then(|| event(json!([]), Some(usage(asked, options.chunks))));

    let comment = options
        .comment
        .as_ref()
        .map_or(String::new(), |text| format!(": {text}\n\n"));
    let gap = Some(options.chunk_gap).filter(|gap| !gap.is_zero());
    let content = words().take(options.chunks).flat_map(move |word| {
        let chunk = event(json!([choice(json!({ "content": word }), None)]), None);
        gap.map(BodyStep::Wait)
            .into_iter()
            .chain([BodyStep::Data(format!("{comment}{chunk}").into())])
    });
    let tail = iter::once(finish)
        .chain(usage)
        .chain(["data: [DONE]\n\n".to_owned()]);
    iter::once(BodyStep::Data(first.into()))
        .chain(content)
        .chain(tail.map(|event| BodyStep::Data(event.into())))
}

/// Writes events of one stream.
fn chunk(number: u64, model: &str) -> impl Fn(Value, Option<Value>) -> String + Send + use<> {
    let id = format!("chatcmpl-{number}");
    let model = model.to_owned();
    move |choices, usage| {
        let mut document = json!({
            "id": id,
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            document["usage"] = usage;
        }
        format!("data: {document}\n\n")
    }
}

fn choice(delta: Value, finish_reason: Option<&str>) -> Value {
    json!({ "index": 0, "delta": delta, "finish_reason": finish_reason })
}

fn usage(asked: usize, answered: usize) -> Value {
    // About four bytes a token, by the usual rule of thumb.
    let prompt = asked.div_ceil(4);
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": answered,
        "total_tokens": prompt + answered,
    })
}

fn words() -> impl Iterator<Item = &'static str> {
    WORDS.into_iter().cycle()
}

/// A JSON document of `length` bytes.
fn blob(length: usize) -> Bytes {
    let (open, close) = (r#"{"blob":""#, r#""}"#);
    let filling = length.saturating_sub(open.len() + close.len());
    let text = WORDS.concat();
    let mut document = open.to_owned() + &text.repeat(filling.div_ceil(text.len()));
    document.truncate(open.len() + filling);
    (document + close).into()
}

//! `POST /v1/chat/completions`: the same text every time, whole or in chunks.

use std::iter;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Answer, Options,
    faults::Fault,
    script::{Step, Steps},
    wording::Wording,
};

/// What is read of a chat request.
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

/// The head's fields and the body of an answer.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) encoding: Option<&'static str>,
    pub(super) kind: &'static str,
    pub(super) steps: Steps,
}

/// `created` of every answer: a constant, so that equal requests get equal bytes.
pub(super) const CREATED: u64 = 1_700_000_000;

/// A chat completion that some library once compressed.
const GZIPPED: &[u8] = include_bytes!("completion.json.gz");

const JSON: &str = "application/json";

/// Words that the text goes round in.
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
    /// The answer to the chat with this number, whose request had this body.
    pub(super) fn new(options: &Options, chat: &Chat, number: u64, body: &Bytes) -> Self {
        match options.answer {
            Answer::Blob(length) => Self::whole(blob(length)),
            Answer::Chat if chat.stream == Some(true) => Self {
                encoding: None,
                kind: "text/event-stream; charset=utf-8",
                steps: Steps::streamed(stream(options, chat, number, body.len())),
            },
            Answer::Chat => Self::whole(completion(options, chat, number, body.len())),
            Answer::Echo => Self::whole(body.clone()),
            Answer::Gzip => Self {
                encoding: Some("gzip"),
                ..Self::whole(GZIPPED)
            },
        }
    }

    /// The same answer with a fault in its body. Faults that come before the head change nothing.
    pub(super) fn spoil(self, fault: &Fault, wording: Wording) -> Self {
        let (chunks, last) = match fault {
            Fault::EarlyEnd(chunks) => (*chunks, None),
            Fault::ErrorEvent(chunks) => (*chunks, Some(Step::Data(wording.event().into()))),
            Fault::Reset(Some(chunks)) => (*chunks, Some(Step::Reset)),
            Fault::Stall(Some(chunks)) => (*chunks, Some(Step::Stall)),
            Fault::Truncate(chunks) => (*chunks, Some(Step::Abort)),
            Fault::Redirect(_) | Fault::Refuse(_) | Fault::Reset(None) | Fault::Stall(None) => {
                return self;
            }
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
            steps: Steps::fixed(bytes),
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

/// Role, content, finish, usage if asked for, `[DONE]`. Made as it goes: a long stream is not kept.
fn stream(
    options: &Options,
    chat: &Chat,
    number: u64,
    asked: usize,
) -> impl Iterator<Item = Step> + Send + use<> {
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
        gap.map(Step::Wait)
            .into_iter()
            .chain([Step::Data(format!("{comment}{chunk}").into())])
    });
    let tail = iter::once(finish)
        .chain(usage)
        .chain(["data: [DONE]\n\n".to_owned()]);
    iter::once(Step::Data(first.into()))
        .chain(content)
        .chain(tail.map(|event| Step::Data(event.into())))
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
    // About four bytes a token, as everybody's rule of thumb has it.
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

/// A JSON document of some length.
fn blob(length: usize) -> Bytes {
    let (open, close) = (r#"{"blob":""#, r#""}"#);
    let filling = length.saturating_sub(open.len() + close.len());
    let text = WORDS.concat();
    let mut document = open.to_owned() + &text.repeat(filling.div_ceil(text.len()));
    document.truncate(open.len() + filling);
    (document + close).into()
}

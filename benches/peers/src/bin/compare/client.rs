//! A client with little overhead of its own: one blocking socket.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};

/// A connection to a gateway, or to the upstream itself.
pub(crate) struct Connection {
    socket: TcpStream,
    buffer: Box<[u8]>,
    /// Length of the unread part of the buffer.
    filled: usize,
}

/// How the length of the body is given.
enum Framing {
    Chunked,
    Length(usize),
}

/// How long a response took, and its length.
pub(crate) struct Timing {
    pub(crate) first_byte: Duration,
    pub(crate) whole: Duration,
    pub(crate) bytes: usize,
}

/// Room for several of the largest chunks.
const BUFFER: usize = 256 * 1024;

/// Time-out of every read.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request for the response `wanted`, with a body of at least `size` bytes.
pub(crate) fn request(wanted: &str, model: &str, size: usize) -> Vec<u8> {
    let body = body(model, size);
    let length = body.len();
    let head = format!(
        "POST /v1/chat/completions?want={wanted} HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n\
         content-type: application/json\r\nuser-agent: compare\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// The JSON of a chat request.
pub(crate) fn body(model: &str, size: usize) -> String {
    // As in a long conversation: lines of text and code, with escapes.
    let line = r#"fn main() {\n    println!(\"hello\");\n}\n and a few words around it. "#;
    let content = line.repeat(size / line.len() + 1);
    format!(
        r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"{content}"}}]}}"#
    )
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER].into(),
            filled: 0,
        })
    }

    /// Sends `request` and reads the whole response.
    pub(crate) fn ask(&mut self, request: &[u8]) -> anyhow::Result<Timing> {
        self.ask_and_see(request, |_, _| {})
    }

    /// Sends `request`, and passes on the data of the response as it arrives.
    pub(crate) fn ask_and_see(
        &mut self,
        request: &[u8],
        mut see: impl FnMut(&[u8], Instant),
    ) -> anyhow::Result<Timing> {
        let start = Instant::now();
        self.send(request)?;
        let mut framing = self.head()?;
        let mut first_byte = None;
        let mut bytes = 0;
        loop {
            let now = Instant::now();
            let ended = match &mut framing {
                Framing::Length(left) => {
                    let used = self.filled.min(*left);
                    if used > 0 {
                        first_byte.get_or_insert(now - start);
                        see(&self.buffer[..used], now);
                    }
                    bytes += used;
                    *left -= used;
                    self.forget(used);
                    *left == 0
                }
                Framing::Chunked => {
                    let (used, ended) = chunks(&self.buffer[..self.filled], |data| {
                        first_byte.get_or_insert(now - start);
                        bytes += data.len();
                        see(data, now);
                    })?;
                    self.forget(used);
                    ended
                }
            };
            if ended {
                break;
            }
            self.read()?;
        }
        let whole = start.elapsed();
        Ok(Timing {
            first_byte: first_byte.unwrap_or(whole),
            whole,
            bytes,
        })
    }

    /// Sends `request` and reads no further than the first bytes of the body.
    pub(crate) fn ask_for_a_stream(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.send(request)?;
        self.begin()
    }

    /// Sends `request` without waiting for the response.
    pub(crate) fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        Ok(self.socket.write_all(request)?)
    }

    /// Whether the first bytes of a body come within `patience`.
    pub(crate) fn begins_within(&mut self, patience: Duration) -> anyhow::Result<bool> {
        self.socket.set_read_timeout(Some(patience))?;
        let begun = self.begin();
        self.socket.set_read_timeout(Some(PATIENCE))?;
        match begun {
            Ok(()) => Ok(true),
            Err(error) => match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Frees the buffer of a connection that only stays open.
    pub(crate) fn without_buffer(mut self) -> Self {
        self.buffer = Box::default();
        self.filled = 0;
        self
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        self.head()?;
        while self.filled == 0 {
            self.read()?;
        }
        Ok(())
    }

    fn head(&mut self) -> anyhow::Result<Framing> {
        loop {
            self.read()?;
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut fields);
            let httparse::Status::Complete(head) = response.parse(&self.buffer[..self.filled])?
            else {
                continue;
            };
            if response.code != Some(200) {
                let answer = String::from_utf8_lossy(&self.buffer[..self.filled]);
                return Err(anyhow!("answered with {answer}"));
            }
            let mut framing = Framing::Chunked;
            for field in response.headers.iter() {
                if field.name.eq_ignore_ascii_case("content-length") {
                    framing = Framing::Length(std::str::from_utf8(field.value)?.parse()?);
                }
            }
            self.forget(head);
            return Ok(framing);
        }
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let read = self.socket.read(&mut self.buffer[self.filled..]);
        match read.context("waiting for an answer")? {
            0 => Err(anyhow!(
                "the connection was closed in the middle of an answer"
            )),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }

    fn forget(&mut self, used: usize) {
        self.buffer.copy_within(used..self.filled, 0);
        self.filled -= used;
    }
}

/// Passes on the data of all whole chunks in `buffer`; returns how many bytes were used, and whether
/// the body has ended.
fn chunks(buffer: &[u8], mut see: impl FnMut(&[u8])) -> anyhow::Result<(usize, bool)> {
    let mut used = 0;
    loop {
        let rest = &buffer[used..];
        let parsed = httparse::parse_chunk_size(rest).map_err(|_| anyhow!("a broken chunk"))?;
        let httparse::Status::Complete((start, size)) = parsed else {
            return Ok((used, false));
        };
        let size = usize::try_from(size)?;
        let Some(data) = rest.get(start..start + size) else {
            return Ok((used, false));
        };
        if rest.len() < start + size + 2 {
            return Ok((used, false));
        }
        used += start + size + 2;
        if size == 0 {
            return Ok((used, true));
        }
        see(data);
    }
}

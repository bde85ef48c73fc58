//! How pacegate's cost grows with the number of requests, sessions, streams and upstreams.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use serde::Serialize;

use super::{
    client::{Connection, body, request},
    configs::WIDE_OPEN,
    gateway::{Gateway, TestBed},
};

/// Cost per item over the number of items.
#[derive(Serialize)]
pub(crate) struct Curve {
    pub(crate) title: String,
    /// The items.
    pub(crate) over: String,
    pub(crate) unit: String,
    pub(crate) points: Vec<Point>,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) struct Point {
    pub(crate) number: f64,
    /// Cost per item.
    pub(crate) cost: f64,
}

const WAITERS: [usize; 4] = [10, 100, 1_000, 10_000];
const SESSIONS: [usize; 4] = [1, 10, 100, 1_000];
const STREAMS: [usize; 4] = [50, 500, 1_500, 5_000];
const UPSTREAMS: [usize; 4] = [1, 5, 20, 50];

/// Requests that wait while the number of sessions grows.
const QUEUED: usize = 2_000;

/// Requests that go to one of many upstreams.
const ASKED: usize = 3_000;

const PATIENCE: Duration = Duration::from_secs(120);

// === impl Point ===

impl Point {
    fn new(number: usize, cost: f64) -> Self {
        let number = number as f64;
        Self { number, cost }
    }
}

// === impl Curve ===

impl Curve {
    /// The allowed growth is n log n: the cost per item may grow with the logarithm.
    pub(crate) fn verdict(&self) -> String {
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else {
            return "Nothing was measured.".into();
        };
        let grown = last.cost / first.cost.max(1e-9);
        let allowed = last.number.ln() / first.number.max(2.0).ln();
        let verdict = if grown <= allowed {
            "no worse than"
        } else {
            "WORSE THAN"
        };
        format!(
            "With {:.0} {} each costs {grown:.2} times what it costs with {:.0}: {verdict} n log n, \
             which allows {allowed:.2}.",
            last.number, self.over, first.number
        )
    }
}

/// Measures all curves, which takes about two minutes.
pub(crate) fn curves(bed: &TestBed) -> anyhow::Result<Vec<Curve>> {
    let mut curves = Vec::new();
    eprintln!("curves: waiters");
    let mut waiters = Vec::new();
    for number in WAITERS {
        let gateway = bed.start_pacegate(1, ONE_AT_A_TIME)?;
        let cost = queue(&gateway, number, 8)?;
        waiters.push(Point::new(number, cost));
    }
    curves.push(curve(
        "Requests that wait",
        "waiters",
        "µs of CPU for each",
        waiters,
    ));

    eprintln!("curves: sessions");
    let mut sessions = Vec::new();
    for number in SESSIONS {
        let gateway = bed.start_pacegate(1, ONE_AT_A_TIME)?;
        let cost = queue(&gateway, QUEUED, number)?;
        sessions.push(Point::new(number, cost));
    }
    curves.push(curve(
        "Sessions among 2,000 requests that wait",
        "sessions",
        "µs of CPU for each request",
        sessions,
    ));

    eprintln!("curves: streams");
    let mut streams = Vec::new();
    let mut held = Vec::new();
    for number in STREAMS {
        let gateway = bed.start_pacegate(1, WIDE_OPEN)?;
        let idle = gateway.rss();
        let (cost, kept) = stream(&gateway, number)?;
        held.push(Point::new(number, (kept - idle) * 1000.0 / number as f64));
        streams.push(Point::new(number, cost));
    }
    curves.push(curve(
        "Open streams with one event a second",
        "streams",
        "µs of CPU for each event",
        streams,
    ));
    curves.push(curve(
        "Memory of open streams",
        "streams",
        "KB for each",
        held,
    ));

    eprintln!("curves: upstreams");
    let mut upstreams = Vec::new();
    for number in UPSTREAMS {
        let gateway = bed.start_pacegate(number, WIDE_OPEN)?;
        let cost = route(&gateway, number)?;
        upstreams.push(Point::new(number, cost));
    }
    curves.push(curve(
        "Upstreams in the config",
        "upstreams",
        "µs of CPU for each request",
        upstreams,
    ));
    Ok(curves)
}

const ONE_AT_A_TIME: &str = "concurrency = 1\nmax-wait = \"600s\"";

fn curve(title: &str, over: &str, unit: &str, points: Vec<Point>) -> Curve {
    Curve {
        title: title.into(),
        over: over.into(),
        unit: unit.into(),
        points,
    }
}

/// CPU time for each of `number` requests of `sessions` that queue behind a stream and are then
/// answered one after the other.
fn queue(gateway: &Gateway, number: usize, sessions: usize) -> anyhow::Result<f64> {
    let mut first = Connection::open(gateway.address)?;
    first.ask_for_a_stream(&request("hold", "m", 400))?;
    let before = gateway.cpu_time();
    let mut waiting = Vec::with_capacity(number);
    for turn in 0..number {
        waiting.push(queued(gateway.address, turn % sessions)?);
    }
    all_wait(gateway, number)?;
    drop(first);
    for socket in &mut waiting {
        let mut answer = [0; 4096];
        let read = socket.read(&mut answer)?;
        if !answer[..read].starts_with(b"HTTP/1.1 200") {
            return Err(anyhow!("{}", String::from_utf8_lossy(&answer[..read])));
        }
    }
    Ok((gateway.cpu_time() - before).as_secs_f64() * 1e6 / number as f64)
}

fn queued(address: SocketAddr, session: usize) -> anyhow::Result<TcpStream> {
    let body = body("m", 400);
    let length = body.len();
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(
        socket,
        "POST /v1/chat/completions?want=json HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         x-session-id: s{session}\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    Ok(socket)
}

/// Waits until the gateway reports `number` queued requests.
fn all_wait(gateway: &Gateway, number: usize) -> anyhow::Result<()> {
    const STEP: Duration = Duration::from_millis(100);
    let start = Instant::now();
    let mut waiting = 0;
    while start.elapsed() < PATIENCE {
        waiting = waiters(gateway.address)?;
        if waiting == number {
            return Ok(());
        }
        std::thread::sleep(STEP);
    }
    Err(anyhow!("{waiting} of {number} requests wait"))
}

/// The number of queued requests, by `/metrics`.
fn waiters(address: SocketAddr) -> anyhow::Result<usize> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(
        socket,
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let counts = text
        .lines()
        .filter(|line| line.starts_with("pacegate_queue_waiting{"))
        .map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<usize>());
    let counts: Vec<_> = counts.collect::<Result<_, _>>()?;
    Ok(counts.into_iter().sum())
}

/// CPU time per event of `number` streams with one event a second, and their memory in MB.
fn stream(gateway: &Gateway, number: usize) -> anyhow::Result<(f64, f64)> {
    const SECONDS: u32 = 4;
    let request = request("open", "m", 400);
    let mut streams = Vec::with_capacity(number);
    for _ in 0..number {
        let mut connection = Connection::open(gateway.address)?;
        connection.ask_for_a_stream(&request)?;
        streams.push(connection.without_buffer());
    }
    std::thread::sleep(Duration::from_secs(1));
    let before = gateway.cpu_time();
    std::thread::sleep(Duration::from_secs(SECONDS.into()));
    let ran = gateway.cpu_time() - before;
    let events = number as f64 * f64::from(SECONDS);
    Ok((ran.as_secs_f64() * 1e6 / events, gateway.rss()))
}

/// CPU time per request to one of `upstreams`.
fn route(gateway: &Gateway, upstreams: usize) -> anyhow::Result<f64> {
    let mut connection = Connection::open(gateway.address)?;
    let requests: Vec<_> = (0..upstreams)
        .map(|number| match number {
            0 => request("json", "m", 400),
            number => request("json", &format!("m{number}"), 400),
        })
        .collect();
    // The first request opens the connection of each upstream.
    for request in &requests {
        connection.ask(request)?;
    }
    let before = gateway.cpu_time();
    for turn in 0..ASKED {
        connection.ask(&requests[turn % upstreams])?;
    }
    Ok((gateway.cpu_time() - before).as_secs_f64() * 1e6 / ASKED as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(costs: [f64; 2]) -> String {
        let points = [10, 10_000].into_iter().zip(costs);
        let points = points.map(|(number, cost)| Point::new(number, cost));
        curve("Requests", "waiters", "µs", points.collect()).verdict()
    }

    #[test]
    fn lets_a_cost_grow_with_the_logarithm_and_no_faster() {
        assert!(grown([1.0, 3.9]).contains("no worse than n log n"));
        assert!(grown([1.0, 4.1]).contains("WORSE THAN n log n"));
        assert!(grown([2.0, 1.0]).contains("no worse than n log n"));
    }
}

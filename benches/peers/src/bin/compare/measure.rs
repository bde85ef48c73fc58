//! Measures one gateway in its turn.
//!
//! The time of a single request is mostly wake-ups across two cores, whose cost changes from second to
//! second. It is therefore measured in many short turns, in which all gateways follow each other within
//! a second: ratios are made of figures of one turn, see `results`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};

use super::{
    client::{Connection, Timing, request},
    clock,
    gateway::Gateway,
    metric::STREAMS,
    upstream::{BURST, EVENT, OpenStreams, PART, PARTS, TICKS},
};

/// Figures by their keys; see `metric`.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// How much a run measures.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Turns in each round.
    pub(crate) turns: usize,
    /// Time of single requests in each turn.
    pub(crate) lone: Duration,
    /// Turns of many connections in each round.
    pub(crate) crowds: usize,
    /// Turns of bulk streams in each round; a stream takes 50 ms.
    pub(crate) streams: usize,
    /// Large uploads in each round.
    pub(crate) uploads: usize,
    /// Starts of a gateway: their times vary.
    pub(crate) starts: usize,
}

/// Connections of wrk, and its duration, which it takes in whole seconds.
const CROWD: usize = 50;
const CROWD_SECONDS: u64 = 1;

/// Request sizes for streams that are open at once.
pub(crate) const KB_1: usize = 1_000;
pub(crate) const KB_30: usize = 30_000;

pub(crate) const KIB_64: usize = 64 * 1024;
pub(crate) const MB_10: usize = 10_000_000;

/// One turn: the time of single requests.
pub(crate) fn lone(gateway: &Gateway, effort: &Effort) -> anyhow::Result<Figures> {
    let mut figures = Figures::new();
    let small = request("json", "m", 400);
    let timings = one_by_one(gateway.address, &small, effort.lone, usize::MAX)?;
    let whole = sorted(timings.iter().map(|timing| timing.whole));
    figures.insert("p50", micros(percentile(&whole, 0.50)));
    figures.insert("p99", micros(percentile(&whole, 0.99)));
    Ok(figures)
}

/// One turn: the time of a first event, a lone event and a small upload.
///
/// The first byte is that of the body: the response headers are sent before it. The delay of a lone
/// event is from the upstream's write to the client's read; the first event of a stream does not count,
/// because it is sent with the headers.
pub(crate) fn lone_events(gateway: &Gateway, effort: &Effort) -> anyhow::Result<Figures> {
    let mut figures = Figures::new();
    let first = request("first", "m", 400);
    let timings = one_by_one(gateway.address, &first, effort.lone, usize::MAX)?;
    let waits = sorted(timings.iter().map(|timing| timing.first_byte));
    figures.insert("ttfb", micros(percentile(&waits, 0.50)));

    let mut delays = Vec::with_capacity(TICKS);
    let mut connection = Connection::open(gateway.address)?;
    connection.ask_and_see(&request("ticks", "m", 400), |data, _at| {
        let sent = std::str::from_utf8(data).ok().and_then(|text| {
            text.lines()
                .rfind(|line| line.starts_with("data: "))?
                .get(6..)?
                .parse::<u64>()
                .ok()
        });
        let delay = clock::nanos().saturating_sub(sent.unwrap_or(0));
        delays.push(Duration::from_nanos(delay));
    })?;
    let delays = sorted(delays.into_iter().skip(1));
    figures.insert("chunk", micros(percentile(&delays, 0.50)));

    let upload = request("json", "m", KIB_64);
    let timings = one_by_one(gateway.address, &upload, effort.lone, usize::MAX)?;
    let whole = sorted(timings.iter().map(|timing| timing.whole));
    figures.insert("64k", micros(percentile(&whole, 0.50)));
    Ok(figures)
}

/// One turn: rate and CPU time with many connections. If a request fails, the rate is zero.
pub(crate) fn crowd(gateway: &Gateway, folder: &Path) -> anyhow::Result<Figures> {
    let mut figures = Figures::new();
    if gateway.process().is_none() {
        return Ok(figures);
    }
    let before = gateway.cpu_time();
    let start = Instant::now();
    let crowd = wrk(gateway.address, folder)?;
    if crowd.failed > 0.0 || crowd.answers == 0.0 {
        eprintln!(
            "{}: {} requests of a crowd failed, of {}",
            gateway.name, crowd.failed, crowd.answers
        );
        figures.insert("rps", 0.0);
        return Ok(figures);
    }
    let ran = gateway.cpu_time() - before;
    figures.insert("rps", crowd.answers / crowd.lasted.as_secs_f64());
    figures.insert("cpu", micros(ran) / crowd.answers);
    figures.insert("core", ran.as_secs_f64() / start.elapsed().as_secs_f64());
    Ok(figures)
}

/// One turn: the speed of long streams.
///
/// A stream that breaks has speed zero and no CPU time. A client that falls behind many small HTTP/2
/// frames may close its connection (h2's `too_many_data_frames`).
pub(crate) fn streams(gateway: &Gateway) -> anyhow::Result<Figures> {
    let mut figures = Figures::new();
    let burst = stream(gateway, gateway.address, "burst", BURST * EVENT.len())?;
    let bulk = stream(gateway, gateway.bulk_address, "bulk", PARTS * PART)?;
    figures.insert("burst", burst.speed);
    figures.insert("bulk", bulk.speed);
    if gateway.process().is_some() {
        figures.insert("event cpu", burst.cpu / BURST as f64);
        figures.insert("bulk cpu", bulk.cpu / PARTS as f64);
    }
    Ok(figures)
}

/// Speed and cost of a long stream.
struct Stream {
    /// In MB/s.
    speed: f64,
    /// The gateway's CPU time in µs; NaN if the stream broke.
    cpu: f64,
}

fn stream(
    gateway: &Gateway,
    address: SocketAddr,
    wanted: &str,
    size: usize,
) -> anyhow::Result<Stream> {
    let mut connection = Connection::open(address)?;
    let before = gateway.cpu_time();
    let timing = connection
        .ask(&request(wanted, "m", 400))
        .and_then(|timing| {
            complete(timing.bytes, size)?;
            Ok(timing)
        });
    match timing {
        Ok(timing) => Ok(Stream {
            speed: megabytes(timing.bytes, timing.whole),
            cpu: micros(gateway.cpu_time() - before),
        }),
        Err(error) => {
            eprintln!("{}: the {wanted} stream broke: {error:#}", gateway.name);
            Ok(Stream {
                speed: 0.0,
                cpu: f64::NAN,
            })
        }
    }
}

/// One round: the time of large uploads.
pub(crate) fn uploads(gateway: &Gateway, effort: &Effort) -> anyhow::Result<Figures> {
    let mut figures = Figures::new();
    let large = request("json", "m", MB_10);
    let long = Duration::from_secs(60);
    let timings = one_by_one(gateway.address, &large, long, effort.uploads)?;
    let whole = sorted(timings.iter().map(|timing| timing.whole));
    figures.insert("10m", micros(percentile(&whole, 0.50)) / 1000.0);
    Ok(figures)
}

/// The result of a thousand streams that are open at once.
pub(crate) struct OpenStreamsResult {
    /// The gateway's memory meanwhile, in MB.
    pub(crate) memory: f64,
    /// How many streams are open at the upstream.
    pub(crate) open: usize,
    /// How many upstream connections they share.
    pub(crate) connections: usize,
}

/// Opens the streams with requests of `size`; the upstream keeps them open and counts them.
pub(crate) fn with_open_streams(
    gateway: &Gateway,
    open_streams: &OpenStreams,
    size: usize,
) -> anyhow::Result<OpenStreamsResult> {
    /// A stream that has not begun by then waits in the gateway for another to end.
    const BEGINNING: Duration = Duration::from_secs(2);
    let request = request("hold", "m", size);
    if settled(open_streams, 0) > 0 {
        return Err(anyhow!("streams of another gateway are still open"));
    }
    let mut streams = Vec::with_capacity(STREAMS);
    let mut begin = true;
    for _ in 0..STREAMS {
        let mut connection = Connection::open(gateway.address)?;
        connection.send(&request)?;
        // If one stream waits, the later ones do, too, and are not waited for.
        begin = begin && connection.begins_within(BEGINNING)?;
        streams.push(connection.without_buffer());
    }
    let open = settled(open_streams, STREAMS);
    Ok(OpenStreamsResult {
        memory: gateway.rss(),
        open,
        connections: open_streams.connections(),
    })
}

/// The number of open streams, once it is `awaited` or no longer changes.
fn settled(open_streams: &OpenStreams, awaited: usize) -> usize {
    const STEP: Duration = Duration::from_millis(500);
    let mut before = None;
    loop {
        let now = open_streams.streams();
        if now == awaited || before == Some(now) {
            return now;
        }
        before = Some(now);
        thread::sleep(STEP);
    }
}

/// The times of single requests, one after the other.
fn one_by_one(
    address: SocketAddr,
    request: &[u8],
    long: Duration,
    most: usize,
) -> anyhow::Result<Vec<Timing>> {
    const WARM_UP: usize = 3;
    let mut connection = Connection::open(address)?;
    for _ in 0..WARM_UP.min(most) {
        connection.ask(request)?;
    }
    let mut timings = Vec::new();
    let end = Instant::now() + long;
    while Instant::now() < end && timings.len() < most {
        timings.push(connection.ask(request)?);
    }
    Ok(timings)
}

/// The result of wrk.
struct Crowd {
    answers: f64,
    failed: f64,
    lasted: Duration,
}

fn wrk(address: SocketAddr, folder: &Path) -> anyhow::Result<Crowd> {
    let script = folder.join("crowd.lua");
    let body = super::client::body("m", 400);
    let text = format!(
        "wrk.method = 'POST'\nwrk.headers['content-type'] = 'application/json'\nwrk.body = [==[{body}]==]\n\
         done = function(summary, latency, requests)\n  local e = summary.errors\n  \
         io.write(string.format('SUM %d %d %d\\n', summary.requests, summary.duration, \
         e.connect + e.read + e.write + e.status + e.timeout))\nend\n"
    );
    std::fs::write(&script, text)?;
    let output = Command::new("wrk")
        .args([
            "-t1",
            &format!("-c{CROWD}"),
            &format!("-d{CROWD_SECONDS}s"),
            "-s",
        ])
        .arg(&script)
        .arg(format!("http://{address}/v1/chat/completions?want=json"))
        .output()
        .context("wrk does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let sum = text.lines().find_map(|line| line.strip_prefix("SUM "));
    let sum: Vec<u64> = sum
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let [answers, lasted, failed] = sum[..] else {
        return Err(anyhow!("wrk said: {text}"));
    };
    Ok(Crowd {
        answers: answers as f64,
        failed: failed as f64,
        lasted: Duration::from_micros(lasted),
    })
}

fn complete(got: usize, sent: usize) -> anyhow::Result<()> {
    if got == sent {
        Ok(())
    } else {
        Err(anyhow!("{got} bytes of a stream of {sent} came through"))
    }
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let at = (sorted.len() as f64 * part) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn megabytes(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

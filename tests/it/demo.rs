//! `pacegate demo`: the real program in an empty home.

// Always so here; it tells clippy that helpers of tests may unwrap as tests do.
#![cfg(test)]

use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::LazyLock,
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::{client::post_json, lateness::Lateness};

/// Two clocks that are read at different moments of one dispatch.
const AGREEMENT: f64 = 0.020;

/// One whole run for all tests that only read what it printed: it takes nine seconds.
static ONCE: LazyLock<Run> = LazyLock::new(|| {
    let home = tempfile::tempdir().unwrap();
    let lateness = Lateness::watch();
    let output = program(&home, &["--once"]).output().unwrap();
    Run {
        left_behind: fs::read_dir(home.path()).unwrap().count(),
        late: lateness.total(),
        output,
    }
});

struct Run {
    left_behind: usize,
    /// How late the machine was meanwhile.
    late: Duration,
    output: Output,
}

/// A row of the table, in seconds.
#[derive(Debug)]
struct Row {
    arrived: f64,
    queued: f64,
    left: f64,
    gap: Option<f64>,
    first_byte: f64,
    done: f64,
    seen: f64,
    seen_gap: Option<f64>,
}

/// A demo that goes on, killed when dropped.
struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    url: String,
    _home: TempDir,
}

impl Run {
    fn stdout(&self) -> &str {
        str::from_utf8(&self.output.stdout).unwrap()
    }

    fn rows(&self) -> Vec<Row> {
        let lines = self.stdout().lines();
        let table = lines.skip_while(|line| !line.starts_with(" # arrived"));
        let rows: Vec<_> = table
            .skip(1)
            .take_while(|line| !line.is_empty())
            .map(Row::parse)
            .collect();
        assert_eq!(rows.len(), 5, "{}", self.stdout());
        rows
    }
}

impl Row {
    fn parse(line: &str) -> Self {
        let cells = line.replace('|', " ");
        let cells: Vec<Option<f64>> = cells
            .split_whitespace()
            .skip(1)
            .map(|cell| cell.parse().ok())
            .collect();
        let cell = |index: usize| cells[index].unwrap();
        Self {
            arrived: cell(0),
            queued: cell(1),
            left: cell(2),
            gap: cells[3],
            first_byte: cell(4),
            done: cell(5),
            seen: cell(6),
            seen_gap: cells[7],
        }
    }
}

impl Demo {
    /// Starts one and reads where it listens.
    fn start(arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut child = program(&home, arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let url = first.strip_prefix("listening on ").unwrap().to_owned();
        Self {
            child,
            lines,
            url,
            _home: home,
        }
    }

    /// Sends SIGTERM and waits for the end.
    fn stop(&mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _over = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A demo whose home and temporary files are in `home`.
fn program(home: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pacegate"));
    command
        .arg("demo")
        .args(arguments)
        .env_clear()
        .env("HOME", home.path())
        .env("TMPDIR", home.path());
    command
}

#[test]
fn once_exits_with_0_and_leaves_nothing_behind() {
    let stderr = String::from_utf8_lossy(&ONCE.output.stderr);
    assert_eq!(ONCE.output.status.code(), Some(0), "{stderr}");
    assert_eq!(stderr, "");
    assert_eq!(ONCE.left_behind, 0);
}

#[test]
fn five_requests_that_arrive_together_leave_apart_and_the_first_at_once() {
    let rows = ONCE.rows();
    let late = ONCE.late.as_secs_f64();
    let soon = 0.1 + late;
    for row in &rows {
        assert!(row.arrived < soon, "{row:?} {late}");
        assert!(
            (row.arrived + row.queued - row.left).abs() < 0.002,
            "{row:?}"
        );
        assert!(
            row.left < row.first_byte && row.first_byte < row.done,
            "{row:?}"
        );
    }
    assert!(rows[0].queued < soon, "{:?} {late}", rows[0]);
    assert_eq!(rows[0].gap, None);
    for pair in rows.windows(2) {
        let gap = pair[1].gap.unwrap();
        // Half a millisecond each way is rounding; a late timer only makes a gap longer.
        let longest = 2.5 + AGREEMENT + late;
        assert!((1.499..=longest).contains(&gap), "{pair:?} {late}");
        assert!(
            (pair[1].left - pair[0].left - gap).abs() < 0.002,
            "{pair:?}"
        );
    }
}

#[test]
fn the_upstreams_own_record_agrees() {
    let rows = ONCE.rows();
    let apart = AGREEMENT + ONCE.late.as_secs_f64();
    for row in &rows {
        assert!((row.seen - row.left).abs() < apart, "{row:?}");
        let gaps = row.gap.unwrap_or(0.0) - row.seen_gap.unwrap_or(0.0);
        assert!(gaps.abs() < apart, "{row:?}");
    }
    let gaps = || rows.iter().filter_map(|row| row.seen_gap);
    let totals = format!(
        "5 requests, 5 arrivals at the upstream, 0 answers 429\n\
         least gap {:.3} s, greatest gap {:.3} s by the upstream's record\n\
         total time {:.3} s\n",
        gaps().fold(f64::MAX, f64::min),
        gaps().fold(0.0, f64::max),
        rows.iter().map(|row| row.done).fold(0.0, f64::max),
    );
    assert!(ONCE.stdout().ends_with(&totals), "{}", ONCE.stdout());
}

#[test]
fn a_pipe_gets_events_as_lines_of_80_columns_without_escape_codes() {
    let stdout = ONCE.stdout();
    assert!(!stdout.contains(['\u{1b}', '\r']), "{stdout}");
    let longest = stdout.lines().map(str::len).max();
    assert!(longest <= Some(80), "{stdout}");
    for number in 1..=5 {
        for event in ["sent", "answer begins; it left at ", "done"] {
            let line = format!("request {number}: {event}");
            assert!(stdout.contains(&line), "{line}: {stdout}");
        }
    }
}

#[tokio::test]
async fn keeps_serving_and_says_how_to_use_it_until_it_is_told_to_stop() {
    let mut demo = Demo::start(&["--listen", "127.0.0.1:0"]);
    let mut said = String::new();
    while !said.ends_with("Ctrl-C ends it\n") {
        said += &(demo.lines.next().unwrap().unwrap() + "\n");
    }
    let base = format!("{}/v1", demo.url);
    assert!(
        said.contains(&format!("curl -N {base}/chat/completions")),
        "{said}"
    );
    assert!(said.contains(&format!("\"baseURL\": \"{base}\"")), "{said}");

    // The body as the curl line has it.
    let body = said
        .split("-d '")
        .nth(1)
        .unwrap()
        .split('\'')
        .next()
        .unwrap();
    let url = format!("{base}/chat/completions");
    let answer = post_json(&url, body.to_owned(), &[]).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(
        answer.text().ends_with("data: [DONE]\n\n"),
        "{}",
        answer.text()
    );
    assert_eq!(demo.stop(), Some(0));
}

#[test]
fn a_signal_during_the_burst_ends_it_at_once() {
    let lateness = Lateness::watch();
    let start = Instant::now();
    let mut demo = Demo::start(&["--listen", "127.0.0.1:0"]);
    assert_eq!(demo.stop(), Some(0));
    // The burst alone takes six.
    lateness.assert_within("its end", start.elapsed(), Duration::from_secs(5));
}

#[test]
fn takes_another_port_where_the_usual_one_is_taken() {
    // If this fails the port is taken as well.
    let _taken = TcpListener::bind("127.0.0.1:7223");
    let mut demo = Demo::start(&[]);
    assert_ne!(demo.url, "http://127.0.0.1:7223");
    demo.stop();
    let mut note = String::new();
    BufReader::new(demo.child.stderr.take().unwrap())
        .read_line(&mut note)
        .unwrap();
    assert_eq!(
        note,
        "note: 127.0.0.1:7223 is taken, so another port is used\n"
    );
}

#[test]
fn says_what_is_wrong_with_a_switch_or_a_port() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (switches, code, words) in [
        (&["--twice"][..], 2, "unexpected argument '--twice'"),
        (&["--listen", "here"], 2, "invalid socket address"),
        (
            &["--listen", &*taken],
            1,
            "hint: something listens there already",
        ),
        (&["--listen", "0.0.0.0:0"], 78, "needs a client key"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let output = program(&home, switches).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

//! State files that are missing, broken, locked or not writable, and what is logged about them.

use std::{
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    process::Command,
    thread,
};

use tracing::subscriber::{DefaultGuard, set_default};
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// What was logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        (log, set_default(subscriber))
    }

    /// What was logged since the last call.
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn machine() -> Machine {
    Machine::at("2026-04-15T12:00:00Z")
}

#[tokio::test(start_paused = true)]
async fn files_are_for_their_owner_only() {
    let machine = machine();
    let _ledger = machine.open(&[day(3, "UTC")]);
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(machine.directory()), 0o700);
    assert_eq!(mode(machine.file()), 0o600);
    assert_eq!(mode(machine.file().with_extension("lock")), 0o600);
}

#[tokio::test(start_paused = true)]
async fn a_second_ledger_of_the_same_upstream_is_refused_until_the_first_is_closed() {
    let machine = machine();
    let quotas = [day(3, "UTC")];
    let ledger = machine.open(&quotas);
    let error = machine.try_open(&quotas).unwrap_err().to_string();
    let id = std::process::id();
    assert!(error.contains("quotas-mine.lock is locked"), "{error}");
    assert!(error.contains(&format!("process {id}")), "{error}");
    assert!(error.contains("hint: "), "{error}");
    let directory = machine.directory();
    QuotaLedger::open("other", &quotas, Some(&directory), machine.wall()).unwrap();
    drop(ledger);
    machine.open(&quotas);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_read_is_kept_aside_and_reported() {
    for (text, words) in [
        ("", "EOF while parsing"),
        ("{\"version\":1,\"latest\":17", "EOF while parsing"),
        ("{\"version\":2,\"shape\":[]}", "it is of version 2"),
    ] {
        let machine = machine();
        fs::create_dir(machine.directory()).unwrap();
        fs::write(machine.file(), text).unwrap();
        let (log, _guard) = Log::start();
        let ledger = machine.open(&[day(3, "UTC")]);
        let told = log.take();
        assert!(
            told.contains("WARN") && told.contains("counted from zero"),
            "{told}"
        );
        assert!(told.contains(words), "{told}");
        let kept = machine.file().with_extension("json.bad");
        assert!(told.contains(kept.to_str().unwrap()), "{told}");
        assert_eq!(fs::read_to_string(kept).unwrap(), text);
        assert_eq!(ledger.spend_all(), 3);
        drop(ledger);
        assert_eq!(machine.open(&[day(3, "UTC")]).used(), [3]);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_usable_directory_it_counts_in_memory_and_says_so() {
    let machine = machine();
    fs::write(machine.directory(), "a file").unwrap();
    let (log, _guard) = Log::start();
    let ledger = machine.open(&[day(3, "UTC")]);
    assert!(log.take().contains("counted in memory only"));
    assert_eq!(ledger.spend_all(), 3);
    assert_eq!(
        log.take().matches("WARN").count(),
        1,
        "that most is used up"
    );

    let ledger = QuotaLedger::open("mine", &[day(3, "UTC")], None, machine.wall()).unwrap();
    assert!(log.take().contains("there is no state-dir"));
    assert_eq!(ledger.spend_all(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_is_reported_once_and_tried_again() {
    let machine = machine();
    let quotas = [day(100, "UTC")];
    let ledger = machine.open(&quotas);
    ledger.record();
    // A directory in the temporary file's place makes every write fail.
    let obstacle = machine.file().with_extension("json.tmp");
    fs::create_dir(&obstacle).unwrap();
    let (log, _guard) = Log::start();
    ledger.record();
    ledger.record();
    let told = log.take();
    assert_eq!(told.matches("cannot be written").count(), 1, "{told}");
    assert_eq!(ledger.used(), [3]);
    fs::remove_dir(&obstacle).unwrap();
    ledger.record();
    assert!(log.take().contains("can be written again"));
    drop(ledger);
    assert_eq!(machine.open(&quotas).used(), [4]);
}

#[tokio::test(start_paused = true)]
async fn warns_once_a_period_when_four_fifths_are_used() {
    let machine = machine();
    let quotas = [day(10, "UTC"), window(10, 5 * 3600), window(20, 60)];
    let (log, _guard) = Log::start();
    let ledger = machine.open(&quotas);
    let spend = |count: usize| {
        (0..count).for_each(|_| ledger.record());
        log.take().matches("Most of a quota is used up").count()
    };
    assert_eq!(spend(7), 0);
    assert_eq!(spend(1), 2, "the day and the long window");
    assert_eq!(spend(2), 0);
    advance(Duration::from_secs(5 * 3600)).await;
    assert_eq!(spend(8), 1, "the long window again");
    advance(Duration::from_secs(7 * 3600)).await;
    assert_eq!(spend(8), 2, "another day");
    drop(ledger);
    let ledger = machine.open(&quotas);
    ledger.record();
    assert_eq!(
        log.take().matches("Most of").count(),
        0,
        "the one before said it"
    );
}

#[tokio::test(start_paused = true)]
async fn says_that_the_clock_is_behind_what_was_counted() {
    let machine = machine();
    let quotas = [day(3, "UTC")];
    drop(machine.open(&quotas));
    machine.set_clock(-HOUR);
    let (log, _guard) = Log::start();
    machine.open(&quotas);
    let told = log.take();
    assert!(told.contains("behind=3600s"), "{told}");
}

/// A write may take a while, and the request leaves only after it: a timestamp from before the
/// write would let the next requests out too early.
#[tokio::test]
async fn a_dispatch_counts_from_when_it_was_written_down() {
    // Half of it allows for a machine that is busy when the test begins.
    const SLOW: Duration = Duration::from_secs(1);

    let machine = machine();
    let ledger = machine.open(&[window(1, 60)]);
    // Opening the pipe blocks until it is read.
    let pipe = machine.file().with_extension("json.tmp");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let disk = thread::spawn(move || {
        thread::sleep(SLOW);
        fs::read(pipe).unwrap()
    });
    let begun = Instant::now();
    ledger.record();
    assert!(!disk.join().unwrap().is_empty());
    let room = ledger.next_slot(0, Fraction::WHOLE).unwrap();
    let late = room.saturating_duration_since(begun + Duration::from_secs(60));
    assert!(late >= SLOW / 2, "{late:?} later");
}

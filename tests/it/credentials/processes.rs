//! The credentials file between processes: one that reads it, one that is killed writing it.
//!
//! A test starts itself again for the other process. With `PACEGATE_TEST_FULL` set, 100,000 reads
//! and 1,000 kills are made; without it, a part of them.

#![cfg(test)]

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    process::{Child, Stdio},
};

use serde_json::Value;

use super::*;

/// The path of the credentials file; only the other process has it.
const FILE: &str = "PACEGATE_TEST_FILE";
const FULL: &str = "PACEGATE_TEST_FULL";

#[test]
fn no_other_process_reads_a_torn_file_during_constant_rewrites() {
    let reads = if env::var_os(FULL).is_some() {
        100_000
    } else {
        10_000
    };
    if let Some(path) = env::var_os(FILE) {
        return read_constantly(Path::new(&path), reads);
    }
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    file.write(&numbered(0)).unwrap();
    let mut reader = again(
        "no_other_process_reads_a_torn_file_during_constant_rewrites",
        file.path(),
    );
    let mut number = 0;
    let status = loop {
        if let Some(status) = reader.try_wait().unwrap() {
            break status;
        }
        number += 1;
        file.write(&numbered(number)).unwrap();
    };
    let mut said = String::new();
    let mut stdout = reader.stdout.take().unwrap();
    stdout.read_to_string(&mut said).unwrap();
    assert!(status.success(), "{said}");
    assert_eq!(names(directory.path()), ["oauth_creds.json"]);
}

#[test]
fn a_writer_that_is_killed_leaves_the_old_or_the_new_file() {
    if let Some(path) = env::var_os(FILE) {
        return write_constantly(&CredentialsFile::new(path));
    }
    let kills = if env::var_os(FULL).is_some() {
        1000
    } else {
        25
    };
    let directory = tempdir().unwrap();
    let file = in_directory(&directory);
    file.write(&numbered(0)).unwrap();
    for _ in 0..kills {
        let mut writer = again(
            "a_writer_that_is_killed_leaves_the_old_or_the_new_file",
            file.path(),
        );
        let mut lines = BufReader::new(writer.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("writes ") {
            assert_ne!(lines.read_line(&mut said).unwrap(), 0, "{said}");
        }
        thread::sleep(Duration::from_micros(rand::random_range(0..5000)));
        writer.kill().unwrap();
        writer.wait().unwrap();
        lines.read_to_string(&mut said).unwrap();
        // Said before it was begun, so it is the newest that can be there.
        let begun = said.lines().rev().find_map(|it| it.strip_prefix("writes "));
        let begun: u64 = begun.unwrap().parse().unwrap();
        let found = number(file.path());
        assert!(
            [begun - 1, begun].contains(&found),
            "{found} while {begun} was written"
        );
    }

    // What they left is swept once it is old.
    let old = SystemTime::now() - Duration::from_secs(61);
    for name in names(directory.path()) {
        let left = File::open(directory.path().join(name)).unwrap();
        left.set_modified(old).unwrap();
    }
    file.write(&numbered(0)).unwrap();
    assert_eq!(names(directory.path()), ["oauth_creds.json"]);
}

/// So often at least, and for as long as it takes to see the writer at work: on a busy disk all
/// reads may be over before it has written a few times.
fn read_constantly(path: &Path, reads: u32) {
    let mut changes = 0;
    let mut last = 0;
    let mut made = 0;
    while made < reads || changes <= 20 {
        let found = number(path);
        changes += u32::from(found != last);
        last = found;
        made += 1;
        assert!(made < 1000 * reads, "nobody writes: {changes} changes");
    }
}

fn write_constantly(file: &CredentialsFile) {
    for number in number(file.path()) + 1.. {
        // One call, so that no part of a line can be lost; and past the capture of `println`.
        let line = format!("writes {number}\n");
        io::stdout().write_all(line.as_bytes()).unwrap();
        file.write(&numbered(number)).unwrap();
    }
}

/// Starts this test again as the other process.
fn again(test: &str, file: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([&format!("credentials::processes::{test}"), "--exact"])
        .arg("--nocapture")
        .env(FILE, file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Credentials that say the same number everywhere, and whose length varies.
fn numbered(number: u64) -> OAuthCredentials {
    OAuthCredentials {
        token_type: "Bearer".repeat(usize::try_from(number % 50).unwrap() + 1),
        ..credentials(number, number)
    }
}

/// The number that the file says everywhere, read as another program would.
fn number(path: &Path) -> u64 {
    let content = fs::read(path).unwrap();
    let read: Value = serde_json::from_slice(&content).expect("torn");
    let number = read["expiry_date"].as_u64().unwrap();
    let whole = numbered(number);
    assert_eq!(read["token_type"], whole.token_type);
    assert_eq!(read["access_token"], format!("access-{number}"));
    assert_eq!(read["refresh_token"], format!("refresh-{number}"));
    number
}

//! `pacegate simulate`.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

#[test]
fn runs_as_a_program_until_it_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let mut program = Command::new(env!("CARGO_BIN_EXE_pacegate"))
        .args(["simulate", "--tls", "--limit", "1/1s", "--write-ca"])
        .arg(&ca)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(program.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(
        line.starts_with("listening on https://127.0.0.1:"),
        "{line}"
    );
    assert!(
        std::fs::read_to_string(ca)
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE-----")
    );

    let id = program.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(program.wait().unwrap().code(), Some(0));
}

#[test]
fn says_what_is_wrong_with_a_switch_or_a_port() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (switches, code, words) in [
        (["--limit", "sixty"], 2, "expected REQUESTS/TIME"),
        (
            ["--fault", "truncate"],
            2,
            "expected @ and a number of chunks",
        ),
        (["--wording", "klingon"], 2, "coding-plan"),
        (["--listen", &*taken], 1, "hint: pick another --listen"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_pacegate"))
            .arg("simulate")
            .args(switches)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

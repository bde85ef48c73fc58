//! Which paths a request line can make the gateway request upstream. Input: the target.

use super::rig::{self, ReceivedRequest};

/// For any target, the upstream sees one plain path under its base URL, or nothing.
pub fn run(input: &[u8]) {
    // A line break would begin another line, which is not tested here.
    if input.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return;
    }
    let request = [
        b"GET ",
        input,
        b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    ];
    let (response, received) = rig::send(&request.concat());
    let status: u16 = response[9..12].parse().unwrap();
    match &received[..] {
        [] => assert!(status == 200 || (400..500).contains(&status), "{response}"),
        [ReceivedRequest { host, target, .. }] => {
            assert_eq!(status, 200);
            assert!(host.starts_with("127.0.0.1:"), "{host}");
            assert_plain(target);
        }
        more => panic!("asked {} times", more.len()),
    }
}

fn assert_plain(target: &str) {
    let (path, _query) = target.split_once('?').unwrap_or((target, ""));
    assert!(path.starts_with("/base/v1/"), "{target}");
    let path = path.to_ascii_lowercase();
    assert!(!path.contains("%2f") && !path.contains("%5c") && !path.contains('\\'));
    assert!(!path.contains("//"), "{target}");
    let decoded = path.replace("%2e", ".");
    assert!(
        !decoded.split('/').any(|it| it == "." || it == ".."),
        "{target}"
    );
    assert!(!target.contains(['#', ' ']) && !target.contains(char::is_control));
}

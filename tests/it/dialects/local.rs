//! A server on this machine: no quota, and two ways to say that it is busy.

use serde_json::json;

use super::{PASS, RETRY, Said, preset_dialect};

fn busy(status: u16) -> Said {
    let error =
        json!({ "message": "All slots are busy", "type": "unavailable_error", "code": status });
    Said::new(status, json!({ "error": error }))
}

#[test]
fn busy_is_retried_under_both_statuses() {
    for status in [429, 503] {
        assert_eq!(busy(status).in_dialect("local"), RETRY);
        let plain = Said::new(
            status,
            json!({ "object": "error", "message": "busy", "code": status }),
        );
        assert_eq!(plain.in_dialect("local"), RETRY);
    }
    assert_eq!(busy(500).in_dialect("local"), PASS);
}

/// Its first byte takes long enough.
#[test]
fn streams_are_not_held_back() {
    assert!(!preset_dialect("local").stream_errors);
}

//! The number of connections that the limit on open files has room for.

use crate::{
    config::{Config, Notice},
    server::MOST_SPARE,
};

/// A stream is a connection of the client and, over HTTP/1.1, one to the upstream.
const PER_STREAM: usize = 2;

/// What is open whatever clients do. Ten were counted in a process at rest: the standard streams,
/// the runtime's, the listener. The rest is for files that are read and for names that are looked
/// up, and for what the process has inherited.
const RESERVE: usize = 24;

/// The lock of the quota counters; a connection to the token endpoint; and while a token is renewed,
/// the lock and the new credentials file.
const PER_UPSTREAM: usize = 4;

/// Lowers `limits.max-connections` to what a process that may open so many `descriptors` has room
/// for, at least one. Returns what to tell the operator.
pub(super) fn fit(config: &mut Config, descriptors: Option<usize>) -> Option<Notice> {
    let descriptors = descriptors?;
    let configured = config.limits.max_connections;
    let reserve = RESERVE + PER_UPSTREAM * config.upstreams.len();
    let room = room(descriptors, reserve);
    if configured <= room {
        return None;
    }
    config.limits.max_connections = room;
    let needed = needed(configured, reserve);
    Some(Notice {
        path: "limits.max-connections".into(),
        text: format!(
            "lowered from {configured} to {room}, because {configured} connections need {needed} \
             file descriptors and the limit on open files is {descriptors}; raise that limit \
             (LimitNOFILE= of a systemd service, --ulimit nofile= of a container, ulimit -n in a \
             shell), or set max-connections to {room}"
        ),
    })
}

/// The descriptors that so many connections need, those over the limit included.
fn needed(connections: usize, reserve: usize) -> usize {
    PER_STREAM * connections + connections.min(MOST_SPARE) + reserve
}

/// The most connections that need no more than `descriptors`, and at least one.
fn room(descriptors: usize, reserve: usize) -> usize {
    let room = descriptors.saturating_sub(reserve);
    // There are as many connections over the limit as within it, up to a maximum.
    let few = room / (PER_STREAM + 1);
    let many = room.saturating_sub(MOST_SPARE) / PER_STREAM;
    few.max(many).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sample;

    fn config() -> Config {
        let env = |name: &str| (name == "HOME").then(|| "/home/user".to_owned());
        crate::config::sample(&Sample::BuiltIn, &env).unwrap()
    }

    #[test]
    fn what_is_left_is_used_and_no_more() {
        for reserve in [0, 28, 104] {
            for descriptors in 0..2000 {
                let room = room(descriptors, reserve);
                assert!(room == 1 || needed(room, reserve) <= descriptors);
                assert!(needed(room + 1, reserve) > descriptors, "{descriptors}");
            }
        }
    }

    #[test]
    fn a_limit_that_is_too_high_is_lowered_and_both_numbers_are_said() {
        for (descriptors, expected) in [(64, 12), (256, 82), (600, 254), (1024, 466)] {
            let mut config = config();
            let notice = fit(&mut config, Some(descriptors)).unwrap();
            assert_eq!(config.limits.max_connections, expected);
            for part in [
                format!("from 512 to {expected}, "),
                "need 1116 ".to_owned(),
                format!("is {descriptors};"),
                format!("max-connections to {expected}"),
            ] {
                assert!(notice.text.contains(&part), "{part}: {}", notice.text);
            }
            assert_eq!(fit(&mut config, Some(descriptors)), None);
        }
    }

    #[test]
    fn a_limit_that_fits_stays() {
        for descriptors in [None, Some(1116), Some(usize::MAX)] {
            let mut config = config();
            assert_eq!(fit(&mut config, descriptors), None);
            assert_eq!(config.limits.max_connections, 512);
        }
    }

    #[test]
    fn an_upstream_more_leaves_less_room() {
        let mut config = config();
        for _ in 0..10 {
            config.upstreams.push(config.upstreams[0].clone());
        }
        fit(&mut config, Some(600)).unwrap();
        assert_eq!(config.limits.max_connections, 234);
    }
}

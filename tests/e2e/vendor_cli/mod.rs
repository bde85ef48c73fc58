//! The vendor's real command-line program and the real gateway on one credentials file.
//!
//! Both reach the service by its own names. So each test runs itself again in namespaces where
//! those names are this machine's. That needs root, `unshare` and `ip`; `tests/run` looks for them,
//! installs the program in two versions, one for each way that it takes a lock for dead (after ten
//! seconds, after 35), and names them in `PACEGATE_QWEN_CODE`. The runs take turns with them.
//!
//! With `PACEGATE_TEST_FULL` set, the first test goes through 46 expiries instead of ten.

use std::{env, time::Duration};

use tokio::time::sleep;

use self::stage::{Ask, MARGIN, Stage, Summary};
use crate::lateness::{Lateness, not_judged};

mod namespace;
mod reader;
mod stage;

/// The life of the tokens that nobody but the gateway is to use. A quarter of it is for what lies
/// between the gateway's look at the clock and the service's.
const SHORT: Duration = Duration::from_secs(8);

/// The life of tokens that end when the service says so.
const LONG: Duration = Duration::from_secs(3600);

/// How many expiries of a round the vendor's program is to find, and how many the gateway.
const BY_VENDORS: usize = 5;
const BY_GATEWAY: usize = 3;

/// What may be added to any of these times on a busy machine.
const SLACK: Duration = Duration::from_secs(60);

// A chat blocks its thread, and the simulator needs one to answer it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_one_file_with_the_vendors_program_through_ten_expiries() {
    let rounds = if env::var_os("PACEGATE_TEST_FULL").is_some() {
        5
    } else {
        1
    };
    if namespace::is_inside() {
        live_through_expiries(rounds).await;
    } else {
        let test = "shares_one_file_with_the_vendors_program_through_ten_expiries";
        namespace::run(test, rounds * 10 * SLACK).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_one_file_with_the_vendors_program_when_tokens_end_before_their_time() {
    if namespace::is_inside() {
        live_through_revocations().await;
    } else {
        let test = "shares_one_file_with_the_vendors_program_when_tokens_end_before_their_time";
        namespace::run(test, 10 * SLACK).await;
    }
}

async fn live_through_expiries(rounds: u32) {
    let lateness = Lateness::watch();
    let Some(summary) = expiries(rounds).await else {
        return;
    };
    let rounds = usize::try_from(rounds).unwrap();
    let expiries = rounds * (1 + BY_VENDORS + BY_GATEWAY) + 1;
    assert!(summary.by_vendors + summary.by_gateway >= expiries);
    assert!(summary.by_gateway >= BY_GATEWAY * rounds);
    assert!(summary.tokens >= 5 * rounds);
    // Where the program takes twenty seconds to start, the gateway is there before it.
    if summary.slowest < Duration::from_secs(15) {
        assert!(summary.by_vendors > BY_VENDORS * rounds / 2);
    } else {
        not_judged("whose turn it was: the vendor's program starts too slowly");
    }
    if summary.refused > 0 && !lateness.excuses("what a token was used for", SHORT / 8) {
        panic!("a token was used after its end");
    }
}

/// Time alone ends the tokens. Nine times a round, and once more, somebody finds the token to be
/// over by the clock: the vendor's program 30 s before its end, the gateway after three quarters
/// of its life, and both when it lies there expired. Nothing on a machine that is too slow for it.
async fn expiries(rounds: u32) -> Option<Summary> {
    let lifetime = MARGIN + time_to_spare().await?;
    let mut stage = Stage::start(lifetime).await;
    for round in 0..rounds {
        // Both find the token expired; who comes first is another one in the next round.
        let ask = if round % 2 == 0 {
            Ask::Later
        } else {
            Ask::Throughout
        };
        stage.run_vendors(ask, None).await?;
        for _ in 0..BY_VENDORS {
            stage.wait_for_margin().await;
            stage.run_vendors(Ask::Throughout, None).await?;
        }
        // The first of these takes three quarters of a long life, and makes the next ones short.
        stage.simulator.set_token_lifetime(SHORT);
        let limit = lifetime + 3 * SHORT + SLACK;
        stage.ask_until_renewed(BY_GATEWAY, limit).await;
        stage.simulator.set_token_lifetime(lifetime);
        sleep(SHORT).await;
    }
    stage.run_vendors(Ask::Throughout, None).await?;
    Some(stage.stop().await)
}

/// What has to be left of a token's life when the vendor's program first uses it: it builds a client
/// twice, and logs in anew if the token is over before the second. That is twice as long as its
/// slowest run takes on this machine.
async fn time_to_spare() -> Option<Duration> {
    let mut stage = Stage::start(LONG).await;
    for _ in 0..stage.kinds() {
        stage.run_vendors(Ask::Later, None).await?;
    }
    let slowest = stage.stop().await.slowest;
    Some((2 * slowest).clamp(Duration::from_secs(6), Duration::from_secs(20)))
}

/// The service ends all tokens in each run, and both learn it from a 401. By the clock, none is over.
async fn live_through_revocations() {
    const RUNS: u32 = 10;
    /// In every other run the gateway is asked all the time, and the end comes by this much later
    /// than in the run before. The program renews about two seconds after its start.
    const LATER: Duration = Duration::from_millis(280);
    let mut stage = Stage::start(LONG).await;
    for run in 0..RUNS {
        let (ask, revoke) = if run % 2 == 1 {
            (Ask::Later, Duration::ZERO)
        } else {
            (Ask::Throughout, LATER * run)
        };
        let judged = stage.run_vendors(ask, Some(revoke)).await;
        judged.expect("no token is over by the clock");
        stage.ask_gateway();
    }
    let summary = stage.stop().await;
    let runs = RUNS as usize;
    assert!(summary.by_vendors >= runs / 2);
    assert!(summary.by_gateway >= 2);
    assert!(summary.by_vendors + summary.by_gateway >= runs);
    assert!(summary.tokens >= runs);
    assert!(summary.refused > 0, "nobody noticed");
}

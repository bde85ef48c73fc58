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

use self::stage::{Ask, LIFETIME, Stage};

mod namespace;
mod reader;
mod stage;

/// The life of the tokens that nobody but the gateway is to use.
const SHORT: Duration = Duration::from_secs(4);

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
        namespace::run(test, rounds * 4 * SLACK).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_one_file_with_the_vendors_program_when_tokens_end_before_their_time() {
    if namespace::is_inside() {
        live_through_revocations().await;
    } else {
        let test = "shares_one_file_with_the_vendors_program_when_tokens_end_before_their_time";
        namespace::run(test, 4 * SLACK).await;
    }
}

/// Time alone ends the tokens. Nine times a round, and once more, somebody finds the token to be
/// over by the clock: the vendor's program 30 s before its end, the gateway after three quarters
/// of its life, and both when it lies there expired.
async fn live_through_expiries(rounds: u32) {
    const BY_VENDORS: usize = 5;
    const BY_GATEWAY: usize = 3;
    let mut stage = Stage::start().await;
    for round in 0..rounds {
        // Both find the token expired; who comes first is another one in the next round.
        let ask = if round % 2 == 0 {
            Ask::Later
        } else {
            Ask::Throughout
        };
        stage.run_vendors(ask, None).await;
        for _ in 0..BY_VENDORS {
            stage.wait_for_margin().await;
            stage.run_vendors(Ask::Throughout, None).await;
        }
        // The first of these takes three quarters of a long life, and makes the next ones short.
        stage.simulator.set_token_lifetime(SHORT);
        let limit = LIFETIME + 3 * SHORT + SLACK;
        stage.ask_until_renewed(BY_GATEWAY, limit).await;
        stage.simulator.set_token_lifetime(LIFETIME);
        sleep(SHORT).await;
    }
    stage.run_vendors(Ask::Throughout, None).await;
    let summary = stage.stop().await;
    let rounds = usize::try_from(rounds).unwrap();
    // Where the program takes twenty seconds to start, the gateway is there before it.
    assert!(summary.by_vendors > BY_VENDORS * rounds / 2);
    assert!(summary.by_gateway >= BY_GATEWAY * rounds);
    let expiries = rounds * (1 + BY_VENDORS + BY_GATEWAY) + 1;
    assert!(summary.by_vendors + summary.by_gateway >= expiries);
    assert!(summary.tokens >= 5 * rounds);
    assert_eq!(summary.refused, 0, "a token was used after its end");
}

/// The service ends all tokens in each run, and both learn it from a 401.
async fn live_through_revocations() {
    const RUNS: u32 = 10;
    /// In every other run the gateway is asked all the time, and the end comes by this much later
    /// than in the run before. The program renews about two seconds after its start.
    const LATER: Duration = Duration::from_millis(280);
    let mut stage = Stage::start().await;
    for run in 0..RUNS {
        let (ask, revoke) = if run % 2 == 1 {
            (Ask::Later, Duration::ZERO)
        } else {
            (Ask::Throughout, LATER * run)
        };
        stage.run_vendors(ask, Some(revoke)).await;
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

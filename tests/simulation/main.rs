//! The gate's promises over thousands of random days, and a proof that breaking one is noticed.
//!
//! A scenario is drawn from a seed, played under a paused clock against the real gate, and its log
//! of events is held against every promise. Then faults are planted one by one, by wiring the gate
//! wrongly, and each has to be found.
//!
//! `SCENARIOS=100000 cargo test --test simulation` plays more of them; a failure
//! names the seed, and `SEED=… SCENARIOS=1` plays that one again.

#![cfg(test)]

mod check;
mod fault;
mod play;
mod scenario;

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use check::Broken;
use fault::Fault;
use play::play;
use scenario::Scenario;

/// Enough to meet every rare mixture many times, few enough for every run of the tests.
const SCENARIOS: u64 = 20_000;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Plays the scenario of `seed` and holds it against the promises.
fn run(seed: u64, fault: Option<Fault>) -> (usize, Result<(), Broken>) {
    let scenario = Scenario::draw(seed);
    let log = play(&scenario, fault);
    (log.dispatches(), check::all(&scenario, &log))
}

#[test]
fn every_promise_holds_in_every_scenario() {
    let first = number("SEED").unwrap_or(1);
    let count = number("SCENARIOS").unwrap_or(SCENARIOS);
    let next = AtomicU64::new(first);
    let dispatches = AtomicU64::new(0);
    let worker = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            let (sent, outcome) = run(seed, None);
            dispatches.fetch_add(sent as u64, Ordering::Relaxed);
            if let Err(broken) = outcome {
                panic!("SEED={seed}: {broken}");
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(worker);
        }
    });
    let dispatches = dispatches.into_inner();
    println!("{count} scenarios, {dispatches} dispatches, 0 promises broken");
    let quiet = dispatches < count * 10;
    assert!(!quiet || count < 1000, "the scenarios are too quiet");
}

#[test]
fn every_planted_fault_is_found() {
    for fault in Fault::ALL {
        let found = (1..=300).find_map(|seed| run(seed, Some(fault)).1.err());
        let found = found.unwrap_or_else(|| panic!("{fault:?} was not noticed"));
        println!("{fault:?}: {found}");
        assert!(
            fault.breaks().contains(&found.promise),
            "{fault:?} was taken for something else: {found}"
        );
    }
}

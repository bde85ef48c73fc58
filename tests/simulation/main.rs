//! Every promise of the gate and its book over thousands of random lives, and a proof that breaking
//! one is noticed.
//!
//! A scenario is drawn from a seed: who comes when and leaves when, what the upstream answers, when
//! the process is killed, when somebody sets the clock, and where on earth all that happens. It is
//! played under a paused clock against the real gate with the real book, whose file is in memory. Its
//! log is held against every promise. Then faults are planted one by one, by wiring gate and book
//! wrongly, and each has to be found.
//!
//! `SCENARIOS=100000 cargo test --test simulation` plays more of them; a failure names the seed, and
//! `SEED=… SCENARIOS=1` plays that one again. With `LOG=1` too it prints what happened.

#![cfg(test)]

mod check;
mod fault;
mod play;
mod scenario;
mod sum;
mod wrong;

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use check::Broken;
use fault::Fault;
use play::play;
use scenario::Scenario;
use sum::Sum;

/// Enough to meet every rare mixture many times, few enough for every run of the tests.
const SCENARIOS: u64 = 20_000;

/// A fault has to show itself within so many.
const FEW: u64 = 2000;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Plays the scenario of `seed` and holds it against the promises.
fn run(seed: u64, fault: Option<Fault>) -> (Sum, Result<(), Broken>) {
    let scenario = Scenario::draw(seed);
    let log = play(&scenario, fault);
    if number("LOG").is_some() {
        println!("{scenario:#?}\n{:#?}", log.entries);
    }
    (Sum::of(&log), check::all(&scenario, &log))
}

#[test]
fn every_promise_holds_in_every_scenario() {
    let first = number("SEED").unwrap_or(1);
    let count = number("SCENARIOS").unwrap_or(SCENARIOS);
    let next = AtomicU64::new(first);
    let worker = || {
        let mut sum = Sum::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return sum;
            }
            let (played, outcome) = run(seed, None);
            if let Err(broken) = outcome {
                panic!("SEED={seed}: {broken}");
            }
            sum += played;
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let sum = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        let mut sum = Sum::default();
        for worker in workers {
            sum += worker.join().unwrap();
        }
        sum
    });
    println!("{count} scenarios, {sum}, 0 promises broken");
    assert!(count < 1000 || sum.is_lively(count), "that was too quiet");
}

#[test]
fn every_planted_fault_is_found() {
    for fault in Fault::ALL {
        let (promise, others) = fault.breaks();
        let found = (1..=FEW).find_map(|seed| {
            let found = run(seed, Some(fault)).1.err()?;
            if found.promise == promise {
                return Some(found);
            }
            let may_be = others.contains(&found.promise);
            assert!(may_be, "SEED={seed}: {fault:?} was taken for {found}");
            None
        });
        let found = found.unwrap_or_else(|| panic!("{fault:?} was not noticed"));
        println!("{fault:?}: {found}");
    }
}

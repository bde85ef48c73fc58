//! Runs on a paused clock: waiting takes no time, and chance is the seed's.

use std::{io, sync::Arc};

use tokio::{
    runtime::{self, Runtime},
    time::Instant,
};

use super::{
    BenchError, Scenario,
    client::{Shared, serve},
    log::{Book, Log},
    model::Model,
    pattern::{Pattern, Request},
    policy::Policy,
    report::Outcome,
};

/// What `policy` makes of `scenario` against a modelled upstream. The same seed gives the same
/// outcome.
///
/// # Errors
///
/// When the policy cannot be put together.
///
/// # Panics
///
/// Inside a tokio runtime: it has one of its own, with a clock of its own.
pub fn virtually(policy: &Policy, scenario: &Scenario) -> Result<Outcome, BenchError> {
    let (log, sent) = run(policy, scenario, scenario.requests.clone())?;
    let (lone, _) = run(policy, scenario, Pattern::lone())?;
    Ok(Outcome::new(policy, &scenario.requests, log, sent, &lone))
}

fn run(
    policy: &Policy,
    scenario: &Scenario,
    requests: Vec<Request>,
) -> Result<(Log, u64), BenchError> {
    paused()?.block_on(async {
        let epoch = Instant::now();
        let book = Arc::new(Book::default());
        let model = Model::new(
            &policy.limits,
            Arc::clone(&book),
            epoch,
            scenario.seed,
            scenario.answer_time,
        );
        let paced = policy.around(model.into_service(), scenario.seed, epoch)?;
        let shared = Shared {
            requests,
            policy: paced.service,
            book: Arc::clone(&book),
            epoch,
        };
        serve(shared, &|| {}).await;
        Ok((book.take(), paced.sent.count()))
    })
}

fn paused() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
}

//! Runs on a paused clock: waiting takes no time, and the seed decides all random numbers.

use std::{io, sync::Arc};

use tokio::{
    runtime::{self, Runtime},
    time::Instant,
};

use super::{
    BenchError, Scenario,
    client::{ClientContext, run_clients},
    log::{RequestLog, RunEvents},
    model::ModelUpstream,
    pattern::{Pattern, Request},
    policy::Policy,
    report::PolicyResult,
};

/// Runs `scenario` under `policy` against a modelled upstream. The same seed gives the same result.
///
/// # Errors
///
/// When the policy cannot be built.
///
/// # Panics
///
/// If called within a tokio runtime: it starts one of its own, with a paused clock.
pub fn run_virtual(policy: &Policy, scenario: &Scenario) -> Result<PolicyResult, BenchError> {
    let (log, dispatches) = run(policy, scenario, scenario.requests.clone())?;
    let (lone, _) = run(policy, scenario, Pattern::lone())?;
    Ok(PolicyResult::new(
        policy,
        &scenario.requests,
        log,
        dispatches,
        &lone,
    ))
}

fn run(
    policy: &Policy,
    scenario: &Scenario,
    requests: Vec<Request>,
) -> Result<(RunEvents, u64), BenchError> {
    paused()?.block_on(async {
        let epoch = Instant::now();
        let log = Arc::new(RequestLog::default());
        let model = ModelUpstream::new(
            &policy.limits,
            Arc::clone(&log),
            epoch,
            scenario.seed,
            scenario.answer_time,
        );
        let paced = policy.around(model.into_service(), scenario.seed, epoch)?;
        let context = ClientContext {
            requests,
            policy: paced.service,
            log: Arc::clone(&log),
            epoch,
        };
        run_clients(context, &|| {}).await;
        Ok((log.take(), paced.dispatches.count()))
    })
}

fn paused() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
}

//! No slot without a dispatch.

use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{
    error::{BoxError, NotSent},
    token::TokenError,
};

#[tokio::test(start_paused = true)]
async fn the_slot_is_taken_in_the_poll_that_calls_the_inner_service() {
    let gate = gate(Pacing::new().min_interval(MIN));
    let seen = gate.clone();
    let mut service =
        JitterThrottleLayer::new(gate.clone()).layer(service_fn(move |_: Request<()>| {
            let dispatched = seen.dispatched();
            async move {
                assert_eq!(dispatched, 1);
                Ok::<_, BoxError>(Response::new(Empty::<&[u8]>::new()))
            }
        }));
    let call = service.ready().await.unwrap().call(Request::new(()));
    assert_eq!(gate.dispatched(), 0, "nothing is taken before it is polled");
    call.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unsent_request_is_refunded_in_the_ledger() {
    #[derive(Debug, Default)]
    struct CountingLedger(std::sync::atomic::AtomicI64);

    impl Ledger for CountingLedger {
        fn next_slot(&self, _ahead: usize, _fraction: Fraction) -> Option<Instant> {
            None
        }

        fn claim(&self, _fraction: Fraction) -> ClaimFuture {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            ClaimFuture::ready(Ok(Claim::Granted))
        }

        fn left(&self) {}

        fn undo(&self) {
            self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }

        fn unsent(&self, _dispatched: Instant) {
            self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    let ledger = Arc::new(CountingLedger::default());
    let gate = Gate::with_ledgers(
        Pacing::new(),
        vec![Arc::clone(&ledger) as Arc<dyn Ledger>],
        StdRng::seed_from_u64(7),
    );
    let recorded = || ledger.0.load(std::sync::atomic::Ordering::Relaxed);
    for (error, expected) in [
        (BoxError::from("reset"), 1),
        (NotSent("refused".into()).into(), 1),
        (TokenError::LoginRequired("log in".into()).into(), 1),
    ] {
        let error = std::sync::Mutex::new(Some(error));
        JitterThrottleLayer::new(gate.clone())
            .layer(service_fn(|_: Request<()>| {
                let error = error.lock().unwrap().take().unwrap();
                async { Err::<Response<Empty<&[u8]>>, BoxError>(error) }
            }))
            .oneshot(Request::new(()))
            .await
            .unwrap_err();
        assert_eq!(recorded(), expected);
    }
}

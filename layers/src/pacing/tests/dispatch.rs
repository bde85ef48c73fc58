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
async fn a_request_that_was_not_sent_gives_back_what_only_the_upstream_counts() {
    #[derive(Debug, Default)]
    struct Counted(std::sync::atomic::AtomicI64);

    impl Ledger for Counted {
        fn next_slot(&self, _ahead: usize, _share: Fraction) -> Option<Instant> {
            None
        }

        fn record(&self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }

        fn refund(&self, _spent: Instant) {
            self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    let quota = Arc::new(Counted::default());
    let gate = Gate::with_ledgers(
        Pacing::new(),
        vec![Arc::clone(&quota) as Arc<dyn Ledger>],
        StdRng::seed_from_u64(7),
    );
    let spent = || quota.0.load(std::sync::atomic::Ordering::Relaxed);
    for (error, left) in [
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
        assert_eq!(spent(), left);
    }
}

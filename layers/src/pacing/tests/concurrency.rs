//! How many are in flight, and until when.

use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, ServiceExt, service_fn};

use super::*;

#[tokio::test(start_paused = true)]
async fn concurrency_is_held_until_the_permit_is_dropped() {
    let gate = gate(Pacing::new().concurrency(NonZeroUsize::new(2)));
    let one = gate.acquire(None).await.unwrap();
    let _two = gate.acquire(None).await.unwrap();
    let mut three = task::spawn(gate.acquire(None));
    assert_pending!(three.poll());
    assert_eq!((gate.waiting(), gate.in_flight()), (1, 2));
    drop(one);
    assert!(three.is_woken());
    let _three = assert_ready!(three.poll()).unwrap();
    assert_eq!((gate.waiting(), gate.in_flight()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_request_is_in_flight_until_its_body_ends_or_is_dropped() {
    let gate = gate(Pacing::new());
    let service =
        JitterThrottleLayer::new(gate.clone()).layer(service_fn(|_: Request<()>| async {
            Ok::<_, BoxError>(Response::new(Full::new(&b"x"[..])))
        }));
    let read = service.clone().oneshot(Request::new(())).await.unwrap();
    let left = service.clone().oneshot(Request::new(())).await.unwrap();
    assert_eq!(gate.in_flight(), 2);
    read.into_body().collect().await.unwrap();
    assert_eq!(gate.in_flight(), 1);
    drop(left);
    assert_eq!(gate.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_gives_its_permit_back() {
    let gate = gate(Pacing::new());
    let service =
        JitterThrottleLayer::new(gate.clone()).layer(service_fn(|_: Request<()>| async {
            Err::<Response<Empty<&[u8]>>, BoxError>("broken".into())
        }));
    service.oneshot(Request::new(())).await.unwrap_err();
    assert_eq!(gate.in_flight(), 0);
}

use futures_util::{StreamExt, stream};
use http_body_util::{Empty, Full, StreamBody};
use tower::BoxError;

use super::*;

fn chunks(
    chunks: &[&'static str],
) -> impl http_body::Body<Data = Bytes, Error = BoxError> + Unpin + use<> {
    let frames: Vec<_> = chunks
        .iter()
        .map(|chunk| Ok(http_body::Frame::data(Bytes::from_static(chunk.as_bytes()))))
        .collect();
    StreamBody::new(stream::iter(frames))
}

fn body_reader(max_body: usize) -> BodyReader {
    BodyReader {
        max_body,
        max_bodies: 8,
        idle_timeout: Duration::from_secs(30),
        timeout: Duration::from_secs(120),
        budget: BodyBudget::default(),
        draining: CancellationToken::new(),
    }
}

/// One byte every `gap`, without end.
fn slow_body(gap: Duration) -> impl http_body::Body<Data = Bytes, Error = BoxError> + Unpin {
    let frames = stream::repeat(()).then(move |()| async move {
        tokio::time::sleep(gap).await;
        Ok(http_body::Frame::data(Bytes::from_static(b"x")))
    });
    StreamBody::new(Box::pin(frames))
}

#[tokio::test]
async fn joins_the_chunks() {
    let body = body_reader(5)
        .collect(chunks(&["ab", "cd", "e"]))
        .await
        .unwrap();
    assert_eq!(body, "abcde");
    assert!(
        body_reader(0)
            .collect(Empty::new())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn one_byte_too_many_is_refused() {
    let abcde = chunks(&["ab", "cd", "e"]);
    let error = body_reader(4).collect(abcde).await.unwrap_err();
    assert!(matches!(error, RequestBodyError::TooLarge(_)));
    let whole = Full::new("abcde".into());
    let error = body_reader(4).collect(whole).await.unwrap_err();
    assert_eq!(error.status(), 413);
}

#[tokio::test]
async fn bodies_over_the_budget_are_refused_until_one_is_dropped() {
    let body_reader = body_reader(8);
    let first = body_reader
        .collect(chunks(&["ab", "cd", "e"]))
        .await
        .unwrap();
    let second = body_reader.collect(chunks(&["fgh"])).await.unwrap();
    let error = body_reader.collect(chunks(&["i"])).await.unwrap_err();
    assert_eq!((error.status().as_u16(), error.code()), (503, "overloaded"));
    drop(second);
    let error = body_reader
        .collect(chunks(&["fg", "h", "i"]))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "overloaded");
    assert_eq!(
        body_reader.budget.used(),
        5,
        "the refused body still counts"
    );
    body_reader.collect(chunks(&["fgh"])).await.unwrap();
    drop(first);
    assert_eq!(body_reader.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_is_given_up() {
    let never = StreamBody::new(stream::pending::<Result<http_body::Frame<Bytes>, BoxError>>());
    let start = tokio::time::Instant::now();
    let error = body_reader(4)
        .collect(never.boxed_unsync())
        .await
        .unwrap_err();
    assert!(matches!(error, RequestBodyError::Idle));
    assert_eq!(start.elapsed(), Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_given_up_after_its_timeout() {
    let start = tokio::time::Instant::now();
    let slow = slow_body(Duration::from_secs(29));
    let error = body_reader(999).collect(slow).await.unwrap_err();
    assert!(matches!(error, RequestBodyError::Slow), "{error}");
    assert_eq!(error.status(), 408);
    assert_eq!(start.elapsed(), Duration::from_secs(120));
}

#[tokio::test]
async fn a_shutdown_awaits_no_body_but_uses_a_complete_one() {
    let reader = body_reader(4);
    reader.draining.cancel();
    let whole = reader.collect_or_drain(chunks(&["ab", "c"])).await;
    assert_eq!(whole.unwrap(), "abc");
    let never = StreamBody::new(stream::pending::<Result<http_body::Frame<Bytes>, BoxError>>());
    let error = reader.collect_or_drain(never.boxed_unsync()).await;
    assert!(error.unwrap_err().is::<Draining>());
}

#[test]
fn exactly_the_budget_can_be_reserved() {
    let budget = BodyBudget::default();
    let (mut one, mut two) = (budget.reserve(), budget.reserve());
    assert!(one.add(6, 10) && two.add(4, 10));
    assert!(!two.add(1, 10));
    assert_eq!(budget.used(), 10);
    drop(one);
    assert!(two.add(6, 10));
}

#[test]
fn a_body_counts_until_its_last_clone_is_dropped() {
    let budget = BodyBudget::default();
    let mut permit = budget.reserve();
    assert!(permit.add(3, 10));
    let body = permit.attach(Bytes::from_static(b"abc"));
    let clone = body.clone();
    drop(body);
    assert_eq!((&clone[..], budget.used()), (&b"abc"[..], 3));
    drop(clone);
    assert_eq!(budget.used(), 0);
}

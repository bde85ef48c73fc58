//! An upstream that rejects every token, whatever the endpoint does.

use std::sync::atomic::AtomicI64;

use super::*;

/// Two minutes, in which no more than three renewals are made in vain.
const WINDOW: Duration = renewals::WINDOW;

/// What a request does that the upstream answers with 401: it carries a token, asks for another
/// one, and carries that. Returns whether there was another one.
async fn request(source: &OAuthSource) -> bool {
    let stale = source.token().await.unwrap();
    let fresh = source.refresh(&stale).await.unwrap();
    fresh.generation() != stale.generation()
}

/// When each call was made, by a source that serves `requests`, one a second.
async fn calls_of(fixture: &Fixture, source: &OAuthSource, requests: u32) -> Vec<Instant> {
    let mut calls = Vec::new();
    for _ in 0..requests {
        let before = fixture.calls();
        request(source).await;
        calls.extend((before..fixture.calls()).map(|_| Instant::now()));
        sleep(SECOND).await;
    }
    calls
}

#[track_caller]
fn assert_three_in_any_window(calls: &[Instant]) {
    for four in calls.windows(4) {
        assert!(four[3] - four[0] >= WINDOW, "{calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn three_renewals_in_two_minutes_and_again_after_them() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    for number in 0..240 {
        assert_eq!(request(&source).await, number < 3, "request {number}");
        sleep(SECOND / 24).await;
    }
    assert_eq!(fixture.calls(), 3);
    assert_eq!(bearer(source.token().await), "Bearer access-3");

    sleep(WINDOW).await;
    let calls = calls_of(&fixture, &source, 1800).await;
    assert!(calls.len() >= 3 * 14, "it gave up: {calls:?}");
    assert_three_in_any_window(&calls);
}

#[tokio::test(start_paused = true)]
async fn requests_at_once_share_each_of_the_three() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    for _ in 0..10 {
        let stale = source.token().await.unwrap();
        let waiting: Vec<_> = (0..10).map(|_| source.refresh(&stale)).collect();
        for token in waiting {
            token.await.unwrap();
        }
    }
    assert_eq!(fixture.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_returns_the_same_token_is_asked_no_more_often() {
    let fixture = Fixture::new().with_token("one", HOUR);
    fixture.always(
        200,
        r#"{"access_token":"one","refresh_token":"next","expires_in":3600}"#,
    );
    let source = fixture.source();
    for _ in 0..20 {
        assert!(!request(&source).await);
    }
    assert_eq!(fixture.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn neither_short_lives_nor_a_clock_that_jumps_bring_more() {
    let mut fixture = Fixture::new().with_token("one", HOUR);
    let (wall_clock, jump) = (
        fixture.settings.wall_clock.clone(),
        Arc::new(AtomicI64::new(0)),
    );
    let hours = jump.clone();
    fixture.settings.wall_clock = Arc::new(move || {
        let hours = hours.load(Ordering::Relaxed);
        let jump = HOUR * u32::try_from(hours.abs()).unwrap();
        if hours < 0 {
            wall_clock() - jump
        } else {
            wall_clock() + jump
        }
    });
    fixture.lifetime.store(10, Ordering::Relaxed);
    let source = fixture.source();
    let mut calls = calls_of(&fixture, &source, 40).await;
    assert_eq!(calls.len(), 3);
    for hours in [30, -30, 0] {
        jump.store(hours, Ordering::Relaxed);
        calls.extend(calls_of(&fixture, &source, 20).await);
    }
    assert_eq!(calls.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_never_lives_is_renewed_no_more_often() {
    let fixture = Fixture::new().with_token("one", Duration::ZERO);
    fixture.lifetime.store(0, Ordering::Relaxed);
    let source = fixture.source();
    for _ in 0..20 {
        assert!(source.token().await.is_ok());
    }
    assert_eq!(fixture.calls(), 1);
    for _ in 0..20 {
        request(&source).await;
    }
    assert_eq!(fixture.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn short_lived_tokens_that_served_well_leave_room_for_one_that_is_revoked() {
    let fixture = Fixture::new().with_token("one", 4 * SECOND);
    fixture.lifetime.store(4, Ordering::Relaxed);
    let source = fixture.source();
    for _ in 0..40 {
        source.token().await.unwrap();
        sleep(SECOND / 2).await;
    }
    assert!(fixture.calls() > 4);
    assert!(request(&source).await);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_accepted_and_revoked_is_renewed_up_to_once_in_five_seconds() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    let mut calls = Vec::new();
    for _ in 0..600 {
        let before = fixture.calls();
        request(&source).await;
        source.accepted(&source.token().await.unwrap());
        calls.extend((before..fixture.calls()).map(|_| Instant::now()));
        sleep(SECOND).await;
    }
    assert!(calls[23] - calls[0] < 30 * SECOND, "{calls:?}");
    for more in calls.windows(25) {
        assert!(more[24] - more[0] >= WINDOW, "{calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn that_an_old_token_is_accepted_says_nothing_of_the_new_one() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    let old = source.token().await.unwrap();
    for _ in 0..20 {
        request(&source).await;
        source.accepted(&old);
    }
    assert_eq!(fixture.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_refuses_is_asked_once_and_a_login_required() {
    let fixture = Fixture::new().with_token("one", HOUR);
    fixture.always(400, r#"{"error":"invalid_grant"}"#);
    let source = fixture.source();
    let stale = source.token().await.unwrap();
    for _ in 0..20 {
        login_required(source.refresh(&stale).await);
        login_required(source.token().await);
        sleep(MINUTE).await;
    }
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_to_an_endpoint_in_trouble_count_as_well() {
    let fixture = Fixture::new().with_token("one", HOUR);
    fixture.then(200, r#"{"access_token":"two","expires_in":3600}"#);
    fixture.then(200, r#"{"access_token":"three","expires_in":3600}"#);
    fixture.always(503, "down");
    let source = fixture.source();
    let calls = calls_of(&fixture, &source, 600).await;
    assert!(calls.len() > 4, "it gave up: {calls:?}");
    assert_three_in_any_window(&calls);
    assert_eq!(bearer(source.token().await), "Bearer three");
}

#[tokio::test(start_paused = true)]
async fn a_newer_token_in_the_file_is_taken_at_any_time_and_costs_no_call() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    let calls = calls_of(&fixture, &source, 20).await;
    assert_eq!(calls.len(), 3);

    let fixture = fixture.with_token("login", HOUR);
    sleep(5 * SECOND).await;
    assert_eq!(bearer(source.token().await), "Bearer login");
    assert!(!request(&source).await, "it was renewed a fourth time");
    assert_eq!(fixture.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn two_processes_make_three_calls_each_and_take_each_others_tokens() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let sources = [fixture.source(), fixture.source()];
    let stale = sources[1].token().await.unwrap();
    assert!(request(&sources[0]).await);
    let taken = sources[1].refresh(&stale).await;
    assert_eq!(bearer(taken), "Bearer access-1");
    assert_eq!(fixture.calls(), 1, "the token was there");
    for _ in 0..100 {
        for source in &sources {
            request(source).await;
        }
        sleep(SECOND).await;
    }
    assert!(fixture.calls() <= 6, "{}", fixture.calls());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_kept_is_still_stored() {
    let fixture = Fixture::new().with_token("one", HOUR);
    let source = fixture.source();
    calls_of(&fixture, &source, 2).await;
    let (path, aside) = (
        &fixture.settings.file,
        fixture.directory.path().join("aside"),
    );
    let stale = source.token().await.unwrap();
    let third = source.refresh(&stale);
    sleep(Duration::from_millis(50)).await;
    fs::rename(path, &aside).unwrap();
    fs::create_dir(path).unwrap();
    assert_eq!(bearer(third.await), "Bearer access-3");
    fs::remove_dir(path).unwrap();
    fs::rename(&aside, path).unwrap();

    let calls = calls_of(&fixture, &source, 100).await;
    assert_eq!(calls, []);
    assert!(fixture.content().contains("refresh-3"));
}

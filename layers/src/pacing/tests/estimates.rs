//! How well a request is told in advance how long it will wait.

use rand::RngExt;
use tokio::time::sleep;

use super::*;

/// What one request was told when it came, and how long it waited; `None` if it was refused later.
#[derive(Debug)]
struct Told {
    estimate: Duration,
    waited: Option<Duration>,
}

/// Keeps a gate busy with answers of 0.2 to 3 s, about as many requests as it can serve and a few
/// more, and notes what `count` of them were told.
async fn told(most: usize, seed: u64, count: usize, max_wait: Duration) -> Vec<Told> {
    let pacing = Pacing::new()
        .concurrency(NonZeroUsize::new(most))
        .max_wait(max_wait);
    let gate = Gate::new(pacing, StdRng::seed_from_u64(seed));
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let gate = gate.clone();
        let answer = Duration::from_millis(rng.random_range(200..=3000));
        tasks.spawn(async move {
            let context = RequestContext::new();
            let came = Instant::now();
            let turn = gate.acquire(Some(context.clone()));
            let mut turn = Box::pin(turn);
            let first = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(std::future::Future::poll(turn.as_mut(), cx))
            });
            let permit = match first.await {
                std::task::Poll::Ready(permit) => {
                    let _permit = permit.ok()?;
                    sleep(answer).await;
                    return None;
                }
                std::task::Poll::Pending => {
                    let estimate = gate.queue_position(&context).unwrap().eta;
                    let permit = turn.await;
                    let waited = permit.is_ok().then(|| came.elapsed());
                    (Told { estimate, waited }, permit)
                }
            };
            let (told, permit) = permit;
            sleep(answer).await;
            drop(permit);
            Some(told)
        });
        let mean = 1400 / u64::try_from(most).unwrap();
        sleep(Duration::from_millis(rng.random_range(0..2 * mean))).await;
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done.unwrap());
    }
    all
}

#[tokio::test(start_paused = true)]
async fn nine_of_ten_waits_are_at_most_twice_or_half_of_what_was_told() {
    let mut all = Vec::new();
    for most in 1..=8 {
        all.extend(told(most, 7 + most as u64, 260, Duration::from_secs(240)).await);
    }
    let waits: Vec<_> = all
        .iter()
        .filter_map(|told| Some((told.estimate.as_secs_f64(), told.waited?.as_secs_f64())))
        .collect();
    assert!(waits.len() > 1000, "{} waited", waits.len());
    let good = waits
        .iter()
        .filter(|(estimate, waited)| *estimate <= 2.0 * waited && *waited <= 2.0 * estimate)
        .count();
    let share = good as f64 / waits.len() as f64;
    println!("{good} of {} are within a factor of two", waits.len());
    assert!(share >= 0.9, "{share}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_the_longest_wait_and_one_answer() {
    let longest = Duration::from_secs(3);
    for most in 1..=8 {
        for told in told(most, most as u64, 300, longest).await {
            if let Some(waited) = told.waited {
                assert!(waited <= longest + Duration::from_secs(3), "{told:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_cannot_be_served_in_time_are_refused_once_that_is_known() {
    let pacing = Pacing::new()
        .concurrency(NonZeroUsize::new(1))
        .max_wait(Duration::from_secs(3));
    let gate = gate(pacing);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..12 {
        let gate = gate.clone();
        tasks.spawn(async move {
            let permit = gate.acquire(None).await;
            let ended = start.elapsed();
            if permit.is_ok() {
                sleep(Duration::from_secs(1)).await;
                return None;
            }
            Some((ended, refusal(permit)))
        });
    }
    let mut refused = Vec::new();
    while let Some(done) = tasks.join_next().await {
        refused.extend(done.unwrap());
    }
    assert!((7..=8).contains(&refused.len()), "{refused:?}");
    for (ended, refusal) in refused {
        assert_eq!(ended.as_secs(), 1, "the first answer told");
        let Refused::WouldWaitTooLong { estimate } = refusal else {
            panic!("{refusal:?}");
        };
        assert!(estimate >= Duration::from_secs(3), "{estimate:?}");
    }
    let told = gate.estimate();
    assert!(told <= Duration::from_secs(1), "{told:?}");
}

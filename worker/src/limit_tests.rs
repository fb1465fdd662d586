//! The adaptive limit against servers of many shapes, simulated on a paused clock: its goodput beside that of the best fixed limit.
//!
//! Most shapes are those that Vector tests its adaptive concurrency with, with its numbers (vectordotdev/vector,
//! `tests/data/adaptive-concurrency`); where it fixes the concurrency at ten, the server here takes ten at the most. In the others
//! the server changes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{AdaptiveLimit, Signal};
use crate::retry::Backoff;

/// The ceiling in these tests: wide enough that it does not do the limit's work.
const CEILING: usize = 32;
/// How long each is watched, from its start: finding the limit is part of it.
const WATCHED: Duration = Duration::from_secs(100);
/// A request that is not answered for so long has failed.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of the best fixed limit's goodput.
const GOAL: f64 = 0.9;

/// A server, as requests know it.
#[derive(Debug, Clone, Copy)]
struct Shape {
    name: &'static str,
    /// What a request takes that is alone.
    delay_s: f64,
    /// The mean of what comes on top by chance, of `delay_s`; exponentially distributed.
    jitter: f64,
    /// What each request in flight besides adds, of `delay_s`.
    scale: f64,
    /// Above so many in flight, each makes all slower by this factor.
    knee: Option<(usize, f64)>,
    /// Requests beyond so many in flight are refused.
    in_flight_max: usize,
    /// Requests beyond so many within a second are refused.
    rate_max: usize,
    /// Refused requests are never answered.
    is_silent: bool,
    /// From each of these times on, `in_flight_max` is another.
    steps: &'static [(u64, usize)],
    /// The time between two batches; as fast as they are taken without.
    interval_s: Option<f64>,
}

const PLAIN: Shape = Shape {
    name: "constant link",
    delay_s: 0.1,
    jitter: 0.0,
    scale: 0.0,
    knee: None,
    in_flight_max: usize::MAX,
    rate_max: usize::MAX,
    is_silent: false,
    steps: &[],
    interval_s: None,
};

const SHAPES: [Shape; 15] = [
    PLAIN,
    Shape { name: "refuses at high concurrency", in_flight_max: 5, ..PLAIN },
    Shape { name: "drops at high concurrency", in_flight_max: 5, is_silent: true, ..PLAIN },
    Shape { name: "refuses at a high rate", rate_max: 100, ..PLAIN },
    Shape { name: "jitter, small", jitter: 0.1, ..PLAIN },
    Shape { name: "jitter, large, and ten at the most", jitter: 0.5, in_flight_max: 10, ..PLAIN },
    Shape { name: "ten at the most", in_flight_max: 10, ..PLAIN },
    Shape { name: "slow link", scale: 1.0, ..PLAIN },
    Shape { name: "shallow knee", knee: Some((10, 1.1)), ..PLAIN },
    Shape { name: "medium sender", interval_s: Some(0.025), ..PLAIN },
    Shape { name: "slow sender", delay_s: 0.05, interval_s: Some(0.1), ..PLAIN },
    Shape { name: "sender as slow as the link", delay_s: 0.05, interval_s: Some(0.05), ..PLAIN },
    Shape { name: "capacity steps down", in_flight_max: 16, steps: &[(50, 4)], ..PLAIN },
    Shape { name: "capacity steps up", in_flight_max: 4, steps: &[(50, 16)], ..PLAIN },
    Shape { name: "refuses all for a while", in_flight_max: 8, steps: &[(40, 0), (45, 8)], ..PLAIN },
];

/// What goes on in a simulated server.
struct Server {
    shape: Shape,
    since: Instant,
    in_flight: usize,
    begun: VecDeque<Instant>,
    dice: fastrand::Rng,
    /// Of each client.
    taken: Vec<u32>,
}

impl Server {
    fn begin(&mut self, now: Instant) -> (bool, Option<Duration>) {
        while self.begun.front().is_some_and(|begun| now - *begun > Duration::from_secs(1)) {
            self.begun.pop_front();
        }
        self.begun.push_back(now);
        self.in_flight += 1;
        let shape = self.shape;
        let passed_s = (now - self.since).as_secs();
        let step = shape.steps.iter().rev().find(|(from_s, _)| *from_s <= passed_s);
        let in_flight_max = step.map_or(shape.in_flight_max, |(_, in_flight_max)| *in_flight_max);
        let taken = self.in_flight <= in_flight_max && self.begun.len() <= shape.rate_max;
        if !taken && shape.is_silent {
            self.in_flight -= 1;
            return (false, None);
        }
        let level = if taken { self.in_flight } else { 1 };
        let knee = shape
            .knee
            .map_or(1.0, |(start, factor)| factor.powi(i32::try_from(level.saturating_sub(start)).unwrap_or(0)));
        let chance = shape.jitter * -(1.0 - self.dice.f64()).ln();
        let delay_s = shape.delay_s * (knee + shape.scale * (level - 1) as f64 + chance);
        (taken, Some(Duration::from_secs_f64(delay_s)))
    }
}

#[derive(Clone)]
enum Limit {
    Adaptive(Arc<AdaptiveLimit>),
    Fixed(Arc<Semaphore>),
}

/// Sends batches to the server until the time is up; as the pipeline does, with pauses after a refusal.
async fn client(
    server: Arc<Mutex<Server>>,
    number: usize,
    limit: Limit,
    offered: Option<Arc<Semaphore>>,
    until: Instant,
) {
    let lock = || server.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(offered) = &offered {
            offered.acquire().await.expect("it is never closed").forget();
        }
        let mut backoff = Backoff::for_server();
        loop {
            let (place, permit) = match &limit {
                Limit::Adaptive(limit) => (Some(limit.place().await), None),
                Limit::Fixed(places) => (None, Some(places.acquire().await.expect("it is never closed"))),
            };
            let (taken, delay) = lock().begin(Instant::now());
            tokio::time::sleep(delay.unwrap_or(PATIENCE)).await;
            if delay.is_some() {
                lock().in_flight -= 1;
            }
            if let Some(place) = place {
                place.done(if taken { Signal::Accepted } else { Signal::Pushback });
            }
            drop(permit);
            if Instant::now() > until {
                return;
            }
            if taken {
                lock().taken[number] += 1;
                break;
            }
            backoff.wait().await;
        }
    }
}

/// How many batches a second each of these clients got through.
async fn goodput(shape: Shape, limits: &[Limit]) -> Vec<f64> {
    fastrand::seed(7);
    let (since, until) = (Instant::now(), Instant::now() + WATCHED);
    let server = Server {
        shape,
        since,
        in_flight: 0,
        begun: VecDeque::new(),
        dice: fastrand::Rng::with_seed(7),
        taken: vec![0; limits.len()],
    };
    let server = Arc::new(Mutex::new(server));
    let mut tasks = JoinSet::new();
    for (number, limit) in limits.iter().enumerate() {
        let offered = shape.interval_s.map(|_| Arc::new(Semaphore::new(0)));
        for _ in 0..CEILING + 4 {
            tasks.spawn(client(server.clone(), number, limit.clone(), offered.clone(), until));
        }
        if let (Some(interval_s), Some(offered)) = (shape.interval_s, offered) {
            tasks.spawn(async move {
                while Instant::now() < until {
                    tokio::time::sleep(Duration::from_secs_f64(interval_s)).await;
                    offered.add_permits(1);
                }
            });
        }
    }
    tokio::time::sleep_until(until).await;
    tasks.shutdown().await;
    let server = server.lock().unwrap_or_else(PoisonError::into_inner);
    server.taken.iter().map(|taken| f64::from(*taken) / WATCHED.as_secs_f64()).collect()
}

async fn adaptive(shape: Shape) -> f64 {
    goodput(shape, &[Limit::Adaptive(AdaptiveLimit::new(CEILING))]).await[0]
}

/// The best fixed limit and its goodput.
async fn best_fixed(shape: Shape) -> (usize, f64) {
    let mut best = (0, 0.0);
    for places in [1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 14, 16, 20, 24, CEILING] {
        let reached = goodput(shape, &[Limit::Fixed(Arc::new(Semaphore::new(places)))]).await[0];
        if reached > best.1 {
            best = (places, reached);
        }
    }
    best
}

#[tokio::test(start_paused = true)]
async fn the_adaptive_limit_keeps_up_with_the_best_fixed_one() {
    let mut missed = Vec::new();
    for shape in SHAPES {
        let ((places, best), reached) = (best_fixed(shape).await, adaptive(shape).await);
        let told =
            format!("{}: {reached:.1} batches/s, {:.2} of a fixed limit of {places}", shape.name, reached / best);
        eprintln!("{told}");
        if reached < best * GOAL {
            missed.push(told);
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[tokio::test(start_paused = true)]
async fn two_workers_share_a_server_that_stays_as_it_is() {
    let mut missed = Vec::new();
    for shape in SHAPES.into_iter().filter(|shape| shape.steps.is_empty()) {
        let limits = [AdaptiveLimit::new(CEILING), AdaptiveLimit::new(CEILING)].map(Limit::Adaptive);
        // Without chance, whoever comes first always does.
        let shape = Shape { jitter: shape.jitter.max(0.1), ..shape };
        let reached = goodput(shape, &limits).await;
        let (less, more) = (reached[0].min(reached[1]), reached[0].max(reached[1]));
        let told = format!("{}: {less:.1} and {more:.1} batches/s", shape.name);
        eprintln!("{told}");
        if less < 0.6 * more {
            missed.push(told);
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

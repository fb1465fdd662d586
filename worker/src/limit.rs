//! How much may be in flight: fixed shares, and the adaptive limit on bulk requests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A bound that several jobs share, of which one job may take only a part: a slow job must not
/// stall the others.
#[derive(Debug, Clone)]
pub struct Share {
    /// From the narrowest part to the whole.
    levels: Vec<Arc<Semaphore>>,
    /// Of the narrowest part.
    places: usize,
}

/// A place within a [`Share`]; freed by dropping it.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held for their Drop")] Vec<OwnedSemaphorePermit>);

impl Share {
    /// The shares of `jobs` jobs in a bound of `total`: everything for a single job, else half.
    pub fn among(total: usize, jobs: usize) -> Vec<Self> {
        let whole = Self { levels: vec![Arc::new(Semaphore::new(total))], places: total };
        let own = if jobs <= 1 { total } else { total.div_ceil(2) };
        (0..jobs).map(|_| whole.part(own)).collect()
    }

    /// A part of this share that may take `places` of it at the most.
    pub fn part(&self, places: usize) -> Self {
        let own = Arc::new(Semaphore::new(places));
        Self { levels: std::iter::once(own).chain(self.levels.iter().cloned()).collect(), places }
    }

    /// How many there are, those that are taken included.
    pub fn places(&self) -> usize {
        self.places
    }

    /// Waits for a place: first within the own part, then in the whole.
    pub async fn place(&self) -> Place {
        let mut permits = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            permits.push(acquire(level).await);
        }
        Place(permits)
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_owned().await.expect("the semaphores here are never closed")
}

/// When live messages came last, to any job of a worker: beside them the low lane takes little.
#[derive(Debug, Default)]
pub struct LiveTraffic(Mutex<Option<Instant>>);

impl LiveTraffic {
    /// How long after a message the next one is reckoned with: the few that come seldom are not to meet a full load either.
    const RECKONED_WITH: Duration = Duration::from_secs(10);

    /// Some came.
    pub fn came(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether more are to be reckoned with.
    pub fn is_there(&self) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < Self::RECKONED_WITH)
    }
}

/// What a request told of the server's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It was taken.
    Accepted,
    /// 429, for the whole request or for an item, or the request failed: slow down.
    Pushback,
}

/// The adaptive limit on bulks in flight: additive increase, multiplicative decrease, and a memory of what was refused.
///
/// Grows by one a round trip while all places are used and requests don't queue: take little longer than they took at the least.
/// Pushback makes it shrink to seven tenths, so that other workers find room; it then comes back to just below where it was
/// refused, and goes there again after a while, longer each time. It shrinks to nine tenths when requests take far longer than they
/// did just before (the rule of Vector's adaptive concurrency: smoothing 0.4, threshold 2.5 standard deviations). With one place
/// left, further pushback makes batches smaller instead.
#[derive(Debug)]
pub struct AdaptiveLimit {
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    controller: Controller,
    in_flight: usize,
    capacity: usize,
    /// Places that a lower limit has yet to take back from requests in flight.
    owed: usize,
}

/// A bulk request's place in the [`AdaptiveLimit`].
#[derive(Debug)]
pub struct BulkPlace {
    limit: Arc<AdaptiveLimit>,
    since: Instant,
    signal: Option<Signal>,
}

impl AdaptiveLimit {
    /// A limit that never exceeds `ceiling` places.
    pub fn new(ceiling: usize) -> Arc<Self> {
        let controller = Controller::new(ceiling, Instant::now());
        let capacity = controller.places();
        Arc::new(Self {
            places: Arc::new(Semaphore::new(capacity)),
            state: Mutex::new(State { controller, in_flight: 0, capacity, owed: 0 }),
        })
    }

    /// Waits for a place.
    pub async fn place(self: &Arc<Self>) -> BulkPlace {
        acquire(&self.places).await.forget();
        self.lock().in_flight += 1;
        BulkPlace { limit: self.clone(), since: Instant::now(), signal: None }
    }

    /// How many bulks may be in flight now.
    pub fn places(&self) -> usize {
        self.lock().capacity
    }

    /// How many bulks are in flight.
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight
    }

    /// The batch size for now, out of the configured one.
    pub fn batch_size(&self, batch_max: usize) -> usize {
        (batch_max / self.lock().controller.batch_divisor).max(1)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BulkPlace {
    /// Gives the place back with what the request told. A place that is only dropped (the request
    /// was cancelled) tells nothing.
    pub fn done(mut self, signal: Signal) {
        self.signal = Some(signal);
    }
}

impl Drop for BulkPlace {
    fn drop(&mut self) {
        let mut state = self.limit.lock();
        let full = state.in_flight >= state.capacity;
        if let Some(signal) = self.signal {
            let now = Instant::now();
            state.controller.observe(now, now - self.since, signal, full);
        }
        // The place comes back, more or fewer than one with a changed limit; what can't be taken
        // from the free places now is owed by those in flight.
        let before = state.capacity;
        state.in_flight -= 1;
        state.capacity = state.controller.places();
        let freed = 1 + state.capacity;
        let taken = before + state.owed;
        if freed >= taken {
            self.limit.places.add_permits(freed - taken);
            state.owed = 0;
        } else {
            let want = taken - freed;
            state.owed = want - self.limit.places.forget_permits(want);
        }
    }
}

/// The rule of the limit, without locks or clocks.
#[derive(Debug)]
struct Controller {
    limit: f64,
    ceiling: f64,
    batch_divisor: usize,
    mean_s: f64,
    variance: f64,
    /// The least mean of a window in which all places were used; forgotten slowly.
    least_s: f64,
    refused: Option<Refused>,
    /// What was sent before the limit was lowered says nothing of the lower one.
    lowered_at: Instant,
    window: Window,
}

/// Where the server refused the last time.
#[derive(Debug)]
struct Refused {
    /// The limit.
    at: usize,
    /// Windows to stay below it before it is tried again; twice as many after each time.
    patience: u32,
    /// Windows that it has stayed below.
    waited: u32,
    /// Refusals since, before the limit has come back to just below it: of the same trouble, they say little of the lower limits.
    aftershocks: u32,
}

/// What was seen since the last adjustment.
#[derive(Debug)]
struct Window {
    until: Instant,
    pushback: bool,
    full: bool,
    sum_s: f64,
    count: u32,
}

const SMOOTHING: f64 = 0.4;
const DEVIATIONS: f64 = 2.5;
/// Bulks differ in size; less than this above the mean is no sign of trouble.
const TOLERANCE: f64 = 0.5;
/// When requests take longer than they used to.
const DECREASE: f64 = 0.9;
/// When they are refused: room for other workers.
const DECREASE_REFUSED: f64 = 0.7;
/// More in flight than makes all take this much longer than the least is a queue, and no more goodput.
const QUEUEING: f64 = 1.3;
/// What the least time grows by in a window.
const FORGETTING: f64 = 1.0002;
/// Windows below a limit that was refused, for the first time and at the most.
const PATIENCE: u32 = 8;
const PATIENCE_MAX: u32 = 64;
/// More of them than this, and the lower limit is what is refused.
const AFTERSHOCKS_MAX: u32 = 8;
const BATCH_DIVISOR_MAX: usize = 16;

impl Controller {
    fn new(ceiling: usize, now: Instant) -> Self {
        Self {
            limit: ceiling.clamp(1, 4) as f64,
            ceiling: ceiling.max(1) as f64,
            batch_divisor: 1,
            mean_s: 0.0,
            variance: 0.0,
            least_s: f64::INFINITY,
            refused: None,
            lowered_at: now,
            window: Window::new(now, Duration::ZERO),
        }
    }

    fn places(&self) -> usize {
        self.limit as usize
    }

    fn observe(&mut self, now: Instant, took: Duration, signal: Signal, full: bool) {
        self.window.pushback |= signal == Signal::Pushback && now - took >= self.lowered_at;
        self.window.full |= full;
        if signal == Signal::Accepted {
            self.window.sum_s += took.as_secs_f64();
            self.window.count += 1;
        }
        if now >= self.window.until {
            self.adjust(now);
            self.window = Window::new(now, Duration::from_secs_f64(self.mean_s.min(10.0)));
        }
    }

    fn adjust(&mut self, now: Instant) {
        let seen_s = (self.window.count > 0).then(|| self.window.sum_s / f64::from(self.window.count));
        let slow = seen_s.is_some_and(|seen_s| {
            let margin = (self.variance.sqrt() * DEVIATIONS).max(self.mean_s * TOLERANCE);
            self.mean_s > 0.0 && seen_s > self.mean_s + margin
        });
        if let Some(seen_s) = seen_s.filter(|_| self.window.full) {
            self.least_s = (self.least_s * FORGETTING).min(seen_s);
        }
        if self.window.pushback {
            if self.limit <= 1.0 {
                self.batch_divisor = (self.batch_divisor * 2).min(BATCH_DIVISOR_MAX);
            }
            self.refused();
            self.lower(now, DECREASE_REFUSED);
        } else if slow {
            self.lower(now, DECREASE);
        } else if self.batch_divisor > 1 {
            self.batch_divisor /= 2;
        } else if self.window.full && seen_s.is_some_and(|seen_s| seen_s <= self.least_s * QUEUEING) && self.may_grow()
        {
            self.limit = (self.limit + 1.0).min(self.ceiling);
        }
        if let Some(seen_s) = seen_s {
            if self.mean_s == 0.0 {
                self.mean_s = seen_s;
            }
            let distance = seen_s - self.mean_s;
            self.mean_s += SMOOTHING * distance;
            self.variance = (1.0 - SMOOTHING) * (self.variance + SMOOTHING * distance * distance);
        }
    }

    fn lower(&mut self, now: Instant, to: f64) {
        self.limit = (self.limit * to).max(1.0);
        self.lowered_at = now;
    }

    /// Notes that the present limit was refused.
    fn refused(&mut self) {
        let at = self.places();
        let patience = match &mut self.refused {
            Some(refused) if refused.waited == 0 && refused.aftershocks < AFTERSHOCKS_MAX => {
                refused.aftershocks += 1;
                return;
            }
            Some(refused) if refused.at.abs_diff(at) <= 1 => (refused.patience * 2).min(PATIENCE_MAX),
            _ => PATIENCE,
        };
        self.refused = Some(Refused { at, patience, waited: 0, aftershocks: 0 });
    }

    /// Up to where the server refused at once; there, only now and then.
    fn may_grow(&mut self) -> bool {
        let places = self.places();
        let Some(refused) = &mut self.refused else { return true };
        if places >= refused.at {
            // It is taken now.
            self.refused = None;
            return true;
        }
        refused.waited += u32::from(places + 1 == refused.at);
        places + 1 < refused.at || refused.waited > refused.patience
    }
}

impl Window {
    fn new(now: Instant, length: Duration) -> Self {
        Self { until: now + length, pushback: false, full: false, sum_s: 0.0, count: 0 }
    }
}

#[cfg(test)]
#[path = "limit_tests.rs"]
mod shapes;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn live_messages_are_reckoned_with_for_a_while() {
        let live = LiveTraffic::default();
        assert!(!live.is_there());
        live.came();
        tokio::time::advance(LiveTraffic::RECKONED_WITH - Duration::from_millis(1)).await;
        assert!(live.is_there());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!live.is_there());
    }

    #[test]
    fn a_part_is_as_large_as_it_was_made() {
        let share = Share::among(12, 3).pop().expect("a share");
        assert_eq!((share.places(), share.part(2).places()), (6, 2));
    }

    /// Drives a controller with `rounds` requests of `took`, all places used.
    fn drive(controller: &mut Controller, now: &mut Instant, rounds: u32, took: Duration, signal: Signal) {
        for _ in 0..rounds {
            *now += took;
            controller.observe(*now, took, signal, true);
        }
    }

    #[test]
    fn grows_to_the_ceiling_while_it_is_used() {
        let mut now = Instant::now();
        let mut controller = Controller::new(8, now);
        drive(&mut controller, &mut now, 50, Duration::from_millis(20), Signal::Accepted);
        assert_eq!(controller.places(), 8);
    }

    #[test]
    fn shrinks_on_pushback_then_makes_batches_smaller_then_recovers() {
        let mut now = Instant::now();
        let took = Duration::from_millis(20);
        let mut controller = Controller::new(8, now);
        drive(&mut controller, &mut now, 60, took, Signal::Pushback);
        assert_eq!((controller.places(), controller.batch_divisor), (1, BATCH_DIVISOR_MAX));
        drive(&mut controller, &mut now, 60, took, Signal::Accepted);
        assert_eq!((controller.places(), controller.batch_divisor), (8, 1));
    }

    #[test]
    fn shrinks_when_requests_take_far_longer_than_before() {
        let mut now = Instant::now();
        let mut controller = Controller::new(8, now);
        drive(&mut controller, &mut now, 50, Duration::from_millis(20), Signal::Accepted);
        drive(&mut controller, &mut now, 1, Duration::from_millis(200), Signal::Accepted);
        assert!(controller.places() < 8);
    }

    #[tokio::test]
    async fn places_are_bounded_and_come_back() {
        let limit = AdaptiveLimit::new(2);
        let first = limit.place().await;
        let second = limit.place().await;
        assert_eq!(limit.in_flight(), 2);
        let third = tokio::time::timeout(Duration::from_millis(20), limit.place()).await;
        assert!(third.is_err(), "a third place was given");
        first.done(Signal::Accepted);
        drop(second);
        assert_eq!(limit.in_flight(), 0);
        let _both = (limit.place().await, limit.place().await);
    }

    #[tokio::test]
    async fn one_job_takes_half_at_the_most() {
        let shares = Share::among(4, 2);
        let _held = (shares[0].place().await, shares[0].place().await);
        let third = tokio::time::timeout(Duration::from_millis(20), shares[0].place()).await;
        assert!(third.is_err(), "a job took more than its share");
        let _others = (shares[1].place().await, shares[1].place().await);
    }
}

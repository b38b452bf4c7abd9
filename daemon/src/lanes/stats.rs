//! What a lane says about itself once a second: fixed figures behind atomics, read by metrics and admission.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Upper edges of the lateness classes, in microseconds; the last class has none.
const EDGES: [u64; 12] = [250, 500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000, 40_000, 80_000, 200_000];

/// How late ticks were since the last publication.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lateness {
    classes: [u32; EDGES.len() + 1],
    total: u32,
    published: Option<Instant>,
}

impl Lateness {
    pub(super) fn add(&mut self, late: Duration) {
        let micros = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        let class = EDGES.iter().position(|edge| micros <= *edge).unwrap_or(EDGES.len());
        self.classes[class] = self.classes[class].saturating_add(1);
        self.total = self.total.saturating_add(1);
    }

    /// Upper edge of the class that holds the 99th percentile.
    fn p99(&self) -> Duration {
        let mut left = self.total - self.total / 100;
        for (class, count) in self.classes.iter().enumerate() {
            if *count >= left && left > 0 {
                return Duration::from_micros(*EDGES.get(class).unwrap_or(&1_000_000));
            }
            left = left.saturating_sub(*count);
        }
        Duration::ZERO
    }
}

/// The published figures of one lane.
#[derive(Debug, Default)]
pub(super) struct LaneReport {
    late_p99_us: AtomicU64,
    legs: AtomicUsize,
    drains: AtomicUsize,
}

impl LaneReport {
    pub(super) fn publish(&self, lateness: &mut Lateness, now: Instant, legs: usize, drains: usize) {
        self.legs.store(legs, Ordering::Relaxed);
        self.drains.store(drains, Ordering::Relaxed);
        let since = *lateness.published.get_or_insert(now);
        if now.saturating_duration_since(since) < Duration::from_secs(1) {
            return;
        }
        let micros = u64::try_from(lateness.p99().as_micros()).unwrap_or(u64::MAX);
        self.late_p99_us.store(micros, Ordering::Relaxed);
        *lateness = Lateness { published: Some(now), ..Lateness::default() };
    }

    /// Says that no leg is on the lane: nothing ticks, so nothing is late.
    pub(super) fn rest(&self, lateness: &mut Lateness, drains: usize) {
        self.legs.store(0, Ordering::Relaxed);
        self.drains.store(drains, Ordering::Relaxed);
        self.late_p99_us.store(0, Ordering::Relaxed);
        *lateness = Lateness::default();
    }

    /// 99th percentile of the tick lateness over the last full second, as the upper edge of its class.
    #[must_use]
    pub(super) fn late_p99(&self) -> Duration {
        Duration::from_micros(self.late_p99_us.load(Ordering::Relaxed))
    }

    /// Legs on the lane.
    #[must_use]
    pub(super) fn legs(&self) -> usize {
        self.legs.load(Ordering::Relaxed)
    }

    /// Sockets of closed calls that still drain.
    #[must_use]
    pub(super) fn drains(&self) -> usize {
        self.drains.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_the_class_that_holds_it() {
        let mut lateness = Lateness::default();
        for _ in 0..98 {
            lateness.add(Duration::from_micros(100));
        }
        lateness.add(Duration::from_micros(4_000));
        lateness.add(Duration::from_micros(4_000));
        assert_eq!(lateness.p99(), Duration::from_micros(5_000));
        assert_eq!(Lateness::default().p99(), Duration::ZERO);
    }

    #[test]
    fn a_lane_without_legs_is_neither_full_nor_late() {
        let (report, mut lateness) = (LaneReport::default(), Lateness::default());
        let start = Instant::now();
        report.publish(&mut lateness, start, 3, 0);
        lateness.add(Duration::from_millis(40));
        report.publish(&mut lateness, start + Duration::from_secs(1), 3, 0);
        assert_eq!((report.legs(), report.late_p99()), (3, Duration::from_millis(40)));
        report.rest(&mut lateness, 2);
        assert_eq!((report.legs(), report.drains(), report.late_p99()), (0, 2, Duration::ZERO));
    }
}

//! How long packets are under way, seen from here: what a jitter buffer needs to know of the network.
//!
//! A packet's *transit* is its arrival less its media time; only differences between transits mean anything, since the
//! two clocks are strangers. The quickest packet of the last seconds is the base, and what others need beyond it is
//! their lateness. The window is counted in packets, so that a pause of the sender forgets nothing.

/// Packets in one bin of the window.
const BIN_PACKETS: u32 = 20;
/// Bins in the window: 200 packets, 4 s of talk at 20 ms.
const BINS: usize = 10;
/// The slowest packets that are kept; the last of them gives the lateness, those before it are outliers.
const SLOWEST: usize = 3;

#[derive(Debug, Clone, Copy)]
struct Bin {
    quickest: i64,
    /// Slowest first.
    slowest: [i64; SLOWEST],
}

impl Bin {
    const EMPTY: Self = Self { quickest: i64::MAX, slowest: [i64::MIN; SLOWEST] };

    fn add(&mut self, transit: i64) {
        self.quickest = self.quickest.min(transit);
        self.rank(transit);
    }

    fn rank(&mut self, mut transit: i64) {
        for place in &mut self.slowest {
            if transit > *place {
                std::mem::swap(place, &mut transit);
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.quickest = self.quickest.min(other.quickest);
        for transit in other.slowest {
            self.rank(transit);
        }
    }
}

/// The transits of the last 200 packets, in microseconds.
#[derive(Debug, Clone)]
pub(super) struct TransitWindow {
    bins: [Bin; BINS],
    current: usize,
    in_current: u32,
    /// The bins before `current`, merged: they change only when a bin is full.
    past: Bin,
}

impl TransitWindow {
    pub(super) const fn new() -> Self {
        Self { bins: [Bin::EMPTY; BINS], current: 0, in_current: 0, past: Bin::EMPTY }
    }

    /// Takes one packet into account; the oldest leave.
    pub(super) fn observe(&mut self, transit: i64) {
        if self.in_current == BIN_PACKETS {
            self.in_current = 0;
            self.current = (self.current + 1) % BINS;
            self.bins[self.current] = Bin::EMPTY;
            self.past = Bin::EMPTY;
            for bin in &self.bins {
                self.past.merge(bin);
            }
        }
        self.in_current += 1;
        self.bins[self.current].add(transit);
    }

    /// Transit of the quickest packet; `None` before the first.
    pub(super) fn base(&self) -> Option<i64> {
        let base = self.past.quickest.min(self.bins[self.current].quickest);
        (base != i64::MAX).then_some(base)
    }

    /// Lateness of the third slowest packet: one or two stragglers in a window (a scan of the Wi-Fi, a short stall)
    /// change nothing.
    pub(super) fn lateness(&self) -> i64 {
        let mut all = self.past;
        all.merge(&self.bins[self.current]);
        let [.., last] = all.slowest;
        if last == i64::MIN { 0 } else { last.saturating_sub(all.quickest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_that_of_the_third_slowest() {
        let mut window = TransitWindow::new();
        assert_eq!((window.base(), window.lateness()), (None, 0));
        window.observe(-7_000);
        window.observe(-7_000);
        assert_eq!((window.base(), window.lateness()), (Some(-7_000), 0));
        for transit in [-6_000, 53_000, 0] {
            window.observe(transit);
        }
        assert_eq!((window.base(), window.lateness()), (Some(-7_000), 1_000));
        window.observe(43_000);
        assert_eq!(window.lateness(), 7_000);
        window.observe(43_000);
        assert_eq!(window.lateness(), 50_000);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut window = TransitWindow::new();
        for transit in [0, 90_000, 90_000, 90_000] {
            window.observe(transit);
        }
        for n in 0..196 {
            window.observe(10_000);
            assert_eq!(window.lateness(), 90_000, "after {n}");
        }
        for _ in 0..20 {
            window.observe(10_000);
        }
        assert_eq!((window.base(), window.lateness()), (Some(10_000), 0));
    }

    #[test]
    fn stragglers_in_different_bins_count_together() {
        let mut window = TransitWindow::new();
        for straggler in [80_000, 75_000] {
            window.observe(straggler);
            for _ in 0..50 {
                window.observe(0);
            }
            assert_eq!(window.lateness(), 0);
        }
        window.observe(70_000);
        assert_eq!(window.lateness(), 70_000);
    }
}

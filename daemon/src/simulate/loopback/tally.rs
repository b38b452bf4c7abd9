//! How far the calls of a simulation are, for the progress line and the window of measurement.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts over all phones.
#[derive(Debug, Default)]
pub struct Tally {
    rang: AtomicUsize,
    talked: AtomicUsize,
    over: AtomicUsize,
    hanging_up: AtomicUsize,
    changed: Notify,
}

impl Tally {
    fn count(&self, counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// A phone rings.
    pub fn ringing(&self) {
        self.count(&self.rang);
    }

    /// A call was accepted.
    pub fn talking(&self) {
        self.count(&self.talked);
    }

    /// A person is about to hang up.
    pub fn hanging_up(&self) {
        self.count(&self.hanging_up);
    }

    /// A call is over.
    pub fn over(&self) {
        self.count(&self.over);
    }

    /// Ringing, talking and finished calls of this moment.
    pub fn now(&self) -> (usize, usize, usize) {
        let [rang, talked, over] = [&self.rang, &self.talked, &self.over].map(|count| count.load(Ordering::Relaxed));
        (rang.saturating_sub(talked), talked.saturating_sub(over), over)
    }

    /// Waits until so many calls are in conversation, or one has ended.
    pub async fn all_up(&self, calls: usize) {
        self.until(|| {
            self.talked.load(Ordering::Relaxed) >= calls
                || self.over.load(Ordering::Relaxed) + self.hanging_up.load(Ordering::Relaxed) > 0
        })
        .await;
    }

    /// Waits until somebody hangs up or a call has ended.
    pub async fn somebody_leaves(&self) {
        self.until(|| self.over.load(Ordering::Relaxed) + self.hanging_up.load(Ordering::Relaxed) > 0).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if holds() {
                return;
            }
            changed.await;
        }
    }
}

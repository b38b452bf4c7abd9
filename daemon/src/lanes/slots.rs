//! The rings between a lane and its call tasks: all made at start, handed out and taken back whole.
//!
//! A slot is two SPSC rings of whole frames, the playback epoch, the count of frames that left, and a waker.
//! Nothing here allocates or locks after [`Pool::new`]; the pool itself is touched only when a call begins or ends.

use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Poll;

use atomic_waker::AtomicWaker;
use heapless::spsc::{Consumer, Producer, Queue};
use sauti_core::media::frame::Frame;

/// Frames towards the model: a call task that is 320 ms late has lost its call anyway.
pub(super) const UP_FRAMES: usize = 16;
/// Frames towards the caller: after a flush the ring may still hold [`DOWN_TARGET`] stale frames beside as many new ones.
pub(super) const DOWN_FRAMES: usize = 24;
/// How much the task keeps in front of the lane: 200 ms, so that a busy runtime is not heard.
pub const DOWN_TARGET: usize = 10;

/// Worst case of one slot; `max_calls` of them are the media memory known on paper.
const SLOT_BYTES: usize = size_of::<Frame>() * (UP_FRAMES + DOWN_FRAMES) + size_of::<Shared>();
const _: () = assert!(SLOT_BYTES <= 40 * 1024, "100 calls must fit into 4 MiB of rings");

/// What both sides see of a slot.
#[derive(Debug, Default)]
pub(super) struct Shared {
    epoch: AtomicU32,
    consumed: AtomicU64,
    pending: AtomicBool,
    resume: AtomicBool,
    waker: AtomicWaker,
}

impl Shared {
    /// Waits until the lane has ticked for this call.
    pub(super) async fn ticked(&self) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.pending.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Wakes the call task if the lane has something for it; called by the bridge.
    pub(super) fn wake(&self) {
        if self.pending.load(Ordering::Acquire) {
            self.waker.wake();
        }
    }
}

/// The lane's ends of a slot.
pub(super) struct LaneEnd {
    /// Towards the model.
    pub up: Producer<'static, Frame>,
    /// Towards the caller.
    pub down: Consumer<'static, Frame>,
    shared: &'static Shared,
}

impl std::fmt::Debug for LaneEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneEnd").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

impl LaneEnd {
    /// Takes the next frame of the current epoch; frames of epochs that are over are dropped.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        while let Some(frame) = self.down.dequeue() {
            if frame.epoch == epoch {
                return Some(frame);
            }
        }
        None
    }

    /// The next frame of the current epoch, which stays where it is; frames of epochs that are over are dropped.
    pub(super) fn waiting(&mut self) -> Option<&Frame> {
        let epoch = self.epoch();
        while self.down.peek().is_some_and(|frame| frame.epoch != epoch) {
            self.down.dequeue();
        }
        self.down.peek()
    }

    /// The epoch to be played.
    pub(super) fn epoch(&self) -> u32 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    /// True once after the call task wanted a pause to end.
    pub(super) fn take_resume(&self) -> bool {
        self.shared.resume.swap(false, Ordering::AcqRel)
    }

    /// Notes that one more frame of `epoch` left on the wire.
    pub(super) fn count_consumed(&self, epoch: u32) {
        let (current, frames) = unpack(self.shared.consumed.load(Ordering::Relaxed));
        let frames = if current == epoch { frames.wrapping_add(1) } else { 1 };
        self.shared.consumed.store(pack(epoch, frames), Ordering::Release);
    }

    /// Marks the slot so that the bridge wakes the call task.
    pub(super) fn mark(&self) {
        self.shared.pending.store(true, Ordering::Release);
    }

    /// Frames waiting in both rings, for the gauges: (up, down).
    #[must_use]
    pub(super) fn depth(&self) -> (usize, usize) {
        (self.up.len(), self.down.len())
    }
}

/// The call task's ends of a slot.
pub struct TaskEnd {
    /// From the caller.
    pub up: Consumer<'static, Frame>,
    /// Towards the caller.
    pub down: Producer<'static, Frame>,
    shared: &'static Shared,
}

impl std::fmt::Debug for TaskEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskEnd").field("consumed", &self.consumed()).finish_non_exhaustive()
    }
}

impl TaskEnd {
    /// What both sides see; waiting on it does not borrow the rings.
    pub(super) const fn shared(&self) -> &'static Shared {
        self.shared
    }

    /// Starts playback epoch `epoch`: the lane drops everything older at its next tick.
    pub fn set_epoch(&self, epoch: u32) {
        self.shared.epoch.store(epoch, Ordering::Release);
    }

    /// Lets the lane go on with what it paused.
    pub fn resume(&self) {
        self.shared.resume.store(true, Ordering::Release);
    }

    /// Epoch and frames of it that left on the wire so far.
    #[must_use]
    pub fn consumed(&self) -> (u32, u32) {
        unpack(self.shared.consumed.load(Ordering::Acquire))
    }
}

const fn pack(epoch: u32, frames: u32) -> u64 {
    ((epoch as u64) << 32) | frames as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of the packed word")]
const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// All slots of the box.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Vec<&'static Shared>,
    lane_ends: Mutex<Vec<(usize, LaneEnd)>>,
    task_ends: Mutex<Vec<(usize, TaskEnd)>>,
}

/// One slot, taken from the pool; its ends go to the lane and to the call task.
#[derive(Debug)]
pub(super) struct Slot {
    /// Place in the pool.
    pub index: usize,
    /// For the lane.
    pub lane: LaneEnd,
    /// For the call task.
    pub task: TaskEnd,
}

impl Pool {
    /// Makes `calls` slots. They live as long as the process: this is the one place that leaks, on purpose and once.
    #[must_use]
    pub(super) fn new(calls: usize) -> Self {
        let mut shared = Vec::with_capacity(calls);
        let mut lane_ends = Vec::with_capacity(calls);
        let mut task_ends = Vec::with_capacity(calls);
        for index in 0..calls {
            let both: &'static Shared = Box::leak(Box::default());
            let up: &'static mut Queue<Frame, UP_FRAMES> = Box::leak(Box::new(Queue::new()));
            let down: &'static mut Queue<Frame, DOWN_FRAMES> = Box::leak(Box::new(Queue::new()));
            let (up_in, up_out) = up.split();
            let (down_in, down_out) = down.split();
            shared.push(both);
            lane_ends.push((index, LaneEnd { up: up_in, down: down_out, shared: both }));
            task_ends.push((index, TaskEnd { up: up_out, down: down_in, shared: both }));
        }
        Self { shared, lane_ends: Mutex::new(lane_ends), task_ends: Mutex::new(task_ends) }
    }

    /// Takes a slot that both sides have given back; `None` when there is none.
    #[must_use]
    pub(super) fn take(&self) -> Option<Slot> {
        let mut lanes = lock(&self.lane_ends);
        let mut tasks = lock(&self.task_ends);
        let (at, place) = lanes
            .iter()
            .enumerate()
            .find_map(|(at, (index, _))| tasks.iter().position(|(other, _)| other == index).map(|place| (at, place)))?;
        let (index, mut lane) = lanes.swap_remove(at);
        let (_, mut task) = tasks.swap_remove(place);
        while lane.down.dequeue().is_some() {}
        while task.up.dequeue().is_some() {}
        lane.shared.epoch.store(0, Ordering::Release);
        lane.shared.consumed.store(0, Ordering::Release);
        lane.shared.pending.store(false, Ordering::Release);
        lane.shared.resume.store(false, Ordering::Release);
        lane.shared.waker.take();
        Some(Slot { index, lane, task })
    }

    /// Takes the lane's ends back.
    pub(super) fn give_lane_end(&self, index: usize, end: LaneEnd) {
        lock(&self.lane_ends).push((index, end));
    }

    /// Takes the call task's ends back.
    pub(super) fn give_task_end(&self, index: usize, end: TaskEnd) {
        lock(&self.task_ends).push((index, end));
    }

    /// Slots that are not whole in the pool.
    #[must_use]
    pub(super) fn in_use(&self) -> usize {
        self.shared.len() - lock(&self.lane_ends).len().min(lock(&self.task_ends).len())
    }

    /// Every slot's shared part, for the bridge.
    pub(super) fn shared(&self) -> &[&'static Shared] {
        &self.shared
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it is held; a poisoned pool would still hold whole slots.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(epoch: u32) -> Frame {
        Frame { epoch, ..Frame::SILENCE }
    }

    #[test]
    fn frames_of_an_epoch_that_is_over_are_dropped_without_a_round_trip() {
        let pool = Pool::new(1);
        let mut slot = pool.take().unwrap();
        for _ in 0..3 {
            slot.task.down.enqueue(frame(0)).unwrap();
        }
        assert!(slot.lane.next_frame().is_some());
        slot.task.set_epoch(1);
        slot.task.down.enqueue(frame(1)).unwrap();
        assert_eq!(slot.lane.next_frame().map(|frame| frame.epoch), Some(1));
        assert_eq!(slot.lane.next_frame(), None);
    }

    #[test]
    fn a_ring_full_of_an_epoch_that_is_over_has_room_after_one_look() {
        let pool = Pool::new(1);
        let mut slot = pool.take().unwrap();
        let full = std::iter::from_fn(|| slot.task.down.enqueue(frame(0)).ok()).count();
        assert!(full >= DOWN_FRAMES - 1, "{full}");
        slot.task.set_epoch(1);
        assert_eq!(slot.lane.next_frame(), None, "nothing of the new epoch is there yet");
        let room = std::iter::from_fn(|| slot.task.down.enqueue(frame(1)).ok()).count();
        assert_eq!(room, full, "what was flushed takes no room");
        assert_eq!(slot.lane.next_frame().map(|frame| frame.epoch), Some(1));
    }

    #[test]
    fn a_frame_that_waits_is_not_taken_and_a_stale_one_does_not_wait() {
        let pool = Pool::new(1);
        let mut slot = pool.take().unwrap();
        slot.task.down.enqueue(frame(0)).unwrap();
        assert!(slot.lane.waiting().is_some() && slot.lane.waiting().is_some());
        assert_eq!((slot.lane.depth(), slot.task.consumed()), ((0, 1), (0, 0)));
        slot.task.set_epoch(1);
        assert_eq!(slot.lane.waiting(), None);
        assert_eq!(slot.lane.depth(), (0, 0));
        slot.task.resume();
        assert!(slot.lane.take_resume());
        assert!(!slot.lane.take_resume());
    }

    #[test]
    fn the_count_of_consumed_frames_starts_anew_with_each_epoch() {
        let pool = Pool::new(1);
        let slot = pool.take().unwrap();
        slot.lane.count_consumed(0);
        slot.lane.count_consumed(0);
        assert_eq!(slot.task.consumed(), (0, 2));
        slot.lane.count_consumed(1);
        assert_eq!(slot.task.consumed(), (1, 1));
    }

    #[test]
    fn a_slot_comes_back_clean_and_only_when_both_ends_are_back() {
        let pool = Pool::new(1);
        let Slot { index, lane, mut task } = pool.take().unwrap();
        assert!(pool.take().is_none());
        assert_eq!(pool.in_use(), 1);
        task.down.enqueue(frame(0)).unwrap();
        task.set_epoch(7);
        pool.give_task_end(index, task);
        assert!(pool.take().is_none());
        pool.give_lane_end(index, lane);
        assert_eq!(pool.in_use(), 0);
        let mut slot = pool.take().unwrap();
        assert_eq!(slot.lane.next_frame(), None);
        assert_eq!(slot.task.consumed(), (0, 0));
    }
}

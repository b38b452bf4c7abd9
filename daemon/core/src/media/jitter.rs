//! An adaptive jitter buffer: packets in as the network brings them, packets out in order, one frame a tick.
//!
//! Fixed storage, no codec, no clock: `now` is an argument. It decides *when* a packet is played and *whether* one is
//! lost; the pipeline decodes. Sequence numbers give the order, timestamps the time.
//!
//! Every packet has a *delay*: how long after the quickest possible arrival it is played (see [`super::transit`]). The
//! target is one frame plus the lateness seen lately. Playout grows towards it by one frame ([`Pulled::Scarce`], or
//! [`Pulled::Starved`] where there is nothing) and shrinks by one frame at a time ([`Pulled::Surplus`]), sooner where it is
//! quiet, so that a backlog never stays. What arrived within the delay is never given up.

use std::time::{Duration, Instant};

use super::rtp::{sequence_distance, timestamp_distance};
use super::transit::TransitWindow;

/// Packets that the buffer can hold: 1.28 s of 20 ms frames.
pub const SLOTS: usize = 64;
/// Longest payload that the buffer takes, in bytes.
pub const MAX_PAYLOAD: usize = 1500;

const SPAN: i64 = SLOTS as i64;
/// A sequence number this far ahead or behind belongs to another stream (RFC 3550 A.1).
const MAX_DROPOUT: i16 = 3000;
const MAX_MISORDER: i16 = 100;
/// Dry ticks after which the sender counts as silent.
const PATIENCE: u32 = 5;
/// Delay may lie this far under the target before playout waits, and this far above before it hurries, in µs.
const SLACK_LOW: i64 = 10_000;
const SLACK_HIGH: i64 = 30_000;
/// How far above the target playout hurries where it is quiet: a frame can be left out and the target still be met.
const SLACK_QUIET: i64 = TICK;
/// What comes this late was held back by an outage. It says nothing of what will come, and no buffer waits so long.
const OUTAGE: i64 = 1_000_000;
/// A transit that leaps this far is a new media clock, not the network.
const CLOCK_LEAP: i64 = 2_000_000;
/// One tick.
const TICK: i64 = 20_000;
/// So much longer between two pulls than the audio of the first one lasts, in µs, and it was the lane that stood still,
/// not the network.
const STALL: i64 = 10_000;

/// The limits of one buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JitterSettings {
    /// Ticks a second of the RTP clock (Opus: 48,000; G.711: 8,000). Less counts as 8,000.
    pub clock_rate: u32,
    /// Lowest target, and the one at the start.
    pub min_target: Duration,
    /// Highest target, however bad the network.
    pub max_target: Duration,
    /// Delay above the target at which the backlog is cut at once instead of frame by frame.
    pub max_excess: Duration,
}

impl Default for JitterSettings {
    /// For Opus: 20 ms to 200 ms, cut when 400 ms above.
    fn default() -> Self {
        Self {
            clock_rate: 48_000,
            min_target: Duration::from_millis(20),
            max_target: Duration::from_millis(200),
            max_excess: Duration::from_millis(400),
        }
    }
}

/// A packet on its way in.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Length of its audio in ticks of the clock ([`super::rtp::opus_ticks`]).
    pub ticks: u32,
    /// The encoded audio.
    pub payload: &'a [u8],
}

/// What became of a pushed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It will be played.
    Queued,
    /// It had come before.
    Duplicate,
    /// Its turn is over; the target learns from it.
    Late,
    /// Its number is far from all others: dropped, but if the next one follows it, a new stream has begun.
    Stray,
    /// First packet of a new stream under the same name: what was queued is gone, this one will be played.
    Restarted,
    /// Longer than [`MAX_PAYLOAD`]: dropped.
    Oversized,
}

/// What the pipeline plays next.
#[derive(Debug, PartialEq, Eq)]
pub enum Pulled<'a> {
    /// The next packet.
    Voice(&'a [u8]),
    /// The next packet, of which there are too many: decode it, but blend it into the one that the following pull brings.
    Surplus(&'a [u8]),
    /// The next packet, of which there are too few: decode it and stretch it by one frame, so that the delay grows.
    Scarce(&'a [u8]),
    /// A packet that did not come in time. Rebuild it from `next`, the packet right behind it, or conceal.
    Lost {
        /// Length of what is missing, in ticks of the clock.
        ticks: u32,
        /// The packet after the missing one, if it is here; it stays queued.
        next: Option<&'a [u8]>,
    },
    /// Nothing to play yet although the sender is talking: conceal a frame, media time stands still.
    Starved,
    /// The sender is silent.
    Silence,
    /// No packet has been played yet.
    Empty,
}

/// The buffer's figures; counters since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JitterReport {
    /// Delay of what was played last, beyond the quickest packet, in ms.
    pub depth_ms: u32,
    /// What the delay should be at least, in ms.
    pub target_ms: u32,
    /// Packets waiting now.
    pub queued: u32,
    /// Packets taken in.
    pub received: u64,
    /// Packets that came after their turn.
    pub late: u64,
    /// Packets that were not there at their turn, late ones included.
    pub lost: u64,
    /// Runs of lost packets: `lost` over this is how many are lost at a time.
    pub loss_runs: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// New streams or media clocks under the same name.
    pub resets: u64,
    /// Packets of no use: far-off numbers or too long.
    pub strays: u64,
    /// Ticks in which playout stood still, or was stretched by a frame.
    pub starved: u64,
    /// Packets blended away or cut to lower the delay.
    pub shed: u64,
}

impl JitterReport {
    /// This moment's figures, with what a buffer before this one counted.
    #[must_use]
    pub const fn after(self, before: &Self) -> Self {
        Self {
            received: self.received + before.received,
            late: self.late + before.late,
            lost: self.lost + before.lost,
            loss_runs: self.loss_runs + before.loss_runs,
            duplicates: self.duplicates + before.duplicates,
            resets: self.resets + before.resets,
            strays: self.strays + before.strays,
            starved: self.starved + before.starved,
            shed: self.shed + before.shed,
            ..self
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    sequence: i64,
    timestamp: i64,
    ticks: u32,
    len: usize,
    slot: u8,
    /// Which media clock the timestamp is of.
    era: u32,
    /// Something else than audio took this number.
    hole: bool,
}

/// See the module.
pub struct JitterBuffer {
    settings: JitterSettings,
    min_target: i64,
    max_target: i64,
    entries: [Option<Entry>; SLOTS],
    payloads: Box<[[u8; MAX_PAYLOAD]]>,
    /// Slots without a packet. The one freed last is taken first: it is still in the cache.
    free: [u8; SLOTS],
    free_len: usize,
    origin: Option<Instant>,
    /// Highest sequence number, long and short.
    highest: Option<(i64, u16)>,
    /// Bit n: the packet n before the highest has come.
    seen: u64,
    /// The timestamp that came last, long and short.
    last_timestamp: Option<(i64, u32)>,
    era: u32,
    window: TransitWindow,
    /// Transit of the packet before, while what an outage held back is coming in.
    draining: Option<i64>,
    last_pull: Option<i64>,
    /// Length of the audio that the last pull gave.
    given: i64,
    /// Follows a stray: if it comes, a new stream has begun.
    expected_stray: Option<u16>,
    /// Number of the packet whose turn is next.
    next: i64,
    /// Where its audio should begin, and on which media clock.
    next_timestamp: i64,
    next_era: u32,
    last_ticks: u32,
    /// `next` may still move down: nothing of this stream has been played.
    floating: bool,
    playing: bool,
    ever_played: bool,
    /// Non-audio took the last number: the sender is not talking.
    paused: bool,
    has_paused: bool,
    dry: u32,
    last_adjusted: i64,
    depth: i64,
    /// What came last in order was a lost packet.
    in_loss: bool,
    report: JitterReport,
}

impl std::fmt::Debug for JitterBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JitterBuffer").field("report", &self.report()).finish_non_exhaustive()
    }
}

impl JitterBuffer {
    /// An empty buffer with all the storage that it will ever use (about 100 kB).
    #[must_use]
    pub fn new(settings: JitterSettings) -> Self {
        let settings = JitterSettings { clock_rate: settings.clock_rate.max(8000), ..settings };
        let min_target = micros(settings.min_target);
        let mut free = [0; SLOTS];
        for (slot, place) in (0_u8..).zip(free.iter_mut()) {
            *place = slot;
        }
        Self {
            settings,
            min_target,
            max_target: micros(settings.max_target).max(min_target),
            entries: [None; SLOTS],
            payloads: vec![[0; MAX_PAYLOAD]; SLOTS].into_boxed_slice(),
            free,
            free_len: SLOTS,
            origin: None,
            highest: None,
            seen: 0,
            last_timestamp: None,
            era: 0,
            window: TransitWindow::new(),
            draining: None,
            last_pull: None,
            given: TICK,
            expected_stray: None,
            next: 0,
            next_timestamp: 0,
            next_era: 0,
            last_ticks: settings.clock_rate / 50,
            floating: true,
            playing: false,
            ever_played: false,
            paused: false,
            has_paused: false,
            dry: 0,
            last_adjusted: i64::MIN / 2,
            depth: 0,
            in_loss: false,
            report: JitterReport::default(),
        }
    }

    /// Takes a packet in.
    pub fn push(&mut self, now: Instant, packet: Arrival<'_>) -> Pushed {
        if packet.payload.len() > MAX_PAYLOAD {
            self.report.strays += 1;
            return Pushed::Oversized;
        }
        self.insert(now, packet, false)
    }

    /// Notes that something else than audio (a telephone event) took this sequence number, so that it is no loss.
    pub fn skip(&mut self, now: Instant, sequence: u16, timestamp: u32) -> Pushed {
        self.insert(now, Arrival { sequence, timestamp, ticks: 0, payload: &[] }, true)
    }

    fn insert(&mut self, now: Instant, packet: Arrival<'_>, hole: bool) -> Pushed {
        let origin = *self.origin.get_or_insert(now);
        let now = micros(now.saturating_duration_since(origin));
        let mut verdict = Pushed::Queued;
        let sequence = match self.place(packet.sequence) {
            Some(sequence) => sequence,
            None if self.expected_stray == Some(packet.sequence) => {
                self.restart();
                verdict = Pushed::Restarted;
                self.place(packet.sequence).unwrap_or(SPAN)
            }
            None => {
                self.expected_stray = Some(packet.sequence.wrapping_add(1));
                self.report.strays += 1;
                return Pushed::Stray;
            }
        };
        self.expected_stray = None;
        if self.came_before(sequence) {
            self.report.duplicates += 1;
            return Pushed::Duplicate;
        }
        self.note(sequence, packet.sequence);
        self.report.received += 1;
        let timestamp = self.unwrap_timestamp(packet.timestamp);
        // A telephone event repeats its timestamp while time goes on, so its transit says nothing.
        if !hole {
            self.observe(now, self.to_micros(timestamp));
        }
        if self.is_over(sequence) {
            self.report.late += 1;
            return Pushed::Late;
        }
        self.make_room(sequence);
        self.store(sequence, timestamp, packet, hole);
        verdict
    }

    /// The long form of a sequence number, or nothing if it is too far off to belong to this stream.
    fn place(&self, sequence: u16) -> Option<i64> {
        // Far enough from 0 that numbers before the first stay positive.
        let Some((highest, short)) = self.highest else { return Some((1 << 32) + i64::from(sequence)) };
        let distance = sequence_distance(short, sequence);
        (-MAX_MISORDER..=MAX_DROPOUT).contains(&distance).then(|| highest + i64::from(distance))
    }

    fn came_before(&self, sequence: i64) -> bool {
        let back = self.highest.map_or(-1, |(highest, _)| highest - sequence);
        (0..SPAN).contains(&back) && self.seen >> back & 1 == 1
    }

    fn note(&mut self, sequence: i64, short: u16) {
        let ahead = self.highest.map_or(SPAN, |(highest, _)| sequence - highest);
        if ahead > 0 {
            self.seen = if ahead >= SPAN { 0 } else { self.seen << ahead } | 1;
            self.highest = Some((sequence, short));
        } else if ahead > -SPAN {
            self.seen |= 1 << -ahead;
        }
    }

    fn unwrap_timestamp(&mut self, timestamp: u32) -> i64 {
        let long = match self.last_timestamp {
            None => i64::from(timestamp),
            Some((long, short)) => long + i64::from(timestamp_distance(short, timestamp)),
        };
        self.last_timestamp = Some((long, timestamp));
        long
    }

    fn observe(&mut self, now: i64, timestamp: i64) {
        let mut transit = now - timestamp;
        if self.draining.is_some_and(|before| transit <= before - TICK / 2) {
            // Each is less late than the one before: the backlog still comes in, and only its end tells how the network is.
            self.window = TransitWindow::new();
            self.window.observe(transit);
            self.draining = Some(transit);
            return;
        }
        let late = self.window.base().is_some_and(|base| transit - base > OUTAGE);
        self.draining = late.then_some(transit);
        if self.window.base().is_some_and(|base| (transit - base).abs() > CLOCK_LEAP) {
            self.window = TransitWindow::new();
            self.era = self.era.wrapping_add(1);
            self.report.resets += 1;
        }
        if let (Some(base), Some(pulled)) = (self.window.base(), self.last_pull)
            && now - pulled > self.given + STALL
        {
            // It may have lain in the socket since the last pull; only what was late by then is the network's doing.
            transit = transit.min(base.max(pulled - timestamp));
        }
        self.window.observe(transit);
    }

    /// True if the packet's turn has passed. Before anything was played, the first turn moves down to it.
    fn is_over(&mut self, sequence: i64) -> bool {
        if self.floating && (self.queued() == 0 || self.highest.is_some_and(|(h, _)| h - sequence < SPAN)) {
            self.next = if self.queued() == 0 { sequence } else { self.next.min(sequence) };
            return false;
        }
        sequence < self.next
    }

    /// Gives up the oldest packets until `sequence` fits into the buffer's span.
    fn make_room(&mut self, sequence: i64) {
        let lowest = sequence - SPAN + 1;
        if lowest <= self.next {
            return;
        }
        let given_up = lowest - self.next;
        let mut shed = 0;
        for old in self.next..self.next + given_up.min(SPAN) {
            if let Some(entry) = self.take(old) {
                self.release(entry.slot);
                shed += u64::from(!entry.hole);
            }
        }
        self.report.shed += shed;
        if !self.floating {
            self.lose(given_up.unsigned_abs().saturating_sub(shed));
        }
        self.next = lowest;
        self.playing = false;
    }

    fn store(&mut self, sequence: i64, timestamp: i64, packet: Arrival<'_>, hole: bool) {
        // 64 numbers share 64 slots, so there is a free one; without it the packet counts as lost in its turn.
        let Some(last) = self.free_len.checked_sub(1) else { return };
        let slot = self.free[last];
        self.free_len = last;
        let len = packet.payload.len();
        if let Some(room) = self.payloads.get_mut(usize::from(slot)).and_then(|payload| payload.get_mut(..len)) {
            room.copy_from_slice(packet.payload);
        }
        let ticks = if hole { 0 } else { packet.ticks.clamp(1, self.settings.clock_rate / 8) };
        self.entries[index(sequence)] = Some(Entry { sequence, timestamp, ticks, len, slot, era: self.era, hole });
    }

    /// What to play next, of audio that will be heard `ahead` from now (samples decoded but not yet played). `quiet`
    /// says that the last frame was so soft that leaving one out will not be heard.
    ///
    /// Call it once per 20 ms, or whenever fewer samples than a frame are left of the packet before, and push what lies in
    /// the socket first. `now` is best the moment for which the tick was set: then ticks that are made up after a stall
    /// find everything in order. Ticks that are not made up leave a backlog, which is worked off.
    pub fn pull(&mut self, now: Instant, ahead: Duration, quiet: bool) -> Pulled<'_> {
        let Some(origin) = self.origin else { return Pulled::Empty };
        let now = micros(now.saturating_duration_since(origin));
        self.last_pull = Some(now);
        self.given = TICK;
        let now = now + micros(ahead);
        let target = self.target();
        loop {
            let Some(head) = self.head() else { return self.run_dry() };
            if head.hole && (head.sequence == self.next || !self.playing) {
                self.step_over(&head);
                continue;
            }
            let delay = self.delay(now, head.timestamp, head.era);
            if !self.playing {
                if delay.is_some_and(|delay| delay < target) {
                    return self.idle();
                }
                self.jump_to(&head);
            }
            if self.excess(delay, target, &head) > micros(self.settings.max_excess) {
                self.cut(now, target);
                continue;
            }
            if head.sequence == self.next {
                return self.play(now, target, delay, quiet, head);
            }
            if self.is_concealed(now, target, delay, &head) {
                continue;
            }
            return self.miss(now, target, quiet, &head);
        }
    }

    /// The packet whose turn it is has come.
    fn play(&mut self, now: i64, target: i64, delay: Option<i64>, quiet: bool, head: Entry) -> Pulled<'_> {
        let late_enough = delay.unwrap_or(target);
        let pause = head.era == self.next_era && head.timestamp > self.next_timestamp;
        self.has_paused |= pause;
        if pause && late_enough < target {
            self.dry = 0;
            return Pulled::Silence;
        }
        let scarce = !pause && late_enough + SLACK_LOW < target && self.may_adjust(now, quiet, 60_000);
        let excess = self.excess(delay, target, &head);
        let pace = if excess > 100_000 { 100_000 } else { 200_000 };
        let surplus = excess > if quiet { SLACK_QUIET } else { SLACK_HIGH }
            && self.followed(&head)
            && self.may_adjust(now, quiet && now - self.last_adjusted >= 2 * TICK, pace);
        self.entries[index(head.sequence)] = None;
        self.release(head.slot);
        self.next = head.sequence + 1;
        self.next_timestamp = head.timestamp + i64::from(head.ticks);
        self.next_era = head.era;
        self.last_ticks = head.ticks;
        self.dry = 0;
        self.paused = false;
        self.depth = late_enough;
        self.in_loss = false;
        let payload = self.payloads.get(usize::from(head.slot)).and_then(|p| p.get(..head.len)).unwrap_or(&[]);
        self.given = TICK.max(i64::from(head.ticks) * 1_000_000 / i64::from(self.settings.clock_rate));
        if scarce {
            self.last_adjusted = now;
            self.report.starved += 1;
            self.given += TICK;
            return Pulled::Scarce(payload);
        }
        if surplus {
            self.last_adjusted = now;
            self.report.shed += 1;
            return Pulled::Surplus(payload);
        }
        Pulled::Voice(payload)
    }

    /// What was concealed while nothing at all was there need not be concealed once more: each of those ticks stands for
    /// a missing packet, unless the delay is to grow. So the sound behind the hole comes when it should, and the last lost
    /// packet can still be rebuilt. True when a packet's turn passed that way.
    fn is_concealed(&mut self, now: i64, target: i64, delay: Option<i64>, head: &Entry) -> bool {
        if self.dry == 0 {
            return false;
        }
        let ticks = self.missing_ticks(head);
        let due = self.delay(now, self.next_timestamp, self.next_era);
        if due.is_some_and(|due| due - self.to_micros(i64::from(ticks)) + SLACK_LOW >= target) {
            self.dry -= 1;
            self.give_up(ticks);
            return true;
        }
        if delay.is_none_or(|delay| delay >= target) {
            self.jump_to(head);
            return true;
        }
        false
    }

    /// The packet whose turn it is has not come, but a later one has.
    fn miss(&mut self, now: i64, target: i64, quiet: bool, head: &Entry) -> Pulled<'_> {
        let due = self.delay(now, self.next_timestamp, self.next_era);
        if due.is_some_and(|due| due + SLACK_LOW < target) && self.may_adjust(now, quiet, 60_000) {
            self.last_adjusted = now;
            self.report.starved += 1;
            return Pulled::Starved;
        }
        let missing = head.sequence - self.next;
        let ticks = self.missing_ticks(head);
        self.give_up(ticks);
        self.given = TICK.max(self.to_micros(i64::from(ticks)));
        let next = (missing == 1).then(|| self.payloads.get(usize::from(head.slot))).flatten();
        Pulled::Lost { ticks, next: next.and_then(|payload| payload.get(..head.len)) }
    }

    /// Length of the packet whose turn it is and that has not come: the hole up to `head` in equal parts.
    fn missing_ticks(&self, head: &Entry) -> u32 {
        let span = (head.timestamp - self.next_timestamp) / (head.sequence - self.next).max(1);
        let longest = i64::from(self.settings.clock_rate / 8);
        match u32::try_from(span) {
            Ok(ticks) if head.era == self.next_era && ticks > 0 && span <= longest => ticks,
            _ => self.last_ticks,
        }
    }

    /// The turn of a packet that has not come is over.
    fn give_up(&mut self, ticks: u32) {
        self.next += 1;
        self.next_timestamp += i64::from(ticks);
        self.lose(1);
    }

    fn lose(&mut self, packets: u64) {
        self.report.lost += packets;
        self.report.loss_runs += u64::from(packets > 0 && !self.in_loss);
        self.in_loss |= packets > 0;
    }

    fn run_dry(&mut self) -> Pulled<'_> {
        if !self.playing {
            return self.idle();
        }
        self.dry += 1;
        if self.paused || self.dry > PATIENCE {
            self.playing = false;
            self.dry = 0;
            return Pulled::Silence;
        }
        self.report.starved += 1;
        Pulled::Starved
    }

    fn idle(&self) -> Pulled<'_> {
        if self.ever_played { Pulled::Silence } else { Pulled::Empty }
    }

    /// Begins, or goes on after a pause or a long loss, at `head`.
    fn jump_to(&mut self, head: &Entry) {
        if !self.floating {
            self.lose((head.sequence - self.next).unsigned_abs());
        }
        self.next = head.sequence;
        self.next_timestamp = head.timestamp;
        self.next_era = head.era;
        self.floating = false;
        self.playing = true;
        self.ever_played = true;
        self.dry = 0;
    }

    fn step_over(&mut self, hole: &Entry) {
        self.entries[index(hole.sequence)] = None;
        self.release(hole.slot);
        if !self.floating {
            self.lose((hole.sequence - self.next).unsigned_abs());
        }
        self.next = hole.sequence + 1;
        self.paused = true;
    }

    /// Too much is waiting to be worked off frame by frame: only the target's worth stays.
    fn cut(&mut self, now: i64, target: i64) {
        while let Some(head) = self.head() {
            let delay = self.delay(now, head.timestamp, head.era).unwrap_or(0);
            if delay < target + TICK || self.backlog(&head) <= target {
                self.jump_to(&head);
                return;
            }
            self.entries[index(head.sequence)] = None;
            self.release(head.slot);
            self.lose((head.sequence - self.next).unsigned_abs());
            self.report.shed += u64::from(!head.hole);
            self.next = head.sequence + 1;
        }
    }

    /// Drops what waits, for instance after a hold: playout goes on with what comes from now.
    pub fn flush(&mut self) {
        self.drop_queued();
        if let Some((highest, _)) = self.highest {
            self.next = highest + 1;
        }
        self.playing = false;
        self.paused = false;
        self.dry = 0;
    }

    /// Forgets the stream: another source begins. The counters stay.
    pub fn restart(&mut self) {
        self.drop_queued();
        self.highest = None;
        self.seen = 0;
        self.last_timestamp = None;
        self.era = self.era.wrapping_add(1);
        self.window = TransitWindow::new();
        self.draining = None;
        self.has_paused = false;
        self.expected_stray = None;
        self.floating = true;
        self.playing = false;
        self.paused = false;
        self.dry = 0;
        self.report.resets += 1;
    }

    /// True if this stream has left out packets without losing them: its sender saves silence (DTX).
    #[must_use]
    pub const fn has_paused(&self) -> bool {
        self.has_paused
    }

    /// The figures of this moment.
    #[must_use]
    pub fn report(&self) -> JitterReport {
        let queued = u32::try_from(self.queued()).unwrap_or(u32::MAX);
        JitterReport { depth_ms: millis(self.depth), target_ms: millis(self.target()), queued, ..self.report }
    }

    /// One frame, so that the packet with the copy of a lost one is there, plus the network's lateness.
    fn target(&self) -> i64 {
        (TICK + self.window.lateness()).clamp(self.min_target, self.max_target)
    }

    /// Delay of audio with this timestamp if it is played at `now`; nothing if its media clock is over.
    fn delay(&self, now: i64, timestamp: i64, era: u32) -> Option<i64> {
        let base = self.window.base().filter(|_| era == self.era)?;
        Some(now - self.to_micros(timestamp) - base)
    }

    /// What could be done without: how far the delay is above the target, as far as it is here in packets. (A leap of
    /// the sender's clock looks like delay, but there is nothing queued that could be shed.)
    fn excess(&self, delay: Option<i64>, target: i64, head: &Entry) -> i64 {
        delay.map_or(0, |delay| delay.min(self.backlog(head)) - target)
    }

    /// Length of audio from `head` to the newest packet, in µs.
    fn backlog(&self, head: &Entry) -> i64 {
        let newest = self.highest.and_then(|(highest, _)| self.peek(highest)).filter(|newest| newest.era == head.era);
        newest.map_or(0, |newest| self.to_micros(newest.timestamp + i64::from(newest.ticks) - head.timestamp))
    }

    /// True if the packet right behind `head` is here and goes on without a pause.
    fn followed(&self, head: &Entry) -> bool {
        self.peek(head.sequence + 1).is_some_and(|next| {
            !next.hole && next.era == head.era && next.timestamp == head.timestamp + i64::from(head.ticks)
        })
    }

    fn may_adjust(&self, now: i64, at_once: bool, pace: i64) -> bool {
        at_once || now - self.last_adjusted >= pace
    }

    fn head(&self) -> Option<Entry> {
        if self.queued() == 0 {
            return None;
        }
        (self.next..self.next + SPAN).find_map(|sequence| self.peek(sequence))
    }

    fn peek(&self, sequence: i64) -> Option<Entry> {
        self.entries[index(sequence)].filter(|entry| entry.sequence == sequence)
    }

    fn take(&mut self, sequence: i64) -> Option<Entry> {
        let entry = self.peek(sequence)?;
        self.entries[index(sequence)] = None;
        Some(entry)
    }

    fn release(&mut self, slot: u8) {
        if let Some(place) = self.free.get_mut(self.free_len) {
            *place = slot;
            self.free_len += 1;
        }
    }

    fn drop_queued(&mut self) {
        for place in 0..SLOTS {
            if let Some(entry) = self.entries[place].take() {
                self.release(entry.slot);
            }
        }
    }

    fn queued(&self) -> usize {
        SLOTS - self.free_len
    }

    fn to_micros(&self, ticks: i64) -> i64 {
        ticks.saturating_mul(1_000_000) / i64::from(self.settings.clock_rate)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder of 64 is below 64")]
fn index(sequence: i64) -> usize {
    sequence.rem_euclid(SPAN) as usize
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

fn millis(micros: i64) -> u32 {
    u32::try_from(micros / 1000).unwrap_or(0)
}

#[cfg(test)]
#[path = "jitter_tests.rs"]
mod tests;

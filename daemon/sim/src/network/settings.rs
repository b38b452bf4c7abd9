//! What a way is like.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::whatsapp::dice::Dice;

/// A share in percent, 0 to 100.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Percent(f64);

impl Percent {
    /// Every time.
    pub const ALWAYS: Self = Self(100.0);

    /// Takes a figure between 0 and 100.
    ///
    /// # Errors
    /// It is outside, or no number.
    pub fn new(percent: f64) -> Result<Self, String> {
        if (0.0..=100.0).contains(&percent) {
            Ok(Self(percent))
        } else {
            Err(format!("{percent} is no percentage: say something from 0 to 100"))
        }
    }

    /// The share as a probability, 0 to 1.
    #[must_use]
    pub const fn share(self) -> f64 {
        self.0 / 100.0
    }
}

impl TryFrom<f64> for Percent {
    type Error = String;

    fn try_from(percent: f64) -> Result<Self, String> {
        Self::new(percent)
    }
}

impl From<Percent> for f64 {
    fn from(percent: Percent) -> Self {
        percent.0
    }
}

/// How the extra wait of a packet is drawn from `jitter_ms`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JitterShape {
    /// Half a normal distribution: standard deviation `jitter_ms` before halving, so a mean of 0.8 and a 99th
    /// percentile of 2.6 times it; cut at three times.
    #[default]
    Normal,
    /// Evenly between nothing and `jitter_ms`.
    Uniform,
    /// Exponential with a mean of `jitter_ms`, cut at eight times: a long tail, as queues have it.
    Exponential,
}

/// A stretch of time, counted from the beginning of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// When it begins.
    pub from_ms: u64,
    /// How long it is.
    pub for_ms: u64,
    /// It comes again so often, counted from its beginning; once if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
}

impl Window {
    /// One window, once.
    #[must_use]
    pub const fn once(from: Duration, length: Duration) -> Self {
        Self { from_ms: whole_ms(from), for_ms: whole_ms(length), every_ms: None }
    }

    /// When the window that holds this moment ends; `None` outside.
    #[must_use]
    pub fn end_of(&self, since_start: Duration) -> Option<Duration> {
        let from = Duration::from_millis(self.from_ms);
        let length = Duration::from_millis(self.for_ms);
        let after = since_start.checked_sub(from)?;
        let begun = match self.every_ms.filter(|every| *every > 0) {
            Some(every) => Duration::from_millis(whole_ms(after) / every * every),
            None => Duration::ZERO,
        };
        (after - begun < length).then(|| from + begun + length)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "2^64 ms are longer than any call")]
const fn whole_ms(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// What one way is like; the default is perfect.
///
/// Loss follows Gilbert and Elliott: a chain of two states, a step for each packet. In the bad state
/// `loss_in_bad` of the packets are lost, in the good one `loss_in_good`; the bad one lasts `burst_packets` on average,
/// and how often it comes follows from `loss`, which is the share lost in the long run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathSettings {
    /// Every packet takes this long.
    pub delay_ms: u32,
    /// How much longer it may take; see [`JitterShape`].
    pub jitter_ms: u32,
    /// How the extra wait is drawn.
    pub jitter_shape: JitterShape,
    /// A packet never overtakes another through jitter alone, like in a queue; without it jitter also reorders.
    pub keeps_order: bool,
    /// Packets lost in the long run.
    pub loss: Percent,
    /// Packets that the bad state lasts on average; 0: every packet is lost or not by itself, and there are no states.
    pub burst_packets: u32,
    /// Loss in the good state.
    pub loss_in_good: Percent,
    /// Loss in the bad state.
    pub loss_in_bad: Percent,
    /// Packets that are held back so that later ones overtake them.
    pub reorder: Percent,
    /// For how long they are held back.
    pub reorder_ms: u32,
    /// Packets that arrive twice; the second one comes up to `jitter_ms` + 10 ms after the first.
    pub duplicate: Percent,
    /// While these last, what is sent is lost.
    pub outages: Vec<Window>,
    /// While these last, nothing arrives; what was to arrive comes at the end, all at once, as after a handover.
    pub stalls: Vec<Window>,
    /// How much faster the sender's clock runs, parts per million; see [`PathSettings::clock`].
    pub drift_ppm: i32,
    /// Packets under way at one time; more are lost.
    pub capacity: u32,
}

impl Default for PathSettings {
    fn default() -> Self {
        Self {
            delay_ms: 0,
            jitter_ms: 0,
            jitter_shape: JitterShape::default(),
            keeps_order: true,
            loss: Percent::default(),
            burst_packets: 0,
            loss_in_good: Percent::default(),
            loss_in_bad: Percent::ALWAYS,
            reorder: Percent::default(),
            reorder_ms: 30,
            duplicate: Percent::default(),
            outages: Vec::new(),
            stalls: Vec::new(),
            drift_ppm: 0,
            // Ten seconds of a call.
            capacity: 500,
        }
    }
}

impl PathSettings {
    /// True when packets arrive as and when they are sent.
    #[must_use]
    pub fn is_perfect(&self) -> bool {
        let timely = self.delay_ms == 0 && self.jitter_ms == 0 && self.stalls.is_empty() && self.drift_ppm == 0;
        let whole = self.loss == Percent::default() && self.outages.is_empty();
        timely && whole && self.reorder == Percent::default() && self.duplicate == Percent::default()
    }

    /// The sender's clock; it shows the true time at `start`.
    #[must_use]
    pub const fn clock(&self, start: Instant) -> Clock {
        Clock { start, ppm: self.drift_ppm }
    }

    /// A way drawn by chance: from nearly perfect to hardly usable, about evenly. Outages fall into the first
    /// `length`, none is longer than 6 s.
    #[must_use]
    pub fn draw(dice: &mut Dice, length: Duration) -> Self {
        let mut settings = Self { delay_ms: small(dice, 300), ..Self::default() };
        let percent = |dice: &mut Dice, most: u32| Percent(f64::from(small(dice, most * 10)) / 10.0);
        if dice.chance(60) {
            settings.jitter_ms = small(dice, 120);
            settings.jitter_shape = match dice.below(3) {
                0 => JitterShape::Normal,
                1 => JitterShape::Uniform,
                _ => JitterShape::Exponential,
            };
            settings.keeps_order = dice.chance(70);
        }
        if dice.chance(60) {
            settings.loss = percent(dice, 20);
            settings.burst_packets = small(dice, 8);
        }
        if dice.chance(30) {
            settings.reorder = percent(dice, 10);
            settings.reorder_ms = small(dice, 100);
        }
        if dice.chance(30) {
            settings.duplicate = percent(dice, 10);
        }
        let windows = |dice: &mut Dice, longest: u64| {
            let count = dice.below(3);
            (0..count)
                .map(|_| Window {
                    from_ms: dice.below(whole_ms(length).max(1)),
                    for_ms: dice.below(longest),
                    every_ms: None,
                })
                .collect()
        };
        if dice.chance(25) {
            settings.outages = windows(dice, 6_000);
        }
        if dice.chance(25) {
            settings.stalls = windows(dice, 2_000);
        }
        if dice.chance(50) {
            settings.drift_ppm = i32::try_from(dice.below(601)).unwrap_or(0) - 300;
        }
        settings
    }
}

fn small(dice: &mut Dice, most: u32) -> u32 {
    u32::try_from(dice.below(u64::from(most) + 1)).unwrap_or(0)
}

/// A clock that runs a little too fast or too slow.
///
/// Drift belongs to the sender and not to the way: packets of a fast clock leave early, they do not arrive before they
/// left. Whoever plays the sender asks here when its next frame is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    start: Instant,
    ppm: i32,
}

impl Clock {
    /// The true time at which this clock shows so much since its start. Exact to a nanosecond for days.
    #[must_use]
    pub fn when_it_shows(&self, elapsed: Duration) -> Instant {
        const MILLION: i128 = 1_000_000;
        let nanos = i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX / MILLION);
        let true_nanos = nanos * MILLION / (MILLION + i128::from(self.ppm.clamp(-500_000, 500_000)));
        self.start + Duration::from_nanos(u64::try_from(true_nanos).unwrap_or(u64::MAX))
    }
}

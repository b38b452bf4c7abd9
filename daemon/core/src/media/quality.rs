//! How good a call sounded, estimated from what the network did to it.
//!
//! The wideband E-model, simplified: ITU-T G.107.1 with the terms of G.107 that it takes over, and the burst ratio of G.107. Of its many inputs those
//! that a packet call changes are kept: delay, codec and loss; the others stand at their defaults. It is an estimate of
//! the line, not of the voice on it, and it knows nothing of the model's answers. [`CallQuality`] gathers a call's
//! figures once a second; the ledger and the metrics get what [`CallQuality::summary`] makes of them.

use std::time::Duration;

/// Transmission rating without any impairment: G.107.1 section 7, all inputs at their defaults.
const BEST: f64 = 129.0;
/// Equipment impairment of Opus, wideband, 20 to 24 kbit/s. G.113 has no value for Opus; this is a choice of ours near what
/// it gives for AMR-WB at such rates (appendix IV, single digits).
const CODEC: f64 = 5.0;
/// Robustness against loss, `Bpl`: a choice of ours of the size that G.113 gives for codecs with concealment (4 to 5 where
/// frames depend on each other).
const ROBUSTNESS: f64 = 4.9;
/// What a packet rebuilt from its in-band copy weighs, of one that is lost. Measured, `tests/interop/concealment.rs`: 5 % of
/// loss, all rebuilt, cost about as much PESQ as 1.3 % of loss without copies.
const REBUILT: f64 = 0.25;
/// Delay of the way that no clock here sees: a packet is filled (20 ms), Opus looks ahead (6.5 ms).
const PACKET_MS: f64 = 26.5;

/// What one direction of the line did to the packets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Line {
    /// Packets that should have come.
    pub expected: u64,
    /// Those that were not there at their turn.
    pub lost: u64,
    /// Those among the lost that were rebuilt from a copy.
    pub rebuilt: u64,
    /// Runs of lost packets; 0 where nobody counts them, which means losses that know nothing of each other.
    pub loss_runs: u64,
    /// Delay of the jitter buffer, ms.
    pub buffer_ms: f64,
    /// Time to the far end and back, ms; 0 = not known.
    pub round_trip_ms: f64,
}

impl Line {
    /// Lost packets, rebuilt ones included, in percent.
    #[must_use]
    pub fn loss_percent(&self) -> f64 {
        percent(self.lost as f64, self.expected)
    }

    /// How much longer runs of loss are than by chance (G.107 section 7.4, `BurstR`); at least 1.
    #[must_use]
    pub fn burst_ratio(&self) -> f64 {
        if self.loss_runs == 0 {
            return 1.0;
        }
        let by_chance = 1.0 / (1.0 - (self.loss_percent() / 100.0).min(0.99));
        (self.lost as f64 / self.loss_runs as f64 / by_chance).max(1.0)
    }

    /// Transmission rating R, 0 to 129.
    #[must_use]
    pub fn rating(&self) -> f64 {
        let rebuilt = self.rebuilt.min(self.lost) as f64;
        let loss = percent(self.lost as f64 - rebuilt * (1.0 - REBUILT), self.expected);
        // G.107 (7-29): Ie,eff = Ie + (95 - Ie) * Ppl / (Ppl / BurstR + Bpl).
        let equipment = CODEC + (95.0 - CODEC) * loss / (loss / self.burst_ratio() + ROBUSTNESS);
        let way = self.round_trip_ms / 2.0 + self.buffer_ms + PACKET_MS;
        (BEST - delay_impairment(way) - equipment).clamp(0.0, BEST)
    }

    /// Mean opinion score, 1 (bad) to 4.5, of the rating (G.107.1 annex A by way of G.107 annex B).
    #[must_use]
    pub fn mos(&self) -> f64 {
        let r = self.rating() / 1.29;
        (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).clamp(1.0, 4.5)
    }
}

/// G.107 (7-27): what absolute delay takes away beyond 100 ms, `Idd`.
fn delay_impairment(ms: f64) -> f64 {
    if ms <= 100.0 {
        return 0.0;
    }
    let x = (ms / 100.0).log2();
    25.0 * ((1.0 + x.powi(6)).powf(1.0 / 6.0) - 3.0 * (1.0 + (x / 3.0).powi(6)).powf(1.0 / 6.0) + 2.0)
}

fn percent(part: f64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part / whole as f64 * 100.0).clamp(0.0, 100.0) }
}

/// What is known of a call once a second; counters since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// Packets of the caller taken in.
    pub received: u64,
    /// Packets of the caller that were not there at their turn.
    pub lost: u64,
    /// Those among them that were rebuilt.
    pub rebuilt: u64,
    /// Runs of lost packets.
    pub loss_runs: u64,
    /// Delay of our jitter buffer, ms.
    pub buffer_ms: u32,
    /// Interarrival jitter of the caller's packets (RFC 3550), ms.
    pub jitter_ms: f64,
    /// Packets that we sent.
    pub sent: u64,
    /// The far end's own figures, once it has sent a report.
    pub far: Option<FarReading>,
}

/// What the far end says of our packets (RTCP).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FarReading {
    /// Packets of ours that it misses since the beginning.
    pub lost: u64,
    /// Interarrival jitter there, ms.
    pub jitter_ms: f64,
    /// Time there and back.
    pub round_trip: Option<Duration>,
}

/// A mean that needs no list.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count = self.count.saturating_add(1);
    }

    fn value(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

/// Gathers the readings of one call.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallQuality {
    last: Reading,
    buffer: Mean,
    jitter: Mean,
    far_jitter: Mean,
    round_trip: Mean,
    underruns: u64,
}

/// How a call sounded, as the ledger keeps it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LineQuality {
    /// Estimate for what we heard of the caller; `None` when nothing came.
    pub heard_mos: Option<f64>,
    /// Estimate for what the caller heard of us; `None` without a report of the far end.
    pub spoken_mos: Option<f64>,
    /// Packets of the caller lost, rebuilt ones included, percent.
    pub heard_loss: f64,
    /// Packets of ours lost, percent.
    pub spoken_loss: Option<f64>,
    /// How much longer runs of loss are than by chance.
    pub burst_ratio: f64,
    /// Mean interarrival jitter of the caller's packets, ms.
    pub jitter_ms: f64,
    /// Mean delay of our jitter buffer, ms.
    pub buffer_ms: f64,
    /// Mean time to the far end and back, ms.
    pub round_trip_ms: Option<f64>,
    /// Frames of the model's speech that were due in mid-sentence and not there.
    pub underruns: u64,
}

impl CallQuality {
    /// Takes the figures of a second in.
    pub fn read(&mut self, reading: Reading) {
        if reading.received > self.last.received {
            self.buffer.add(f64::from(reading.buffer_ms));
            self.jitter.add(reading.jitter_ms);
        }
        if let Some(far) = reading.far {
            self.far_jitter.add(far.jitter_ms);
            if let Some(time) = far.round_trip {
                self.round_trip.add(time.as_secs_f64() * 1_000.0);
            }
        }
        self.last = reading;
    }

    /// Frames were missing in mid-sentence.
    pub fn underrun(&mut self, frames: u64) {
        self.underruns += frames;
    }

    /// The call so far; `None` before the first packet of the caller.
    #[must_use]
    pub fn summary(&self) -> Option<LineQuality> {
        let Reading { received, lost, rebuilt, loss_runs, sent, far, .. } = self.last;
        if received == 0 {
            return None;
        }
        let round_trip_ms = self.round_trip.value();
        let buffer_ms = self.buffer.value().unwrap_or_default();
        let heard = Line {
            expected: received + lost,
            lost,
            rebuilt,
            loss_runs,
            buffer_ms,
            round_trip_ms: round_trip_ms.unwrap_or_default(),
        };
        // The far end's buffer is not told: twice its jitter and a frame is what buffers like ours settle at.
        let spoken = far.map(|far| Line {
            expected: sent,
            lost: far.lost.min(sent),
            buffer_ms: 20.0 + 2.0 * self.far_jitter.value().unwrap_or_default(),
            round_trip_ms: round_trip_ms.unwrap_or_default(),
            ..Line::default()
        });
        Some(LineQuality {
            heard_mos: Some(heard.mos()),
            spoken_mos: spoken.map(|line| line.mos()),
            heard_loss: heard.loss_percent(),
            spoken_loss: spoken.map(|line| line.loss_percent()),
            burst_ratio: heard.burst_ratio(),
            jitter_ms: self.jitter.value().unwrap_or_default(),
            buffer_ms,
            round_trip_ms,
            underruns: self.underruns,
        })
    }
}

/// Which loss the encoder's in-band FEC is to prepare for, by what the far end reports.
///
/// Reports come every few seconds and vary; a mean of some ten seconds follows the network and not the dice. It never
/// falls below [`Self::LEAST`]: FEC is for the losses that come next, and costs little at that setting.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedLoss {
    mean: f64,
    told: i32,
}

impl Default for ExpectedLoss {
    fn default() -> Self {
        Self { mean: f64::from(Self::AT_FIRST), told: Self::AT_FIRST }
    }
}

impl ExpectedLoss {
    /// Percent to prepare for before the first report: a phone on a mobile network.
    pub const AT_FIRST: i32 = 10;
    /// Percent below which it never falls.
    pub const LEAST: i32 = 5;
    /// Percent above which the copies would cost more than they save.
    pub const MOST: i32 = 30;

    /// Takes the share of a report in, in 1/256; the new percentage when the encoder is to be told.
    pub fn reported(&mut self, fraction_lost: u8) -> Option<i32> {
        self.mean += (f64::from(fraction_lost) / 2.56 - self.mean) / 4.0;
        #[expect(clippy::cast_possible_truncation, reason = "a percentage")]
        let percent = (self.mean.ceil() as i32).clamp(Self::LEAST, Self::MOST);
        // A step of one is noise, except to where there is no further one.
        let at_bound = percent == Self::LEAST || percent == Self::MOST;
        let change = percent != self.told && (at_bound || (percent - self.told).abs() >= 2);
        if change {
            self.told = percent;
        }
        change.then_some(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(lost: u64, rebuilt: u64, loss_runs: u64, buffer_ms: f64, round_trip_ms: f64) -> Line {
        Line { expected: 10_000, lost, rebuilt, loss_runs, buffer_ms, round_trip_ms }
    }

    #[test]
    fn a_clean_line_is_nearly_the_best_there_is() {
        let clean = line(0, 0, 0, 20.0, 60.0);
        assert!((clean.rating() - 124.0).abs() < 0.01, "{}", clean.rating());
        assert!((4.4..=4.5).contains(&clean.mos()), "{}", clean.mos());
        assert_eq!(Line::default().loss_percent(), 0.0, "no packets, no division");
    }

    #[test]
    fn the_delay_impairment_is_that_of_the_recommendation() {
        // Values of G.107's formula by hand: X = 1 at 200 ms, X = 2 at 400 ms.
        assert_eq!(delay_impairment(100.0), 0.0);
        assert!((delay_impairment(200.0) - 25.0 * (2.0_f64.powf(1.0 / 6.0) - 3.0 * 1.000_228_5 + 2.0)).abs() < 0.01);
        assert!((delay_impairment(400.0) - 24.1).abs() < 1.0, "{}", delay_impairment(400.0));
        assert!(delay_impairment(150.0) < 1.0 && delay_impairment(300.0) > 10.0);
    }

    #[test]
    fn more_loss_longer_runs_and_more_delay_are_never_better() {
        let mut before = f64::MAX;
        for lost in (0..=10_000).step_by(250) {
            let mos = line(lost, 0, lost, 20.0, 60.0).mos();
            assert!(mos <= before && (1.0..=4.5).contains(&mos), "{lost}: {mos}");
            before = mos;
        }
        assert!(line(500, 0, 100, 20.0, 60.0).mos() < line(500, 0, 490, 20.0, 60.0).mos());
        assert!(line(0, 0, 0, 20.0, 900.0).mos() < line(0, 0, 0, 20.0, 100.0).mos() - 0.5);
        assert!(line(500, 500, 490, 20.0, 60.0).mos() > line(500, 0, 490, 20.0, 60.0).mos() + 0.3);
    }

    #[test]
    fn the_encoder_follows_the_loss_that_the_far_end_reports_within_bounds() {
        let mut loss = ExpectedLoss::default();
        let told: Vec<i32> = (0..20).filter_map(|_| loss.reported(0)).collect();
        assert_eq!(told.last(), Some(&ExpectedLoss::LEAST), "{told:?}");
        assert_eq!(loss.reported(0), None, "what is told is not told again");
        let told: Vec<i32> = (0..20).filter_map(|_| loss.reported(51)).collect();
        assert!(told.is_sorted() && told.last().is_some_and(|last| (18..=21).contains(last)), "{told:?}");
        let told: Vec<i32> = (0..20).filter_map(|_| loss.reported(255)).collect();
        assert_eq!(told.last(), Some(&ExpectedLoss::MOST));
    }

    #[test]
    fn a_call_is_summed_up_by_its_means_and_its_last_counters() {
        let mut call = CallQuality::default();
        assert_eq!(call.summary(), None, "nothing came");
        for second in 1..=10_u64 {
            call.read(Reading {
                received: second * 48,
                lost: second * 2,
                rebuilt: second,
                loss_runs: second,
                buffer_ms: 40 + 10 * u32::from(second > 5),
                jitter_ms: 8.0,
                sent: second * 50,
                far: (second > 3).then_some(FarReading {
                    lost: second,
                    jitter_ms: 5.0,
                    round_trip: Some(Duration::from_millis(200)),
                }),
            });
        }
        call.underrun(3);
        let got = call.summary().unwrap();
        assert_eq!((got.heard_loss, got.spoken_loss, got.underruns), (4.0, Some(2.0), 3));
        assert_eq!((got.buffer_ms, got.jitter_ms), (45.0, 8.0));
        assert!((got.round_trip_ms.unwrap() - 200.0).abs() < 1e-9);
        assert!((got.burst_ratio - 1.92).abs() < 1e-9, "{}", got.burst_ratio);
        let (heard, spoken) = (got.heard_mos.unwrap(), got.spoken_mos.unwrap());
        assert!((1.0..4.3).contains(&heard) && (1.0..4.4).contains(&spoken), "{heard} {spoken}");
    }
}

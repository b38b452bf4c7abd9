//! The invariants of `design`: looked at after every step of a world.

use std::time::{Duration, Instant};

use sauti_core::call::outcome::Outcome;

use super::lane::{DOWN_FRAMES, UP_FRAMES};
use super::task::HELD;
use super::{Connection, World};
use crate::openai::{ClientFaultKind, Trouble};

/// The longest silence that somebody who waits for a word may be left in.
pub const MOST_DEAD_AIR: Duration = Duration::from_secs(4);
/// Effects of one step beyond this are a loop.
const MOST_SEEN: usize = 20_000;
/// A call may not outlive its longest time by more than this: ringing, leave, goodbye.
const OVERTIME: Duration = Duration::from_secs(45);

/// What is kept for judging.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) breaches: Vec<String>,
    pub(super) dead_air: Duration,
    pub(super) ends: u32,
    pub(super) texts: u32,
    pub(super) after_end: bool,
    accepted: Option<Instant>,
    /// The model said last that the caller speaks.
    noticed: Option<Instant>,
    lost: Option<Instant>,
    /// When an outage took something audible from the caller last.
    swallowed: Option<Instant>,
    /// When an epoch was flushed last, and how many frames of it had been consumed.
    flushed: Option<(Instant, u32)>,
    pub(super) most: [u64; 4],
}

impl Watch {
    fn breach(&mut self, what: String) {
        // One line for each kind is enough to find it.
        if self.breaches.len() < 16 && !self.breaches.contains(&what) {
            self.breaches.push(what);
        }
    }

    pub(super) const fn accepted(&mut self, now: Instant) {
        self.accepted = Some(now);
    }

    pub(super) const fn model_lost(&mut self, now: Instant) {
        self.lost = Some(now);
    }

    pub(super) const fn noticed(&mut self, now: Instant) {
        self.noticed = Some(now);
    }

    pub(super) const fn swallowed(&mut self, now: Instant) {
        self.swallowed = Some(now);
    }

    pub(super) const fn model_ready(&mut self) {
        self.lost = None;
    }

    pub(super) const fn flushed(&mut self, now: Instant, consumed: (u32, u32)) {
        self.flushed = Some((now, consumed.1));
    }

    /// A frame goes out.
    pub(super) fn frame_out(&mut self, of: Option<u32>, lane: u32, playout: u32) {
        if self.accepted.is_none() {
            self.breach("a frame went out before the accept".to_owned());
        }
        if of.is_some_and(|epoch| epoch != lane || epoch != playout) {
            self.breach(format!("a frame of epoch {of:?} went out in epoch {playout}"));
        }
    }

    /// An event goes to the model.
    pub(super) fn sent(&mut self, now: Instant, label: &str, json: &str) {
        // What is truncated without an interruption is what was too much to be kept; the rest is still to be heard.
        let Some((_, frames)) = self.flushed.filter(|(at, _)| *at == now) else { return };
        if label != "conversation.item.truncate" {
            return;
        }
        let value: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
        let end = value["audio_end_ms"].as_u64();
        let heard = u64::from(frames) * 20;
        if end.is_none_or(|end| end > heard) {
            self.breach(format!("truncated at {end:?} ms when no more than {heard} ms were consumed"));
        }
    }
}

impl World {
    /// Looks at what has to hold at any moment.
    pub(super) fn look(&mut self) {
        let now = self.now.mono;
        if let Some(lane) = &self.lane {
            let (up, down) = (lane.up.len(), lane.down.len());
            if up > UP_FRAMES || down > DOWN_FRAMES {
                self.watch.breach(format!("rings of {up} and {down} frames"));
            }
            let (epoch, frames) = lane.consumed();
            if epoch == self.playout.epoch() && self.playout.ahead() > u32::try_from(DOWN_FRAMES).unwrap_or(0) + frames
            {
                self.watch.breach("more frames are ahead than the ring holds".to_owned());
            }
        }
        if self.held.len() > HELD {
            self.watch.breach(format!("{} frames of the caller are held", self.held.len()));
        }
        let tables = self.tables();
        for (most, now) in self.watch.most.iter_mut().zip(tables) {
            *most = (*most).max(now);
        }
        if self.watch.ends > 1 {
            self.watch.breach("two outcomes".to_owned());
        }
        if self.watch.texts > 1 {
            self.watch.breach("two texts".to_owned());
        }
        if self.watch.after_end {
            self.watch.breach("something came out after the end".to_owned());
        }
        if self.playout.depth_ms() > 60_000 {
            self.watch.breach(format!("a reservoir of {} ms", self.playout.depth_ms()));
        }
        if self.seen.len() > MOST_SEEN {
            self.watch.breach("the machines do not come to rest".to_owned());
        }
        let longest = self.settings.limits.max_call + self.settings.limits.no_media + OVERTIME;
        if self.ending.is_none() && self.since() > longest {
            self.watch.breach("the call does not end".to_owned());
        }
        self.look_at_the_silence(now);
    }

    /// Dead air: somebody waits for a word, hears none, and the network would carry it.
    fn look_at_the_silence(&mut self, now: Instant) {
        let Some(accepted) = self.watch.accepted else { return };
        // Without recordings only the model can speak.
        if self.ending.is_some() || self.caller.speaks || self.caller.is_over() || !self.settings.clips {
            return;
        }
        // What an outage took, no box can know: that it was said ends the wait.
        let heard = self.caller.last_sound.max(self.watch.swallowed);
        // A question that a dead socket swallowed is one that nobody on the box has heard of, until the box judges by
        // its own voice detector.
        let asked = self.caller.asked.filter(|(from, to)| {
            let whole = self.reached(*from, *to);
            self.watch.noticed.is_some_and(|noticed| noticed >= whole)
        });
        // Nor can the box know of one before somebody tells it.
        let asked = asked.map(|(_, to)| self.watch.noticed.map_or(to, |noticed| noticed.max(to)));
        // She waits from the accept to the first word, from her own last word to the answer, and for as long as a
        // session is lost.
        let waits = match (heard, asked, self.watch.lost) {
            (None, asked, _) => Some(asked.map_or(accepted, |asked| asked.max(accepted))),
            (Some(heard), asked, lost) => {
                let asked = asked.filter(|asked| *asked > heard);
                let lost = lost.map(|lost| asked.map_or(heard, |asked| asked.max(heard)).max(lost));
                asked.or(lost)
            }
        };
        let Some(since) = waits else { return };
        let since = self.caller.spoke.map_or(since, |spoke| spoke.max(since));
        let start = self.caller.began();
        let dark = self.settings.up.outages.iter().chain(&self.settings.up.stalls);
        let dark = dark.chain(&self.settings.down.outages).chain(&self.settings.down.stalls);
        // What an outage of the network took counts from its end.
        let since = dark
            .filter_map(|window| {
                let (from, to) = (start + Duration::from_millis(window.from_ms), window.for_ms);
                let to = from + Duration::from_millis(to) + Duration::from_secs(1);
                (from <= now && to > since).then_some(to)
            })
            .fold(since, Instant::max);
        let silence = now.saturating_duration_since(since);
        if silence > self.watch.dead_air {
            self.watch.dead_air = silence;
        }
        let allowance = Duration::from_millis(u64::from(self.settings.down.delay_ms + self.settings.up.delay_ms));
        if silence > MOST_DEAD_AIR + allowance {
            let at = self.since() - silence;
            self.watch.breach(format!("dead air from {at:.1?} on for more than {MOST_DEAD_AIR:?}"));
        }
    }

    /// From when on an utterance reached the box: an outage that took part of it left a question that nobody could
    /// tell from a whole one, or from none.
    fn reached(&self, from: Instant, to: Instant) -> Instant {
        let start = self.caller.began();
        let windows = self.settings.up.outages.iter().map(|window| {
            let begins = start + Duration::from_millis(window.from_ms);
            (begins, begins + Duration::from_millis(window.for_ms))
        });
        windows.filter(|(begins, ends)| *begins < to && *ends > from).map(|(_, ends)| ends).fold(from, Instant::max)
    }

    /// Looks at what is left when the call is over.
    pub(super) fn look_at_the_end(&mut self) {
        let Some(end) = self.ending else { return };
        if !self.playout.is_drained() || self.playout.depth_ms() > 0 {
            self.watch.breach("the reservoir is not empty at the end".to_owned());
        }
        if self.tables() != [0; 4] {
            self.watch.breach(format!("left behind: {:?}", self.tables()));
        }
        let left = matches!(end.outcome, Outcome::Completed | Outcome::CallerLeftEarly | Outcome::Limit);
        if self.watch.accepted.is_some() && self.caller.heard.is_empty() && !end.text && !left {
            self.watch.breach("an accepted caller neither heard anything nor is owed a text".to_owned());
        }
        let faults: Vec<String> = self
            .model
            .records
            .iter()
            .flat_map(|record| &record.client_faults)
            .filter(|fault| {
                // Audio that the server sent twice was heard twice, and so beyond what the server knows.
                let twice =
                    |connection: &Connection| connection.faults.iter().any(|fault| fault.trouble == Trouble::Duplicate);
                let twice = self.settings.model.connections.iter().any(twice);
                if twice && fault.kind == ClientFaultKind::TruncateBeyondReceived {
                    return false;
                }
                // Lost races with the server's own clock are benign.
                !matches!(fault.kind, ClientFaultKind::TooLate | ClientFaultKind::CreateWhileActive)
                    && fault.kind != ClientFaultKind::UnknownItem
                    && fault.kind != ClientFaultKind::Pacing
            })
            .map(|fault| format!("the model objects: {:?} {}", fault.kind, fault.detail))
            .collect();
        faults.into_iter().for_each(|fault| self.watch.breach(fault));
    }
}

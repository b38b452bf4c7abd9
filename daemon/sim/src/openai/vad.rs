//! Finds speech in the appended audio by its energy, the way `server_vad` is documented to behave.
//!
//! Positions are samples at 24 kHz since the session began, counted in appended audio, not in time. It knows nothing
//! of padding, items or events: `input.rs` makes those.

/// Samples in one decision frame of 10 ms.
const FRAME: usize = 240;
/// Consecutive loud frames that make speech; shorter clicks are ignored.
const ONSET_FRAMES: u64 = 3;
/// Level of activation 0, in dB below full scale; activation 1 lies 50 dB higher. A threshold of 0.5 is −45 dBFS.
const FLOOR_DB: f64 = -70.0;
const SPAN_DB: f64 = 50.0;
/// Once speech runs, frames down to this much below the threshold still count as speech.
const HYSTERESIS: f64 = 0.15;

/// What happened in the audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// Speech began; where its first loud frame starts.
    Started {
        /// Sample position of the onset.
        onset: u64,
    },
    /// Silence has lasted long enough; the position at which that became known.
    Stopped {
        /// Sample position of the end, the silence included.
        end: u64,
    },
}

/// A running detector.
#[derive(Debug, Default)]
pub(super) struct Vad {
    partial: Vec<i16>,
    position: u64,
    loud_run: u64,
    quiet_since: Option<u64>,
    speaking: bool,
}

impl Vad {
    /// Takes samples and appends the edges found in them; `silence` is in samples.
    pub(super) fn push(&mut self, samples: &[i16], threshold: f64, silence: u64, edges: &mut Vec<Edge>) {
        let mut rest = samples;
        if !self.partial.is_empty() {
            let missing = FRAME.saturating_sub(self.partial.len()).min(rest.len());
            let (head, tail) = rest.split_at(missing);
            self.partial.extend_from_slice(head);
            rest = tail;
            if self.partial.len() == FRAME {
                let frame = std::mem::take(&mut self.partial);
                self.judge(&frame, threshold, silence, edges);
            }
        }
        let mut frames = rest.chunks_exact(FRAME);
        for frame in &mut frames {
            self.judge(frame, threshold, silence, edges);
        }
        self.partial.extend_from_slice(frames.remainder());
    }

    /// Passes over samples that nobody listens to, so that positions stay true.
    pub(super) fn skip(&mut self, samples: usize) {
        let waiting = std::mem::take(&mut self.partial);
        self.position += (waiting.len() + samples) as u64;
    }

    /// Says whether speech is running.
    pub(super) fn speaking(&self) -> bool {
        self.speaking
    }

    /// Forgets running speech (the buffer was committed or cleared by hand); the position goes on.
    pub(super) fn restart(&mut self) {
        self.loud_run = 0;
        self.quiet_since = None;
        self.speaking = false;
    }

    fn judge(&mut self, frame: &[i16], threshold: f64, silence: u64, edges: &mut Vec<Edge>) {
        let start = self.position;
        self.position += frame.len() as u64;
        let level = activation(frame);
        if !self.speaking {
            self.loud_run = if level >= threshold { self.loud_run + 1 } else { 0 };
            if self.loud_run >= ONSET_FRAMES {
                self.speaking = true;
                self.quiet_since = None;
                let run = self.loud_run.saturating_mul(FRAME as u64);
                edges.push(Edge::Started { onset: self.position.saturating_sub(run) });
            }
        } else if level >= threshold - HYSTERESIS {
            self.quiet_since = None;
        } else {
            let since = *self.quiet_since.get_or_insert(start);
            if self.position - since >= silence {
                self.restart();
                edges.push(Edge::Stopped { end: self.position });
            }
        }
    }
}

/// Maps a frame's level to 0…1.
#[expect(clippy::cast_precision_loss, reason = "the squares of a frame are below 2^38")]
fn activation(frame: &[i16]) -> f64 {
    // Whole numbers may be summed in any order, so several at a time.
    let sum: u64 = frame.iter().map(|&sample| u64::from(u32::from(sample.unsigned_abs()).pow(2))).sum();
    let mean = sum as f64 / f64::from(u32::try_from(frame.len().max(1)).unwrap_or(u32::MAX));
    let decibels = 10.0 * (mean / (32_768.0 * 32_768.0)).max(1e-12).log10();
    ((decibels - FLOOR_DB) / SPAN_DB).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: usize) -> usize {
        count * 24
    }

    fn square(level: i16, samples: usize) -> Vec<i16> {
        (0..samples).map(|index| if index % 40 < 20 { level } else { -level }).collect()
    }

    fn edges_of(vad: &mut Vad, audio: &[i16], piece: usize) -> Vec<Edge> {
        let mut edges = Vec::new();
        audio.chunks(piece).for_each(|part| vad.push(part, 0.5, ms(500) as u64, &mut edges));
        edges
    }

    #[test]
    fn speech_is_found_at_its_onset_and_ends_after_the_silence_window() {
        let audio = [square(0, ms(1_000)), square(6_000, ms(800)), square(0, ms(900))].concat();
        for piece in [480, 137, 100_000] {
            let edges = edges_of(&mut Vad::default(), &audio, piece);
            let end = ms(1_000 + 800 + 500) as u64;
            assert_eq!(edges, [Edge::Started { onset: ms(1_000) as u64 }, Edge::Stopped { end }], "pieces of {piece}");
        }
    }

    #[test]
    fn a_click_and_faint_noise_are_not_speech() {
        let audio = [square(9_000, ms(20)), square(60, ms(2_000))].concat();
        assert_eq!(edges_of(&mut Vad::default(), &audio, 480), []);
    }

    #[test]
    fn a_pause_shorter_than_the_window_does_not_end_the_turn() {
        let audio = [square(6_000, ms(300)), square(0, ms(400)), square(6_000, ms(300)), square(0, ms(600))].concat();
        let edges = edges_of(&mut Vad::default(), &audio, 480);
        assert_eq!(edges, [Edge::Started { onset: 0 }, Edge::Stopped { end: ms(1_500) as u64 }]);
    }

    #[test]
    fn a_higher_threshold_needs_louder_audio() {
        let audio = square(600, ms(500));
        let (mut low, mut high) = (Vec::new(), Vec::new());
        Vad::default().push(&audio, 0.5, 4_800, &mut low);
        Vad::default().push(&audio, 0.9, 4_800, &mut high);
        assert_eq!((low.len(), high.len()), (1, 0));
    }
}

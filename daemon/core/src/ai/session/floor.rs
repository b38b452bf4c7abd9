//! What the lane hears of the caller while the AI speaks, and what follows from it.

use super::Session;
use super::io::Effect;
use crate::media::floor::Overlap;
use crate::media::playout::Playout;
use crate::now::Now;

impl Session {
    /// The lane heard the caller over the AI, and has paused it.
    pub(super) fn overlap(&mut self, _: Now, overlap: Overlap, _: &mut Playout, out: &mut Vec<Effect>) {
        if matches!(overlap, Overlap::Ended { .. }) {
            out.push(Effect::Resume);
        }
    }
}

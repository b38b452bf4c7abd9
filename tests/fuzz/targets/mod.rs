//! What is fuzzed: one function per kind of input, from bytes of the network to the value that the box works with.
//!
//! The functions know neither libFuzzer nor files. `fuzz_targets` drives them with new inputs, `tests/replay.rs` with
//! the committed ones. None of the inputs may panic, and what is checked beside that is said at each function.

mod leg_pair;
mod model_events;
mod rtp_rtcp;
mod rtp_sdp;
mod sdp;
mod sip;
mod webhook;

use std::sync::OnceLock;
use std::time::Instant;

pub(crate) use model_events::model_events;
pub(crate) use rtp_rtcp::rtp_rtcp;
pub(crate) use rtp_sdp::rtp_sdp;
pub(crate) use sdp::sdp;
pub(crate) use sip::sip;
pub(crate) use webhook::webhook;

/// Where virtual time begins: an [`Instant`] can only be had from the clock, so it is read once.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

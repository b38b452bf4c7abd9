//! The signal path of `sauti`: WebRTC engine, SRTP and Opus, all sans-IO.
//!
//! Time and packets come in as arguments; a lane of the shell drives it. [`webrtc`] is the only file that names the engine.

pub mod ogg_opus;
pub mod opus;
pub mod pipeline;
pub mod voice;
pub mod webrtc;
pub mod webrtc_sdp;

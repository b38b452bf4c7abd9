//! The signal path of `sauti`: WebRTC engine, RTP, SRTP and codecs, all sans-IO.
//!
//! Time and packets come in as arguments; a lane of the shell drives it.

mod conceal;
pub mod g722;
pub mod ogg_opus;
pub mod opus;
pub mod pipeline;
pub mod resample;
pub mod rtp;
pub mod rtp_leg;
pub mod rtp_sdp;
mod sdp;
pub mod voice;
pub mod webrtc;
pub mod webrtc_sdp;

//! Numbers and buffers of the media path; no codec, no socket.

pub mod codec;
pub mod floor;
pub mod frame;
pub mod g711;
pub mod jitter;
pub mod level;
pub mod playout;
pub mod preroll;
pub mod quality;
pub mod rtp;
mod transit;

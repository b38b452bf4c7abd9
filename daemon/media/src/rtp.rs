//! What every caller leg has, whatever carries it: two RTP streams, their protection, their reports, and what it says.
//!
//! [`crate::webrtc`] puts ICE and DTLS around it, [`crate::rtp_leg`] an address that was signalled. No codec, no socket, no
//! clock. The engine's SRTP is named here and in [`srtp`], nowhere else outside [`crate::webrtc`].

mod packet;
mod report;
pub(crate) mod srtp;
mod stream;

#[cfg(test)]
pub(crate) use packet::read_header;
pub use packet::{RtpIn, RtpOut};
pub use report::{FarReport, Reception};
#[cfg(test)]
pub(crate) use stream::MAX_TRIALS;
pub(crate) use stream::{Protection, Stream, sender};

/// Longest payload that is sent: with headers, SRTP and UDP it stays below any path's MTU. 20 ms of Opus at its highest
/// rate has 1275 bytes, at ours 60 to 160; 60 ms of G.711 have 480.
pub const MAX_PAYLOAD: usize = 1_200;
/// Longest datagram that is looked at.
pub(crate) const MAX_DATAGRAM: usize = 2_048;

/// Something that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegEvent {
    /// A path is chosen; DTLS begins or is awaited.
    IceConnected,
    /// Media may flow in both directions: SRTP is up, or it is known where to send.
    Connected,
    /// The far end has been silent on ICE for 5 s (8 s where we are ICE-lite); it may come back, so this alone ends no
    /// call.
    Disconnected,
    /// It came back.
    Recovered,
    /// The far end reports how our stream arrives.
    Report(FarReport),
    /// The far end said RTCP BYE: a hang-up seen before any webhook.
    Bye,
    /// The far end closed DTLS: no media goes either way any more.
    Closed,
    /// There will be no media (any more); nothing follows.
    Failed(LegFailure),
}

/// Why a leg failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegFailure {
    /// No path within 30 s, or silence on it for 30 s.
    Ice,
    /// The handshake was refused or never completed.
    Dtls,
    /// The far end's certificate is not the one that its description announced.
    WrongCertificate,
}

/// Why a packet was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It is not known yet where to and with which keys, or the leg is over.
    #[error("the leg is not connected; wait for its Connected event")]
    NotConnected,
    /// The payload is too long.
    #[error("the payload has {0} bytes; at most {MAX_PAYLOAD} are sent")]
    TooLong(usize),
    /// The engine refused, for instance RTCP that is none.
    #[error("the engine refused to protect the packet")]
    Refused,
}

/// What was counted over the life of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LegCounters {
    /// RTP packets received and delivered.
    pub rtp_in: u64,
    /// RTP packets sent.
    pub rtp_out: u64,
    /// RTCP datagrams received and read.
    pub rtcp_in: u64,
    /// RTCP datagrams sent.
    pub rtcp_out: u64,
    /// Checks that were not for us or not authentic, and answers to nothing that we asked.
    pub stun_refused: u64,
    /// DTLS or media from an address that passed no check, or that is not the one which media comes from.
    pub strangers: u64,
    /// Media before there were keys.
    pub early: u64,
    /// SRTP or SRTCP that failed authentication.
    pub srtp_failures: u64,
    /// SRTP or SRTCP that came twice or too late.
    pub replayed: u64,
    /// Truncated, oversized or unknown datagrams.
    pub bad_packets: u64,
    /// Received packets thrown away because nobody polled.
    pub unpolled: u64,
}

//! RTP packets on either side of the engine: what goes in, what comes out, and the header that stays in the clear.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use rtc::rtp::Header;
use rtc::rtp::header::Extension;

/// Length of a header without contributing sources or extension.
pub(crate) const RTP_HEADER: usize = 12;

/// A received RTP packet, decrypted.
#[derive(Clone, PartialEq, Eq)]
pub struct RtpIn {
    /// Payload type; tells audio from telephone events.
    pub payload_type: u8,
    /// Marker bit.
    pub marker: bool,
    /// Sequence number.
    pub sequence: u16,
    /// Media time.
    pub timestamp: u32,
    /// Who sends.
    pub ssrc: u32,
    /// When the datagram was handed in.
    pub at: Instant,
    /// The payload without padding; may be empty.
    pub payload: BytesMut,
}

impl std::fmt::Debug for RtpIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RtpIn")
            .field("payload_type", &self.payload_type)
            .field("marker", &self.marker)
            .field("sequence", &self.sequence)
            .field("timestamp", &self.timestamp)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// An RTP packet to send, from our one SSRC.
///
/// Begin sequence numbers below 32,768: a receiver that misses the first packets of a stream that began higher may not
/// see that the number wrapped, and then cannot decrypt (RFC 3711 section 3.3.1).
#[derive(Debug, Clone, Copy)]
pub struct RtpOut<'a> {
    /// Payload type, as negotiated.
    pub payload_type: u8,
    /// Sequence number, one more than before.
    pub sequence: u16,
    /// Media time.
    pub timestamp: u32,
    /// Marker bit.
    pub marker: bool,
    /// At most [`super::MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

impl RtpOut<'_> {
    /// Writes the packet into `plain` and returns its header as the engine wants it.
    pub(crate) fn write(&self, ssrc: u32, plain: &mut Vec<u8>) -> Header {
        let payload_type = self.payload_type & 0x7F;
        plain.clear();
        plain.extend_from_slice(&[0x80, payload_type | (u8::from(self.marker) << 7)]);
        plain.extend_from_slice(&self.sequence.to_be_bytes());
        plain.extend_from_slice(&self.timestamp.to_be_bytes());
        plain.extend_from_slice(&ssrc.to_be_bytes());
        plain.extend_from_slice(self.payload);
        Header {
            version: 2,
            marker: self.marker,
            payload_type,
            sequence_number: self.sequence,
            timestamp: self.timestamp,
            ssrc,
            ..Header::default()
        }
    }
}

/// The unencrypted part of an SRTP packet.
pub(crate) struct RtpHeader {
    pub(crate) payload_type: u8,
    pub(crate) marker: bool,
    pub(crate) padded: bool,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) ssrc: u32,
    pub(crate) sources: usize,
    /// Bytes of the extension behind its own 4 bytes of head.
    pub(crate) extension: Option<usize>,
    /// Length of the whole header.
    pub(crate) bytes: usize,
}

pub(crate) fn read_header(packet: &[u8]) -> Option<RtpHeader> {
    let (&[first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3], rest) = packet.split_first_chunk::<RTP_HEADER>()?;
    let sources = usize::from(first & 0x0F);
    let rest = rest.get(sources * 4..)?;
    let extension = if first & 0x10 == 0 {
        None
    } else {
        let (&[_, _, high, low], rest) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([high, low])) * 4;
        rest.get(..length).map(<[u8]>::len)
    };
    if first & 0x10 != 0 && extension.is_none() {
        return None;
    }
    Some(RtpHeader {
        payload_type: second & 0x7F,
        marker: second & 0x80 != 0,
        padded: first & 0x20 != 0,
        sequence: u16::from_be_bytes([s0, s1]),
        timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
        ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
        sources,
        extension,
        bytes: RTP_HEADER + sources * 4 + extension.map_or(0, |length| 4 + length),
    })
}

impl RtpHeader {
    /// The header as the engine wants it. It uses the number, the source and the length, so the extension goes in as
    /// one opaque piece: taking it apart and adding it up again could come to another length.
    pub(crate) fn engine(&self, packet: &[u8]) -> Header {
        let mut header = Header {
            version: 2,
            padding: self.padded,
            marker: self.marker,
            payload_type: self.payload_type,
            sequence_number: self.sequence,
            timestamp: self.timestamp,
            ssrc: self.ssrc,
            ..Header::default()
        };
        if self.sources > 0 {
            header.csrc = vec![0; self.sources];
        }
        if let Some(length) = self.extension {
            let from = self.bytes.saturating_sub(length);
            let payload = Bytes::copy_from_slice(packet.get(from..self.bytes).unwrap_or_default());
            header.extension = true;
            header.extensions = vec![Extension { id: 0, payload }];
        }
        header
    }
}

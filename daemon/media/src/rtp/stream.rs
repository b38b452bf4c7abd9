//! Our stream and the far end's behind their protection: what a datagram becomes, what a packet becomes, what is counted.
//!
//! Which datagrams may come in is the leg's to decide: it opens one, looks at whose it is, and then delivers it or not.
//!
//! Allocation: the engine makes one buffer for each protected packet. Unprotected ones share an arena that is used again
//! as soon as whoever polled them has let them go; a lane does so at once.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use rtc::shared::error::Error;

use super::packet::{RTP_HEADER, RtpIn, RtpOut, read_header};
use super::report::{Reception, Reports};
use super::srtp::Srtp;
use super::{LegCounters, LegEvent, MAX_DATAGRAM, MAX_PAYLOAD, SendError};

/// Received packets that wait to be polled; a lane polls after every datagram, so more means that it forgot.
const MAX_WAITING: usize = 256;
/// Packets with an SSRC that never passed authentication, for which the engine is still asked. It keeps about 150 bytes
/// for each such SSRC, so this bounds what a forger can make it keep: 150 KiB.
pub(crate) const MAX_TRIALS: u16 = 1_000;
/// SSRCs that are remembered as authentic. The peer holds the keys, so there may be as many as it wishes.
const MAX_KNOWN: usize = 64;

/// How packets are kept from others.
pub(crate) enum Protection {
    /// There are no keys yet, or none any more: nothing goes either way.
    Awaited,
    /// Not at all.
    Plain,
    /// SRTP.
    Srtp(Box<Srtp>),
}

/// See the module.
pub(crate) struct Stream {
    pub(crate) protection: Protection,
    pub(crate) ssrc: u32,
    /// The payload type whose timestamps run with the audio clock.
    audio: u8,
    /// SSRCs that passed authentication, RTP and RTCP alike.
    known: Vec<u32>,
    pub(crate) trials: u16,
    plain: Vec<u8>,
    arena: BytesMut,
    rtp: VecDeque<RtpIn>,
    pub(crate) events: VecDeque<LegEvent>,
    pub(crate) reports: Reports,
    pub(crate) counters: LegCounters,
}

impl Stream {
    /// A leg's streams; `audio` is the payload type of its codec, whose clock runs at `clock_rate`.
    pub(crate) fn new(now: Instant, ssrc: u32, cname: String, audio: u8, clock_rate: u32) -> Self {
        Self {
            protection: Protection::Awaited,
            ssrc,
            audio,
            known: Vec::new(),
            trials: 0,
            plain: Vec::with_capacity(RTP_HEADER + MAX_PAYLOAD),
            arena: BytesMut::new(),
            rtp: VecDeque::new(),
            events: VecDeque::new(),
            reports: Reports::new(now, ssrc, cname, clock_rate),
            counters: LegCounters::default(),
        }
    }

    /// Another codec: its payload type, and ticks a second of its clock.
    pub(crate) fn set_codec(&mut self, audio: u8, clock_rate: u32) {
        self.audio = audio;
        self.reports.set_clock(clock_rate);
    }

    pub(crate) const fn is_open(&self) -> bool {
        !matches!(self.protection, Protection::Awaited)
    }

    /// The datagram for a packet of ours.
    pub(crate) fn seal(&mut self, now: Instant, packet: &RtpOut<'_>) -> Result<BytesMut, SendError> {
        if packet.payload.len() > MAX_PAYLOAD {
            return Err(SendError::TooLong(packet.payload.len()));
        }
        let header = packet.write(self.ssrc, &mut self.plain);
        let datagram = match &mut self.protection {
            Protection::Awaited => return Err(SendError::NotConnected),
            Protection::Plain => copy(&mut self.arena, &self.plain),
            Protection::Srtp(srtp) => {
                srtp.out.encrypt_rtp_with_header(&self.plain, &header).map_err(|_| SendError::Refused)?
            }
        };
        self.counters.rtp_out += 1;
        self.reports.sent(now, packet.timestamp, packet.payload.len());
        Ok(datagram)
    }

    /// The datagram for a compound RTCP packet.
    pub(crate) fn seal_rtcp(&mut self, compound: &[u8]) -> Result<BytesMut, SendError> {
        if compound.len() > MAX_PAYLOAD {
            return Err(SendError::TooLong(compound.len()));
        }
        let datagram = match &mut self.protection {
            Protection::Awaited => return Err(SendError::NotConnected),
            Protection::Plain => copy(&mut self.arena, compound),
            Protection::Srtp(srtp) => srtp.out.encrypt_rtcp(compound).map_err(|_| SendError::Refused)?,
        };
        self.counters.rtcp_out += 1;
        Ok(datagram)
    }

    /// The datagram of a report, if one is due.
    pub(crate) fn report_due(&mut self, now: Instant) -> Option<BytesMut> {
        let mut plain = std::mem::take(&mut self.plain);
        // Without keys (any more) there is nobody to report to.
        let datagram = self.reports.write_due(now, &mut plain).then(|| self.seal_rtcp(&plain).ok()).flatten();
        self.plain = plain;
        datagram
    }

    /// The datagram of an RTCP BYE; `None` before anything can be sent.
    pub(crate) fn bye(&mut self) -> Option<BytesMut> {
        let mut plain = std::mem::take(&mut self.plain);
        self.reports.write_bye(&mut plain);
        let datagram = self.seal_rtcp(&plain).ok();
        self.plain = plain;
        datagram
    }

    /// Reads a datagram as RTP; `None`, and counted, when it is none that could be ours.
    pub(crate) fn open(&mut self, now: Instant, packet: &[u8]) -> Option<RtpIn> {
        let Some(header) = read_header(packet) else {
            self.counters.bad_packets += 1;
            return None;
        };
        if matches!(self.protection, Protection::Srtp(_)) && !self.may_try(header.ssrc) {
            return None;
        }
        let mut payload = match &mut self.protection {
            Protection::Awaited => {
                self.counters.early += 1;
                return None;
            }
            Protection::Plain => copy(&mut self.arena, packet),
            Protection::Srtp(srtp) => match srtp.inn.decrypt_rtp_with_header(packet, &header.engine(packet)) {
                Ok(plain) => {
                    self.learn(header.ssrc);
                    plain
                }
                Err(error) => {
                    self.refused(&error, header.ssrc);
                    return None;
                }
            },
        };
        if payload.len() < header.bytes {
            self.counters.bad_packets += 1;
            return None;
        }
        payload.advance(header.bytes);
        if header.padded {
            let padding = usize::from(payload.last().copied().unwrap_or_default());
            let Some(keep) = payload.len().checked_sub(padding).filter(|_| padding != 0) else {
                self.counters.bad_packets += 1;
                return None;
            };
            payload.truncate(keep);
        }
        Some(RtpIn {
            payload_type: header.payload_type,
            marker: header.marker,
            sequence: header.sequence,
            timestamp: header.timestamp,
            ssrc: header.ssrc,
            at: now,
            payload,
        })
    }

    /// Hands an opened packet to whoever polls.
    pub(crate) fn deliver(&mut self, packet: RtpIn) {
        self.counters.rtp_in += 1;
        let timed = packet.payload_type == self.audio;
        self.reports.received(packet.at, packet.ssrc, packet.sequence, packet.timestamp, timed);
        if self.rtp.len() >= MAX_WAITING {
            self.rtp.pop_front();
            self.counters.unpolled += 1;
        }
        self.rtp.push_back(packet);
    }

    /// Reads a datagram as RTCP: its events are queued, a goodbye only where `bye_counts`.
    pub(crate) fn receive_rtcp(&mut self, now: Instant, packet: &[u8], bye_counts: bool) {
        let Some(ssrc) = sender(packet) else {
            self.counters.bad_packets += 1;
            return;
        };
        if matches!(self.protection, Protection::Srtp(_)) && !self.may_try(ssrc) {
            return;
        }
        let heard = match &mut self.protection {
            Protection::Awaited => {
                self.counters.early += 1;
                return;
            }
            Protection::Plain => self.reports.read(now, packet),
            Protection::Srtp(srtp) => match srtp.inn.decrypt_rtcp(packet) {
                Ok(plain) => {
                    self.learn(ssrc);
                    self.reports.read(now, &plain)
                }
                Err(error) => {
                    self.refused(&error, ssrc);
                    return;
                }
            },
        };
        self.counters.rtcp_in += 1;
        if let Some(report) = heard.report {
            self.events.push_back(LegEvent::Report(report));
        }
        if heard.bye && bye_counts {
            self.events.push_back(LegEvent::Bye);
        }
    }

    pub(crate) fn poll_rtp(&mut self) -> Option<RtpIn> {
        self.rtp.pop_front()
    }

    pub(crate) fn reception(&self) -> Option<Reception> {
        self.reports.reception()
    }

    /// False, and counted, where the engine is not to be asked about one more packet of a source that never proved itself.
    fn may_try(&mut self, ssrc: u32) -> bool {
        let may = self.trials < MAX_TRIALS || self.known.contains(&ssrc);
        self.counters.srtp_failures += u64::from(!may);
        may
    }

    fn refused(&mut self, error: &Error, ssrc: u32) {
        match error {
            Error::SrtpSsrcDuplicated(..) | Error::SrtcpSsrcDuplicated(..) => self.counters.replayed += 1,
            Error::ErrTooShortRtp | Error::ErrTooShortRtcp => self.counters.bad_packets += 1,
            _ => {
                self.counters.srtp_failures += 1;
                if !self.known.contains(&ssrc) {
                    self.trials = self.trials.saturating_add(1);
                }
            }
        }
    }

    /// Notes a source that proved itself. The engine keeps something of each for good, so that beyond some every further
    /// one costs a trial, as a failure does: who has the key cannot fill the memory either.
    fn learn(&mut self, ssrc: u32) {
        if self.known.contains(&ssrc) {
            return;
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.remove(0);
            self.trials = self.trials.saturating_add(1);
        }
        self.known.push(ssrc);
    }
}

/// The source that a compound packet is from (RFC 3550 §6.1: its first packet says so).
pub(crate) fn sender(compound: &[u8]) -> Option<u32> {
    let &[_, _, _, _, a, b, c, d] = compound.first_chunk::<8>()?;
    Some(u32::from_be_bytes([a, b, c, d]))
}

/// The bytes in a piece of the arena. Room for a few datagrams at a time: as long as at most one is out when the room is
/// used up, it is used again.
fn copy(arena: &mut BytesMut, bytes: &[u8]) -> BytesMut {
    if arena.capacity() < bytes.len() {
        arena.reserve(2 * MAX_DATAGRAM);
    }
    arena.extend_from_slice(bytes);
    arena.split()
}

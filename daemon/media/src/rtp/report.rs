//! RTCP of one leg (RFC 3550 section 6): what we say about both streams, and what the far end says about ours.
//!
//! A report goes out every 2 to 3 s, which also keeps a WhatsApp relay awake (it hangs up after 30 s without packets).
//! The first follows our first RTP packet and none precedes it: before a call is accepted nothing may be sent that
//! could be taken for media. Driven by [`super::Stream`]; no engine here, the packets are plain.

use std::time::{Duration, Instant};

/// Wait for the first report, from the first packet sent.
const FIRST_REPORT: Duration = Duration::from_millis(500);
/// Steps in sequence numbers beyond which a stream is taken to have started anew, when a second packet agrees.
const MAX_STEP: u16 = 3_000;
/// A round trip beyond this is not one, but a report that does not fit.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const DESCRIPTION: u8 = 202;
const BYE: u8 = 203;

/// What the far end says about the stream that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FarReport {
    /// Packets lost since its previous report, in 1/256 of those expected.
    pub fraction_lost: u8,
    /// Packets lost since the stream began; negative where duplicates outweigh losses.
    pub lost: i32,
    /// Interarrival jitter, its estimate.
    pub jitter: Duration,
    /// Time to the far end and back, if it has seen a report of ours.
    pub round_trip: Option<Duration>,
}

/// How the far end's stream arrives here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reception {
    /// Whose stream.
    pub ssrc: u32,
    /// Packets that came, late ones and duplicates included.
    pub received: u32,
    /// Packets expected less those received; negative where duplicates outweigh losses.
    pub lost: i32,
    /// Interarrival jitter by RFC 3550 section 6.4.1.
    pub jitter: Duration,
}

/// What a received compound packet came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) report: Option<FarReport>,
    pub(crate) bye: bool,
}

/// The account of both streams.
pub(crate) struct Reports {
    origin: Instant,
    /// RTP ticks a second.
    clock: u64,
    ssrc: u32,
    cname: String,
    next: Option<Instant>,
    packets: u32,
    octets: u32,
    /// Media time and moment of the last packet sent.
    last_sent: Option<(u32, Instant)>,
    sent_since_report: bool,
    incoming: Option<Incoming>,
}

struct Incoming {
    ssrc: u32,
    /// First and highest number, extended by the wraps.
    first: u32,
    highest: u32,
    received: u32,
    /// A number far from the stream's; if the next one follows it, the stream has started anew.
    suspect: Option<u16>,
    expected_before: u32,
    received_before: u32,
    transit: Option<i64>,
    /// In ticks, times 16.
    jitter: u32,
    /// Middle bits of the last sender report's time, and when it came.
    sender_report: Option<(u32, Instant)>,
}

impl Incoming {
    fn new(ssrc: u32, sequence: u16) -> Self {
        let first = u32::from(sequence);
        Self {
            ssrc,
            first,
            highest: first,
            received: 1,
            suspect: None,
            expected_before: 0,
            received_before: 0,
            transit: None,
            jitter: 0,
            sender_report: None,
        }
    }

    /// Counts a packet; false when its number is out of line, so that its times mean nothing either.
    fn count(&mut self, sequence: u16) -> bool {
        let [_, _, high, low] = self.highest.to_be_bytes();
        let ahead = sequence.wrapping_sub(u16::from_be_bytes([high, low]));
        let behind = ahead.wrapping_neg();
        if ahead < MAX_STEP {
            self.highest = self.highest.wrapping_add(u32::from(ahead));
        } else if behind >= MAX_STEP {
            if self.suspect == Some(sequence) {
                let report = self.sender_report;
                *self = Self { sender_report: report, ..Self::new(self.ssrc, sequence) };
                return true;
            }
            self.suspect = Some(sequence.wrapping_add(1));
            return false;
        }
        self.suspect = None;
        self.received = self.received.wrapping_add(1);
        true
    }

    fn expected(&self) -> u32 {
        self.highest.wrapping_sub(self.first).wrapping_add(1)
    }

    fn lost(&self) -> i32 {
        self.expected().wrapping_sub(self.received).cast_signed().clamp(-0x0080_0000, 0x007F_FFFF)
    }

    fn time(&mut self, arrival: u64, timestamp: u32, clock: u64) {
        // Both wrap at 32 bits; their difference matters, and only its changes.
        let transit = i64::from(low_bits(arrival).wrapping_sub(timestamp).cast_signed());
        if let Some(before) = self.transit.replace(transit) {
            let change = (transit - before).unsigned_abs();
            // A jump of a second is a new media time, no jitter.
            if let Some(change) = u32::try_from(change).ok().filter(|change| u64::from(*change) < clock) {
                self.jitter = self.jitter.saturating_add(change).saturating_sub((self.jitter + 8) >> 4);
            }
        }
    }
}

impl Reports {
    pub(crate) fn new(origin: Instant, ssrc: u32, cname: String, clock_rate: u32) -> Self {
        Self {
            origin,
            clock: u64::from(clock_rate.max(1)),
            ssrc,
            cname,
            next: None,
            packets: 0,
            octets: 0,
            last_sent: None,
            sent_since_report: false,
            incoming: None,
        }
    }

    /// Another codec: what was measured in ticks of the clock before means nothing any more.
    pub(crate) fn set_clock(&mut self, clock_rate: u32) {
        let clock = u64::from(clock_rate.max(1));
        if self.clock != clock {
            self.clock = clock;
            if let Some(incoming) = &mut self.incoming {
                (incoming.transit, incoming.jitter) = (None, 0);
            }
        }
    }

    /// Counts a packet that we sent.
    pub(crate) fn sent(&mut self, now: Instant, timestamp: u32, payload: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(u32::try_from(payload).unwrap_or(u32::MAX));
        self.last_sent = Some((timestamp, now));
        self.sent_since_report = true;
        self.next.get_or_insert(now + FIRST_REPORT);
    }

    /// Counts a packet that came; `timed` says that its timestamp runs with the audio clock.
    pub(crate) fn received(&mut self, now: Instant, ssrc: u32, sequence: u16, timestamp: u32, timed: bool) {
        let arrival = self.ticks(now);
        let in_line = match &mut self.incoming {
            Some(incoming) if incoming.ssrc == ssrc => incoming.count(sequence),
            other => {
                *other = Some(Incoming::new(ssrc, sequence));
                true
            }
        };
        if let Some(incoming) = self.incoming.as_mut().filter(|_| in_line && timed) {
            incoming.time(arrival, timestamp, self.clock);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Writes a report into `plain` if one is due.
    pub(crate) fn write_due(&mut self, now: Instant, plain: &mut Vec<u8>) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        // Calls must not report in step: the source's own number spreads them over a second.
        self.next = Some(now + Duration::from_millis(2_000 + u64::from(self.ssrc % 1_000)));
        plain.clear();
        let block = self.block(now);
        let count = 0x80 | u8::from(block.is_some());
        let extra = if block.is_some() { 6 } else { 0 };
        match self.last_sent.filter(|_| std::mem::take(&mut self.sent_since_report)) {
            Some((timestamp, at)) => {
                let since = now.saturating_duration_since(at).as_micros() * u128::from(self.clock) / 1_000_000;
                let media = timestamp.wrapping_add(low_bits(u64::try_from(since).unwrap_or(0)));
                plain.extend_from_slice(&[count, SENDER_REPORT, 0, 6 + extra]);
                plain.extend_from_slice(&self.ssrc.to_be_bytes());
                plain.extend_from_slice(&self.ntp(now).to_be_bytes());
                for word in [media, self.packets, self.octets] {
                    plain.extend_from_slice(&word.to_be_bytes());
                }
            }
            None => {
                plain.extend_from_slice(&[count, RECEIVER_REPORT, 0, 1 + extra]);
                plain.extend_from_slice(&self.ssrc.to_be_bytes());
            }
        }
        plain.extend_from_slice(&block.unwrap_or_default()[..if extra > 0 { 24 } else { 0 }]);
        self.write_description(plain);
        true
    }

    /// Writes a goodbye: an empty receiver report and a BYE.
    pub(crate) fn write_bye(&self, plain: &mut Vec<u8>) {
        plain.clear();
        for head in [[0x80, RECEIVER_REPORT, 0, 1], [0x81, BYE, 0, 1]] {
            plain.extend_from_slice(&head);
            plain.extend_from_slice(&self.ssrc.to_be_bytes());
        }
    }

    /// One chunk with our canonical name, padded with at least one zero.
    fn write_description(&self, plain: &mut Vec<u8>) {
        let name = self.cname.as_bytes();
        let words = (4 + 2 + name.len() + 1).div_ceil(4);
        let end = plain.len() + 4 + words * 4;
        plain.extend_from_slice(&[0x81, DESCRIPTION, 0, u8::try_from(words).unwrap_or(u8::MAX)]);
        plain.extend_from_slice(&self.ssrc.to_be_bytes());
        plain.extend_from_slice(&[1, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
        plain.extend_from_slice(name);
        plain.resize(end, 0);
    }

    /// The report block about the far end's stream; what it counts from begins anew.
    fn block(&mut self, now: Instant) -> Option<[u8; 24]> {
        let incoming = self.incoming.as_mut()?;
        let expected = incoming.expected();
        let expected_now = expected.wrapping_sub(incoming.expected_before);
        let received_now = incoming.received.wrapping_sub(incoming.received_before);
        incoming.expected_before = expected;
        incoming.received_before = incoming.received;
        let lost_now = expected_now.saturating_sub(received_now);
        let fraction = (u64::from(lost_now) * 256).checked_div(u64::from(expected_now)).unwrap_or(0);
        let (last_report, delay) = incoming
            .sender_report
            .map_or((0, 0), |(middle, at)| (middle, low_bits(short_units(now.saturating_duration_since(at)))));

        let mut block = [0_u8; 24];
        block[..4].copy_from_slice(&incoming.ssrc.to_be_bytes());
        block[4..8].copy_from_slice(&incoming.lost().to_be_bytes());
        block[4] = u8::try_from(fraction).unwrap_or(u8::MAX);
        block[8..12].copy_from_slice(&incoming.highest.to_be_bytes());
        block[12..16].copy_from_slice(&(incoming.jitter >> 4).to_be_bytes());
        block[16..20].copy_from_slice(&last_report.to_be_bytes());
        block[20..].copy_from_slice(&delay.to_be_bytes());
        Some(block)
    }

    /// Reads a compound packet. What is cut short or unknown is stepped over.
    pub(crate) fn read(&mut self, now: Instant, mut compound: &[u8]) -> Heard {
        let mut heard = Heard::default();
        while let Some((&[first, kind, high, low], rest)) = compound.split_first_chunk::<4>() {
            let length = usize::from(u16::from_be_bytes([high, low])) * 4;
            let Some((body, rest)) = rest.split_at_checked(length).filter(|_| first >> 6 == 2) else { break };
            compound = rest;
            let blocks = match kind {
                SENDER_REPORT => {
                    if let Some((ssrc, middle)) = sender_time(body)
                        && let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.ssrc == ssrc)
                    {
                        incoming.sender_report = Some((middle, now));
                    }
                    body.get(24..)
                }
                RECEIVER_REPORT => body.get(4..),
                BYE => {
                    heard.bye = true;
                    None
                }
                _ => None,
            };
            for block in blocks.unwrap_or_default().chunks_exact(24).take(usize::from(first & 0x1F)) {
                heard.report = self.read_block(now, block).or(heard.report);
            }
        }
        heard
    }

    fn read_block(&self, now: Instant, block: &[u8]) -> Option<FarReport> {
        let word = |at: usize| Some(u32::from_be_bytes(*block.get(at..)?.first_chunk::<4>()?));
        if word(0)? != self.ssrc {
            return None;
        }
        let losses = word(4)?;
        let [fraction_lost, ..] = losses.to_be_bytes();
        let (last_report, delay) = (word(16)?, word(20)?);
        let round_trip = (last_report != 0)
            .then(|| low_bits(self.ntp(now) >> 16).wrapping_sub(last_report).wrapping_sub(delay))
            .map(|units| Duration::from_nanos((u64::from(units) * 1_000_000_000) >> 16))
            .filter(|time| *time < MAX_ROUND_TRIP);
        Some(FarReport {
            fraction_lost,
            // 24 bits with a sign.
            lost: (losses << 8).cast_signed() >> 8,
            jitter: self.in_time(word(12)?),
            round_trip,
        })
    }

    /// How the far end's stream arrives.
    pub(crate) fn reception(&self) -> Option<Reception> {
        self.incoming.as_ref().map(|incoming| Reception {
            ssrc: incoming.ssrc,
            received: incoming.received,
            lost: incoming.lost(),
            jitter: self.in_time(incoming.jitter >> 4),
        })
    }

    /// Time since the leg was made, in the format of NTP. One stream needs no wall clock: nobody aligns it to another.
    fn ntp(&self, now: Instant) -> u64 {
        // A second ahead, so that no report carries the time 0, which means "none".
        let age = now.saturating_duration_since(self.origin) + Duration::from_secs(1);
        (age.as_secs() << 32) | ((u64::from(age.subsec_nanos()) << 32) / 1_000_000_000)
    }

    fn in_time(&self, ticks: u32) -> Duration {
        Duration::from_nanos(u64::from(ticks) * 1_000_000_000 / self.clock)
    }

    fn ticks(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.origin).as_micros() * u128::from(self.clock) / 1_000_000;
        u64::try_from(age).unwrap_or(u64::MAX)
    }
}

/// Source and middle bits of the time of a sender report.
fn sender_time(body: &[u8]) -> Option<(u32, u32)> {
    let &[a, b, c, d, _, _, m0, m1, m2, m3] = body.first_chunk::<10>()?;
    Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([m0, m1, m2, m3])))
}

/// In units of 1/65536 s.
fn short_units(time: Duration) -> u64 {
    (time.as_secs() << 16) | ((u64::from(time.subsec_nanos()) << 16) / 1_000_000_000)
}

#[expect(clippy::cast_possible_truncation, reason = "the low bits are what is asked for")]
fn low_bits(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "virtual time needs an origin")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn reports(origin: Instant) -> Reports {
        Reports::new(origin, 7_000, "name".into(), 48_000)
    }

    #[test]
    fn losses_and_duplicates_are_counted_across_a_wrap() {
        let now = origin();
        let mut reports = reports(now);
        for sequence in [65_530_u16, 65_531, 65_533, 65_535, 1, 1, 3] {
            reports.received(now, 9, sequence, 0, false);
        }
        let got = reports.reception().unwrap();
        assert_eq!((got.received, got.lost), (7, 10 - 7));
        let block = reports.block(now).unwrap();
        assert_eq!(block[4], 76, "3 of 10");
        assert_eq!(block[8..12], (65_536_u32 + 3).to_be_bytes());
        reports.received(now, 9, 4, 0, false);
        assert_eq!(reports.block(now).unwrap()[4], 0, "nothing lost since");
    }

    #[test]
    fn one_number_out_of_line_is_ignored_and_two_begin_anew() {
        let now = origin();
        let mut reports = reports(now);
        for sequence in [10_u16, 11, 40_000, 12] {
            reports.received(now, 9, sequence, 0, false);
        }
        assert_eq!(reports.reception().map(|got| (got.received, got.lost)), Some((3, 0)));
        for sequence in [40_000, 40_001, 40_002] {
            reports.received(now, 9, sequence, 0, false);
        }
        assert_eq!(reports.reception().map(|got| (got.received, got.lost)), Some((2, 0)));
    }

    #[test]
    fn even_arrival_has_no_jitter_and_uneven_arrival_has() {
        let now = origin();
        let mut even = reports(now);
        let mut uneven = reports(now);
        for n in 0..500_u16 {
            let at = now + Duration::from_millis(20) * u32::from(n);
            even.received(at, 9, n, u32::from(n) * 960, true);
            let late = Duration::from_millis(if n % 2 == 0 { 0 } else { 10 });
            uneven.received(at + late, 9, n, u32::from(n) * 960, true);
        }
        assert_eq!(even.reception().unwrap().jitter, Duration::ZERO);
        let jitter = uneven.reception().unwrap().jitter;
        assert!((9..=10).contains(&jitter.as_millis()), "{jitter:?}");
    }

    #[test]
    fn nothing_is_reported_before_something_was_sent() {
        let now = origin();
        let mut reports = reports(now);
        reports.received(now, 9, 1, 0, true);
        assert_eq!(reports.deadline(), None);
        assert!(!reports.write_due(now + Duration::from_secs(60), &mut Vec::new()));
        reports.sent(now, 960, 80);
        assert_eq!(reports.deadline(), Some(now + FIRST_REPORT));
    }

    #[test]
    fn reports_of_one_side_are_read_by_the_other() {
        let now = origin();
        let mut here = reports(now);
        let mut there = Reports::new(now, 9, "other".into(), 48_000);
        let mut plain = Vec::new();
        for n in 0..100_u16 {
            let at = now + Duration::from_millis(20) * u32::from(n);
            here.sent(at, u32::from(n) * 960, 80);
            if n % 4 != 3 {
                there.received(at + Duration::from_millis(30), 7_000, n, u32::from(n) * 960, true);
            }
        }
        there.sent(now, 0, 10);
        let at = now + Duration::from_secs(2);
        assert!(here.write_due(at, &mut plain));
        assert_eq!(plain.len() % 4, 0);
        assert_eq!(plain[20..24], 100_u32.to_be_bytes(), "packets");
        assert_eq!(plain[24..28], 8_000_u32.to_be_bytes(), "octets");
        // Media time at the moment of the report: the last packet's, and 20 ms more.
        assert_eq!(plain[16..20], 96_000_u32.to_be_bytes());
        assert_eq!(there.read(at + Duration::from_millis(30), &plain), Heard::default());

        let answered = at + Duration::from_millis(500);
        assert!(there.write_due(answered, &mut plain));
        let heard = here.read(answered + Duration::from_millis(30), &plain);
        let report = heard.report.unwrap();
        assert_eq!(report.fraction_lost, 62, "24 of 99");
        assert_eq!(report.lost, 24);
        assert_eq!(report.jitter, Duration::ZERO);
        let trip = report.round_trip.unwrap().as_micros();
        assert!((59_900..=60_100).contains(&trip), "{trip} µs");
        assert!(!heard.bye);
    }

    #[test]
    fn a_silent_side_sends_receiver_reports() {
        let now = origin();
        let mut reports = reports(now);
        let mut plain = Vec::new();
        reports.sent(now, 960, 80);
        assert!(reports.write_due(now + Duration::from_secs(1), &mut plain));
        assert_eq!(plain[1], SENDER_REPORT);
        assert!(reports.write_due(now + Duration::from_secs(5), &mut plain));
        assert_eq!((plain[1], plain.len()), (RECEIVER_REPORT, 8 + 4 + 12));
    }

    #[test]
    fn a_goodbye_is_heard_also_behind_a_report() {
        let now = origin();
        let mut reports = reports(now);
        let mut plain = Vec::new();
        reports.write_bye(&mut plain);
        assert_eq!(reports.read(now, &plain), Heard { report: None, bye: true });
        assert!(!reports.read(now, &plain[..12]).bye, "cut off before it");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let now = origin();
            let mut reports = reports(now);
            reports.received(now, 9, 1, 0, true);
            reports.read(now, &bytes);
            let mut headed = vec![0x9F, 200, 0, 40];
            headed.extend_from_slice(&bytes);
            reports.read(now, &headed);
        }

        #[test]
        fn any_numbers_are_counted_without_panic(numbers in proptest::collection::vec(any::<(u16, u32)>(), 0..100)) {
            let now = origin();
            let mut reports = reports(now);
            reports.sent(now, 0, 0);
            for (sequence, timestamp) in numbers {
                reports.received(now, 9, sequence, timestamp, true);
            }
            reports.write_due(now + Duration::from_secs(1), &mut Vec::new());
        }
    }
}

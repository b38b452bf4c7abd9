//! Legs of trunks over real sockets on loopback: a peer that is a bare socket, and two of ours with each other.

use std::net::Ipv4Addr;
use std::time::Duration;

use sauti_core::config::Media;
use sauti_core::media::floor::BargeIn;
use sauti_core::media::frame::{FRAME, Frame};
use sauti_core::media::g711::Law;
use sauti_core::media::level::{Tone, tone_level};
use sauti_core::media::rtp::{HEADER_BYTES, RtpPacket};
use tokio::net::UdpSocket as Socket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::lanes::{DOWN_TARGET, LaneEvent, LinkNews};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Lanes with twenty ports from `first` on, below those that the kernel hands out by itself: a peer's are not among them.
fn lanes(first: u16) -> (Arc<Lanes>, mpsc::Receiver<String>) {
    lanes_that_drain(first, Duration::from_millis(100))
}

fn lanes_that_drain(first: u16, port_drain: Duration) -> (Arc<Lanes>, mpsc::Receiver<String>) {
    let (dead, died) = mpsc::channel(1);
    let media = Media {
        bind: LOOPBACK,
        advertise: Vec::new(),
        ports: (first, first + 19),
        threads: 1,
        lanes: 1,
        opus_bitrate: 24_000,
        opus_complexity: 0,
        port_drain,
    };
    (Arc::new(Lanes::start(&media, BargeIn::Off, 8, &dead).unwrap()), died)
}

/// A trunk of somebody else: two sockets and an offer.
struct Peer {
    media: Socket,
    control: Socket,
    /// Where our leg is.
    leg: Option<SocketAddr>,
    sent: u16,
}

impl Peer {
    async fn new() -> Self {
        let bind = || Socket::bind((LOOPBACK, 0));
        Self { media: bind().await.unwrap(), control: bind().await.unwrap(), leg: None, sent: 0 }
    }

    fn offer(&self, lines: &str) -> String {
        let (media, control) = (self.media.local_addr().unwrap().port(), self.control.local_addr().unwrap().port());
        format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {media} RTP/AVP 8 9 101\r\n\
             a=rtpmap:101 telephone-event/8000\r\na=rtcp:{control}\r\n{lines}"
        )
    }

    fn answered(&mut self, answer: &str) {
        let port = answer.lines().find_map(|line| line.strip_prefix("m=audio ")).unwrap();
        let port: u16 = port.split(' ').next().unwrap().parse().unwrap();
        self.leg = Some(SocketAddr::new(LOOPBACK, port));
    }

    async fn speak(&mut self, payload: &[u8]) {
        self.sent += 1;
        let packet = RtpPacket {
            payload_type: 8,
            marker: false,
            sequence: self.sent,
            timestamp: u32::from(self.sent) * 160,
            ssrc: 77,
            payload,
        };
        let bytes = [&packet.header(), payload].concat();
        self.media.send_to(&bytes, self.leg.unwrap()).await.unwrap();
    }

    /// The next packet of RTP: payload type, sequence number, timestamp, source, payload.
    async fn hear(&self) -> Option<(u8, u16, u32, u32, Vec<u8>)> {
        let mut room = [0; 2_048];
        let (length, _) = timeout(Duration::from_millis(300), self.media.recv_from(&mut room)).await.ok()?.unwrap();
        let packet = RtpPacket::parse(&room[..length]).unwrap();
        assert!(length >= HEADER_BYTES);
        Some((packet.payload_type, packet.sequence, packet.timestamp, packet.ssrc, packet.payload.to_vec()))
    }
}

/// Codes that differ from frame to frame.
fn codes(frame: usize) -> Vec<u8> {
    (0..160_usize).map(|n| u8::try_from((n * 3 + frame * 11) % 256).unwrap()).collect()
}

fn frame(codes: &[u8]) -> Frame {
    let mut frame = Frame::SILENCE;
    for (sample, code) in frame.samples.iter_mut().zip(codes) {
        *sample = Law::A.decode(*code);
    }
    frame
}

async fn up(link: &mut CallerLink) {
    let wait = async { while !matches!(link.next().await, LinkNews::Event(Some(LaneEvent::Up))) {} };
    timeout(Duration::from_secs(2), wait).await.expect("the leg is up");
}

#[tokio::test]
async fn a_trunk_in_g711_is_heard_and_answered_bit_by_bit() {
    let (lanes, _died) = lanes(21_100);
    let mut peer = Peer::new().await;
    let (mut link, opened) = lanes.open_rtp(Some(&peer.offer("")), &RtpLegSettings::default()).unwrap();
    assert_eq!((opened.format, opened.codec, link.format()), (AudioFormat::Pcma, Codec::Pcma, AudioFormat::Pcma));
    peer.answered(&opened.sdp);
    up(&mut link).await;
    assert!(link.open_audio());
    let (mut heard, mut said, mut spoken) = (Vec::new(), Vec::new(), 0);
    for n in 0..40 {
        peer.speak(&codes(n)).await;
        while spoken < 40 && link.frames().down.enqueue(frame(&codes(spoken))).is_ok() {
            spoken += 1;
        }
        tokio::time::sleep(FRAME).await;
        while let Some(frame) = link.frames().up.dequeue() {
            heard.extend(frame.audio(AudioFormat::Pcma).iter().map(|sample| Law::A.encode(*sample)));
        }
        while let Ok(Some((payload_type, _, _, _, payload))) = timeout(Duration::ZERO, peer.hear()).await {
            assert_eq!(payload_type, 8);
            said.extend(payload);
        }
    }
    // From the caller: what was not stretched or blended for a late packet is what she sent.
    let whole = (0..40).filter(|n| heard.windows(160).any(|part| part == codes(*n))).count();
    assert!(whole >= 20, "{whole} of 40 frames");
    let sent: Vec<u8> = (0..40).flat_map(codes).collect();
    // To the caller: what was put in comes out, once and in order.
    let begin = said.windows(160).position(|part| part == codes(0)).expect("the first frame");
    let rest = &said[begin..];
    assert_eq!(rest[..rest.len().min(sent.len())], sent[..rest.len().min(sent.len())]);
    let (epoch, consumed) = link.frames().consumed();
    assert!(epoch == 0 && consumed >= 25, "{consumed}");
}

/// Field bug 57: after a long hold the stream goes on, with its source and its clock.
#[tokio::test]
async fn on_hold_nothing_is_sent_or_taken_and_afterwards_the_stream_goes_on() {
    let (lanes, _died) = lanes(21_130);
    let mut peer = Peer::new().await;
    let (mut link, opened) = lanes.open_rtp(Some(&peer.offer("")), &RtpLegSettings::default()).unwrap();
    peer.answered(&opened.sdp);
    up(&mut link).await;
    assert!(link.open_audio());
    let (_, sequence, timestamp, ssrc, _) = peer.hear().await.expect("silence at least");
    let (answer, held) = link.reoffer(&peer.offer("a=sendonly\r\n")).unwrap();
    assert!(answer.contains("a=recvonly\r\n"), "{answer}");
    assert_eq!((held.held, held.changed, held.codec), (true, true, Codec::Pcma));
    while link.frames().down.enqueue(frame(&codes(1))).is_ok() {}
    tokio::time::sleep(Duration::from_millis(60)).await;
    let mut last = sequence;
    while let Ok(Some((_, number, ..))) = timeout(Duration::ZERO, peer.hear()).await {
        last = number;
    }
    let waiting = link.frames().down.len();
    // Music of the hold is not the caller.
    while link.frames().up.dequeue().is_some() {}
    for n in 0..10 {
        peer.speak(&codes(n)).await;
        tokio::time::sleep(FRAME).await;
    }
    assert_eq!(link.frames().up.dequeue(), None);
    assert_eq!(peer.hear().await, None);
    assert_eq!(link.frames().down.len(), waiting, "what waits is said later");
    let (_, back) = link.reoffer(&peer.offer("a=sendrecv\r\n")).unwrap();
    assert!(!back.held);
    let (_, next, later, same, payload) = peer.hear().await.expect("speech");
    assert_eq!((next, same), (last.wrapping_add(1), ssrc));
    assert!(later.wrapping_sub(timestamp) >= 160 * 25, "the clock ran on: {}", later.wrapping_sub(timestamp));
    assert_eq!(payload, codes(1));
}

#[tokio::test]
async fn rtcp_has_the_next_port_where_the_far_end_does_not_mux() {
    let drain = Duration::from_secs(1);
    let (lanes, _died) = lanes_that_drain(21_160, drain);
    let mut peer = Peer::new().await;
    let (mut link, opened) = lanes.open_rtp(Some(&peer.offer("")), &RtpLegSettings::default()).unwrap();
    assert!(!opened.sdp.contains("rtcp-mux"));
    peer.answered(&opened.sdp);
    up(&mut link).await;
    assert!(link.open_audio());
    for n in 0..30 {
        peer.speak(&codes(n)).await;
        tokio::time::sleep(FRAME).await;
    }
    let mut room = [0; 2_048];
    let (length, from) =
        timeout(Duration::from_secs(2), peer.control.recv_from(&mut room)).await.expect("a report").unwrap();
    let leg = peer.leg.unwrap();
    assert!(length > 28 && room[1] == 200);
    assert_eq!((leg.port() % 2, from.port()), (0, leg.port() + 1));
    // Ours about them reaches the leg at that port: what it says is in the figures of the next second.
    let ssrc = u32::from_be_bytes([room[4], room[5], room[6], room[7]]);
    let mut report = vec![0x81, 201, 0, 7, 0, 0, 0, 77];
    report.extend_from_slice(&ssrc.to_be_bytes());
    report.extend_from_slice(&[51, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0]);
    peer.control.send_to(&report, from).await.unwrap();
    let told = async {
        loop {
            if let LinkNews::Event(Some(LaneEvent::Report(report))) = link.next().await
                && let Some(far) = report.far
            {
                return far.lost;
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(3), told).await, Ok(5));
    // With the call both ports go, after their drain.
    let dropped = Instant::now();
    drop(link);
    let until = async |drains| {
        while (lanes.tables().legs, lanes.tables().drains) != (0, drains) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(drain, until(2)).await.expect("both ports drain");
    timeout(Duration::from_secs(10), until(0)).await.expect("and go");
    assert!(dropped.elapsed() >= drain, "{:?}", dropped.elapsed());
    assert_eq!(lanes.tables().slots, 0);
}

/// Two legs of ours: one offers, the other answers.
async fn pair(lanes: &Arc<Lanes>, settings: &RtpLegSettings) -> (CallerLink, CallerLink) {
    let (mut one, offered) = lanes.open_rtp(None, settings).unwrap();
    let (mut other, answered) = lanes.open_rtp(Some(&offered.sdp), settings).unwrap();
    let negotiated = one.accept_answer(&answered.sdp).unwrap();
    assert_eq!((negotiated.codec, negotiated.held), (answered.codec, false));
    up(&mut one).await;
    up(&mut other).await;
    assert!(one.open_audio() && other.open_audio());
    (one, other)
}

/// Sends a tone from one to the other for more than a second; the share of frames heard that hold it, and keys that came.
///
/// Judged are thirty frames in a row of a time in which this test was never late: what a stall does to sound is seen in
/// virtual time, where it can be had at will.
async fn tone(one: &mut CallerLink, other: &mut CallerLink) -> (f64, String) {
    let format = one.format();
    let scale = f64::from(24_000 / format.sample_rate());
    let mut source = Tone::new(440.0 * scale, 0.3);
    let (mut judged, mut keys, mut steady) = (Vec::new(), String::new(), 0);
    let patience = Instant::now() + Duration::from_secs(20);
    while judged.len() < 30 {
        let begun = Instant::now();
        assert!(begun < patience, "the machine stands still again and again");
        while one.frames().down.len() < DOWN_TARGET {
            let mut frame = Frame::SILENCE;
            source.fill(&mut frame.samples[..format.frame_samples()]);
            one.frames().down.enqueue(frame).unwrap();
        }
        let pause = tokio::time::sleep(FRAME);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                news = other.next() => if let LinkNews::Event(Some(LaneEvent::Dtmf(key))) = news {
                    keys.push(key);
                },
            }
        }
        steady = if begun.elapsed() < FRAME * 2 { steady + 1 } else { 0 };
        if steady == 0 {
            judged.clear();
        }
        while let Some(frame) = other.frames().up.dequeue() {
            let clean = tone_level(frame.audio(format), 440.0 * scale) > 0.9;
            judged.extend((steady > 30).then_some(clean));
        }
    }
    (judged.iter().filter(|clean| **clean).count() as f64 / judged.len() as f64, keys)
}

#[tokio::test]
async fn every_codec_is_heard_with_and_without_srtp_and_keys_come_through() {
    let (lanes, _died) = lanes(21_200);
    for (codec, srtp) in
        [(Codec::Pcmu, SrtpPolicy::Off), (Codec::G722, SrtpPolicy::Sdes), (Codec::Opus, SrtpPolicy::Sdes)]
    {
        let settings = RtpLegSettings { codecs: vec![codec], srtp, ..RtpLegSettings::default() };
        let (mut one, mut other) = pair(&lanes, &settings).await;
        assert_eq!(one.format(), codec.session_format());
        let (share, keys) = tone(&mut one, &mut other).await;
        assert!(share > 0.9, "{codec}: {share}");
        assert_eq!(keys, "");
        assert!(one.dial("19#"));
        let (_, keys) = tone(&mut one, &mut other).await;
        assert_eq!(keys, "19#", "{codec}");
    }
}

#[tokio::test]
async fn another_codec_in_mid_call_goes_on_in_the_format_of_the_session() {
    let (lanes, _died) = lanes(21_230);
    let settings = RtpLegSettings { codecs: vec![Codec::Pcma, Codec::G722], ..RtpLegSettings::default() };
    let (mut one, mut other) = pair(&lanes, &settings).await;
    let (share, _) = tone(&mut one, &mut other).await;
    assert!(share > 0.9, "{share}");
    let offer = one.make_offer(false).unwrap().replace(" 8 101", " 9 101").replace("8 PCMA", "9 G722");
    let (answer, negotiated) = other.reoffer(&offer).unwrap();
    assert_eq!((negotiated.codec, negotiated.changed, other.format()), (Codec::G722, true, AudioFormat::Pcma));
    // Who has not offered it does not take it; the leg goes on.
    assert!(matches!(one.accept_answer(&answer), Err(OpenError::Rtp(RtpRefusal::NotOffered))));
    let mut one_peer = Peer::new().await;
    let (answer, _) = one.reoffer(&one_peer.offer("").replace(" 8 9", " 9")).unwrap();
    one_peer.answered(&answer);
    let (payload_type, ..) = one_peer.hear().await.expect("media at the new place");
    assert_eq!(payload_type, 9);
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_and_costs_nothing() {
    let (lanes, _died) = lanes(21_260);
    let peer = Peer::new().await;
    let refused =
        |offer: &str, settings: &RtpLegSettings| lanes.open_rtp(Some(offer), settings).map(|_| ()).unwrap_err();
    let opus = RtpLegSettings { codecs: vec![Codec::Opus], ..RtpLegSettings::default() };
    let error = refused(&peer.offer(""), &opus);
    assert!(error.is_sdp() && error.label() == "no_codec", "{error}");
    let sdes = RtpLegSettings { srtp: SrtpPolicy::Sdes, ..RtpLegSettings::default() };
    assert_eq!(refused(&peer.offer(""), &sdes).label(), "not_secure");
    let elsewhere = RtpLegSettings { bind: Some("192.0.2.7".parse().unwrap()), ..RtpLegSettings::default() };
    let error = refused(&peer.offer(""), &elsewhere);
    assert!(!error.is_sdp() && error.label() == "no_port", "{error}");
    assert_eq!(lanes.tables().slots, 0);
    // Every port taken: said as such, for a 503.
    let others: Vec<_> = (21_260..=21_279).map(|port| UdpSocket::bind((LOOPBACK, port)).unwrap()).collect();
    let error = refused(&peer.offer(""), &RtpLegSettings::default());
    assert!(!error.is_sdp() && error.label() == "no_port", "{error}");
    drop(others);
    assert!(lanes.open_rtp(Some(&peer.offer("")), &RtpLegSettings::default()).is_ok());
}

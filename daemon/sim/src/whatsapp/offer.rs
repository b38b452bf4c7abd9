//! The offer of a WhatsApp client, line for line as captured ones: ICE-lite, one stream, `mid` "audio".
//!
//! A text only: whoever speaks real media puts its own credentials in. The `==` in the password is no mistake, nor
//! is the `o=` session id: it is the time of the call in epoch milliseconds.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use jiff::Timestamp;
use sauti_core::pii::Pii;

use super::dice::{ALPHANUMERIC, Dice};

/// What may differ between offers.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Where the relay listens, IPv4.
    pub relay: SocketAddr,
    /// Where it seems to listen by IPv6, at a higher priority; nothing need answer there.
    pub relay_v6: Option<SocketAddr>,
    /// ICE user name fragment, 16 characters.
    pub ufrag: Pii,
    /// ICE password: base64 with its padding, which is no ICE character by RFC 8839 §5.4.
    pub password: Pii,
    /// SHA-256 fingerprint, upper-case hex with colons.
    pub fingerprint: String,
    /// The stream's source.
    pub ssrc: u32,
    /// The stream's name.
    pub stream: String,
    /// The account allows G.711: it is offered after Opus.
    pub g711: bool,
}

impl Offer {
    /// An offer with credentials out of `dice`.
    #[must_use]
    pub fn new(dice: &mut Dice, relay: SocketAddr) -> Self {
        let fingerprint = [dice.bytes(), dice.bytes()].concat();
        let fingerprint = fingerprint.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        Self {
            relay,
            relay_v6: None,
            ufrag: Pii::new(dice.text(16, ALPHANUMERIC)),
            password: Pii::new(format!("{}==", dice.text(22, ALPHANUMERIC))),
            fingerprint,
            ssrc: u32::try_from(dice.below(u64::from(u32::MAX))).unwrap_or(1),
            stream: hex::encode(dice.bytes()),
            g711: false,
        }
    }

    /// The relay of the captured offers, for bodies that nobody answers; with its IPv6 twin.
    #[must_use]
    pub fn captured(dice: &mut Dice) -> Self {
        let v6 = IpAddr::V6(Ipv6Addr::new(0x2a03, 0x2880, 0xf288, 0x1d4, 0xface, 0xb00c, 0, 0x699c));
        let relay = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(163, 70, 144, 130)), 3484);
        Self { relay_v6: Some(SocketAddr::new(v6, 3484)), ..Self::new(dice, relay) }
    }

    /// The text, made at `wall`.
    #[must_use]
    pub fn sdp(&self, wall: Timestamp) -> Pii {
        let (ip, port) = (self.relay.ip(), self.relay.port());
        let mut sdp = String::with_capacity(1_200);
        let mut line = |text: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            sdp.write_fmt(text).and_then(|()| sdp.write_str("\r\n")).is_ok()
        };
        line(format_args!("v=0"));
        line(format_args!("o=- {} 2 IN IP4 127.0.0.1", wall.as_millisecond()));
        line(format_args!("s=-"));
        line(format_args!("t=0 0"));
        line(format_args!("a=group:BUNDLE audio"));
        line(format_args!("a=msid-semantic: WMS {}", self.stream));
        line(format_args!("a=ice-lite"));
        let (g711, formats) = if self.g711 { (true, "111 8 0 126") } else { (false, "111 126") };
        line(format_args!("m=audio {port} UDP/TLS/RTP/SAVPF {formats}"));
        line(format_args!("c=IN {} {ip}", if ip.is_ipv4() { "IP4" } else { "IP6" }));
        line(format_args!("a=rtcp:9 IN IP4 0.0.0.0"));
        line(format_args!("a=candidate:707619806 1 udp 2122260223 {ip} {port} typ host generation 0 network-cost 50"));
        if let Some(v6) = self.relay_v6 {
            let (ip, port) = (v6.ip(), v6.port());
            line(format_args!(
                "a=candidate:1267757827 1 udp 2122262783 {ip} {port} typ host generation 0 network-cost 50"
            ));
        }
        line(format_args!("a=ice-ufrag:{}", self.ufrag.expose()));
        line(format_args!("a=ice-pwd:{}", self.password.expose()));
        line(format_args!("a=fingerprint:sha-256 {}", self.fingerprint));
        line(format_args!("a=setup:actpass"));
        line(format_args!("a=mid:audio"));
        line(format_args!("a=sendrecv"));
        line(format_args!("a=msid:{} WhatsAppTrack1", self.stream));
        line(format_args!("a=rtcp-mux"));
        line(format_args!("a=rtpmap:111 opus/48000/2"));
        line(format_args!("a=rtcp-fb:111 transport-cc"));
        line(format_args!(
            "a=fmtp:111 maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;sprop-maxcapturerate=16000;useinbandfec=1"
        ));
        if g711 {
            line(format_args!("a=rtpmap:8 PCMA/8000"));
            line(format_args!("a=rtpmap:0 PCMU/8000"));
        }
        line(format_args!("a=rtpmap:126 telephone-event/8000"));
        line(format_args!("a=maxptime:20"));
        line(format_args!("a=ptime:20"));
        line(format_args!("a=ssrc:{} cname:WhatsAppAudioStream1", self.ssrc));
        Pii::new(sdp)
    }
}

#[cfg(test)]
mod tests {
    use sauti_core::whatsapp::sdp::origin_time;

    use super::*;

    #[test]
    fn an_offer_has_the_size_and_the_oddities_of_a_captured_one() {
        let wall = Timestamp::from_millisecond(1_762_336_250_050).unwrap();
        let sdp = Offer::captured(&mut Dice::new(1)).sdp(wall);
        let text = sdp.expose();
        assert!((950..1_300).contains(&text.len()), "{}", text.len());
        assert_eq!(origin_time(text), Some(wall));
        assert!(text.ends_with("cname:WhatsAppAudioStream1\r\n"));
        assert!(text.lines().any(|line| line.starts_with("a=ice-pwd:") && line.ends_with("==")));
        assert_eq!(text.matches("\r\n").count(), text.matches('\n').count());
        assert!(text.contains("m=audio 3484 UDP/TLS/RTP/SAVPF 111 126\r\n"));
    }

    #[test]
    fn g711_is_offered_only_when_the_account_allows_it() {
        let wall = Timestamp::UNIX_EPOCH;
        let mut offer = Offer::captured(&mut Dice::new(1));
        assert!(!offer.sdp(wall).expose().contains("PCMA"));
        offer.g711 = true;
        assert!(offer.sdp(wall).expose().contains("SAVPF 111 8 0 126\r\n"));
    }
}

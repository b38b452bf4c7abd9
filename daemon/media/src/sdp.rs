//! A session description taken apart (RFC 8866): lines, sections, attributes, as text that is borrowed. No judgement.
//!
//! [`crate::webrtc_sdp`] and [`crate::rtp_sdp`] read their facts from it, and refuse what cannot become a call. Reading is
//! tolerant where calls were seen to differ (LF alone, no last line end, attributes at either level) and bounded in what
//! it keeps. Safe for any bytes.

use std::net::{IpAddr, SocketAddr};

/// Longest SDP that is read. A real WhatsApp offer has about 1 KiB, a browser's with 50 candidates about 8 KiB.
pub const MAX_SDP_BYTES: usize = 64 * 1024;
/// Most sections that are kept; a telephone offers one or two.
const MAX_SECTIONS: usize = 16;
/// Most values that are kept of an attribute of which there may be several.
const MAX_VALUES: usize = 16;

/// Why bytes are no session description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    TooLong(usize),
    NotSdp,
}

/// Which way audio flows, seen from whoever wrote the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Both ways.
    #[default]
    SendRecv,
    /// Only from the writer.
    SendOnly,
    /// Only to the writer.
    RecvOnly,
    /// Neither.
    Inactive,
}

impl Direction {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    pub(crate) const fn mirrored(self) -> Self {
        match self {
            Self::SendOnly => Self::RecvOnly,
            Self::RecvOnly => Self::SendOnly,
            same => same,
        }
    }

    /// Whether the writer wants to receive.
    pub(crate) const fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }
}

/// What may stand at either level, session or section.
#[derive(Default)]
pub(crate) struct Level<'a> {
    pub(crate) ufrag: Option<&'a str>,
    pub(crate) pwd: Option<&'a str>,
    pub(crate) setup: Option<&'a str>,
    pub(crate) fingerprints: Vec<&'a str>,
    pub(crate) direction: Option<Direction>,
    pub(crate) ice_lite: bool,
    pub(crate) bundle: bool,
    /// The value of `c=`.
    pub(crate) connection: Option<&'a str>,
}

impl<'a> Level<'a> {
    /// Takes an attribute if it is one of these.
    fn take(&mut self, name: &'a str, value: &'a str) -> bool {
        match name {
            "ice-ufrag" => self.ufrag = Some(value),
            "ice-pwd" => self.pwd = Some(value),
            "setup" => self.setup = Some(value),
            "fingerprint" => push(&mut self.fingerprints, value),
            "ice-lite" => self.ice_lite = true,
            "group" => self.bundle |= value.split_ascii_whitespace().next() == Some("BUNDLE"),
            "sendrecv" => self.direction = Some(Direction::SendRecv),
            "sendonly" => self.direction = Some(Direction::SendOnly),
            "recvonly" => self.direction = Some(Direction::RecvOnly),
            "inactive" => self.direction = Some(Direction::Inactive),
            _ => return false,
        }
        true
    }
}

/// One `m=` line and what stands below it.
#[derive(Default)]
pub(crate) struct Section<'a> {
    /// `audio`, `video`, …
    pub(crate) kind: &'a str,
    /// 0 switches it off.
    pub(crate) port: u16,
    /// `RTP/AVP`, `UDP/TLS/RTP/SAVPF`, …
    pub(crate) profile: &'a str,
    /// The first of its formats, whatever it is.
    pub(crate) format: &'a str,
    pub(crate) level: Level<'a>,
    pub(crate) payload_types: Vec<u8>,
    rtpmaps: Vec<(u8, &'a str)>,
    fmtps: Vec<(u8, &'a str)>,
    /// `a=candidate`, in order.
    pub(crate) candidates: Vec<&'a str>,
    pub(crate) ssrcs: Vec<u32>,
    pub(crate) mid: Option<&'a str>,
    pub(crate) ptime: Option<u32>,
    pub(crate) maxptime: Option<u32>,
    pub(crate) rtcp_mux: bool,
    /// The value of `a=rtcp`.
    pub(crate) rtcp: Option<&'a str>,
    /// `a=crypto`, in order.
    pub(crate) crypto: Vec<&'a str>,
}

/// A whole description.
#[derive(Default)]
pub(crate) struct Description<'a> {
    /// Session id of the `o=` line, when it is a number.
    pub(crate) session_id: Option<u64>,
    pub(crate) session: Level<'a>,
    pub(crate) sections: Vec<Section<'a>>,
    /// Sections that are not kept.
    pub(crate) beyond: usize,
}

impl<'a> Description<'a> {
    pub(crate) fn read(text: &'a str) -> Result<Self, Malformed> {
        if text.len() > MAX_SDP_BYTES {
            return Err(Malformed::TooLong(text.len()));
        }
        let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        if lines.next().map(str::trim_end) != Some("v=0") {
            return Err(Malformed::NotSdp);
        }
        let mut found = Self::default();
        for line in lines {
            let Some((kind, value)) = line.split_once('=') else { continue };
            if kind == "m" {
                found.begin(value);
            } else if found.beyond == 0 {
                found.take(kind, value);
            }
        }
        Ok(found)
    }

    fn begin(&mut self, value: &'a str) {
        if self.sections.len() == MAX_SECTIONS {
            self.beyond += 1;
        } else {
            self.sections.push(Section::begin(value));
        }
    }

    fn take(&mut self, kind: &str, value: &'a str) {
        let section = self.sections.last_mut();
        match kind {
            "o" => self.session_id = value.split_ascii_whitespace().nth(1).and_then(|id| id.parse().ok()),
            "c" => {
                let level = section.map_or(&mut self.session, |section| &mut section.level);
                level.connection.get_or_insert(value);
            }
            "a" => {
                let (name, value) = value.split_once(':').unwrap_or((value, ""));
                let (name, value) = (name.trim(), value.trim());
                match section {
                    Some(section) => section.take(name, value),
                    None => {
                        self.session.take(name, value);
                    }
                }
            }
            _ => {}
        }
    }
}

impl<'a> Section<'a> {
    /// Reads `<kind> <port> <profile> <formats>`; a port that cannot be read is 0.
    fn begin(value: &'a str) -> Self {
        let mut words = value.split_ascii_whitespace();
        let kind = words.next().unwrap_or_default();
        let port = words.next().and_then(|word| word.split('/').next()?.parse().ok()).unwrap_or(0);
        let profile = words.next().unwrap_or_default();
        let mut section =
            Self { kind, port, profile, format: words.clone().next().unwrap_or_default(), ..Self::default() };
        for payload_type in words.filter_map(|word| word.parse::<u8>().ok()).filter(|pt| *pt < 128) {
            if !section.payload_types.contains(&payload_type) {
                section.payload_types.push(payload_type);
            }
        }
        section
    }

    fn take(&mut self, name: &'a str, value: &'a str) {
        if self.level.take(name, value) {
            return;
        }
        match name {
            "rtpmap" | "fmtp" => {
                let Some((pt, rest)) = value.split_once(' ') else { return };
                let Ok(pt) = pt.parse::<u8>() else { return };
                let list = if name == "rtpmap" { &mut self.rtpmaps } else { &mut self.fmtps };
                if !list.iter().any(|(known, _)| *known == pt) {
                    list.push((pt, rest.trim()));
                }
            }
            "candidate" => self.candidates.push(value),
            "ssrc" => {
                let ssrc = value.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
                if let Some(ssrc) = ssrc
                    && !self.ssrcs.contains(&ssrc)
                {
                    push(&mut self.ssrcs, ssrc);
                }
            }
            "mid" => self.mid = Some(value),
            "ptime" => self.ptime = value.parse().ok(),
            "maxptime" => self.maxptime = value.parse().ok(),
            "rtcp-mux" => self.rtcp_mux = true,
            "rtcp" => self.rtcp = Some(value),
            "crypto" => push(&mut self.crypto, value),
            _ => {}
        }
    }

    /// The payload type of the section whose encoding name, clock and channels are one of `wanted`.
    pub(crate) fn find(&self, wanted: &[&str]) -> Option<u8> {
        self.payload_types.iter().copied().find(|pt| {
            self.rtpmaps
                .iter()
                .any(|(known, codec)| known == pt && wanted.iter().any(|name| codec.eq_ignore_ascii_case(name)))
        })
    }

    /// The same for a codec that also has a number of its own, which needs no map.
    pub(crate) fn find_static(&self, payload_type: u8, name: &str) -> Option<u8> {
        let unmapped =
            self.payload_types.contains(&payload_type) && !self.rtpmaps.iter().any(|(pt, _)| *pt == payload_type);
        self.find(&[name]).or_else(|| unmapped.then_some(payload_type))
    }

    /// The parameters of a payload type; empty when it has none.
    pub(crate) fn fmtp(&self, payload_type: u8) -> &'a str {
        self.fmtps.iter().find(|(pt, _)| *pt == payload_type).map_or("", |(_, text)| *text)
    }
}

fn push<T>(list: &mut Vec<T>, value: T) {
    if list.len() < MAX_VALUES {
        list.push(value);
    }
}

/// RFC 8866 token, at most 64 characters: what may be echoed into our own description.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&byte))
}

/// Reads `IN IP4 192.0.2.1` or `IN IP6 2001:db8::1`, with or without the hop count of old.
pub(crate) fn read_connection(value: &str) -> Option<IpAddr> {
    let mut words = value.split_ascii_whitespace();
    let (net, family, address) = (words.next()?, words.next()?, words.next()?);
    let address: IpAddr = address.split('/').next()?.parse().ok()?;
    let named = if address.is_ipv4() { "IP4" } else { "IP6" };
    (net.eq_ignore_ascii_case("IN") && family.eq_ignore_ascii_case(named)).then_some(address)
}

/// False for addresses where nobody can be called, and to which packets would be reflected to bystanders.
pub(crate) fn is_reachable(address: SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::from([255, 255, 255, 255])
}

//! The SIP messages of one call, redacted: what a carrier's engineer asks for first.
//!
//! Kept are time, direction, first line without its user part, CSeq and the reason of an ending; never a number, a
//! name, a Call-ID, a tag or a body. Bounded, as a far end decides how many messages there are.

use std::time::{Duration, Instant};

/// Messages kept of one call: a call with hold, transfer and refreshes needs about 30. At most 8 KiB.
pub const LINES: usize = 64;
/// The first ones, which say what was agreed on; of the others the latest are kept, as they say how it ended.
const FIRST: usize = 40;
/// Longest first line kept, characters.
const LONGEST: usize = 96;

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To us.
    In,
    /// From us.
    Out,
}

impl Way {
    /// The word in ledger and output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceLine {
    /// Which it was, from 0; where one is missing, others were left out for the bound.
    pub number: u32,
    /// Since the first message of the call.
    pub at: Duration,
    /// Which way it went.
    pub way: Way,
    /// `INVITE sip:…@edge.example.org SIP/2.0`, or `180 Ringing`.
    pub first: String,
    /// `102 INVITE`.
    pub cseq: String,
    /// `Q.850;cause=16` of a `Reason` header, without its text.
    pub reason: Option<String>,
}

/// The messages of one call.
#[derive(Debug, Clone)]
pub struct Trace {
    began: Instant,
    lines: Vec<TraceLine>,
    seen: u32,
}

impl Trace {
    /// Begins with the first message.
    #[must_use]
    pub const fn new(began: Instant) -> Self {
        Self { began, lines: Vec::new(), seen: 0 }
    }

    /// Adds a message. `first` is its first line as it stands in it, `reason` the value of a `Reason` header.
    pub fn add(&mut self, now: Instant, way: Way, first: &str, cseq: &str, reason: Option<&str>) {
        if self.lines.len() >= LINES {
            self.lines.remove(FIRST);
        }
        let number = self.seen;
        self.seen = self.seen.saturating_add(1);
        self.lines.push(TraceLine {
            number,
            at: now.saturating_duration_since(self.began),
            way,
            first: first_line(first),
            cseq: words(cseq),
            reason: reason.map(cause),
        });
    }

    /// What was kept, in order.
    #[must_use]
    pub fn lines(&self) -> &[TraceLine] {
        &self.lines
    }

    /// When our 200 to an INVITE went out first, since the first message.
    #[must_use]
    pub fn answered(&self) -> Option<Duration> {
        let is_it = |line: &&TraceLine| {
            line.way == Way::Out && line.first.starts_with("200 ") && line.cseq.ends_with(" INVITE")
        };
        self.lines.iter().find(is_it).map(|line| line.at)
    }

    /// How many messages there were, those included that were not kept.
    #[must_use]
    pub const fn seen(&self) -> u32 {
        self.seen
    }
}

/// A first line without what may name a person: the user part and the parameters of a URI.
#[must_use]
pub fn first_line(line: &str) -> String {
    let line = line.lines().next().unwrap_or_default();
    if let Some(status) = line.strip_prefix("SIP/2.0 ") {
        let (code, phrase) = status.split_once(' ').unwrap_or((status, ""));
        return words(&format!("{} {}", words(code), words(phrase)));
    }
    let mut parts = line.split(' ');
    let (method, uri) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let version = parts.next().unwrap_or_default();
    format!("{} {} {}", words(method), uri_without_user(uri), words(version))
}

/// `sip:…@host:port` of a URI; a URI without a host, such as `tel:`, shows its scheme alone.
fn uri_without_user(uri: &str) -> String {
    let (scheme, rest) = uri.split_once(':').unwrap_or(("", uri));
    let rest = rest.split([';', '?']).next().unwrap_or_default();
    let scheme = words(scheme);
    if !scheme.eq_ignore_ascii_case("sip") && !scheme.eq_ignore_ascii_case("sips") {
        return format!("{scheme}:…");
    }
    // a user part may hold ';', so the host is what follows the last '@' of the whole
    let host = uri.rsplit_once('@').map_or(rest, |(_, host)| host.split([';', '?']).next().unwrap_or_default());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    // what has neither dot nor colon may be half a name out of a broken URI
    let shown = host.bytes().all(plain) && host.contains(['.', ':']) && longest_digits(host) < 9;
    let host = if shown { clipped(host) } else { "…".to_owned() };
    let user = if uri.contains('@') { "…@" } else { "" };
    format!("{scheme}:{user}{host}")
}

/// `Q.850;cause=16` of a `Reason` value (RFC 3326); its text is the far end's own and stays out.
fn cause(value: &str) -> String {
    let mut parts = value.split(';').map(str::trim);
    let protocol = words(parts.next().unwrap_or_default());
    let cause = parts.find_map(|part| part.strip_prefix("cause="));
    let cause: String = cause.unwrap_or_default().chars().filter(char::is_ascii_digit).take(3).collect();
    if cause.is_empty() { protocol } else { format!("{protocol};cause={cause}") }
}

/// A text of a far end as it may be shown: printable ASCII, no run of five digits, no address, not long.
fn words(text: &str) -> String {
    let mut shown = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let plain = |character: char| character.is_ascii_graphic() && !matches!(character, '@' | '<' | '>' | '"');
        let digits = word.chars().filter(char::is_ascii_digit).count();
        if !shown.is_empty() {
            shown.push(' ');
        }
        shown.push_str(if word.chars().all(plain) && digits < 5 { word } else { "…" });
    }
    clipped(&shown)
}

/// The longest run of digits: an address has at most five, a telephone number more than eight.
fn longest_digits(text: &str) -> usize {
    text.split(|character: char| !character.is_ascii_digit()).map(str::len).max().unwrap_or(0)
}

fn clipped(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_line_keeps_method_host_and_code_and_nobodys_number() {
        for (line, shown) in [
            (
                "INVITE sip:+250780000001@edge.example.org:5061;transport=tls SIP/2.0",
                "INVITE sip:…@edge.example.org:5061 SIP/2.0",
            ),
            ("OPTIONS sip:192.0.2.1 SIP/2.0", "OPTIONS sip:192.0.2.1 SIP/2.0"),
            ("INVITE tel:+250780000001 SIP/2.0", "INVITE tel:… SIP/2.0"),
            ("INVITE sip:a;b@c@[2001:db8::1]:5060 SIP/2.0", "INVITE sip:…@[2001:db8::1]:5060 SIP/2.0"),
            ("SIP/2.0 180 Ringing", "180 Ringing"),
            ("SIP/2.0 404 No 250780000001 here", "404 No … here"),
            ("SIP/2.0 403 <sip:a@b>", "403 …"),
            ("BYE sip:Test Caller@x SIP/2.0", "BYE sip:… Caller@x"),
            ("INVITE sip:250780000001.example SIP/2.0", "INVITE sip:… SIP/2.0"),
        ] {
            assert_eq!(first_line(line), shown.replace("Caller@x", "…"));
        }
        assert!(!first_line("\u{0}\u{1f600} \u{202e} x").contains('\u{202e}'));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "virtual time needs an origin")]
    fn the_first_200_to_an_invite_is_the_answer() {
        let began = Instant::now();
        let mut trace = Trace::new(began);
        let lines = [
            (0, Way::In, "INVITE sip:x@y SIP/2.0", "1 INVITE"),
            (1, Way::Out, "SIP/2.0 180 Ringing", "1 INVITE"),
            (2, Way::Out, "SIP/2.0 200 OK", "2 PRACK"),
            (3, Way::In, "SIP/2.0 200 OK", "7 INVITE"),
        ];
        for (ms, way, first, cseq) in lines {
            trace.add(began + Duration::from_millis(ms), way, first, cseq, None);
        }
        assert_eq!(trace.answered(), None);
        for ms in [9, 500] {
            trace.add(began + Duration::from_millis(ms), Way::Out, "SIP/2.0 200 OK", "1 INVITE", None);
        }
        assert_eq!(trace.answered(), Some(Duration::from_millis(9)), "not the one that was sent again");
    }

    #[test]
    fn a_reason_is_its_cause_alone_and_a_trace_has_a_bound() {
        #[expect(clippy::disallowed_methods, reason = "a test needs some first moment")]
        let start = Instant::now();
        let mut trace = Trace::new(start);
        let reason = Some("Q.850;cause=16;text=\"Test Caller left\"");
        for _ in 0..LINES + 3 {
            trace.add(start + Duration::from_millis(20), Way::In, "BYE sip:a@h.example SIP/2.0", "3 BYE", reason);
        }
        let expected = TraceLine {
            number: 0,
            at: Duration::from_millis(20),
            way: Way::In,
            first: "BYE sip:…@h.example SIP/2.0".into(),
            cseq: "3 BYE".into(),
            reason: Some("Q.850;cause=16".into()),
        };
        assert_eq!((trace.lines().len(), trace.seen()), (LINES, 67));
        assert_eq!(trace.lines()[0], expected);
        let around = [FIRST - 1, FIRST, LINES - 1].map(|place| trace.lines()[place].number);
        assert_eq!(around, [39, 43, 66], "the beginning and the end are kept");
        assert_eq!(cause("SIP ;cause=200 ;text=x"), "SIP;cause=200");
    }

    proptest::proptest! {
        #[test]
        fn no_run_of_digits_and_no_line_break_survives(line in "(?s).{0,200}", digits in "[0-9]{9,15}") {
            let shown = first_line(&format!("{line}{digits} {line}"));
            proptest::prop_assert!(!shown.contains('\n') && shown.len() < 4 * 3 * LONGEST);
            let shown = first_line(&format!("INVITE sip:{digits}@host SIP/2.0"));
            proptest::prop_assert!(!shown.contains(&digits));
        }
    }
}

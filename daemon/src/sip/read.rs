//! What is read out of a SIP request, with the library's parser: facts for routing, people for the call.
//!
//! Nothing here decides, and nothing that comes over the network can make it panic (`tests/fuzz`, target `sip`).

use std::net::IpAddr;

use rsipstack::sip::prelude::{HasHeaders, HeadersExt, ToTypedHeader};
use rsipstack::sip::{Header, Host, Method, Request, SipMessage, Uri};
use sauti_core::config::Transport;
use sauti_core::pii::Pii;
use sauti_core::sip::route::{Facts, Peers, Refused};
use sauti_core::sip::timer::{Asked, SessionExpires};

/// Longest user part that is taken for somebody: E.164 has 15 digits, a BSUID 131 characters.
const LONGEST_USER: usize = 160;
/// Longest SDP that is read; offers of browsers have about 6 KB.
const LONGEST_SDP: usize = 32 * 1024;

/// What Meta tells about a WhatsApp call (whatsapp-calling §4).
#[derive(Debug, Clone)]
pub struct WaHeaders {
    /// The call's id at Meta.
    pub wacid: Pii,
    /// The caller's business-scoped user id.
    pub bsuid: Option<Pii>,
}

/// One request, read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) source: IpAddr,
    pub(super) transport: Transport,
    scheme: String,
    pub(super) user: Option<String>,
    max_forwards: Option<u32>,
    require: String,
    content_type: Option<String>,
    content_encoding: Option<String>,
    has_contact: bool,
    /// Names one call between two far ends; about people where Meta makes it.
    pub(super) call_id: String,
    pub(super) asked: Asked,
    pub(super) requires_100rel: bool,
    pub(super) caller: Option<Pii>,
    pub(super) offer: Option<Pii>,
    pub(super) whatsapp: Option<WaHeaders>,
}

impl Read {
    /// What routing looks at.
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            source: self.source,
            transport: self.transport,
            scheme: &self.scheme,
            user: self.user.as_deref(),
            max_forwards: self.max_forwards,
            require: &self.require,
            content_type: self.content_type.as_deref(),
            content_encoding: self.content_encoding.as_deref(),
            has_contact: self.has_contact,
        }
    }
}

/// Reads an INVITE that opens a dialog.
///
/// # Errors
///
/// A header that every request must have (RFC 3261 §8.1.1) is missing or cannot be read.
pub(super) fn read(request: &Request, source: IpAddr, transport: Transport) -> Result<Read, Refused> {
    sound(request)?;
    let broken = |_| Refused::Malformed;
    let call_id = request.call_id_header().map_err(broken)?.value().trim().to_owned();
    let from = request.from_header().map_err(broken)?.typed().map_err(broken)?;
    let body = request.body();
    if body.len() > LONGEST_SDP || !request.uri().headers.is_empty() {
        // a Request-URI carries no headers (RFC 3261 §19.1.1, table 1)
        return Err(Refused::Malformed);
    }
    let offer = std::str::from_utf8(body).map_err(|_| Refused::Content)?;
    let private = value(request, "Privacy").is_some_and(|privacy| {
        privacy.split(';').any(|word| matches!(word.trim().to_ascii_lowercase().as_str(), "id" | "user" | "header"))
    });
    let asserted = value(request, "P-Asserted-Identity").and_then(|identity| user_in(&identity));
    let caller = asserted.or_else(|| user_of(&from.uri)).filter(|user| !private && !is_anonymous(user));
    let required = value(request, "Require").unwrap_or_default();
    Ok(Read {
        source,
        transport,
        scheme: request.uri().scheme.as_ref().map_or_else(|| "sip".to_owned(), |scheme| scheme.to_string()),
        user: user_of(request.uri()),
        max_forwards: value(request, "Max-Forwards").and_then(|hops| hops.trim().parse().ok()),
        has_contact: request.typed_contact_headers().is_ok_and(|contacts| !contacts.is_empty()),
        content_type: (!body.is_empty()).then(|| value(request, "Content-Type").unwrap_or_default()),
        content_encoding: value(request, "Content-Encoding"),
        asked: asked(request),
        requires_100rel: request.header_contains_token("Require", "100rel"),
        caller: caller.map(Pii::new),
        offer: (!offer.trim().is_empty()).then(|| Pii::new(offer)),
        whatsapp: whatsapp(request, &call_id),
        call_id,
        require: required,
    })
}

/// Whether a request has what each must have, once and readable (RFC 3261 §8.1.1, §7.3.1).
///
/// # Errors
///
/// It has not.
pub(super) fn sound(request: &Request) -> Result<(), Refused> {
    let broken = |_| Refused::Malformed;
    let cseq = request.cseq_header().map_err(broken)?;
    let from = request.from_header().map_err(broken)?.typed().map_err(broken)?;
    request.to_header().map_err(broken)?.typed().map_err(broken)?;
    request.via_header().map_err(broken)?;
    let call_id = request.call_id_header().map_err(broken)?.value();
    let same = cseq.method().is_ok_and(|method| method == *request.method());
    let once = |kind: fn(&Header) -> bool| request.headers().iter().filter(|header| kind(header)).count() <= 1;
    let single = once(|header| matches!(header, Header::CSeq(_)))
        && once(|header| matches!(header, Header::CallId(_)))
        && once(|header| matches!(header, Header::From(_)))
        && once(|header| matches!(header, Header::To(_)))
        && once(|header| matches!(header, Header::MaxForwards(_)))
        && once(|header| matches!(header, Header::ContentLength(_)));
    // a datagram that was cut has less than it says (RFC 3261 §18.3); one with more ends where it says
    let whole = match value(request, "Content-Length") {
        Some(length) => length.trim().parse::<usize>().is_ok_and(|length| length <= request.body().len()),
        None => true,
    };
    let sound = same && single && whole && cseq.seq().is_ok() && from.tag().is_some() && !call_id.trim().is_empty();
    if sound { Ok(()) } else { Err(Refused::Malformed) }
}

/// What a request says about session timers.
pub(super) fn asked(request: &Request) -> Asked {
    Asked {
        expires: value(request, "Session-Expires").and_then(|value| SessionExpires::parse(&value)),
        supported: request.header_contains_token("Supported", "timer")
            || request.header_contains_token("Require", "timer"),
    }
}

/// The values of a header by its long name, joined by commas; `None` when it is absent.
pub(super) fn value(message: &impl HasHeaders, name: &str) -> Option<String> {
    let line = |header: &Header| {
        let text = header.to_string();
        let (found, value) = text.split_once(':')?;
        found.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    };
    let values: Vec<String> = message.headers().iter().filter_map(line).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// Whether a far end says what it knows, and UPDATE is not among it.
pub(super) fn refuses_update(message: &impl HasHeaders) -> bool {
    value(message, "Allow").is_some_and(|known| !known.split(',').any(|method| method.trim() == "UPDATE"))
}

/// The user part of a URI, without its parameters.
///
/// The library takes a `;` within the user part for the end of the host, and Meta writes
/// `sip:+<number>;<parameters>@<host>` (whatsapp-calling §4): then it is found in the text.
pub(super) fn user_of(uri: &Uri) -> Option<String> {
    if let Some(user) = uri.user() {
        return tidy(user);
    }
    let text = uri.to_string();
    let (_, rest) = text.split_once(':')?;
    tidy(rest.split_once('@')?.0)
}

/// The user part of the first URI in a header's value: `"Name" <sip:+250…@host>, <tel:+250…>`.
fn user_in(value: &str) -> Option<String> {
    let at = ["sip:", "sips:", "tel:"].iter().filter_map(|scheme| value.find(scheme)).min()?;
    let (scheme, rest) = value.get(at..)?.split_once(':')?;
    let end = if scheme == "tel" { ['>', ';', ','].as_slice() } else { &['@', '>', ';'] };
    tidy(rest.split(end).next()?)
}

fn tidy(user: &str) -> Option<String> {
    let user = user.split([';', ':', '?']).next()?;
    let mut rest = user.as_bytes();
    let mut plain = Vec::with_capacity(user.len());
    // escapes as RFC 3261 §25.1 writes them; what is no escape stays as it stands
    while let Some((byte, after)) = rest.split_first() {
        let pair = (*byte == b'%').then(|| after.split_at_checked(2)).flatten();
        let escaped = pair.and_then(|(pair, after)| {
            let hex = std::str::from_utf8(pair).ok().filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
            Some((u8::from_str_radix(hex, 16).ok()?, after))
        });
        let (byte, after) = escaped.unwrap_or((*byte, after));
        plain.push(byte);
        rest = after;
    }
    let text = String::from_utf8(plain).ok()?;
    let sound = !text.is_empty() && text.len() <= LONGEST_USER && text.chars().all(|one| one.is_ascii_graphic());
    sound.then_some(text)
}

fn is_anonymous(user: &str) -> bool {
    ["anonymous", "unknown", "restricted", "unavailable", "private"].iter().any(|word| user.eq_ignore_ascii_case(word))
}

/// The id that Meta's Call-ID holds, `outgoing:wacid.…`; base64 has no `@`.
fn in_call_id(call_id: &str) -> Option<&str> {
    call_id.strip_prefix("outgoing:")?.split('@').next().filter(|wacid| !wacid.is_empty())
}

fn whatsapp(request: &Request, call_id: &str) -> Option<WaHeaders> {
    let named = value(request, "x-wa-meta-wacid").filter(|wacid| !wacid.is_empty());
    let wacid = named.or_else(|| in_call_id(call_id).map(str::to_owned))?;
    let bsuid = value(request, "x-wa-meta-user-id").filter(|id| !id.is_empty() && id.len() <= LONGEST_USER);
    Some(WaHeaders { wacid: Pii::new(wacid), bsuid: bsuid.map(Pii::new) })
}

/// The address of a host that is one.
pub(super) fn address(host: &Host) -> Option<IpAddr> {
    match host {
        Host::IpAddr(address) => Some(*address),
        Host::Domain(_) => None,
    }
}

/// What the adapter does with a message from `source`, before any state is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not a word goes back.
    Silent(Refused),
    /// This status code goes back.
    Answer(Refused),
    /// It is an INVITE for this peer, and a route answers it.
    Routed(usize),
    /// It belongs to a dialog or a transaction, or is served by itself.
    Other,
}

/// Judges the bytes of one message, for `sauti route`, tests and fuzzing. No socket, no state.
#[must_use]
pub fn judge(bytes: &[u8], peers: &Peers, source: IpAddr, transport: Transport) -> Verdict {
    if !peers.know(source) {
        return Verdict::Silent(Refused::UnknownSource);
    }
    let Ok(SipMessage::Request(request)) = SipMessage::try_from(bytes) else {
        return Verdict::Silent(Refused::Malformed);
    };
    if *request.method() != Method::Invite || has_to_tag(&request) {
        let user = user_of(request.uri());
        return match peers.peer_of(source, transport, user.as_deref()) {
            Err(why) if why.code().is_none() => Verdict::Silent(why),
            _ => Verdict::Other,
        };
    }
    let routed = match read(&request, source, transport) {
        Ok(read) => peers.route(&read.facts()).map_err(|(_, why)| why),
        // who is not even heard over this transport gets no 400 either
        Err(why) => {
            Err(peers.peer_of(source, transport, None).err().filter(|other| other.code().is_none()).unwrap_or(why))
        }
    };
    match routed {
        Ok(routed) => Verdict::Routed(routed.peer),
        Err(why) if why.code().is_none() => Verdict::Silent(why),
        Err(why) => Verdict::Answer(why),
    }
}

/// Whether a request belongs to a dialog that stands.
pub(super) fn has_to_tag(request: &Request) -> bool {
    request.to_header().ok().and_then(|to| to.tag().ok().flatten()).is_some_and(|tag| !tag.value().is_empty())
}

/// How a REFER of ours goes, from a NOTIFY (RFC 3515 §2.4.4): the status, and whether the subscription has ended.
///
/// Not the library's own reading: it looks for `Event` among the headers that it does not know.
pub(super) fn refer_status(request: &Request) -> Option<(u16, bool)> {
    let event = value(request, "Event")?;
    let is_refer = event.split(';').next().is_some_and(|package| package.trim().eq_ignore_ascii_case("refer"));
    let state = value(request, "Subscription-State")?.to_ascii_lowercase();
    let body = std::str::from_utf8(request.body()).ok()?;
    let status = body.lines().find_map(|line| line.strip_prefix("SIP/2.0 "))?;
    let code = status.split(' ').next()?.parse().ok().filter(|code| (100..700).contains(code))?;
    is_refer.then_some((code, state.starts_with("terminated")))
}

/// The digit of an INFO body, `application/dtmf-relay` or `application/dtmf`.
pub(super) fn dtmf_of(request: &Request) -> Option<char> {
    let kind = value(request, "Content-Type")?.to_ascii_lowercase();
    let body = std::str::from_utf8(request.body()).ok()?;
    let signal = if kind.starts_with("application/dtmf-relay") {
        let named = |line: &str| {
            line.split_once('=')
                .filter(|(key, _)| key.trim().eq_ignore_ascii_case("signal"))
                .map(|(_, value)| value.trim().to_owned())
        };
        body.lines().find_map(named)?
    } else if kind.starts_with("application/dtmf") {
        body.trim().to_owned()
    } else {
        return None;
    };
    match signal.as_str() {
        "10" => Some('*'),
        "11" => Some('#'),
        _ => {
            let mut signs = signal.chars();
            let sign = signs.next()?.to_ascii_uppercase();
            (signs.next().is_none() && matches!(sign, '0'..='9' | '*' | '#' | 'A'..='D')).then_some(sign)
        }
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;

//! `[sip]` and `[[trunk]]`: where the box listens for SIP, and whom it trusts there.
//!
//! Nothing is let in by default: a source that no trunk names gets no answer at all, and a call whose number no
//! route names is refused. The machines that act on this are in [`crate::sip`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::check::Context;
use super::file::{Complaint, Section};
use super::{Language, Network, TlsFiles, Transfer, sections, values};
use crate::call::transfer::Way;
pub use crate::media::codec::Codec;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The trunk that stands for WhatsApp over SIP; no `[[trunk]]` may have its name.
pub const WHATSAPP_TRUNK: &str = "whatsapp";
/// The one agent of this version, for `[[trunk.route]] agent`.
pub const ONLY_AGENT: &str = "default";

/// `[sip]`: the listeners. Absent = no SIP at all.
#[derive(Debug, Clone)]
pub struct Sip {
    /// UDP listener; also where requests to `udp` trunks leave from.
    pub udp: Option<SocketAddr>,
    /// TCP listener.
    pub tcp: Option<SocketAddr>,
    /// TLS listener with its certificate; speaks no ALPN, as peers refuse "sip" (peers §3, bug 40).
    pub tls: Option<(SocketAddr, TlsFiles)>,
}

/// A way that SIP travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// RFC 3261 §18 over UDP.
    Udp,
    /// Over TCP.
    Tcp,
    /// Over TLS.
    Tls,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Tls];

    /// The word in file, log and URIs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.label() == label)
    }

    /// The port that an address without one means (RFC 3261 §19.1.2).
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
        }
    }

    /// Whether a request that came by `came` may belong to a trunk of this transport.
    ///
    /// A peer on UDP changes to TCP for what is larger than its path (RFC 3261 §18.1.1); encrypted stays encrypted.
    #[must_use]
    pub const fn admits(self, came: Self) -> bool {
        match self {
            Self::Udp | Self::Tcp => !matches!(came, Self::Tls),
            Self::Tls => matches!(came, Self::Tls),
        }
    }
}

/// How media of a trunk is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Srtp {
    /// Not at all.
    Off,
    /// SRTP with keys in the SDP (RFC 4568).
    Sdes,
}

impl Srtp {
    /// The word in the file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Sdes => "sdes",
        }
    }
}

/// A name or an address, with a port if one was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// DNS name or IP address, an IPv6 one without brackets.
    pub host: String,
    /// `None` = found by SRV, else the transport's own (RFC 3263 §4.2).
    pub port: Option<u16>,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]")?
        } else {
            write!(f, "{host}")?
        }
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// `[[trunk]]`.
#[derive(Debug, Clone)]
pub struct Trunk {
    /// Names it in log, metrics and the name of its password.
    pub name: String,
    /// Where it is registered; `None` = it is not.
    pub registrar: Option<HostPort>,
    /// Who the box is there: user of the address of record and of the digest.
    pub username: Option<String>,
    /// How requests travel.
    pub transport: Transport,
    /// What may be agreed on, the preferred one first.
    pub codecs: Vec<Codec>,
    /// Whether media is protected.
    pub srtp: Srtp,
    /// Networks that its calls come from, beside the addresses of registrar and proxy.
    pub allow: Vec<Network>,
    /// The address of this box as the trunk reaches it: in Contact, Via and SDP. `None` = the socket's own.
    pub advertise: Option<IpAddr>,
    /// The address that media towards this trunk is bound to. `None` = `[media] bind`.
    pub bind: Option<IpAddr>,
    /// Address of record of calls that the box makes, `user@domain`. `None` = made of username and registrar.
    pub from: Option<String>,
    /// Where requests are sent instead of to their target.
    pub outbound_proxy: Option<HostPort>,
    /// How often the far end is asked whether it is there; `None` = never.
    pub options_every: Option<Duration>,
    /// Calls at one time.
    pub calls: usize,
    /// New calls a second.
    pub calls_per_second: u32,
    /// Lifetime that a registration asks for.
    pub register_every: Duration,
    /// Which numbers are answered, the first that fits wins. Empty = calls from here are refused.
    pub routes: Vec<Arc<TrunkRoute>>,
    /// Our answer goes out ahead of the 200 too, with 183, so that the trunk's media path is open when the AI begins.
    pub early_media: bool,
    /// It leads into the public telephone network, where WhatsApp's terms forbid to take its calls.
    pub public_network: bool,
    /// Its password; empty when it was not given.
    pub password: Option<SecretString>,
}

impl Trunk {
    /// The name of the secret that holds this trunk's password.
    #[must_use]
    pub fn password_name(&self) -> String {
        password_name(&self.name)
    }
}

/// The secret that holds the password of the trunk of this name.
#[must_use]
pub fn password_name(trunk: &str) -> String {
    format!("trunk_{}_password", trunk.replace('-', "_").to_ascii_lowercase())
}

/// `[[trunk.route]]`: who answers which number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrunkRoute {
    /// The called number, or its beginning when a `*` ends it; `*` alone is every number.
    pub called: String,
    /// Who answers.
    pub agent: String,
    /// Languages of such a call, the preferred one first.
    pub languages: Vec<Language>,
}

impl TrunkRoute {
    /// Whether this route answers `called`. A leading `+` makes no difference: trunks write numbers with and without.
    #[must_use]
    pub fn answers(&self, called: &str) -> bool {
        let bare = |number: &str| number.strip_prefix('+').unwrap_or(number).to_owned();
        match self.called.strip_suffix('*') {
            Some(beginning) => bare(called).starts_with(&bare(beginning)),
            None => bare(called) == bare(&self.called),
        }
    }
}

/// Reads `[sip]`.
pub(super) fn sip(context: &Context<'_, '_>, section: Section<'_, '_>) -> Option<Sip> {
    let udp = section.read("udp", values::socket);
    let tcp = section.read("tcp", values::socket);
    let tls = section.read("tls", values::socket);
    let certificate = section.read("certificate", sections::file_path);
    let key = section.read("key", sections::file_path);
    if !section.is_present() {
        return None;
    }
    for there in ["certificate", "key"] {
        if section.has("tls") && !section.has(there) {
            section.complain("tls", format!("stands without {there}"), "write certificate and key, two PEM files");
        } else if !section.has("tls") && section.has(there) {
            section.complain(there, "stands without tls", "write tls = \"0.0.0.0:5061\", or take it out");
        }
    }
    if context.whole && !["udp", "tcp", "tls"].iter().any(|key| section.has(key)) {
        let (path, line) = (section.path().to_owned(), section.line());
        context.book.problem(&path, line, "listens nowhere", "write udp, tcp or tls, like udp = \"0.0.0.0:5060\"");
    }
    section.finish();
    let files =
        certificate.zip(key).map(|(certificate, key)| TlsFiles { certificate: certificate.value, key: key.value });
    Some(Sip {
        udp: udp.map(|given| given.value),
        tcp: tcp.map(|given| given.value),
        tls: tls.map(|given| given.value).zip(files),
    })
}

/// Reads `[transfer]`; its trunk is one of `trunks`.
pub(super) fn transfer(context: &Context<'_, '_>, section: Section<'_, '_>, trunks: &[Trunk]) -> Option<Transfer> {
    let trunk = section.read("trunk", values::plain_name);
    let target = section.read("target", target);
    let words: Vec<&str> = Way::ALL.iter().map(|way| way.label()).collect();
    let way = section.read_or("way", |value| values::one_of(value, &words), || Way::Refer.label());
    let ringing = 5 * SECOND..=2 * MINUTE;
    let answer_within = section.read_or("answer_within", |value| values::duration(value, ringing), || 30 * SECOND);
    if !section.is_present() {
        return None;
    }
    for (key, what) in [("trunk", "over which trunk the person is reached"), ("target", "whom to call")] {
        if context.whole && !section.has(key) {
            section.complain(key, format!("is missing: {what}"), format!("write {key} = \"…\""));
        }
    }
    if let Some(trunk) = trunk.as_ref().filter(|named| !trunks.iter().any(|trunk| trunk.name == named.value)) {
        let names: Vec<_> = trunks.iter().map(|trunk| trunk.name.as_str()).collect();
        let fix = if names.is_empty() {
            "write a [[trunk]] of that name".to_owned()
        } else {
            format!("name one of them: {}", names.join(", "))
        };
        context.book.problem(&trunk.path, trunk.line, format!("{:?} is the name of no [[trunk]]", trunk.value), fix);
    }
    section.finish();
    Some(Transfer {
        trunk: trunk?.value,
        target: target?.value,
        way: Way::parse(way.value).unwrap_or(Way::Refer),
        answer_within: answer_within.value,
    })
}

/// Reads every `[[trunk]]`. `languages` and `max_calls` are what a table inherits that does not name them.
pub(super) fn read(
    context: &Context<'_, '_>,
    sections: Vec<Section<'_, '_>>,
    languages: &[Language],
    max_calls: usize,
) -> Vec<Trunk> {
    let mut trunks: Vec<Trunk> = Vec::new();
    for section in sections {
        let name = section.read("name", values::plain_name);
        if context.whole && !section.has("name") {
            section.complain("name", "is missing; log, metrics and its password go by it", "write name = \"…\"");
        }
        if let Some(name) = &name {
            let reason = trunks.iter().find(|other| other.password_name() == password_name(&name.value)).map(|first| {
                let (one, other) = (&name.value, &first.name);
                format!("{one:?} and {other:?} would share the password {}", first.password_name())
            });
            let taken = (name.value == WHATSAPP_TRUNK).then(|| "is what WhatsApp over SIP is called".to_owned());
            if let Some(reason) = reason.or(taken) {
                context.book.problem(&name.path, name.line, reason, "give each trunk a name of its own");
            }
        }
        let name = name.map(|given| given.value);
        let trunk = one(context, &section, name.as_deref().unwrap_or_default(), languages, max_calls);
        section.finish();
        trunks.extend(name.is_some().then_some(trunk));
    }
    trunks
}

fn one(
    context: &Context<'_, '_>,
    section: &Section<'_, '_>,
    name: &str,
    languages: &[Language],
    max_calls: usize,
) -> Trunk {
    let registrar = section.read("registrar", values::host_port);
    let username = section.read("username", values::name);
    let transport =
        section.read_or("transport", |value| values::one_of(value, &Transport::ALL.map(Transport::label)), || "udp");
    let codecs = section.read_or("codecs", codecs, || vec![Codec::Pcma, Codec::Pcmu]);
    let srtp = section.read_or("srtp", |value| values::one_of(value, &["off", "sdes"]), || "off");
    let allow = section.read_or("allow", |value| values::list(value, peers), Vec::new);
    let advertise = section.read("advertise", reachable);
    let bind = section.read("bind", values::ip);
    let from = section.read("from", address_of_record);
    let outbound_proxy = section.read("outbound_proxy", values::host_port);
    let options = Duration::ZERO..=HOUR;
    let options_every = section.read_or("options_every", |value| values::duration(value, options), || 30 * SECOND);
    let most = u32::try_from(max_calls).unwrap_or(u32::MAX);
    let calls = section.read_or("calls", |value| values::whole(value, 1..=5_000), || most);
    let calls_per_second = section.read_or("calls_per_second", |value| values::whole(value, 1..=1_000), || 10);
    let lifetime = MINUTE..=24 * HOUR;
    let register_every = section.read_or("register_every", |value| values::duration(value, lifetime), || 10 * MINUTE);
    let early_media = section.read_or("early_media", values::flag, || false);
    let public_network = section.read_or("public_network", values::flag, || true);
    let routes = section.sections("route").into_iter().filter_map(|route| self::route(context, route, languages));
    let routes = routes.map(Arc::new).collect();
    if section.has("registrar") && !section.has("username") {
        section.complain("registrar", "stands without username", "write username = \"…\", who the box is there");
    }
    if context.whole && !["registrar", "allow", "outbound_proxy"].iter().any(|key| section.has(key)) {
        let reason = "has neither registrar nor allow nor outbound_proxy: nobody could call, and nobody be called";
        section.complain("name", reason, "write allow = [\"…\"], the networks that its calls come from");
    }
    if srtp.value == "sdes" && transport.value != "tls" {
        let text =
            format!("is sdes over {}: whoever can read the signalling has the keys of the media", transport.value);
        context.book.note(&format!("{}.srtp", section.path()), text);
    }
    if !section.has("route") {
        let text = "has no [[trunk.route]]: calls that come from here are refused".to_owned();
        context.book.note(section.path(), text);
    }
    let needs = username.is_some() && registrar.is_some() && !name.is_empty();
    let secret = password_name(name);
    let password =
        if needs { Some(context.secrets.required(&secret, "[[trunk]]")) } else { context.secrets.optional(&secret) };
    Trunk {
        name: name.to_owned(),
        registrar: registrar.map(|given| given.value),
        username: username.map(|given| given.value),
        transport: Transport::parse(transport.value).unwrap_or(Transport::Udp),
        codecs: codecs.value,
        srtp: if srtp.value == "sdes" { Srtp::Sdes } else { Srtp::Off },
        allow: allow.value,
        advertise: advertise.map(|given| given.value),
        bind: bind.map(|given| given.value),
        from: from.map(|given| given.value),
        outbound_proxy: outbound_proxy.map(|given| given.value),
        options_every: Some(options_every.value).filter(|every| !every.is_zero()),
        calls: usize::try_from(calls.value).unwrap_or(max_calls),
        calls_per_second: calls_per_second.value,
        register_every: register_every.value,
        routes,
        early_media: early_media.value,
        public_network: public_network.value,
        password,
    }
}

fn route(context: &Context<'_, '_>, section: Section<'_, '_>, languages: &[Language]) -> Option<TrunkRoute> {
    let called = section.read("called", called);
    if context.whole && !section.has("called") {
        let fix = "write called = \"…\": a number, its beginning with a *, or \"*\" for every number";
        section.complain("called", "is missing", fix);
    }
    let agent = section.read_or("agent", |value| values::one_of(value, &[ONLY_AGENT]), || ONLY_AGENT);
    let languages = section.read_or("languages", sections::languages, || languages.to_vec());
    section.finish();
    Some(TrunkRoute { called: called?.value, agent: agent.value.to_owned(), languages: languages.value })
}

fn codecs(value: &toml::de::DeValue<'_>) -> Result<Vec<Codec>, Complaint> {
    let words = values::list(value, |item| {
        values::one_of(item, &[Codec::Pcma, Codec::Pcmu, Codec::G722, Codec::Opus].map(Codec::label))
    })?;
    let mut codecs: Vec<Codec> = Vec::new();
    for codec in words.iter().filter_map(|word| Codec::parse(word)) {
        if codecs.contains(&codec) {
            return Err(Complaint::new("names a codec twice", "name each codec once"));
        }
        codecs.push(codec);
    }
    if codecs.is_empty() {
        return Err(Complaint::new("is empty", "name at least one codec, like [\"pcma\"]"));
    }
    Ok(codecs)
}

/// Networks of known peers; the whole Internet is none.
pub(super) fn peers(value: &toml::de::DeValue<'_>) -> Result<Network, Complaint> {
    let network = values::network(value)?;
    if network.is_everything() {
        let fix = "write the networks of the carrier; it names them on request";
        return Err(Complaint::new("lets everybody in, and whoever scans the Internet would be answered", fix));
    }
    Ok(network)
}

fn reachable(value: &toml::de::DeValue<'_>) -> Result<IpAddr, Complaint> {
    let address = values::ip(value)?;
    if address.is_unspecified() {
        return Err(Complaint::new("is an address that nobody can send to", "write the address that the trunk sees"));
    }
    Ok(address)
}

fn address_of_record(value: &toml::de::DeValue<'_>) -> Result<String, Complaint> {
    const FIX: &str = "write it as user@domain, like \"reception@sip.example.net\"";
    let text = values::name(value)?;
    let sound = |part: &str| !part.is_empty() && !part.contains(['@', '<', '>', ';', '?', ':', ',']);
    match text.split_once('@') {
        Some((user, domain)) if sound(user) && sound(domain) => Ok(text),
        _ => Err(Complaint::new("is no address of record", FIX)),
    }
}

/// What goes into a Request-URI.
fn target(value: &toml::de::DeValue<'_>) -> Result<String, Complaint> {
    let text = values::name(value)?;
    if text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"')) {
        return Ok(text);
    }
    let fix = "write a number, user@host or a sip: address, like \"+35690000003\"";
    Err(Complaint::new("has characters that no SIP address has", fix))
}

fn called(value: &toml::de::DeValue<'_>) -> Result<String, Complaint> {
    let text = values::name(value)?;
    let number = text.strip_suffix('*').unwrap_or(&text);
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_' | b'#');
    if number.bytes().all(sound) {
        return Ok(text);
    }
    let fix = "write the number as the trunk sends it, its beginning with a * at the end, or \"*\"";
    Err(Complaint::new("has characters that no called number has, or a * before its end", fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_answers_its_number_with_and_without_plus_or_all_that_begin_so() {
        let route = |called: &str| TrunkRoute { called: called.into(), agent: ONLY_AGENT.into(), languages: vec![] };
        assert!(route("+35690000002").answers("35690000002") && route("35690000002").answers("+35690000002"));
        assert!(!route("35690000002").answers("356900000021"));
        assert!(route("+356*").answers("35690000002") && !route("+356*").answers("250780000001"));
        assert!(route("*").answers("anything") && route("*").answers(""));
    }

    #[test]
    fn what_is_encrypted_is_not_taken_unencrypted() {
        assert!(Transport::Udp.admits(Transport::Tcp) && !Transport::Udp.admits(Transport::Tls));
        assert!(!Transport::Tls.admits(Transport::Udp) && !Transport::Tls.admits(Transport::Tcp));
        assert!(Transport::Tls.admits(Transport::Tls));
    }

    #[test]
    fn a_trunks_password_name_has_no_dash() {
        assert_eq!(password_name("mtn-RW"), "trunk_mtn_rw_password");
    }
}

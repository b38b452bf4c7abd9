//! Which trunk a request belongs to, which route an INVITE takes, and why it is refused.
//!
//! Default deny: a source that no trunk names is not answered at all. Every refusal is a value with one word for
//! metrics and log, a sentence for people (`sauti route`) and the code that goes out, if any does.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::call::outcome::{Door, labels};
use crate::config::{Config, Network, ONLY_AGENT, Signalling, Transport, TrunkRoute, WHATSAPP_TRUNK};

/// Extensions that a peer may require of us (RFC 3261 §8.2.2.3).
pub const SUPPORTED: [&str; 3] = ["100rel", "timer", "replaces"];
/// What a refused caller is told to wait, where waiting helps.
const COME_BACK: Duration = Duration::from_secs(5);

labels! {
    /// Why a request was not taken.
    Refused {
        /// No trunk names the source.
        UnknownSource => "unknown_source",
        /// The source is known, but not over this transport.
        WrongTransport => "wrong_transport",
        /// Several trunks share the source, and the called user is none of theirs.
        Ambiguous => "ambiguous_trunk",
        /// The source has failed too many digests.
        Barred => "barred",
        /// Something that every such request must have is missing or cannot be read.
        Malformed => "malformed",
        /// The Request-URI is no `sip:` or `sips:` one.
        Scheme => "scheme",
        /// `Max-Forwards` has run out.
        TooManyHops => "too_many_hops",
        /// The same call came by another way already.
        Loop => "loop",
        /// An extension is required that we do not have.
        Extension => "extension",
        /// The body is no SDP, or is encoded.
        Content => "content",
        /// Nobody was called.
        NoNumber => "no_number",
        /// No route of the trunk answers the called number.
        NoRoute => "no_route",
        /// The trunk has sent too many calls in this second.
        Rate => "rate",
        /// The trunk has all its calls.
        TrunkFull => "trunk_full",
        /// The digest does not match.
        Digest => "digest",
        /// The box takes no calls any more.
        Draining => "draining",
        /// The box is too busy to hold one more dialog.
        Busy => "busy",
        /// The session timer that is asked for is too short.
        TimerTooSmall => "timer_too_small",
        /// A method that is not served here.
        Method => "method",
    }
}

impl Refused {
    /// The status code to answer with; `None` = not a word, as to a stranger (RFC 3261 leaves no such choice, but an
    /// answer to a forged source is a weapon).
    #[must_use]
    pub const fn code(self) -> Option<u16> {
        match self {
            Self::UnknownSource | Self::WrongTransport | Self::Barred => None,
            Self::Malformed => Some(400),
            Self::Ambiguous | Self::NoRoute => Some(404),
            Self::Method => Some(405),
            Self::Content => Some(415),
            Self::Scheme => Some(416),
            Self::Extension => Some(420),
            Self::TimerTooSmall => Some(422),
            Self::Loop => Some(482),
            Self::TooManyHops => Some(483),
            Self::NoNumber => Some(484),
            Self::Digest => Some(403),
            Self::Rate | Self::TrunkFull | Self::Draining | Self::Busy => Some(503),
        }
    }

    /// When it is worth trying again, for the refusals that pass.
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Rate => Some(Duration::from_secs(1)),
            Self::TrunkFull | Self::Draining | Self::Busy => Some(COME_BACK),
            _ => None,
        }
    }

    /// What was wrong and what to do about it, for a person.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::UnknownSource => "the source address belongs to no trunk; add its network to the trunk's allow",
            Self::WrongTransport => "the trunk uses another transport; change the trunk's transport, or the far end's",
            Self::Ambiguous => {
                "several trunks share this source, and the called user is none of theirs; give each a username, or \
                 networks of its own"
            }
            Self::Barred => "this source has failed too many digests and is not answered for some minutes",
            Self::Malformed => "the message lacks a header that it must have, or one cannot be read",
            Self::Scheme => "the Request-URI is neither sip: nor sips:",
            Self::TooManyHops => "Max-Forwards is 0: the call runs in a circle between proxies",
            Self::Loop => "the same INVITE arrived by a second way (forked by a proxy); only the first is answered",
            Self::Extension => "the far end requires an extension that is not supported",
            Self::Content => "the body is not application/sdp, or it is compressed",
            Self::NoNumber => "the Request-URI names nobody: it has no user part",
            Self::NoRoute => "no [[trunk.route]] of the trunk answers this number; add one with its called",
            Self::Rate => "more calls a second than the trunk's calls_per_second",
            Self::TrunkFull => "as many calls as the trunk's calls are up",
            Self::Digest => "user or password do not match; compare the secret with the far end's setting",
            Self::Draining => "the box is being stopped and takes no new calls",
            Self::Busy => "the table of dialogs is full",
            Self::TimerTooSmall => "the session timer asked for is shorter than 90 s",
            Self::Method => "this method is not served",
        }
    }
}

/// One far end as routing knows it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The trunk's name.
    pub name: Arc<str>,
    /// How its calls are booked.
    pub door: Door,
    /// How it is reached.
    pub transport: Transport,
    /// Calls at one time.
    pub calls: usize,
    /// New calls a second.
    pub calls_per_second: u32,
    username: Option<String>,
    allow: Vec<Network>,
    resolved: BTreeSet<IpAddr>,
    routes: Vec<Arc<TrunkRoute>>,
}

/// Every far end of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    peers: Vec<Peer>,
}

/// What routing reads of a request: values as they stand in the message, nothing decoded twice.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'r> {
    /// Where it came from, by the socket.
    pub source: IpAddr,
    /// How it came.
    pub transport: Transport,
    /// Scheme of the Request-URI, `sip`.
    pub scheme: &'r str,
    /// User part of the Request-URI, without its parameters.
    pub user: Option<&'r str>,
    /// `Max-Forwards`; `None` = absent, which is allowed (RFC 3261 §8.1.1.6 is for senders).
    pub max_forwards: Option<u32>,
    /// The values of all `Require` headers, joined by commas.
    pub require: &'r str,
    /// `Content-Type`, when there is a body.
    pub content_type: Option<&'r str>,
    /// `Content-Encoding`.
    pub content_encoding: Option<&'r str>,
    /// Whether there is a `Contact` to send requests to (RFC 3261 §8.1.1.8).
    pub has_contact: bool,
}

/// Where an INVITE goes.
#[derive(Debug, Clone)]
pub struct Routed {
    /// Index of the peer, for [`Peers::peer`].
    pub peer: usize,
    /// Who answers.
    pub route: Arc<TrunkRoute>,
}

impl Peers {
    /// The far ends that a configuration names.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut peers: Vec<Peer> = config
            .trunks
            .iter()
            .map(|trunk| Peer {
                name: trunk.name.as_str().into(),
                door: Door::Trunk,
                transport: trunk.transport,
                calls: trunk.calls,
                calls_per_second: trunk.calls_per_second,
                username: trunk.username.clone(),
                allow: trunk.allow.clone(),
                resolved: BTreeSet::new(),
                routes: trunk.routes.clone(),
            })
            .collect();
        if let Some(Signalling::Sip(sip)) = config.whatsapp.as_ref().map(|whatsapp| &whatsapp.signalling) {
            let everything = TrunkRoute {
                called: "*".to_owned(),
                agent: ONLY_AGENT.to_owned(),
                languages: config.node.languages.clone(),
            };
            peers.push(Peer {
                name: WHATSAPP_TRUNK.into(),
                door: Door::WhatsappSip,
                transport: Transport::Tls,
                // who finds the box full gets a row and a text, as over Graph: the switchboard refuses, not these limits
                calls: usize::MAX,
                calls_per_second: u32::MAX,
                username: None,
                allow: sip.allow.clone(),
                resolved: BTreeSet::new(),
                routes: vec![Arc::new(everything)],
            });
        }
        Self { peers }
    }

    /// The addresses that registrar and proxy of a peer have at present; its calls come from them too.
    pub fn set_resolved(&mut self, peer: usize, addresses: impl IntoIterator<Item = IpAddr>) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.resolved = addresses.into_iter().map(|address| address.to_canonical()).collect();
        }
    }

    /// A peer by its index.
    #[must_use]
    pub fn peer(&self, index: usize) -> Option<&Peer> {
        self.peers.get(index)
    }

    /// All of them, in the order of the file, WhatsApp last.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter()
    }

    /// The index of a peer by its name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<usize> {
        self.peers.iter().position(|peer| &*peer.name == name)
    }

    /// Whether any peer names this source: all that is asked before a byte is parsed.
    #[must_use]
    pub fn know(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.peers.iter().any(|peer| peer.is_from(source))
    }

    /// Whether `source` is the peer's: what a request within a dialog must be (field bug 74).
    #[must_use]
    pub fn is_from(&self, peer: usize, source: IpAddr, transport: Transport) -> bool {
        let source = source.to_canonical();
        self.peers.get(peer).is_some_and(|peer| peer.is_from(source) && peer.transport.admits(transport))
    }

    /// The peer that a request belongs to. `user` is the user part of its Request-URI.
    ///
    /// # Errors
    ///
    /// The source is nobody's, comes another way than agreed, or could be several peers'.
    pub fn peer_of(&self, source: IpAddr, transport: Transport, user: Option<&str>) -> Result<usize, Refused> {
        let source = source.to_canonical();
        let known = self.peers.iter().enumerate().filter(|(_, peer)| peer.is_from(source));
        let (mut candidates, mut seen) = (Vec::new(), false);
        for (index, peer) in known {
            seen = true;
            if peer.transport.admits(transport) {
                candidates.push((index, peer));
            }
        }
        match candidates.as_slice() {
            [] if seen => Err(Refused::WrongTransport),
            [] => Err(Refused::UnknownSource),
            [(index, _)] => Ok(*index),
            several => {
                let user = user.unwrap_or_default();
                let named = several.iter().find(|(_, peer)| peer.username.as_deref() == Some(user));
                let routed = || several.iter().find(|(_, peer)| peer.routes.iter().any(|route| route.answers(user)));
                named.or_else(routed).map(|(index, _)| *index).ok_or(Refused::Ambiguous)
            }
        }
    }

    /// Where an INVITE goes that opens a dialog.
    ///
    /// # Errors
    ///
    /// Why it goes nowhere, with the peer where that much is known.
    pub fn route(&self, facts: &Facts<'_>) -> Result<Routed, (Option<usize>, Refused)> {
        let peer = self.peer_of(facts.source, facts.transport, facts.user).map_err(|why| (None, why))?;
        let refuse = |why| Err((Some(peer), why));
        if let Some(why) = flaw(facts) {
            return refuse(why);
        }
        let Some(user) = facts.user.filter(|user| !user.is_empty()) else { return refuse(Refused::NoNumber) };
        let routes = self.peers.get(peer).map_or(&[][..], |peer| &peer.routes);
        match routes.iter().find(|route| route.answers(user)) {
            Some(route) => Ok(Routed { peer, route: Arc::clone(route) }),
            None => refuse(Refused::NoRoute),
        }
    }
}

impl Peer {
    fn is_from(&self, source: IpAddr) -> bool {
        self.resolved.contains(&source) || self.allow.iter().any(|network| network.contains(source))
    }
}

/// What is wrong with the request itself, in the order of RFC 3261 §8.2.
fn flaw(facts: &Facts<'_>) -> Option<Refused> {
    if !facts.scheme.eq_ignore_ascii_case("sip") && !facts.scheme.eq_ignore_ascii_case("sips") {
        return Some(Refused::Scheme);
    }
    if facts.max_forwards == Some(0) {
        return Some(Refused::TooManyHops);
    }
    if unsupported(facts.require).next().is_some() {
        return Some(Refused::Extension);
    }
    if !facts.has_contact {
        return Some(Refused::Malformed);
    }
    let encoded = facts.content_encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity"));
    let is_sdp = |content: &str| content.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/sdp");
    (encoded || facts.content_type.is_some_and(|content| !is_sdp(content))).then_some(Refused::Content)
}

/// The option tags of a `Require` that we do not have: what `Unsupported` must name (RFC 3261 §20.40).
pub fn unsupported(require: &str) -> impl Iterator<Item = &str> {
    let tags = require.split(',').map(str::trim).filter(|tag| !tag.is_empty());
    tags.filter(|tag| !SUPPORTED.iter().any(|known| known.eq_ignore_ascii_case(tag)))
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;

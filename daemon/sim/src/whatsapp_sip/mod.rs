//! WhatsApp over SIP as Meta speaks it (whatsapp-calling §4), sans-IO: who calls by it ([`caller`]), whom the box calls
//! ([`callee`]), what both hear within a dialog ([`dialog`]), the digest of either side ([`digest`]) and its media without
//! ICE ([`sdes`]).
//!
//! It is as strict as Meta is known to be: a request that does not go by both proxies of its route is never seen, a
//! re-INVITE is answered with 500. What the box does wrong is counted by name. SIP is read and written by
//! [`crate::trunk::message`]; TLS and sockets belong to whoever drives it.

use sauti_core::pii::Pii;
use secrecy::SecretString;

use crate::trunk::message::Message;

pub mod callee;
pub mod caller;
pub mod dialog;
pub mod digest;
pub mod sdes;

/// Realm of Meta's challenges, and the host of its addresses.
pub const META: &str = "wa.meta.vc";
/// The proxy that the box meets.
pub const OUTER_PROXY: &str = "<sip:wa.meta.vc;transport=tls;lr>";
/// The proxy behind it.
pub const INNER_PROXY: &str = "<sip:onevc-sip-proxy.fbinfra.net:8191;transport=tls;lr>";
/// What Meta says that it knows.
const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, NOTIFY, OPTIONS";
/// What it calls itself.
const USER_AGENT: &str = "Facebook SipGateway";
/// Faults that are kept of one call; after as many it is clear enough.
const FAULTS: usize = 16;

/// The SIP settings of a business number, as Meta and the box both have them.
#[derive(Debug, Clone)]
pub struct Account {
    /// Digits of the business number, without `+`.
    pub number: Pii,
    /// `sip.servers[0].hostname`: the name that the box goes by.
    pub hostname: String,
    /// `request_uri_user_params` as they stand in an address, `;tgrp=wacall`; empty for none.
    pub user_params: String,
    /// `sip_user_password`.
    pub password: SecretString,
    /// The host that the box calls; [`META`], on loopback a name that leads there.
    pub host: String,
}

impl Account {
    /// An account at Meta itself.
    #[must_use]
    pub fn new(number: &Pii, hostname: &str, password: SecretString) -> Self {
        Self {
            number: number.clone(),
            hostname: hostname.to_owned(),
            user_params: String::new(),
            password,
            host: META.to_owned(),
        }
    }
}

/// What was done wrong, in order and bounded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl Faults {
    /// Notes one.
    pub fn add(&mut self, what: impl Into<String>) {
        if self.0.len() < FAULTS {
            self.0.push(what.into());
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[String] {
        &self.0
    }
}

/// What both sides write on top of every message.
fn dressed(message: Message) -> Message {
    message.with("X-FB-External-Domain", META).with("User-Agent", USER_AGENT)
}

//! The DTLS handshake of one leg, and the SRTP contexts that come out of it.
//!
//! Repetition of lost flights is paced here, for two reasons. The engine repeats after a fixed time and at most seven
//! times; WhatsApp's relay drops hellos until it has processed our answer, so the first wait must be short and the
//! whole must last: 100 ms, doubled up to 1.6 s, and a fresh hello where seven were never answered. And the engine forgets its timer when a flight that
//! it has dealt with comes again, which is just what happens when our reply was lost (both sides then wait forever), so
//! such repeats are kept from it and taken as the hint that they are. Driven by [`super::WebRtcLeg`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc::crypto::{HashAlgorithm, RTCCryptoProvider};
use rtc::dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc::dtls::endpoint::{Endpoint, EndpointEvent};
use rtc::dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc::shared::error::{Error, Result};
use rtc::shared::{TransportContext, TransportProtocol};
use rtc::srtp;
use rtc::srtp::protection_profile::ProtectionProfile;

use super::{Certificate, LegFailure};
use crate::rtp::srtp::{Srtp, inward, outward};

/// First wait for an answer to a flight.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The engine's own wait: so short that it repeats whenever it is told to.
const ENGINE_WAIT: Duration = Duration::from_millis(1);
/// Repeats of one flight; the engine breaks off at the eighth.
const MAX_REPEATS: u32 = 7;
/// Repeats up to which a peer that repeats itself may bring ours forward.
const HINTED_REPEATS: u32 = 4;
/// Longest pause between two repeats.
const LONGEST_WAIT: Duration = Duration::from_millis(1_600);
/// Time from our first hello after which a handshake has failed.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(30);
/// Datagrams with sealed or unknown records that are looked at before there are keys; the engine keeps those for later,
/// so this bounds what a forger can make it keep (half a MiB). Whoever can forge that many can end a handshake anyway, by
/// a plain alert.
const MAX_SEALED: u32 = 256;
/// What a handshake came to.
pub(super) enum DtlsEvent {
    Connected(Box<Srtp>),
    PeerClosed,
    Failed(LegFailure),
}

/// One association, whatever path carries it.
pub(super) struct Dtls {
    endpoint: Endpoint,
    config: Arc<HandshakeConfig>,
    provider: Arc<dyn RTCCryptoProvider>,
    client: bool,
    /// When our first hello went out.
    begun: Option<Instant>,
    complete: bool,
    over: bool,
    /// Datagrams of the engine that wait to be sent.
    outbox: VecDeque<BytesMut>,
    /// When the current flight is due again; `None` when no answer is awaited.
    due: Option<Instant>,
    sent_at: Instant,
    repeats: u32,
    /// How many datagrams came before there were keys that were not plain handshake.
    sealed: u32,
    /// Highest number of a plain handshake message that came.
    heard: Option<u16>,
    /// Highest number that has been replied to: what is not above it is a repeat.
    dealt_with: Option<u16>,
    /// Set by the verifier when the peer's certificate has another digest than its description.
    impostor: Arc<AtomicBool>,
}

impl Dtls {
    /// Makes an association that accepts a peer with one of these SHA-256 digests and no other.
    pub(super) fn new(now: Instant, client: bool, certificate: &Certificate, digests: Vec<[u8; 32]>) -> Result<Self> {
        let provider = Arc::clone(&certificate.provider);
        let impostor = Arc::new(AtomicBool::new(false));
        let verify = {
            let (provider, impostor) = (Arc::clone(&provider), Arc::clone(&impostor));
            move |chain: &[Vec<u8>], _: &[_]| -> Result<()> {
                let first = chain.first().ok_or(Error::ErrNonCertificate)?;
                let seen = provider
                    .crypto()
                    .hash(HashAlgorithm::Sha256, first)
                    .map_err(|error| Error::Crypto(error.to_string()))?;
                if digests.iter().any(|digest| digest[..] == seen[..]) {
                    Ok(())
                } else {
                    impostor.store(true, Ordering::Relaxed);
                    Err(Error::ErrNoMatchingCertificateFingerprint)
                }
            }
        };
        let config = ConfigBuilder::default()
            .with_crypto_provider(Arc::clone(&provider))
            .with_certificates(vec![certificate.identity.clone()])
            // The one profile that every WebRTC stack has, and the one that WhatsApp names.
            .with_srtp_protection_profiles(vec![SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80])
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            // Chains of authorities mean nothing here: the digest in the description is what identifies the peer.
            .with_insecure_skip_verify(true)
            .with_verify_peer_certificate(Some(Arc::new(verify)))
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .with_flight_interval(ENGINE_WAIT)
            .build(client, None)?;
        let config = Arc::new(config);
        let tunnel = TransportContext::default();
        let server = (!client).then(|| Arc::clone(&config));
        Ok(Self {
            endpoint: Endpoint::new(tunnel.local_addr, TransportProtocol::UDP, server),
            config,
            provider,
            client,
            begun: None,
            complete: false,
            over: false,
            outbox: VecDeque::new(),
            due: None,
            sent_at: now,
            repeats: 0,
            sealed: 0,
            heard: None,
            dealt_with: None,
            impostor,
        })
    }

    /// The engine keys associations by address; ours has one name, so that a change of path does not matter to it.
    fn tunnel() -> SocketAddr {
        TransportContext::default().peer_addr
    }

    /// Sends the first flight if that is our part; to be called when a path has been chosen.
    pub(super) fn start(&mut self, now: Instant) -> Option<DtlsEvent> {
        if !self.client || self.begun.is_some() || self.over {
            return None;
        }
        self.begun = Some(now);
        if self.endpoint.connect(now, Self::tunnel(), Arc::clone(&self.config), None).is_err() {
            return Some(self.fail());
        }
        self.collect(now);
        None
    }

    /// Takes a DTLS datagram from a verified address.
    ///
    /// # Errors
    /// It was of no use; the association goes on.
    pub(super) fn receive(&mut self, now: Instant, packet: &[u8]) -> Result<Option<DtlsEvent>> {
        if self.over || (self.client && self.begun.is_none()) {
            return Ok(None);
        }
        let Flight { highest, plain } = Flight::read(packet);
        if plain && !self.complete && self.is_repeat(highest) {
            self.hint(now);
            return Ok(None);
        }
        if !plain && !self.complete {
            self.sealed = self.sealed.saturating_add(1);
            if self.sealed > MAX_SEALED {
                return Err(Error::ErrBufferTooSmall);
            }
        }
        self.heard = self.heard.max(highest);
        let outcome = self.endpoint.read(now, Self::tunnel(), None, BytesMut::from(packet));
        if self.collect(now) {
            self.dealt_with = self.heard;
        }
        let events = match outcome {
            Ok(events) => events,
            Err(Error::ErrAlertFatalOrClose) => return Ok(Some(self.fail())),
            Err(_) if self.impostor.load(Ordering::Relaxed) => return Ok(Some(self.fail())),
            Err(error) => return Err(error),
        };
        for event in events {
            match event {
                EndpointEvent::HandshakeComplete if !self.complete => {
                    self.complete = true;
                    self.due = None;
                    return Ok(Some(self.keys().map_or_else(|_| self.fail(), DtlsEvent::Connected)));
                }
                EndpointEvent::PeerClosed => {
                    self.over = true;
                    // In mid-handshake a flight waits for its answer, which does not come any more.
                    self.due = None;
                    return Ok(Some(DtlsEvent::PeerClosed));
                }
                // Data channels are not offered; what is sent in one is dropped.
                _ => {}
            }
        }
        Ok(None)
    }

    pub(super) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.outbox.pop_front()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<DtlsEvent> {
        if self.over || self.due.is_none_or(|due| due > now) {
            return None;
        }
        if self.begun.is_some_and(|begun| now >= begun + HANDSHAKE_WITHIN) {
            return Some(self.fail());
        }
        let repeats = self.repeats.saturating_add(1);
        let done = if repeats <= MAX_REPEATS {
            self.endpoint.handle_timeout(Self::tunnel(), now)
        } else if self.client && self.heard.is_none() {
            // Nothing has ever come back, so nobody minds that this is another hello.
            self.endpoint = Endpoint::new(Self::tunnel(), TransportProtocol::UDP, None);
            self.endpoint.connect(now, Self::tunnel(), Arc::clone(&self.config), None)
        } else {
            return Some(self.fail());
        };
        if done.is_err() {
            return Some(self.fail());
        }
        self.collect(now);
        self.repeats = if repeats <= MAX_REPEATS { repeats } else { HINTED_REPEATS };
        let wait = FIRST_WAIT.saturating_mul(1 << self.repeats).min(LONGEST_WAIT);
        self.due = Some(now + wait);
        None
    }

    /// Queues a `close_notify`; nothing is taken or reported any more.
    pub(super) fn close(&mut self, now: Instant) {
        if !self.over {
            // Closing queues an alert and has nothing to fail at.
            self.endpoint.close(now).ok();
            self.collect(now);
            self.over = true;
            self.due = None;
        }
    }

    /// Whether a plain flight whose highest message is `highest` has been replied to already.
    ///
    /// A server's reply to the very first hello (the cookie) is not repeated by the engine's timer but by the hello.
    fn is_repeat(&self, highest: Option<u16>) -> bool {
        let cookie = !self.client && self.dealt_with == Some(0);
        !cookie && highest.is_some() && highest <= self.dealt_with
    }

    /// The peer is able to answer from now on: repeat what it may have dropped before.
    pub(super) fn hurry(&mut self, now: Instant) {
        if !self.complete && self.repeats < HINTED_REPEATS {
            self.due = self.due.map(|_| now);
        }
    }

    /// The peer repeats what we replied to, so the reply was lost: do not wait for the end of a long pause.
    fn hint(&mut self, now: Instant) {
        if self.repeats < HINTED_REPEATS {
            let soon = (self.sent_at + FIRST_WAIT).max(now);
            self.due = self.due.map(|due| due.min(soon));
        }
    }

    /// Takes over what the engine wants sent; true if that was anything, which makes it a new flight.
    fn collect(&mut self, now: Instant) -> bool {
        let before = self.outbox.len();
        while let Some(out) = self.endpoint.poll_transmit() {
            self.outbox.push_back(out.message);
        }
        let sent = self.outbox.len() > before;
        if sent {
            self.sent_at = now;
            self.repeats = 0;
            self.due = if self.complete { None } else { Some(now + FIRST_WAIT) };
        }
        sent
    }

    fn fail(&mut self) -> DtlsEvent {
        self.over = true;
        self.due = None;
        let impostor = self.impostor.load(Ordering::Relaxed);
        DtlsEvent::Failed(if impostor { LegFailure::WrongCertificate } else { LegFailure::Dtls })
    }

    fn keys(&self) -> Result<Box<Srtp>> {
        let state = self.endpoint.get_connection_state(Self::tunnel()).ok_or(Error::HandshakeInProgress)?;
        if state.srtp_protection_profile() != SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 {
            return Err(Error::ErrNoSuchSrtpProfile);
        }
        let profile = ProtectionProfile::Aes128CmHmacSha1_80;
        let mut config = srtp::config::Config { profile, ..srtp::config::Config::default() };
        let label = srtp::config::LABEL_EXTRACTOR_DTLS_SRTP;
        let material = state.export_keying_material(label, &[], config.keying_material_len())?;
        config.set_session_keys_from_keying_material(material.as_ref(), state.is_client())?;
        let crypto = self.provider.crypto();
        let keys = &config.keys;
        Ok(Box::new(Srtp {
            out: outward(&keys.local_master_key, &keys.local_master_salt, profile, crypto)?,
            inn: inward(&keys.remote_master_key, &keys.remote_master_salt, profile, crypto)?,
        }))
    }
}

/// What a datagram holds of the handshake, as far as it can be read without keys.
struct Flight {
    /// Highest number among the messages in plain records.
    highest: Option<u16>,
    /// It holds plain handshake records and nothing else.
    plain: bool,
}

impl Flight {
    fn read(mut packet: &[u8]) -> Self {
        let mut flight = Self { highest: None, plain: true };
        // Type, version (2), epoch (2), number (6), length (2).
        while let Some((&[kind, _, _, e0, e1, _, _, _, _, _, _, high, low], rest)) = packet.split_first_chunk::<13>() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            let Some((body, rest)) = rest.split_at_checked(length) else {
                flight.plain = false;
                break;
            };
            match body {
                // Message type, length (3), number (2).
                [_, _, _, _, n0, n1, ..] if kind == 22 && (e0, e1) == (0, 0) => {
                    flight.highest = flight.highest.max(Some(u16::from_be_bytes([*n0, *n1])));
                }
                _ => flight.plain = false,
            }
            packet = rest;
        }
        flight.plain &= packet.is_empty() && flight.highest.is_some();
        flight
    }
}

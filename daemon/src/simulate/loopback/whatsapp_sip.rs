//! People on WhatsApp whose calls Meta brings by SIP, on loopback: one task each, a TLS stream of Meta's to the box, and the
//! relay's socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use sauti_core::media::frame::FRAME;
use sauti_core::pii::Pii;
use sauti_media::webrtc::Certificate;
use sauti_media::webrtc_sdp::OfferShape;
use sauti_sim::caller::person::Person;
use sauti_sim::caller::phone::Phone;
use sauti_sim::trunk::caller::CallEvent;
use sauti_sim::whatsapp::answer::{self, OfferFacts};
use sauti_sim::whatsapp::calls::{Cause, Ending};
use sauti_sim::whatsapp::dice::Dice;
use sauti_sim::whatsapp::wacid::wacid;
use sauti_sim::whatsapp::webhooks::{ErrorForm, Webhooks};
use sauti_sim::whatsapp_sip::Account;
use sauti_sim::whatsapp_sip::caller::{Dial, WhatsAppCall};
use sauti_sim::whatsapp_sip::sdes::Profile;
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval_at};

use super::meta::MetaLink;
use super::phones::{Handset, Lived, Manner, Plan, sleep_until};
use super::tally::Tally;
use super::wire::{DATAGRAM, Wire};

/// How the media of a call is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// ICE and DTLS, as over Graph.
    Dtls,
    /// A key in the offer.
    Sdes(Profile),
}

impl Keys {
    /// Each in turn.
    #[must_use]
    pub const fn numbered(number: usize) -> Self {
        match number % 3 {
            0 => Self::Sdes(Profile::Savp),
            1 => Self::Dtls,
            _ => Self::Sdes(Profile::TlsSavpf),
        }
    }
}

/// Meta's SIP, as far as calls to the box need it.
#[derive(Clone)]
pub struct Edge {
    /// Where the box listens for SIP over TLS.
    pub target: SocketAddr,
    /// The number's settings.
    pub account: Account,
    /// The certificate that it must show, PEM.
    pub certificate: Arc<str>,
    /// The rest of Meta.
    pub meta: MetaLink,
    /// How webhooks are written; the number has `webhook_delivery` on.
    pub webhooks: Webhooks,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Edge {
    /// A TLS client that trusts that certificate, and notes whether it is asked for one of its own.
    fn trusting(&self, shown: &Arc<Shown>) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        let client = ClientConfig::builder().with_root_certificates(roots);
        let resolver: Arc<dyn ResolvesClientCert> = Arc::<Shown>::clone(shown);
        Ok(Arc::new(client.with_client_cert_resolver(resolver)))
    }
}

/// Whether the box asked for a client certificate.
#[derive(Debug, Default)]
struct Shown(AtomicBool);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What a call did beside what every call does, and what the box did wrong in it.
#[derive(Debug)]
pub struct SipLived {
    /// What every call leaves behind.
    pub lived: Lived,
    /// The box's answer, judged already.
    pub answer: Option<Pii>,
    /// Its refusal: status and `Retry-After` in seconds.
    pub refused: Option<(u16, Option<u32>)>,
    /// Final answers to an INVITE that came by a second way.
    pub forked: Vec<u16>,
    /// What the box did wrong.
    pub faults: Vec<String>,
}

/// How a call differs from one that does as it should.
#[derive(Debug, Clone, Default)]
pub struct SipManner {
    /// Its phone.
    pub phone: Manner,
    /// She hides her number.
    pub hides_number: bool,
    /// The INVITE that counts comes twice: as it was, and by another way.
    pub repeats: bool,
    /// The call's id, if it is not a new one.
    pub wacid: Option<Pii>,
}

/// Lives through one call.
pub async fn call(
    plan: Plan,
    keys: Keys,
    manner: SipManner,
    edge: Edge,
    certificate: Arc<Certificate>,
    tally: Arc<Tally>,
) -> SipLived {
    let lived = Lived::new(&plan);
    let mut lived = SipLived { lived, answer: None, refused: None, forked: Vec::new(), faults: Vec::new() };
    tokio::time::sleep(plan.dial_after).await;
    if let Err(trouble) = dial(plan, keys, manner, &edge, &certificate, &tally, &mut lived).await {
        lived.lived.trouble = Some(trouble);
    }
    tally.over();
    lived
}

async fn dial(
    plan: Plan,
    keys: Keys,
    manner: SipManner,
    edge: &Edge,
    certificate: &Certificate,
    tally: &Tally,
    lived: &mut SipLived,
) -> Result<(), String> {
    let said = |error: &dyn std::error::Error| error.to_string();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| said(&error))?;
    let local = socket.local_addr().map_err(|error| said(&error))?;
    let shown = Arc::new(Shown::default());
    let trusted = edge.trusting(&shown)?;
    let wire = Wire::tls(edge.target, &edge.account.hostname, trusted).await.map_err(|error| said(&error))?;
    if shown.0.load(Ordering::Relaxed) {
        lived.faults.push("the box asks for a client certificate".to_owned());
    }
    let via = wire.local().map_err(|error| said(&error))?.to_string();
    let seed = u64::try_from(plan.number).unwrap_or(0) + (u64::from(local.port()) << 16);
    let now = Instant::now();
    let created = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    let person = Person::new(plan.script);
    let (phone, sdp) = match keys {
        Keys::Dtls => {
            let shape = OfferShape { created_ms: created, ..OfferShape::default() };
            Phone::dial(now, local, certificate, &shape, person)
        }
        Keys::Sdes(profile) => Phone::dial_sdes(now, local, profile, (created, seed), person),
    }
    .map_err(|error| said(&error))?;
    let wacid = manner.wacid.unwrap_or_else(|| {
        wacid(&mut Dice::new(seed), &plan.identity.number, &edge.account.number, seed.is_multiple_of(2))
    });
    (lived.lived.wacid, lived.lived.dialled, lived.lived.posted) = (Some(wacid.clone()), Some(now), Some(now));
    let offer = (keys == Keys::Dtls).then(|| OfferFacts::read(&sdp));
    let dial =
        Dial { person: plan.identity.clone(), hides_number: manner.hides_number, wacid: wacid.clone(), sdp, via };
    let Edge { meta, webhooks, .. } = edge;
    meta.calls_by_sip(&plan.identity).await;
    meta.tell(webhooks.other_call_event(Timestamp::now(), &wacid, &plan.identity, "call_created")).await;
    let call = WhatsAppCall::dial(now, edge.account.clone(), dial, seed);
    tally.ringing();
    let handset = Handset::new(phone.after_the_business(), socket, &manner.phone);
    let gives_up = manner.phone.gives_up.map(|after| now + after);
    let mut talk = Talk { call, handset, wire, offer, length: plan.length, gives_up, repeats: manner.repeats };
    talk.run(tally, lived).await;
    talk.handset.tell(&mut lived.lived);
    lived.forked.clone_from(&talk.call.forked);
    lived.faults.extend_from_slice(talk.call.faults.all());
    let now = Timestamp::now();
    let start = lived.lived.accepted.map(|_| now);
    let ending = Ending { cause: lived.lived.over.unwrap_or(Cause::HungUp), start, end: now };
    meta.tell(webhooks.terminate(now, &wacid, &plan.identity, &ending, ErrorForm::Doubled, None)).await;
    Ok(())
}

struct Talk {
    call: WhatsAppCall,
    handset: Handset,
    wire: Wire,
    /// What an answer with DTLS is judged against.
    offer: Option<OfferFacts>,
    length: Duration,
    gives_up: Option<Instant>,
    repeats: bool,
}

impl Talk {
    async fn run(&mut self, tally: &Tally, lived: &mut SipLived) {
        let mut ticks = interval_at(tokio::time::Instant::now() + FRAME, FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut signalling, mut packet) = (vec![0; DATAGRAM], [0; 2048]);
        let mut hung_up = false;
        while !self.call.is_over() {
            while let Some(wire) = self.call.poll_transmit() {
                self.wire.send(&wire).await;
            }
            if self.call.is_over() {
                break;
            }
            let due = self.call.deadline().into_iter().chain(self.handset.deadline()).min();
            tokio::select! {
                got = self.wire.receive(&mut signalling) => match got {
                    Ok(messages) => messages.iter().for_each(|message| self.call.receive(Instant::now(), message)),
                    Err(error) => {
                        lived.lived.trouble = Some(format!("signalling: {error}"));
                        return;
                    }
                },
                got = self.handset.datagram(&mut packet) => if let Some((length, from)) = got {
                    self.handset.receive(from, &packet[..length]);
                },
                _ = ticks.tick() => {
                    self.handset.phone.tick(Instant::now());
                    let over = self.handset.phone.person.is_over() || self.gives_up.is_some_and(|at| Instant::now() >= at);
                    if over && !std::mem::replace(&mut hung_up, true) {
                        tally.hanging_up();
                        lived.lived.over = Some(Cause::HungUp);
                        self.call.hang_up(Instant::now());
                    }
                },
                () = sleep_until(due) => {
                    self.call.handle_timeout(Instant::now());
                    self.handset.handle_timeout();
                }
            }
            self.events(tally, lived);
            self.handset.settle().await;
        }
        self.handset.phone.hang_up(Instant::now());
        self.handset.settle().await;
        while let Some(wire) = self.call.poll_transmit() {
            self.wire.send(&wire).await;
        }
        self.wire.close().await;
    }

    fn events(&mut self, tally: &Tally, all: &mut SipLived) {
        let now = Instant::now();
        while let Some(event) = self.call.poll_event() {
            let lived = &mut all.lived;
            match event {
                CallEvent::Ringing => {
                    lived.answered.get_or_insert(now);
                    if std::mem::take(&mut self.repeats) {
                        self.call.repeat_invite(false);
                        self.call.repeat_invite(true);
                    }
                }
                CallEvent::Answered(sdp) => {
                    lived.accepted = Some(now);
                    if let Err(fault) = self.take(now, &sdp) {
                        all.faults.push(fault);
                    }
                    all.answer = Some(Pii::new(sdp));
                    self.handset.phone.accepted(now, self.length);
                    tally.talking();
                }
                CallEvent::Refused { status, retry_after } => {
                    lived.over.get_or_insert(Cause::Rejected);
                    all.refused = Some((status, retry_after));
                }
                // Meta is never asked to call somebody else: it answers that with 405.
                CallEvent::Referred(_) | CallEvent::Early(_) => {}
                CallEvent::HungUp => lived.over = Some(Cause::Terminated),
                CallEvent::Lost => lived.trouble = Some("the call fell after 32 s".to_owned()),
                CallEvent::Over => {}
            }
        }
    }

    /// Judges the answer and lets the relay have it.
    fn take(&mut self, now: Instant, sdp: &str) -> Result<(), String> {
        if let Some(offer) = &self.offer {
            answer::check(sdp, offer).map_err(|fault| fault.to_string())?;
        }
        self.handset.phone.answered(now, sdp).map_err(|error| error.to_string())
    }
}

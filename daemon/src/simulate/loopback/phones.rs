//! Emulated phones on loopback sockets: one task each, around the sans-IO phone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sauti_core::media::frame::FRAME;
use sauti_core::pii::Pii;
use sauti_media::webrtc::Certificate;
use sauti_media::webrtc_sdp::OfferShape;
use sauti_sim::caller::person::{Person, Step};
use sauti_sim::caller::phone::{Ear, Phone};
use sauti_sim::network::{Counts, Path, PathSettings};
use sauti_sim::whatsapp::calls::Cause;
use sauti_sim::whatsapp::person::Person as Identity;
use sauti_sim::whatsapp::webhooks::Generation;
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval_at};

use super::meta::{Line, MEDIA_EVERY, MetaLink, ToPhone};
use super::tally::Tally;

/// Largest datagram.
const DATAGRAM: usize = 2048;
/// An IPv6 candidate that leads nowhere, of the prefix for documentation (RFC 3849), with the higher priority.
const DEAD_V6: &str = "[2001:db8::3480]:3480";

/// What a phone is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Names the call in reports.
    pub number: usize,
    /// Who calls.
    pub identity: Identity,
    /// What the person says and does, from the accept on.
    pub script: Vec<Step>,
    /// Longest time in conversation.
    pub length: Duration,
    /// When it dials, after the start.
    pub dial_after: Duration,
}

/// How a phone differs from one that does as it should.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// The keys of this call's webhooks, if other than usual.
    pub generation: Option<Generation>,
    /// The `o=` line says that the call began so long before it did.
    pub age: Duration,
    /// It neither sends nor hears a datagram: ICE finds nobody.
    pub deaf: bool,
    /// The person hangs up so long after the phone began to ring, answered or not.
    pub gives_up: Option<Duration>,
    /// What lies between phone and box, from the first datagram on; nothing unless it is said.
    pub network: Option<Network>,
}

/// A network between phone and box, alike in both directions.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// What each way is like.
    pub settings: PathSettings,
    /// Decides by chance what happens to which datagram.
    pub seed: u64,
}

/// Both ways with the datagrams on them; the address is the box's.
#[derive(Debug)]
struct Ways {
    up: Path<(SocketAddr, Vec<u8>)>,
    down: Path<(SocketAddr, Vec<u8>)>,
}

impl Ways {
    fn new(network: &Network, start: Instant) -> Self {
        let path = |seed| Path::new(&network.settings, seed, start);
        Self { up: path(network.seed), down: path(!network.seed) }
    }

    fn deadline(&self) -> Option<Instant> {
        self.up.deadline().into_iter().chain(self.down.deadline()).min()
    }
}

/// What a call left behind at the phone.
#[derive(Debug)]
pub struct Lived {
    /// The plan's.
    pub number: usize,
    /// Who called.
    pub identity: Identity,
    /// The call's id; `None` when Meta did not let it ring.
    pub wacid: Option<Pii>,
    /// When the offer was made.
    pub dialled: Option<Instant>,
    /// When the connect webhook left.
    pub posted: Option<Instant>,
    /// When the answer came.
    pub answered: Option<Instant>,
    /// When ICE and DTLS were up.
    pub connected: Option<Instant>,
    /// When the call was open.
    pub accepted: Option<Instant>,
    /// How it ended.
    pub over: Option<Cause>,
    /// What was said and heard.
    pub person: Person,
    /// What was noticed about the packets.
    pub ear: Ear,
    /// What became of the datagrams towards the box and of those from it; `None` without a network.
    pub ways: Option<(Counts, Counts)>,
    /// Whom the box asked its far end to call instead.
    pub referred: Option<String>,
    /// What went wrong at the phone itself.
    pub trouble: Option<String>,
}

impl Lived {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            number: plan.number,
            identity: plan.identity.clone(),
            wacid: None,
            dialled: None,
            posted: None,
            answered: None,
            connected: None,
            accepted: None,
            over: None,
            person: Person::new(Vec::new()),
            ear: Ear::default(),
            ways: None,
            referred: None,
            trouble: None,
        }
    }
}

/// Lives through one call.
pub async fn call(plan: Plan, certificate: Arc<Certificate>, meta: MetaLink, tally: Arc<Tally>) -> Lived {
    call_as(plan, Manner::default(), certificate, meta, tally).await
}

/// Lives through one call on a phone with peculiarities.
pub async fn call_as(
    plan: Plan,
    manner: Manner,
    certificate: Arc<Certificate>,
    meta: MetaLink,
    tally: Arc<Tally>,
) -> Lived {
    let mut lived = Lived::new(&plan);
    tokio::time::sleep(plan.dial_after).await;
    if let Err(trouble) = dial(plan, manner, &certificate, &meta, &tally, &mut lived).await {
        lived.trouble = Some(trouble);
    }
    tally.over();
    lived
}

async fn dial(
    plan: Plan,
    manner: Manner,
    certificate: &Certificate,
    meta: &MetaLink,
    tally: &Tally,
    lived: &mut Lived,
) -> Result<(), String> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| error.to_string())?;
    let local = socket.local_addr().map_err(|error| error.to_string())?;
    let shape = OfferShape {
        created_ms: created_ms(manner.age),
        extra_candidates: DEAD_V6.parse::<SocketAddr>().into_iter().collect(),
        ..OfferShape::default()
    };
    let person = Person::new(plan.script);
    lived.dialled = Some(Instant::now());
    let (phone, offer) =
        Phone::dial(Instant::now(), local, certificate, &shape, person).map_err(|error| error.to_string())?;
    let line =
        meta.ring(plan.identity, Pii::new(offer), manner.generation).await.ok_or("Meta did not let the call ring")?;
    tally.ringing();
    let handset = Handset::new(phone, socket, &manner);
    let mut talk = Talk { handset, length: plan.length, reported: None, gives_up: manner.gives_up };
    talk.run(line, meta, tally, lived).await;
    talk.handset.tell(lived);
    Ok(())
}

/// What the `o=` line says of a call that began so long ago.
fn created_ms(age: Duration) -> u64 {
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    now.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// A phone with its socket, and what lies between it and the box.
pub(super) struct Handset {
    pub(super) phone: Phone,
    socket: UdpSocket,
    ways: Option<Ways>,
    deaf: bool,
    /// A datagram has arrived since this was last taken.
    heard: bool,
}

impl Handset {
    pub(super) fn new(phone: Phone, socket: UdpSocket, manner: &Manner) -> Self {
        let ways = manner.network.as_ref().map(|network| Ways::new(network, Instant::now()));
        Self { phone, socket, ways, deaf: manner.deaf, heard: false }
    }

    /// When [`Handset::handle_timeout`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let arrives = self.ways.as_ref().and_then(Ways::deadline);
        self.phone.deadline().into_iter().chain(arrives).min()
    }

    pub(super) fn handle_timeout(&mut self) {
        self.phone.handle_timeout(Instant::now());
    }

    /// The next datagram of the box. Safe to be dropped in mid-wait.
    pub(super) async fn datagram(&mut self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        if self.deaf {
            return std::future::pending().await;
        }
        self.socket.recv_from(buffer).await.ok()
    }

    /// Takes a datagram; with a network it is under way first.
    pub(super) fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        match &mut self.ways {
            Some(ways) => ways.down.send(Instant::now(), (from, datagram.to_vec())),
            None => self.hand_over(Instant::now(), from, datagram),
        }
    }

    fn hand_over(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.phone.receive(now, from, datagram);
        self.heard = true;
    }

    /// Hands over what has come to the end of its way, in both directions, and sends what the phone has.
    pub(super) async fn settle(&mut self) {
        let now = Instant::now();
        while let Some((from, datagram)) = self.ways.as_mut().and_then(|ways| ways.down.receive(now)) {
            self.hand_over(now, from, &datagram);
        }
        while let Some((to, datagram)) = self.ways.as_mut().and_then(|ways| ways.up.receive(now)) {
            self.socket.send_to(&datagram, to).await.ok();
        }
        while let Some((to, datagram)) = self.phone.poll_transmit() {
            if self.deaf {
                continue;
            }
            if let Some(ways) = &mut self.ways {
                ways.up.send(Instant::now(), (to, datagram.as_ref().to_vec()));
                continue;
            }
            // Loopback: what does not go is lost like on a link.
            self.socket.send_to(datagram.as_ref(), to).await.ok();
        }
    }

    /// Says what it went through.
    pub(super) fn tell(&mut self, lived: &mut Lived) {
        lived.connected = self.phone.connected();
        lived.ways = self.ways.as_ref().map(|ways| (ways.up.counts(), ways.down.counts()));
        lived.person = std::mem::replace(&mut self.phone.person, Person::new(Vec::new()));
        lived.ear = std::mem::take(&mut self.phone.ear);
    }
}

struct Talk {
    handset: Handset,
    gives_up: Option<Duration>,
    length: Duration,
    reported: Option<Instant>,
}

impl Talk {
    async fn run(&mut self, line: Line, meta: &MetaLink, tally: &Tally, lived: &mut Lived) {
        let Line { wacid, mut news, mut posted } = line;
        lived.wacid = Some(wacid.clone());
        let mut ticks = interval_at(tokio::time::Instant::now() + FRAME, FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut buffer = [0; DATAGRAM];
        let mut hung_up = false;
        let gives_up = self.gives_up.map(|after| Instant::now() + after);
        loop {
            let due = self.handset.deadline();
            tokio::select! {
                // Meta's word and the packet behind it may both be there: the word came first.
                biased;
                at = &mut posted, if lived.posted.is_none() => lived.posted = at.ok(),
                told = news.recv() => match told {
                    Some(ToPhone::Answer(sdp)) => {
                        lived.answered.get_or_insert_with(Instant::now);
                        if let Err(error) = self.handset.phone.answered(Instant::now(), sdp.expose()) {
                            lived.trouble = Some(error.to_string());
                        }
                    }
                    Some(ToPhone::Accepted) => {
                        lived.accepted = Some(Instant::now());
                        self.handset.phone.accepted(Instant::now(), self.length);
                        tally.talking();
                    }
                    Some(ToPhone::Over(cause)) => {
                        lived.over = Some(cause);
                        break;
                    }
                    None => break,
                },
                received = self.handset.datagram(&mut buffer) => if let Some((length, from)) = received {
                    self.handset.receive(from, &buffer[..length]);
                },
                _ = ticks.tick() => {
                    self.handset.phone.tick(Instant::now());
                    let over = self.handset.phone.person.is_over() || gives_up.is_some_and(|at| Instant::now() >= at);
                    if over && !hung_up {
                        hung_up = true;
                        tally.hanging_up();
                        meta.hung_up(&wacid).await;
                    }
                },
                () = sleep_until(due) => self.handset.handle_timeout(),
            }
            self.handset.settle().await;
            self.report(meta, &wacid).await;
        }
        self.handset.phone.hang_up(Instant::now());
        self.handset.settle().await;
    }

    /// Tells Meta now and then that media of the box comes.
    async fn report(&mut self, meta: &MetaLink, wacid: &Pii) {
        let due = self.reported.is_none_or(|at| at.elapsed() >= MEDIA_EVERY);
        if std::mem::take(&mut self.handset.heard) && due && self.handset.phone.ear.first_packet.is_some() {
            self.reported = Some(Instant::now());
            meta.media(wacid).await;
        }
    }
}

pub(super) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

//! Calls over a SIP trunk, ended in every way that a peer may end them: each has one outcome, and nothing is left.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sauti_sim::caller::person::{Person as Speaker, Step};
use sauti_sim::openai::{Clip, Latency, Line, Say, Script};
use sauti_sim::trunk::caller::CallEvent;
use sauti_sim::trunk::message::Message;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::peer::{Peer, TRUNK};
use crate::world::{Footprint, MEDIA_PORTS, Options, World, model, until};

/// Transactions wait 32 s for repeats (RFC 3261 timers H and J), a BYE that nobody answers is repeated for as long before.
const SIP_TABLES_WITHIN: Duration = Duration::from_secs(90);
/// A peer that never acknowledges is given up after 32 s (RFC 3261 §13.3.1.4).
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(45);
/// Calls at one time, and what passes between two INVITEs.
const TOGETHER: usize = 200;
const APART: Duration = Duration::from_millis(25);

/// How a peer ends a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    /// CANCEL on the heels of the INVITE.
    CancelAtOnce,
    /// CANCEL while it rings.
    Cancel,
    /// CANCEL that crosses the 200.
    CancelLate,
    /// BYE as it should be.
    Bye,
    /// A BYE with tags of another call first, then its own.
    WrongTags,
    /// Audio as it should be, and never an ACK.
    NoAck,
    /// Nothing more after the 200: neither ACK nor audio.
    Vanish,
    /// Audio stops in mid-call, and no BYE comes.
    Mute,
    /// Audio goes on after BYE.
    AudioAfterBye,
    /// The TLS stream breaks, audio stops, nobody comes back.
    StreamCut,
    /// The TLS stream breaks, and BYE comes by another one.
    StreamCutAndBack,
    /// Asks for a person, refuses the REFER, and nobody answers the box's own call; BYE when the AI is back.
    RefusedRefer,
}

const ENDINGS: [Ending; 12] = [
    Ending::CancelAtOnce,
    Ending::Cancel,
    Ending::CancelLate,
    Ending::Bye,
    Ending::WrongTags,
    Ending::NoAck,
    Ending::Vanish,
    Ending::Mute,
    Ending::AudioAfterBye,
    Ending::StreamCut,
    Ending::StreamCutAndBack,
    Ending::RefusedRefer,
];

impl Ending {
    const fn over_tls(self) -> bool {
        matches!(self, Self::StreamCut | Self::StreamCutAndBack)
    }
}

/// Outcome and fault, as the ledger must have them.
type End = (&'static str, &'static str);

const LEFT_EARLY: End = ("caller_left_early", "caller");
const COMPLETED: End = ("completed", "none");
const NO_MEDIA: End = ("no_media", "carrier");
/// Answered for a moment: it left early or is completed, as its first frame was heard in that moment or not.
const CROSSED: End = ("caller_left_early or completed", "");

fn owned((outcome, fault): End) -> (String, String) {
    (outcome.to_owned(), fault.to_owned())
}

/// Ends the call so.
async fn end(mut peer: Peer, ending: Ending, certificate: Arc<PathBuf>) -> End {
    match ending {
        Ending::CancelAtOnce | Ending::Cancel => {
            if ending == Ending::Cancel {
                peer.until(|event| *event == CallEvent::Ringing).await.expect("it rings");
            }
            peer.call.hang_up(Instant::now());
            let over = peer.until(|event| matches!(event, CallEvent::Refused { .. })).await;
            assert_eq!(over, Some(CallEvent::Refused { status: 487, retry_after: None }), "{ending:?}");
            assert_eq!(peer.call.faults, Vec::<String>::new(), "{ending:?}");
            return LEFT_EARLY;
        }
        Ending::CancelLate => {
            peer.crosses = true;
            peer.until(|event| *event == CallEvent::Over).await.expect("the BYE is answered");
            assert_eq!(peer.call.faults, Vec::<String>::new(), "{ending:?}");
            return CROSSED;
        }
        Ending::RefusedRefer => {
            // The only one of them who says a word, which is what the emulated model answers.
            let asks = vec![Step::Listen, Step::Say(tone(700, 1_000).samples), Step::Pause(Duration::from_secs(60))];
            peer.phone.person = Speaker::new(asks);
            peer.answered().await;
            let referred = peer.until(|event| matches!(event, CallEvent::Referred(_))).await;
            assert!(referred.is_some(), "it is referred to a person");
        }
        Ending::NoAck => {
            peer.no_ack = true;
            peer.answered().await;
            let over = peer.until_within(GIVEN_UP_WITHIN, |event| *event == CallEvent::HungUp).await;
            assert!(over.is_some(), "the box gives up: {:?}", peer.call.faults);
            return NO_MEDIA;
        }
        _ => peer.answered().await,
    }
    match ending {
        Ending::Vanish => {
            peer.gone = true;
            // What the box sends until it gives up is not answered.
            peer.rest(Duration::from_secs(5)).await;
            return NO_MEDIA;
        }
        Ending::Mute => {
            peer.rest(Duration::from_millis(500)).await;
            peer.towards = None;
            let over = peer.until(|event| *event == CallEvent::HungUp).await;
            assert!(over.is_some(), "the box hangs up");
            return NO_MEDIA;
        }
        Ending::StreamCut => {
            peer.rest(Duration::from_millis(500)).await;
            peer.cut();
            // The call stands as long as it is heard: SIP's streams may break (RFC 3261 §18.4).
            peer.rest(Duration::from_millis(500)).await;
            peer.gone = true;
            peer.rest(Duration::from_secs(5)).await;
            return NO_MEDIA;
        }
        Ending::StreamCutAndBack => {
            peer.rest(Duration::from_millis(500)).await;
            peer.cut();
            peer.rest(Duration::from_millis(500)).await;
            peer.reconnect(&certificate).await;
        }
        Ending::WrongTags => {
            peer.hears().await;
            let mut other = Vec::new();
            peer.call.forge("BYE", &mut other);
            peer.say(&other).await;
            peer.rest(Duration::from_millis(300)).await;
            assert!(!peer.call.is_over(), "a forged BYE ends nothing");
        }
        // The box calls the desk, which is busy, and gives the call back to the AI.
        Ending::RefusedRefer => peer.rest(Duration::from_secs(4)).await,
        _ => peer.rest(Duration::from_millis(500)).await,
    }
    peer.hang_up().await;
    if ending == Ending::AudioAfterBye {
        for _ in 0..50 {
            peer.speak().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(peer.call.faults, Vec::<String>::new(), "{ending:?}");
    COMPLETED
}

fn tone(hertz: u32, ms: u64) -> Clip {
    Clip::tone("A tone.", hertz, Duration::from_millis(ms))
}

/// A desk that is always busy.
async fn busy_desk(socket: UdpSocket) {
    let mut datagram = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
        let message = std::str::from_utf8(&datagram[..length]).ok().and_then(Message::parse);
        let Some(invite) = message.filter(|message| message.method() == Some("INVITE")) else { continue };
        let mut busy = invite.reply("486 Busy Here");
        for (_, value) in busy.headers.iter_mut().filter(|(name, _)| name == "To") {
            value.push_str(";tag=desk");
        }
        socket.send_to(&busy.to_wire(), from).await.ok();
    }
}

/// Persons stand behind the trunk's far end `desk`, who are asked for by REFER first.
fn with_desk(trunk: &str, desk: SocketAddr) -> String {
    let trunk = trunk.replacen("allow = ", &format!("outbound_proxy = \"{desk}\"\nallow = "), 1);
    format!("{trunk}[transfer]\ntrunk = \"carrier\"\ntarget = \"desk@{desk}\"\nway = \"refer\"\n")
}

/// The trunk, and another one over TLS with a certificate in `folder`; and where that is.
fn secure_trunk(folder: &Path) -> (String, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (folder.join("sip.pem"), folder.join("sip.key"));
    std::fs::write(&certificate, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let tls = format!(
        "[sip]\ntls = \"127.0.0.1:0\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
        certificate.display(),
        key.display()
    );
    let secure = TRUNK
        .split_once("[[trunk]]")
        .map(|(_, trunk)| trunk.replace("carrier", "secure").replace("127.0.0.1\"]", "127.0.0.2\"]"));
    let secure = secure.expect("the trunk has a table").replacen('\n', "\ntransport = \"tls\"\n", 1);
    (format!("{}[[trunk]]{}", TRUNK.replace("[sip]\n", &tls), secure), certificate)
}

/// What grew highest while it ran.
#[derive(Debug, Default)]
struct Highest {
    tables: BTreeMap<String, f64>,
    descriptors: usize,
    media_sockets: usize,
}

impl Highest {
    async fn look(&mut self, world: &World) {
        for (name, size) in world.tables().await {
            let seen = self.tables.entry(name).or_default();
            *seen = seen.max(size);
        }
        let now = world.daemon.footprint();
        self.descriptors = self.descriptors.max(now.descriptors);
        self.media_sockets = self.media_sockets.max(now.media_sockets);
    }
}

/// `SAUTI_ENDINGS=200` is how it is run before a release; CI makes a few of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_a_peer_ends_its_calls_each_has_one_outcome_and_all_tables_return_to_nothing() {
    let count: u32 = std::env::var("SAUTI_ENDINGS").ok().and_then(|count| count.parse().ok()).unwrap_or(3);
    // A session that takes a while, so that a CANCEL meets a call that rings. Who says something wants a person.
    let slow = |facts: &_| {
        let call = Say::Call { name: "transfer_to_human".to_owned(), arguments: "{}".to_owned(), pieces: 1 };
        let turns = vec![
            Line { items: vec![Say::Clip(tone(500, 300)), call], after_tools: Vec::new() },
            Line::clip(tone(300, 500)),
        ];
        let script = Script { turns, ..Script::tones(1, Duration::from_secs(1)) };
        let mut settings = model(script, facts);
        settings.latency = Latency { session_updated: Duration::from_millis(700), ..Latency::ZERO };
        settings
    };
    let files = tempfile::tempdir().expect("a folder");
    let (more, certificate) = secure_trunk(files.path());
    let certificate = Arc::new(certificate);
    let desk = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let more = with_desk(&more, desk.local_addr().expect("an address"));
    let desk = tokio::spawn(busy_desk(desk));
    let limits = "no_media = \"3s\"\nmax_calls = 400\n";
    let options = Options { limits, model: Arc::new(slow), more, ..Options::named("trunk-endings") };
    let world = World::start(options).await;
    // The kernel may have given a listener a port of the same range.
    let idle = usize::from(MEDIA_PORTS.contains(&world.daemon.bound("sip.udp").port()));
    // Pools and connections are made by the first call and kept.
    let first = Peer::dial(&world, 0, "100", |sdp| sdp).await;
    assert_eq!(end(first, Ending::Bye, Arc::clone(&certificate)).await, COMPLETED);
    until("its sockets are closed", || world.daemon.footprint().media_sockets == idle).await;
    let before = world.daemon.footprint();

    let mut highest = Highest::default();
    let mut wanted = BTreeMap::<(String, String), usize>::new();
    wanted.insert(owned(COMPLETED), 1);
    let (mut running, permits) = (JoinSet::new(), Arc::new(Semaphore::new(TOGETHER)));
    let mut plan: Vec<(u32, Ending)> = (0..count).flat_map(|_| ENDINGS).zip(1..).map(|(e, n)| (n, e)).collect();
    plan.reverse();
    let mut dials = tokio::time::interval(APART);
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    while !plan.is_empty() || !running.is_empty() {
        tokio::select! {
            _ = dials.tick(), if !plan.is_empty() => {
                // Late lanes refuse who calls next, and should: other tests see to that.
                if world.metric("sauti_tick_late_seconds").await > LATE {
                    continue;
                }
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
                let Some((who, ending)) = plan.pop() else { continue };
                let peer = if ending.over_tls() {
                    Peer::dial_secure(&world, who, &certificate).await
                } else {
                    Peer::dial(&world, who, "100", |sdp| sdp).await
                };
                let certificate = Arc::clone(&certificate);
                running.spawn(async move {
                    let ended = end(peer, ending, certificate).await;
                    drop(permit);
                    ended
                });
            }
            _ = looks.tick() => highest.look(&world).await,
            Some(ended) = running.join_next() => {
                *wanted.entry(owned(ended.expect("the peer lives"))).or_default() += 1;
            }
        }
    }
    world.until_tables_are_empty_within(SIP_TABLES_WITHIN).await;
    let mut got = BTreeMap::<(String, String), usize>::new();
    for row in world.rows() {
        let end = (row.outcome.expect("every call has ended"), row.fault.expect("whose affair it was"));
        *got.entry(end).or_default() += 1;
    }
    let crossed = wanted.remove(&owned(CROSSED)).unwrap_or(0);
    let early = got.get(&owned(LEFT_EARLY)).copied().unwrap_or(0);
    let heard = crossed.saturating_sub(early.saturating_sub(wanted[&owned(LEFT_EARLY)]));
    *wanted.entry(owned(LEFT_EARLY)).or_default() += crossed - heard;
    *wanted.entry(owned(COMPLETED)).or_default() += heard;
    assert_eq!(got, wanted);
    for row in world.rows() {
        let messages = world.messages(&row.call_id).await;
        assert_eq!(
            messages.first().map(String::as_str),
            Some("<- INVITE"),
            "what went to and fro is kept: {messages:?}"
        );
    }
    let missed = world.daemon.entries("CALL_TRANSFER").iter().filter(|entry| entry["STAGE"] == "missed").count();
    assert_eq!(missed, usize::try_from(count).expect("a few"), "who refused a REFER had the AI back");
    desk.abort();
    for name in ["calls", "legs", "slots", "live_calls", "drains", "sip_dialogs", "sip_transactions"] {
        let seen = highest.tables.get(&format!("sauti_table_{name}")).copied().unwrap_or(0.0);
        assert!(seen > 0.0, "{name} was never above 0: {highest:?}");
    }
    assert!(highest.descriptors > before.descriptors && highest.media_sockets > idle, "{highest:?}");
    until("descriptors return", || world.daemon.footprint().descriptors <= before.descriptors + SPARE).await;
    let after: Footprint = world.daemon.footprint();
    assert_eq!(after.media_sockets, idle);
    eprintln!("{} calls ended: {got:?}; {before:?}, {after:?}; {highest:?}", got.values().sum::<usize>());
}

/// From this lateness of the lanes on the box takes no call, in seconds.
const LATE: f64 = 0.04;

/// Connections that are kept for the next call: to the model's server, and of the metrics.
const SPARE: usize = 2;

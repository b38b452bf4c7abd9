//! Calls over a SIP trunk: answered, refused in SIP's words, and ended in every way that a peer may end them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sauti::simulate::loopback::trunk::{self, Carrier};
use sauti_core::pii::CallerAddress;
use sauti_sim::audio::g711::Law;
use sauti_sim::caller::person::{Person as Speaker, Step};
use sauti_sim::openai::{Latency, Script};
use sauti_sim::trunk::caller::{CallEvent, Dial, Transport, TrunkCall};
use sauti_sim::trunk::message::Message;
use sauti_sim::trunk::phone::TrunkPhone;
use sauti_sim::whatsapp::calls::Cause;
use sauti_sim::whatsapp::person::Person;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::world::{Options, SOON, World, listen_and_leave, model, printed, until, until_async};
use sauti::simulate::loopback::phones::Plan;

const TRUNK: &str = r#"[sip]
udp = "127.0.0.1:0"
tcp = "127.0.0.1:0"
[[trunk]]
name = "carrier"
allow = ["127.0.0.0/8"]
calls = 500
calls_per_second = 1000
options_every = "0s"
[[trunk.route]]
called = "100"
"#;

/// Transactions wait 32 s for repeats (RFC 3261 timers H and J).
const SIP_TABLES_WITHIN: Duration = Duration::from_secs(50);

fn options(name: &'static str) -> Options {
    Options { more: TRUNK, ..Options::named(name) }
}

fn carrier(world: &World, transport: Transport) -> Carrier {
    let which = if transport == Transport::Udp { "sip.udp" } else { "sip.tcp" };
    Carrier { target: world.daemon.bound(which), transport, law: Law::A }
}

fn plan(who: u32, script: Vec<Step>) -> Plan {
    Plan {
        number: usize::try_from(who).expect("a small number"),
        identity: Person::numbered(who),
        script,
        length: Duration::from_secs(30),
        dial_after: Duration::ZERO,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_trunk_are_answered_logged_and_written_down_like_any_other() {
    let mut world = World::start(options("trunk")).await;
    for (who, transport) in [(1, Transport::Udp), (2, Transport::Tcp)] {
        let over =
            trunk::call(plan(who, listen_and_leave()), carrier(&world, transport), Arc::clone(&world.tally)).await;
        assert_eq!((over.trouble, over.over), (None, Some(Cause::HungUp)));
        assert!(over.person.first_heard().is_some(), "the greeting is heard");
    }
    until("both calls are written down", || world.daemon.entries("CALL_ENDED").len() == 2).await;
    let rows = world.rows();
    assert_eq!(rows.len(), 2, "{rows:?}");
    for (who, row) in (1..).zip(&rows) {
        assert_eq!(
            (row.door.as_str(), row.outcome.as_deref(), row.fault.as_deref()),
            ("trunk", Some("completed"), Some("none"))
        );
        let number = CallerAddress { number: Some(Person::numbered(who).number), bsuid: None };
        assert_eq!(row.caller_hash.as_deref(), Some(&*world.hash_of(&number)));
        let events = world.daemon.events_of(&row.call_id);
        let milestones = [
            "TRUNK_INVITE_RECEIVED",
            "TRUNK_CALL_CONNECT",
            "MEDIA_BRIDGE_CREATE_REQUEST",
            "RTP_CONNECTION_ESTABLISHED",
            "OPENAI_WEBSOCKET_CONNECTED",
            "AUDIO_BRIDGE_ACTIVE",
            "TRUNK_CALL_ACCEPTED",
            "CONVERSATION_STARTED",
            "CALL_ENDED",
        ];
        assert_eq!(events, milestones);
    }
    for row in &rows {
        let expected = ["<- INVITE", "-> 180", "-> 200", "<- ACK", "<- BYE", "-> 200"];
        until_async("the answer to the BYE is noted", async || world.messages(&row.call_id).await.len() >= 6).await;
        assert_eq!(world.messages(&row.call_id).await, expected);
        let shown = printed(&world.calls(&["show", &row.call_id]).await);
        assert!(shown.contains("SIP messages") && shown.contains("-> 200 OK"), "{shown}");
        let all = printed(&world.calls(&["show", &row.call_id, "--json"]).await) + &shown;
        for who in [1, 2] {
            assert!(!all.contains(Person::numbered(who).number.expose()), "nobody's number");
        }
    }
    // Nobody writes a WhatsApp message to who called from the telephone network.
    assert_eq!(world.metric("sauti_table_owed_texts").await, 0.0);
    assert!(world.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_box_says_when_to_try_again_and_what_it_cannot_answer_it_refuses_as_such() {
    let limits = "max_calls = 1\n";
    let world = World::start(Options { limits, ..options("trunk-refusals") }).await;
    let mut first = Peer::dial(&world, 1, "100", |sdp| sdp).await;
    assert!(first.until(|event| matches!(event, CallEvent::Answered(_))).await.is_some());
    let mut second = Peer::dial(&world, 2, "100", |sdp| sdp).await;
    let refused = second.until(|event| matches!(event, CallEvent::Refused { .. })).await;
    assert_eq!(refused, Some(CallEvent::Refused { status: 503, retry_after: Some(5) }));
    until("the first caller hears us", || !world.daemon.entries("CONVERSATION_STARTED").is_empty()).await;
    first.call.hang_up(Instant::now());
    assert!(first.until(|event| *event == CallEvent::Over).await.is_some());
    until("the permit is back", || world.rows().iter().all(|row| row.outcome.is_some())).await;
    // A codec that nobody has.
    let odd = |sdp: String| {
        sdp.replace("PCMA/8000", "X-NONE/8000").replace("RTP/AVP 8 ", "RTP/AVP 96 ").replace("rtpmap:8 ", "rtpmap:96 ")
    };
    let mut third = Peer::dial(&world, 3, "100", odd).await;
    let refused = third.until(|event| matches!(event, CallEvent::Refused { .. })).await;
    assert_eq!(refused, Some(CallEvent::Refused { status: 488, retry_after: None }));
    let mut fourth = Peer::dial(&world, 4, "999", |sdp| sdp).await;
    let refused = fourth.until(|event| matches!(event, CallEvent::Refused { .. })).await;
    assert_eq!(refused, Some(CallEvent::Refused { status: 404, retry_after: None }), "no route, no call");
    until("three calls are written down", || world.daemon.entries("CALL_ENDED").len() == 3).await;
    let outcomes: Vec<_> = world.rows().into_iter().filter_map(|row| row.outcome).collect();
    assert_eq!(outcomes, ["completed", "refused_capacity", "refused_config"]);
    for peer in [first, second, third, fourth] {
        assert_eq!(peer.call.faults, Vec::<String>::new());
    }
}

/// How a peer ends a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    /// CANCEL while it rings.
    Cancel,
    /// CANCEL that crosses the 200.
    CancelLate,
    /// BYE as it should be.
    Bye,
    /// A BYE with tags of another call first, then its own.
    WrongTags,
    /// Nothing more after the 200: neither ACK nor audio.
    Vanish,
    /// Audio stops in mid-call, and no BYE comes.
    Mute,
    /// Audio goes on after BYE.
    AudioAfterBye,
}

const ENDINGS: [Ending; 7] = [
    Ending::Cancel,
    Ending::CancelLate,
    Ending::Bye,
    Ending::WrongTags,
    Ending::Vanish,
    Ending::Mute,
    Ending::AudioAfterBye,
];

/// A peer of the trunk with sockets of its own, for what no good telephone does.
struct Peer {
    call: TrunkCall,
    phone: TrunkPhone,
    signalling: UdpSocket,
    media: UdpSocket,
    towards: Option<SocketAddr>,
    /// It sends nothing any more, neither SIP nor audio.
    gone: bool,
}

impl Peer {
    async fn dial(world: &World, who: u32, called: &str, offer: impl Fn(String) -> String) -> Self {
        let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let (signalling, media) = (bind().await.expect("a socket"), bind().await.expect("a socket"));
        let phone = TrunkPhone::new(Law::A, who + 1, Speaker::new(vec![Step::Pause(Duration::from_secs(60))]));
        let dial = Dial {
            transport: Transport::Udp,
            local: signalling.local_addr().expect("an address"),
            target: world.daemon.bound("sip.udp"),
            caller: Person::numbered(who).number.expose().to_owned(),
            called: called.to_owned(),
            sdp: offer(phone.offer(media.local_addr().expect("an address"))),
        };
        signalling.connect(dial.target).await.expect("loopback");
        let call = TrunkCall::dial(Instant::now(), dial, u64::from(who) + 77);
        Self { call, phone, signalling, media, towards: None, gone: false }
    }

    /// Lives until an event that `wanted` says; `None` when the call was over before.
    async fn until(&mut self, wanted: impl Fn(&CallEvent) -> bool) -> Option<CallEvent> {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            if let Some(event) = self.live(deadline).await {
                if wanted(&event) {
                    return Some(event);
                }
            } else if self.call.is_over() || tokio::time::Instant::now() >= deadline {
                return None;
            }
        }
    }

    /// Lives for a while.
    async fn rest(&mut self, length: Duration) {
        let until = tokio::time::Instant::now() + length;
        while tokio::time::Instant::now() < until {
            self.live(until).await;
        }
    }

    /// One thing that happens, at most 20 ms of time.
    async fn live(&mut self, deadline: tokio::time::Instant) -> Option<CallEvent> {
        while let Some(wire) = self.call.poll_transmit() {
            if !self.gone {
                self.signalling.send(&wire).await.ok();
            }
        }
        if let Some(event) = self.call.poll_event() {
            if let CallEvent::Answered(sdp) = &event {
                let port = sdp.lines().find_map(|line| line.strip_prefix("m=audio ")?.split(' ').next()?.parse().ok());
                self.towards = port.map(|port: u16| (Ipv4Addr::LOCALHOST, port).into());
                self.phone.accepted(Instant::now(), Duration::from_secs(60));
            }
            return Some(event);
        }
        let mut buffer = [0; 8192];
        let tick = deadline.min(tokio::time::Instant::now() + Duration::from_millis(20));
        tokio::select! {
            got = self.signalling.recv(&mut buffer) => {
                let text = got.ok().and_then(|length| std::str::from_utf8(&buffer[..length]).ok());
                if let Some(message) = text.and_then(Message::parse) {
                    self.call.receive(Instant::now(), &message);
                }
            }
            () = tokio::time::sleep_until(tick) => {
                let (towards, packet) = (self.towards, self.phone.tick(Instant::now()));
                if let (Some(towards), Some(packet), false) = (towards, packet, self.gone) {
                    self.media.send_to(packet, towards).await.ok();
                }
                if self.call.deadline().is_some_and(|due| due <= Instant::now()) {
                    self.call.handle_timeout(Instant::now());
                }
            }
        }
        None
    }

    /// Ends the call so; returns the outcome that the ledger must have.
    async fn end(mut self, ending: Ending) -> (&'static str, &'static str) {
        if ending == Ending::Cancel {
            self.until(|event| *event == CallEvent::Ringing).await.expect("it rings");
            self.call.hang_up(Instant::now());
            let over = self.until(|event| matches!(event, CallEvent::Refused { .. })).await;
            assert_eq!(over, Some(CallEvent::Refused { status: 487, retry_after: None }), "{ending:?}");
            return ("caller_left_early", "caller");
        }
        self.until(|event| matches!(event, CallEvent::Answered(_))).await.expect("it is answered");
        match ending {
            Ending::Vanish => {
                self.gone = true;
                // What the box sends until it gives up is not answered.
                self.rest(Duration::from_secs(5)).await;
                return ("no_media", "carrier");
            }
            Ending::Mute => {
                self.rest(Duration::from_millis(500)).await;
                self.towards = None;
                let over = self.until(|event| *event == CallEvent::HungUp).await;
                assert!(over.is_some(), "the box hangs up");
                return ("no_media", "carrier");
            }
            Ending::WrongTags => {
                self.rest(Duration::from_millis(300)).await;
                let mut other = Vec::new();
                self.call.forge("BYE", &mut other);
                self.signalling.send(&other).await.expect("loopback");
                self.rest(Duration::from_millis(300)).await;
                assert!(!self.call.is_over(), "a forged BYE ends nothing");
            }
            Ending::Cancel | Ending::CancelLate | Ending::Bye | Ending::AudioAfterBye => {
                self.rest(Duration::from_millis(500)).await;
            }
        }
        self.call.hang_up(Instant::now());
        self.until(|event| *event == CallEvent::Over).await.expect("the BYE is answered");
        if ending == Ending::AudioAfterBye {
            for _ in 0..50 {
                if let (Some(towards), Some(packet)) = (self.towards, self.phone.tick(Instant::now())) {
                    self.media.send_to(packet, towards).await.ok();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert_eq!(self.call.faults, Vec::<String>::new(), "{ending:?}");
        ("completed", "none")
    }
}

/// `SAUTI_ENDINGS=200` is how it is run before a release; CI makes a few of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_a_peer_ends_its_calls_each_has_one_outcome_and_all_tables_return_to_nothing() {
    let count: u32 = std::env::var("SAUTI_ENDINGS").ok().and_then(|count| count.parse().ok()).unwrap_or(3);
    // A session that takes a while, so that a CANCEL meets a call that rings.
    let slow = |facts: &_| {
        let mut settings = model(Script::tones(3, Duration::from_secs(2)), facts);
        settings.latency = Latency { session_updated: Duration::from_millis(700), ..Latency::ZERO };
        settings
    };
    let limits = "no_media = \"3s\"\nmax_calls = 400\n";
    let world = World::start(Options { limits, model: Arc::new(slow), ..options("trunk-endings") }).await;
    let mut highest = BTreeMap::<String, f64>::new();
    let mut wanted = BTreeMap::<(String, String), usize>::new();
    let mut running = JoinSet::new();
    for (place, ending) in ENDINGS.into_iter().enumerate() {
        for number in 0..count {
            let who = u32::try_from(place).expect("few endings") * count + number;
            let peer = Peer::dial(&world, who, "100", |sdp| sdp).await;
            running.spawn(peer.end(ending));
        }
    }
    let calls = usize::try_from(count).expect("few") * ENDINGS.len();
    while let Some((outcome, fault)) = {
        for (name, size) in world.tables().await {
            let seen = highest.entry(name).or_default();
            *seen = seen.max(size);
        }
        running.join_next().await.map(|ended| ended.expect("the peer lives"))
    } {
        *wanted.entry((outcome.to_owned(), fault.to_owned())).or_default() += 1;
    }
    world.until_tables_are_empty_within(SIP_TABLES_WITHIN).await;
    let mut got = BTreeMap::<(String, String), usize>::new();
    for row in world.rows() {
        let end = (row.outcome.expect("every call has ended"), row.fault.expect("whose affair it was"));
        *got.entry(end).or_default() += 1;
    }
    assert_eq!(got, wanted);
    for row in world.rows() {
        let last = match row.outcome.as_deref() {
            Some("caller_left_early") => ["<- CANCEL", "-> 487", "<- ACK"].as_slice(),
            Some("no_media") => &["-> 200", "-> BYE"],
            _ => &["-> 200", "<- BYE", "-> 200"],
        };
        let messages = world.messages(&row.call_id).await;
        let mut rest = messages.iter();
        assert_eq!(messages.first().map(String::as_str), Some("<- INVITE"));
        assert!(last.iter().all(|wanted| rest.any(|message| message == wanted)), "{last:?} in {messages:?}");
    }
    assert_eq!(got.values().sum::<usize>(), calls);
    for name in ["calls", "legs", "slots", "live_calls", "sip_dialogs", "sip_transactions"] {
        let seen = highest.get(&format!("sauti_table_{name}")).copied().unwrap_or(0.0);
        assert!(seen > 0.0, "{name} was never above 0: {highest:?}");
    }
    eprintln!("{calls} calls ended: {got:?}; tables at most {highest:?}");
}

//! Calls over a SIP trunk: answered, and refused in SIP's words.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sauti::simulate::loopback::phones::Plan;
use sauti::simulate::loopback::trunk::{self, Carrier};
use sauti_core::pii::CallerAddress;
use sauti_sim::audio::g711::Law;
use sauti_sim::caller::person::Step;
use sauti_sim::trunk::caller::{CallEvent, Refers, Transport};
use sauti_sim::whatsapp::calls::Cause;
use sauti_sim::whatsapp::person::Person;

use crate::peer::{Peer, options};
use crate::world::{Options, World, listen_and_leave, printed, until, until_async};

pub(crate) fn carrier(world: &World, transport: Transport) -> Carrier {
    let which = if transport == Transport::Udp { "sip.udp" } else { "sip.tcp" };
    Carrier { target: world.daemon.bound(which), transport, law: Law::A, refers: Refers::No }
}

pub(crate) fn plan(who: u32, script: Vec<Step>) -> Plan {
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
        world.until_nobody_calls().await;
    }
    until("both ends are logged", || world.daemon.entries("CALL_ENDED").len() == 2).await;
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
    // What the box itself takes from INVITE to 200; generously, as this machine is shared.
    let metrics = world.metrics().await;
    let answers = |name: &str| metrics.get(&format!("sauti_sip_answer_seconds_{name}")).copied().unwrap_or(0.0);
    assert_eq!((answers("count"), answers(r#"bucket{le="0.5"}"#)), (2.0, 2.0));
    assert!(answers("sum") > 0.0 && answers("sum") < 0.5, "{} s for two answers", answers("sum"));
    assert!(world.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trunk_that_wants_the_answer_early_has_it_twice_and_audio_after_the_200() {
    let mut wanted = options("trunk-early");
    wanted.more = wanted.more.replacen("allow = ", "early_media = true\nallow = ", 1);
    let world = World::start(wanted).await;
    let mut peer = Peer::dial(&world, 1, "100", |sdp| sdp).await;
    let Some(CallEvent::Early(early)) = peer.until(|event| matches!(event, CallEvent::Early(_))).await else {
        panic!("no 183: {:?}", peer.call.faults);
    };
    let answered = peer.until(|event| matches!(event, CallEvent::Early(_) | CallEvent::Answered(_))).await;
    assert_eq!(answered, Some(CallEvent::Answered(early)), "once, and the 200 repeats it");
    peer.rest(Duration::from_millis(500)).await;
    assert_eq!(peer.phone.ear.early, 0, "no packet before the 200");
    assert!(peer.phone.ear.first_packet.is_some(), "and some after it");
    peer.hang_up().await;
    until_async("it is written down", async || world.rows().iter().any(|row| row.outcome.is_some())).await;
    let call = world.rows().remove(0).call_id;
    assert_eq!(world.messages(&call).await[..4], ["<- INVITE", "-> 180", "-> 183", "-> 200"]);
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
    world.until_nobody_calls().await;
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
    until("three calls are written down", || world.rows().iter().filter(|row| row.outcome.is_some()).count() == 3)
        .await;
    let outcomes: Vec<_> = world.rows().into_iter().filter_map(|row| row.outcome).collect();
    assert_eq!(outcomes, ["completed", "refused_capacity", "refused_config"]);
    for peer in [first, second, third, fourth] {
        assert_eq!(peer.call.faults, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_with_and_without_its_plus_is_the_same_caller_and_a_withheld_one_is_nobody() {
    let world = World::start(options("trunk-numbers")).await;
    let number = Person::numbered(1).number;
    let callers = [number.expose().to_owned(), format!("+{}", number.expose()), "anonymous".to_owned()];
    for (line, caller) in (1..).zip(callers) {
        let mut peer = Peer::dial_as(&world, line, &caller).await;
        peer.answered().await;
        peer.rest(Duration::from_millis(200)).await;
        peer.hang_up().await;
        world.until_nobody_calls().await;
    }
    let hashes: Vec<_> = world.rows().into_iter().map(|row| row.caller_hash).collect();
    let hash = world.hash_of(&CallerAddress { number: Some(number), bsuid: None });
    assert_eq!(hashes, [Some(hash.clone()), Some(hash), None]);
}

/// Field engineers ask beside the daemon, and systemd gives its secrets to the daemon alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_for_trunks_work_in_a_shell_without_secrets() {
    let world = World::start(options("trunk-tools")).await;
    let own = std::fs::read_to_string(world.folder.path().join("config.toml")).expect("its configuration");
    let admin = format!("admin = \"{}\"", world.daemon.admin);
    let config = world.folder.path().join("beside.toml");
    let registers = "[[trunk]]\nname = \"mtn-rw\"\nregistrar = \"sip.example.invalid\"\nusername = \"250780000001\"\n";
    std::fs::write(&config, own.replace("admin = \"127.0.0.1:0\"", &admin) + registers).expect("a file");
    let invite = world.folder.path().join("invite.txt");
    let text = "INVITE sip:100@box SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK1\nFrom: <sip:1@h>;tag=1\n\
                To: <sip:100@box>\nCall-ID: 1\nCSeq: 1 INVITE\nContact: <sip:a@127.0.0.1>\nContent-Length: 0\n\n";
    std::fs::write(&invite, text).expect("a file");
    let ask = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sauti"));
        let output = command.args(arguments).arg("--config").arg(&config).env_clear().output().await;
        let output = output.expect("the binary starts");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), said(&output.stdout), said(&output.stderr))
    };
    let (code, list, _) = ask(&["trunk", "list"]).await;
    assert!(code == Some(0) && list.contains("name: carrier") && list.contains("name: mtn-rw"), "{list}");
    let (code, status, complaint) = ask(&["trunk", "status"]).await;
    assert!(code == Some(0) && status.contains("carrier"), "{status}{complaint}");
    let (code, route, complaint) = ask(&["route", invite.to_str().expect("a plain path")]).await;
    assert!(code == Some(0) && route.contains("trunk: carrier"), "{route}{complaint}");
    // What a command cannot do without it asks for, and for nothing else.
    let (code, _, complaint) = ask(&["trunk", "test", "mtn-rw"]).await;
    assert_eq!(code, Some(78));
    assert!(complaint.contains("SAUTI_TRUNK_MTN_RW_PASSWORD") && !complaint.contains("OPENAI"), "{complaint}");
}

/// Far ends that would take DTLS as well say so; a trunk has what its `srtp` says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fingerprint_in_a_trunks_offer_changes_nothing() {
    let world = World::start(options("trunk-fingerprint")).await;
    let fingerprint = format!("a=fingerprint:sha-256 {}\r\n", ["AB"; 32].join(":"));
    let mut peer = Peer::dial(&world, 1, "100", |sdp| sdp + &fingerprint).await;
    peer.answered().await;
    peer.hears().await;
    peer.hang_up().await;
    assert_eq!(peer.call.faults, Vec::<String>::new());
}

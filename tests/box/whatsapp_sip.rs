//! WhatsApp calls that Meta brings by SIP: the same conversations, rows, events and texts as over Graph.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use sauti::simulate::loopback::phones::{Manner, Plan};
use sauti::simulate::loopback::whatsapp_sip::{self, Edge, Keys, SipLived, SipManner};
use sauti_core::pii::{CallerAddress, Pii};
use sauti_core::whatsapp::graph::Ask;
use sauti_sim::audio::speech::Speech;
use sauti_sim::caller::person::Step;
use sauti_sim::openai::{ExpectedKey, Latency, Script};
use sauti_sim::whatsapp::calls::Cause;
use sauti_sim::whatsapp::graph::SentText;
use sauti_sim::whatsapp::person::Person;
use sauti_sim::whatsapp_sip::Account;
use sauti_sim::whatsapp_sip::sdes::Profile;
use secrecy::SecretString;
use tokio::task::JoinHandle;

use crate::conversations::{check_log, judge_conversation, script};
use crate::world::{Options, SIP_PASSWORD, SOON, World, listen_and_leave, model, printed, stay, until, until_async};

/// The name that the number's settings at Meta have for the box.
const HOSTNAME: &str = "edge.example.org";
const SETTINGS: &str =
    "signalling = \"sip\"\n[whatsapp.sip]\nhostname = \"edge.example.org\"\nallow = [\"127.0.0.0/8\"]\n";
const LISTENER: &str = "[sip]\ntls = \"127.0.0.1:0\"\ncertificate = \"{folder}/certificate.pem\"\n\
                        key = \"{folder}/key.pem\"\n";
/// Each way to protect media.
const EVERY: [Keys; 3] = [Keys::Sdes(Profile::Savp), Keys::Dtls, Keys::Sdes(Profile::TlsSavpf)];
/// Transactions wait 32 s for repeats (RFC 3261 timers H and J).
const SIP_TABLES_WITHIN: Duration = Duration::from_secs(50);

fn certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(vec![HOSTNAME.to_owned()]).expect("a certificate");
    std::fs::write(folder.join("certificate.pem"), made.cert.pem()).expect("the folder can be written");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("the folder can be written");
}

fn options(name: &'static str) -> Options {
    Options { whatsapp: SETTINGS, more: LISTENER.to_owned(), prepare: certificate, ..Options::named(name) }
}

/// Meta as this world's number has it.
fn edge(world: &World, password: &str) -> Edge {
    let certificate = std::fs::read_to_string(world.folder.path().join("certificate.pem")).expect("it was made");
    Edge {
        target: world.daemon.bound("sip.tls"),
        account: Account::new(&world.business.number, HOSTNAME, SecretString::from(password)),
        certificate: certificate.into(),
        meta: world.far.meta.clone(),
        webhooks: world.webhooks(),
    }
}

fn call_with(
    world: &World,
    edge: Edge,
    (who, keys): (u32, Keys),
    script: Vec<Step>,
    manner: SipManner,
) -> JoinHandle<SipLived> {
    let plan = Plan {
        number: usize::try_from(who).expect("a small number"),
        identity: Person::numbered(who),
        script,
        length: Duration::from_secs(60),
        dial_after: Duration::ZERO,
    };
    let (certificate, tally) = (Arc::clone(&world.certificate), Arc::clone(&world.tally));
    tokio::spawn(whatsapp_sip::call(plan, keys, manner, edge, certificate, tally))
}

fn call(world: &World, who: u32, keys: Keys, script: Vec<Step>) -> JoinHandle<SipLived> {
    call_with(world, edge(world, SIP_PASSWORD), (who, keys), script, SipManner::default())
}

/// Nothing to object to.
fn clean(over: &SipLived) {
    assert_eq!((&over.lived.trouble, &over.faults), (&None, &Vec::new()), "{:?}", over.lived.identity);
}

async fn texts(world: &World, count: usize) -> Vec<SentText> {
    until_async("the texts are sent", async || world.far.meta.texts().await.len() >= count).await;
    let texts = world.far.meta.texts().await;
    assert_eq!(texts.len(), count, "at most one text a call");
    texts
}

/// A model whose session takes a while, so that the call rings.
fn slow(session: Duration) -> Options {
    let slow = move |facts: &_| {
        let mut settings = model(Script::tones(3, Duration::from_secs(2)), facts);
        settings.latency = Latency { session_updated: session, ..Latency::ZERO };
        settings
    };
    Options { model: Arc::new(slow), ..options("whatsapp-sip-slow") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_with_keys_of_each_kind_are_heard_logged_and_written_down_as_over_graph() {
    let speech = Speech::load().expect("speech is embedded");
    let summary = Script::tones(1, Duration::from_secs(1)).summary;
    let script = Script { summary, ..script(&speech) };
    let model = Arc::new(move |facts: &_| model(script.clone(), facts));
    let mut world = World::start(Options { model, ..options("whatsapp-sip") }).await;
    let line = Arc::clone(&speech.caller("en").first().expect("a line").samples);
    let says = vec![Step::Listen, Step::Say(line), Step::Listen, Step::HangUp];
    let calls: Vec<_> = (0..).zip(EVERY).map(|(who, keys)| call(&world, who, keys, says.clone())).collect();
    let mut lived = Vec::new();
    for call in calls {
        lived.push(call.await.expect("she lives"));
    }
    let models = world.sessions().await;
    let models: BTreeMap<_, _> = models.into_iter().map(|model| (model.identifier.clone(), model)).collect();
    until("the ends are logged", || world.daemon.entries("CALL_ENDED").len() == EVERY.len()).await;
    for (over, keys) in lived.iter().zip(EVERY) {
        clean(over);
        let answer = over.answer.as_ref().expect("it was answered").expose();
        assert_eq!(answer.contains("a=fingerprint:"), keys == Keys::Dtls);
        assert_eq!(answer.contains("a=crypto:"), keys != Keys::Dtls);
        assert_eq!(over.lived.over, Some(Cause::HungUp));
        let row = world.ended(over.lived.wacid.as_ref().expect("it rang")).await;
        assert_eq!(
            (row.door.as_str(), row.outcome.as_deref(), row.fault.as_deref()),
            ("whatsapp-sip", Some("completed"), Some("none"))
        );
        let hash = world.hash_of(&over.lived.identity.address());
        assert_eq!(row.caller_hash.as_ref(), Some(&hash));
        judge_conversation(&over.lived, models.get(&hash).expect("the model met this caller"));
        assert!(row.connect_at.is_some() && row.first_audio_at >= row.accepted_at);
        assert!(row.seconds.is_some_and(|seconds| seconds > 3.0) && row.cost_micro_usd.is_some_and(|cost| cost > 0));
        check_log(&world, &row.call_id);
        until_async("it is summarised", async || {
            printed(&world.calls(&["show", &row.call_id]).await).contains("summary: ")
        })
        .await;
        let shown = printed(&world.calls(&["show", &row.call_id, "--json"]).await);
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["summary"]["primary_intent"], "whatsapp_voice_call");
    }
    // Everything went by SIP, and the webhooks that came as well made nothing of their own.
    for ask in [Ask::PreAccept, Ask::Accept, Ask::Reject, Ask::Terminate, Ask::Text] {
        assert_eq!(world.asked(ask).await, 0, "{ask}");
    }
    until_async("the webhooks are there", async || {
        world.far.meta.sent().await.len() == 2 * EVERY.len()
            && world.metric("sauti_webhooks_total{kind=\"accepted\"}").await == 6.0
    })
    .await;
    assert_eq!(world.rows().len(), EVERY.len());
    world.until_tables_are_empty_within(SIP_TABLES_WITHIN).await;
    let name = r#"sauti_calls_total{door="whatsapp-sip",outcome="completed",fault="none"}"#;
    assert_eq!(world.metric(name).await, 3.0);
    assert!(world.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_makes_one_row_however_often_and_by_whatever_way_it_is_told() {
    let world = World::start(options("whatsapp-sip-twice")).await;
    let manner = SipManner { repeats: true, ..SipManner::default() };
    let one = call_with(&world, edge(&world, SIP_PASSWORD), (0, EVERY[0]), stay(), manner);
    until("the call is up", || world.tally.now().1 == 1).await;
    let wacid = {
        // The ledger knows it by a hash alone; the emulator's webhook has its name.
        until_async("Meta tells of it", async || !world.far.meta.sent().await.is_empty()).await;
        let sent = world.far.meta.sent().await;
        let body: serde_json::Value = serde_json::from_slice(&sent[0].body).expect("JSON");
        let id = body.pointer("/entry/0/changes/0/value/calls/0/id").and_then(|id| id.as_str());
        Pii::new(id.expect("an id"))
    };
    let (webhooks, person) = (world.webhooks(), Person::numbered(0));
    let at = Timestamp::now();
    let connect = webhooks.connect(at, &wacid, &person, &world.offer(at));
    let created = webhooks.other_call_event(at, &wacid, &person, "call_created");
    let other = webhooks.connect(at, &crate::world::wacid(9), &Person::numbered(1), &world.offer(at));
    for change in [connect, created, other] {
        assert_eq!(world.post(&[change]).await, 200);
    }
    until_async("they are ignored", async || {
        world.metric("sauti_webhooks_total{kind=\"connect_ignored\"}").await == 2.0
    })
    .await;
    assert_eq!(world.rows().len(), 1, "a number set to SIP has no calls by webhook");
    assert_eq!(world.asked(Ask::PreAccept).await, 0);
    // The same call is offered again while it is up.
    let again = SipManner { wacid: Some(wacid.clone()), ..SipManner::default() };
    let again = call_with(&world, edge(&world, SIP_PASSWORD), (0, EVERY[0]), stay(), again).await.expect("she lives");
    assert_eq!(again.refused, Some((482, None)));
    assert!(!one.is_finished(), "the first one goes on");
    // What webhooks say of its end is believed, and BYE goes out as well.
    let ending = sauti_sim::whatsapp::calls::Ending { cause: Cause::HungUp, start: Some(at), end: Timestamp::now() };
    let form = sauti_sim::whatsapp::webhooks::ErrorForm::Doubled;
    assert_eq!(world.post(&[webhooks.terminate(at, &wacid, &person, &ending, form, None)]).await, 200);
    let one = one.await.expect("she lives");
    clean(&one);
    assert_eq!((one.lived.over, one.forked), (Some(Cause::Terminated), vec![482]));
    let row = world.ended(&wacid).await;
    assert_eq!(row.outcome.as_deref(), Some("completed"));
    // And after its end it is no new call either.
    let late = SipManner { wacid: Some(wacid.clone()), ..SipManner::default() };
    let late = call_with(&world, edge(&world, SIP_PASSWORD), (0, EVERY[0]), stay(), late).await.expect("she lives");
    assert_eq!(late.refused.map(|(status, _)| status), Some(480));
    assert_eq!(world.rows().len(), 1);
    assert!(world.far.meta.texts().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_hangs_up_by_both_proxies_and_writes_to_whoever_was_cut_off_or_came_too_late() {
    let limits = "drain = \"2s\"\n";
    let mut world = World::start(Options { limits, ..options("whatsapp-sip-drain") }).await;
    let calls: Vec<_> = (0..).zip(EVERY).map(|(who, keys)| call(&world, who, keys, stay())).collect();
    until("all are up", || world.daemon.entries("CONVERSATION_STARTED").len() == EVERY.len()).await;
    world.daemon.signal(Signal::SIGTERM);
    until("it is stopping", || !world.daemon.entries("SERVICE_DRAINING").is_empty()).await;
    let late = call(&world, 7, EVERY[0], stay()).await.expect("she lives");
    assert_eq!(late.refused, Some((503, Some(5))));
    for call in calls {
        let over = call.await.expect("she lives");
        clean(&over);
        assert_eq!(over.lived.over, Some(Cause::Terminated), "the BYE was heard");
    }
    assert!(world.daemon.ended().await.success());
    let mut outcomes: Vec<_> = world.rows().into_iter().filter_map(|row| row.outcome).collect();
    outcomes.sort();
    assert_eq!(outcomes, ["drained", "drained", "drained", "refused_capacity"]);
    assert_eq!(world.far.meta.texts().await.len(), 4, "all four are written to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_password_nobody_gets_in_and_nobody_is_asked_for_a_certificate() {
    let mut world = World::start(options("whatsapp-sip-password")).await;
    let refused = call_with(&world, edge(&world, "guess"), (0, EVERY[0]), stay(), SipManner::default());
    let refused = refused.await.expect("she lives");
    clean(&refused);
    assert_eq!((refused.refused, refused.lived.answered), (Some((403, None)), None), "it never rang");
    assert_eq!(world.metric("sauti_sip_refused_total{kind=\"digest\"}").await, 1.0);
    assert!(world.rows().is_empty() && world.sessions().await.is_empty());
    let good = call(&world, 1, EVERY[1], listen_and_leave()).await.expect("she lives");
    clean(&good);
    assert!(good.lived.person.first_heard().is_some());
    assert!(world.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_served_is_refused_in_sips_words_and_written_to_by_graph() {
    // No key of the model, and one call at a time.
    let no_key = |facts: &_| {
        let mut settings = model(Script::tones(1, Duration::from_secs(1)), facts);
        settings.expected_key = ExpectedKey::new("another key");
        settings
    };
    let world = World::start(Options { model: Arc::new(no_key), ..options("whatsapp-sip-refused-model") }).await;
    let over = call(&world, 0, EVERY[0], stay()).await.expect("she lives");
    clean(&over);
    assert_eq!((over.refused, over.lived.accepted), (Some((503, Some(5))), None));
    let row = world.ended(&over.lived.wacid.expect("it rang")).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("model_refused"), Some("operator")));
    let sent = texts(&world, 1).await.remove(0);
    assert!(sent.body.expose().starts_with("Sorry, we could not take your call just now."));
    drop(world);

    let limits = "max_calls = 1\n";
    let world = World::start(Options { limits, ..options("whatsapp-sip-full") }).await;
    let first = call(&world, 0, EVERY[1], stay());
    until("the first call is up", || world.tally.now().1 == 1).await;
    let hides = SipManner { hides_number: true, ..SipManner::default() };
    let second = call_with(&world, edge(&world, SIP_PASSWORD), (1, EVERY[0]), stay(), hides);
    let second = second.await.expect("she lives");
    clean(&second);
    assert_eq!(second.refused, Some((503, Some(5))));
    let row = world.ended(&second.lived.wacid.expect("it rang")).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("refused_capacity"), Some("box")));
    let hidden = CallerAddress { number: None, ..second.lived.identity.address() };
    assert_eq!(row.caller_hash, Some(world.hash_of(&hidden)));
    let sent = texts(&world, 1).await.remove(0);
    assert!(sent.by_bsuid && sent.to == second.lived.identity.bsuid, "her number is not known");
    assert!(!first.is_finished(), "the first call goes on");
    first.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_while_it_rings_left_early_and_who_is_never_heard_is_hung_up_on() {
    let world = World::start(slow(Duration::from_millis(900))).await;
    let impatient = Manner { gives_up: Some(Duration::from_millis(400)), ..Manner::default() };
    let manner = SipManner { phone: impatient, ..SipManner::default() };
    let over = call_with(&world, edge(&world, SIP_PASSWORD), (0, EVERY[0]), stay(), manner).await.expect("she lives");
    clean(&over);
    assert_eq!(over.refused, Some((487, None)));
    let row = world.ended(&over.lived.wacid.expect("it rang")).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("caller_left_early"), Some("caller")));
    drop(world);

    let limits = "no_media = \"3s\"\n";
    let world = World::start(Options { limits, ..options("whatsapp-sip-deaf") }).await;
    let began = Instant::now();
    let deaf: Vec<_> = (0..)
        .zip(EVERY)
        .map(|(who, keys)| {
            let phone = Manner { deaf: true, ..Manner::default() };
            let manner = SipManner { phone, ..SipManner::default() };
            call_with(&world, edge(&world, SIP_PASSWORD), (who, keys), stay(), manner)
        })
        .collect();
    for call in deaf {
        let over = call.await.expect("she lives");
        clean(&over);
        assert_eq!(over.lived.over, Some(Cause::Terminated));
        let row = world.ended(&over.lived.wacid.expect("it rang")).await;
        assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("no_media"), Some("whatsapp")));
    }
    assert!(began.elapsed() < SOON);
    assert_eq!(texts(&world, 3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_an_address_translation_media_goes_where_packets_come_from() {
    let media = "advertise = [\"198.51.100.7\"]\nport_drain = \"1s\"\n";
    let mut world = World::start(Options { media, ..options("whatsapp-sip-nat") }).await;
    let calls: Vec<_> = (0..).zip(EVERY).map(|(who, keys)| call(&world, who, keys, listen_and_leave())).collect();
    for call in calls {
        let over = call.await.expect("she lives");
        clean(&over);
        let answer = over.answer.as_ref().expect("it was answered").expose();
        let places: Vec<_> =
            answer.lines().filter(|line| line.starts_with("c=") || line.starts_with("a=candidate:")).collect();
        assert!(places.iter().all(|line| line.contains("198.51.100.7")), "the outside's address alone: {places:?}");
        assert!(over.lived.person.first_heard().is_some(), "the greeting is heard");
    }
    world.until_nobody_calls().await;
    assert!(world.rows().iter().all(|row| row.outcome.as_deref() == Some("completed")));
    assert!(world.stop().await.success());
}

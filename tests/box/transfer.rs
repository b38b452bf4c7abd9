//! Callers who want a person: by REFER, attended, bridged; nobody there; somebody who may not be reached; hanging up
//! in the middle of each.

use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;
use sauti::simulate::loopback::phones::{Lived, Plan};
use sauti::simulate::loopback::trunk::{self, Answered, Carrier};
use sauti_sim::audio::g711::Law;
use sauti_sim::audio::judge::{Judge, Utterance};
use sauti_sim::audio::speech::Speech;
use sauti_sim::caller::person::{Person as Speaker, Step};
use sauti_sim::openai::{Clip, Line, Say, Script};
use sauti_sim::trunk::callee::{CalleeEvent, Manner};
use sauti_sim::trunk::caller::{Refers, Transport};
use sauti_sim::whatsapp::calls::Cause;
use sauti_sim::whatsapp::person::Person;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::world::{Options, SOON, World, model, until, until_async};

fn speech() -> &'static Speech {
    static SPEECH: OnceLock<Speech> = OnceLock::new();
    SPEECH.get_or_init(|| Speech::load().expect("the embedded speech"))
}

/// The caller's line once she speaks with a person, and the person's.
fn lines() -> (Arc<[i16]>, Arc<[i16]>) {
    (Arc::clone(&speech().caller("en")[0].samples), Arc::clone(&speech().agent()[1].samples))
}

/// What the AI says when it has the caller back.
fn back() -> &'static sauti_sim::audio::speech::Line {
    &speech().agent()[2]
}

/// Says that it connects the caller, does so, and says something else if it has her back.
fn script() -> Script {
    let tone = |words: &str, hertz| Clip::tone(words, hertz, Duration::from_millis(900));
    let call = Say::Call { name: "transfer_to_human".to_owned(), arguments: "{}".to_owned(), pieces: 1 };
    Script {
        turns: vec![
            Line { items: vec![Say::Clip(tone("I will connect you.", 420)), call], after_tools: Vec::new() },
            Line::clip(Clip::new(back().text, Arc::clone(&back().samples))),
        ],
        ..Script::tones(1, Duration::from_secs(1))
    }
}

/// A box with a desk behind its trunk, and somebody at the desk.
struct Scene {
    world: World,
    desk: JoinHandle<std::io::Result<Answered>>,
    address: std::net::SocketAddr,
}

impl Scene {
    async fn start(name: &'static str, way: &str, network: &str, manner: Manner, says: Vec<Step>) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = socket.local_addr().expect("an address");
        let more = format!(
            "[sip]\nudp = \"127.0.0.1:0\"\n[[trunk]]\nname = \"carrier\"\nallow = [\"127.0.0.1\"]\noptions_every = \"0s\"\n\
             outbound_proxy = \"{address}\"\n{network}[[trunk.route]]\ncalled = \"100\"\n\
             [transfer]\ntrunk = \"carrier\"\ntarget = \"desk@{address}\"\nway = \"{way}\"\nanswer_within = \"5s\"\n"
        );
        let options = Options { more, model: Arc::new(|facts| model(script(), facts)), ..Options::named(name) };
        let world = World::start(options).await;
        let desk = tokio::spawn(trunk::be_called(socket, Law::A, manner, Speaker::new(says)));
        Self { world, desk, address }
    }

    /// Somebody calls over the trunk.
    async fn call(&self, refers: Refers, script: Vec<Step>) -> Lived {
        let target = self.world.daemon.bound("sip.udp");
        let carrier = Carrier { target, transport: Transport::Udp, law: Law::A, refers };
        let plan = Plan {
            number: 1,
            identity: Person::numbered(1),
            script,
            length: Duration::from_secs(60),
            dial_after: Duration::ZERO,
        };
        // On a worker: what a test does meanwhile, as closing the scene of another story, must not stop her telephone.
        tokio::spawn(trunk::call(plan, carrier, Arc::clone(&self.world.tally))).await.expect("she lives")
    }

    /// What somebody at the desk lived through.
    async fn desk(self) -> (World, Answered) {
        let answered = tokio::time::timeout(SOON, self.desk).await.expect("the desk's call ends");
        (self.world, answered.expect("it lives").expect("sockets hold"))
    }
}

/// The stages that the log tells of a transfer.
fn stages(world: &World) -> Vec<String> {
    let entries = world.daemon.entries("CALL_TRANSFER");
    entries.iter().map(|entry| entry["STAGE"].as_str().unwrap_or_default().to_owned()).collect()
}

/// A transfer went this way; the log comes by a pipe of its own.
async fn went(world: &World, wanted: &[&str]) {
    until("the stages are told", || stages(world).len() >= wanted.len()).await;
    assert_eq!(stages(world), wanted);
}

/// One call, one row, completed; and nothing is left. Transactions alone wait 64 s for repeats of calls that we made
/// (RFC 3261 §17.1.1.2, RFC 6026 §7.2): `tests/sip/out.rs` waits for them.
async fn is_whole(world: &World) {
    until("the call is written down", || world.rows().iter().any(|row| row.outcome.is_some())).await;
    let rows = world.rows();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].outcome.as_deref(), rows[0].fault.as_deref()), (Some("completed"), Some("none")));
    until_async("nothing is left", async || {
        let tables = world.tables().await;
        tables.iter().all(|(name, size)| *size == 0.0 || name == "sauti_table_sip_transactions")
    })
    .await;
}

/// Greeted, she asks for a person, and is told that she is connected: 0.5 s until her turn is over, 0.9 s of words and 0.3 s
/// of air later she is being handed on.
fn asks() -> Vec<Step> {
    vec![Step::Listen, Step::Say(lines().0), Step::Pause(Duration::from_millis(2_500))]
}

/// Then she speaks with the person, and stays until hung up on.
fn asks_and_speaks() -> Vec<Step> {
    [asks(), vec![Step::Pause(Duration::from_secs(5)), Step::Say(lines().0), Step::Pause(Duration::from_secs(60))]]
        .concat()
}

/// The person says a word, hears the caller out, and hangs up.
fn attends() -> Vec<Step> {
    let patience = Step::Pause(Duration::from_secs(12));
    vec![Step::Pause(Duration::from_millis(500)), Step::Say(lines().1), patience, Step::HangUp]
}

fn heard(said: &Utterance, recording: &[i16]) -> f64 {
    Judge::new().heard(std::slice::from_ref(said), recording).percent().expect("something was said")
}

/// Both lines were heard on the other side, and the recordings swapped fail.
///
/// Judging takes 45 ms, more than two ticks of a telephone: never while other calls of the same test still speak.
fn heard_each_other(caller: &Lived, desk: &Answered) {
    let last = |person: &Speaker| person.said.last().expect("a line").utterance();
    let (hers, theirs) = (last(&caller.person), last(&desk.person));
    let (there, here) = (heard(&hers, &desk.person.heard), heard(&theirs, &caller.person.heard));
    assert!(there >= 98.0 && here >= 98.0, "the person heard {there:.1} %, the caller {here:.1} %");
    assert!(heard(&theirs, &desk.person.heard) < 50.0, "nobody hears herself");
}

const HER_OWN: Manner = Manner::Answers(Duration::from_secs(1));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caller_and_person_hear_each_other_through_the_box_until_one_hangs_up() {
    let scene = Scene::start("transfer-bridge", "bridge", "", HER_OWN, attends()).await;
    let lived = scene.call(Refers::No, asks_and_speaks()).await;
    let (mut world, desk) = scene.desk().await;
    assert_eq!((lived.trouble.clone(), lived.over), (None, Some(Cause::Terminated)), "hung up on with the person");
    assert_eq!((desk.over.clone(), desk.faults.clone()), (Some(CalleeEvent::Over), Vec::new()));
    heard_each_other(&lived, &desk);
    went(&world, &["begun", "called", "joined", "done"]).await;
    let sessions = world.sessions().await;
    assert_eq!(sessions.len(), 1, "the model was let go and not asked for again");
    is_whole(&world).await;
    let call = world.rows().remove(0).call_id;
    let wanted = ["-> INVITE", "<- 200", "-> ACK", "<- BYE", "-> 200"];
    until_async("the person's line is in the ledger too", async || {
        let messages = world.messages_of(&call, 1).await;
        let mut rest = messages.iter();
        wanted.iter().all(|wanted| rest.any(|message| message == wanted))
    })
    .await;
    assert!(world.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trunk_that_refers_is_left_when_the_person_has_answered_and_not_when_it_promises() {
    let scene = Scene::start("transfer-refer", "refer", "", HER_OWN, attends()).await;
    let lived = scene.call(Refers::Until(200), asks_and_speaks()).await;
    // A BYE before the last news would be a trouble of the emulated trunk.
    assert_eq!((lived.trouble, lived.over), (None, Some(Cause::Terminated)));
    assert_eq!(lived.referred, Some(format!("sip:desk@{}", scene.address)));
    went(&scene.world, &["begun", "done"]).await;
    assert!(!scene.desk.is_finished(), "the box calls nobody itself");
    scene.desk.abort();
    is_whole(&scene.world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trunk_that_refuses_or_ignores_a_refer_makes_the_box_call() {
    let cases = [("transfer-refused", Refers::No), ("transfer-ignored", Refers::Ignores)];
    // All at once: they wait most of the time.
    let lived = join_all(cases.map(async |(name, refers)| {
        let scene = Scene::start(name, "refer", "", HER_OWN, attends()).await;
        // A REFER that nobody answers is given up after 10 s.
        let patience = Duration::from_secs(if refers == Refers::Ignores { 16 } else { 6 });
        let speaks = vec![Step::Pause(patience), Step::Say(lines().0), Step::Pause(Duration::from_secs(60))];
        let lived = scene.call(refers, [asks(), speaks].concat()).await;
        let (world, desk) = scene.desk().await;
        assert_eq!((lived.trouble.clone(), lived.over), (None, Some(Cause::Terminated)), "{refers:?}");
        went(&world, &["begun", "refer", "called", "joined", "done"]).await;
        is_whole(&world).await;
        (lived, desk)
    }))
    .await;
    for (lived, desk) in &lived {
        heard_each_other(lived, desk);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attended_transfer_is_joined_here_and_handed_over() {
    let scene = Scene::start("transfer-attended", "attended", "", HER_OWN, stays()).await;
    let lived = scene.call(Refers::Until(200), asks_and_speaks()).await;
    assert_eq!((lived.trouble, lived.over), (None, Some(Cause::Terminated)));
    let target = lived.referred.expect("a REFER");
    assert!(target.starts_with(&format!("sip:desk@{}", scene.address)) && target.contains("Replaces="), "it replaces");
    let (world, desk) = scene.desk().await;
    assert_eq!((desk.over, desk.faults), (Some(CalleeEvent::HungUp), Vec::new()), "the box leaves both");
    went(&world, &["begun", "called", "joined", "done"]).await;
    is_whole(&world).await;
}

/// Stays on the line and listens.
fn stays() -> Vec<Step> {
    vec![Step::Pause(Duration::from_secs(60))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_nobody_can_be_had_the_ai_has_the_caller_back() {
    let cases = [
        ("transfer-busy", "refer", Refers::Until(486), Manner::LetsItRing, 9),
        ("transfer-declined", "bridge", Refers::No, Manner::Refuses(603), 9),
        ("transfer-in-vain", "bridge", Refers::No, Manner::LetsItRing, 14),
    ];
    let lived = join_all(cases.map(async |(name, way, refers, manner, seconds)| {
        let scene = Scene::start(name, way, "", manner, stays()).await;
        // The music is heard as well: what comes after it is what counts.
        let wait = vec![Step::Pause(Duration::from_secs(seconds)), Step::HangUp];
        let lived = scene.call(refers, [asks(), wait].concat()).await;
        assert_eq!((lived.trouble.clone(), lived.over), (None, Some(Cause::HungUp)), "{name}");
        assert_eq!(stages(&scene.world).last().map(String::as_str), Some("missed"), "{name}");
        if manner == Manner::LetsItRing && way == "bridge" {
            let (world, desk) = scene.desk().await;
            assert_eq!((desk.over, desk.faults), (Some(CalleeEvent::Cancelled), Vec::new()));
            is_whole(&world).await;
        } else {
            scene.desk.abort();
            is_whole(&scene.world).await;
            if manner == Manner::Refuses(603) {
                why_she_refused(&scene.world).await;
            }
        }
        (name, lived)
    }))
    .await;
    for (name, lived) in lived {
        let again = heard(&Utterance::new(Arc::clone(&back().samples)), &lived.person.heard);
        assert!(again >= 98.0, "{name}: {again:.1} % of what the AI says afterwards");
    }
}

/// Why somebody's telephone did not ring is what is asked next: the code is in the log, and her line in the ledger.
async fn why_she_refused(world: &World) {
    let entries = world.daemon.entries("CALL_TRANSFER");
    let refused: Vec<_> = entries.iter().filter(|entry| entry["REASON"] == "refused").collect();
    assert!(refused.len() == 1 && refused[0]["STAGE"] == "call" && refused[0]["STATUS"] == 603, "{entries:?}");
    let call = world.rows().remove(0).call_id;
    until_async("her line is in the ledger", async || {
        let messages = world.messages_of(&call, 1).await;
        messages.first().is_some_and(|first| first == "-> INVITE") && messages.iter().any(|line| line == "<- 603")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_hangs_up_in_the_middle_leaves_nobody_hanging() {
    let leaves = |after: u64| [asks(), vec![Step::Pause(Duration::from_millis(after)), Step::HangUp]].concat();
    let cases = [
        ("transfer-left-ringing", "bridge", Refers::No, Manner::LetsItRing, 700, Some(CalleeEvent::Cancelled)),
        ("transfer-left-joined", "bridge", Refers::No, HER_OWN, 2_500, Some(CalleeEvent::HungUp)),
        ("transfer-left-asking", "refer", Refers::Ignores, HER_OWN, 700, None),
        ("transfer-left-attended", "attended", Refers::Ignores, HER_OWN, 2_500, Some(CalleeEvent::HungUp)),
    ];
    join_all(cases.map(async |(name, way, refers, manner, after, over)| {
        let scene = Scene::start(name, way, "", manner, stays()).await;
        let lived = scene.call(refers, leaves(after)).await;
        assert_eq!((lived.trouble, lived.over), (None, Some(Cause::HungUp)), "{name}");
        if over.is_some() {
            let (world, desk) = scene.desk().await;
            assert_eq!((desk.over, desk.faults), (over, Vec::new()), "{name}");
            is_whole(&world).await;
        } else {
            is_whole(&scene.world).await;
            assert!(!scene.desk.is_finished(), "{name}: nobody was called");
            scene.desk.abort();
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_whatsapp_is_never_taken_into_the_telephone_network() {
    let scene = Scene::start("transfer-public", "bridge", "", HER_OWN, attends()).await;
    let lived = scene.world.call(1, [asks(), vec![Step::Pause(Duration::from_secs(2)), Step::HangUp]].concat());
    let lived = lived.await.expect("she lives");
    assert_eq!((lived.trouble, lived.over), (None, Some(Cause::HungUp)));
    went(&scene.world, &["refused"]).await;
    let entry = scene.world.daemon.entries("CALL_TRANSFER").remove(0);
    assert_eq!(entry["REASON"], "public_network");
    assert!(!scene.desk.is_finished(), "nobody was called");
    scene.desk.abort();
    is_whole(&scene.world).await;
    assert!(scene.world.far.meta.texts().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_whatsapp_reaches_a_person_over_a_trunk_of_pure_sip_or_gets_a_text() {
    let ((lived, desk), ()) = tokio::join!(whatsapp_reaches_a_person(), whatsapp_gets_a_text());
    heard_each_other(&lived, &desk);
}

const PURE: &str = "public_network = false\n";

async fn whatsapp_reaches_a_person() -> (Lived, Answered) {
    let scene = Scene::start("transfer-whatsapp", "refer", PURE, HER_OWN, attends()).await;
    let lived = scene.world.call(1, asks_and_speaks()).await.expect("she lives");
    let (world, desk) = scene.desk().await;
    assert_eq!((lived.trouble.clone(), lived.over), (None, Some(Cause::Terminated)));
    went(&world, &["begun", "called", "joined", "done"]).await;
    is_whole(&world).await;
    (lived, desk)
}

async fn whatsapp_gets_a_text() {
    let scene = Scene::start("transfer-text", "refer", PURE, Manner::Refuses(486), stays()).await;
    let lived = scene.world.call(1, [asks(), vec![Step::Pause(Duration::from_secs(2)), Step::HangUp]].concat());
    assert_eq!(lived.await.expect("she lives").over, Some(Cause::HungUp));
    let world = scene.world;
    until_async("a text is sent", async || !world.far.meta.texts().await.is_empty()).await;
    let texts = world.far.meta.texts().await;
    assert!(texts.len() == 1 && texts[0].body.expose().starts_with("Sorry, nobody was free"), "one, and the right one");
    is_whole(&world).await;
}

//! The emulated Graph, asked by the product's own requests.

use jiff::Timestamp;
use proptest::prelude::*;
use sauti_core::whatsapp::graph::{CallRequest, Failure, Opaque, RetryClass, TextRequest, read_action, read_message};

use super::*;
use crate::whatsapp::answer::{Setup, sample};
use crate::whatsapp::offer::Offer;

const PNID: &str = "100000000000002";

struct World {
    graph: Graph,
    now: Now,
    person: Person,
    wacid: Pii,
    out: Vec<GraphEffect>,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut GraphOptions)) -> Self {
        let mut options = GraphOptions::prompt(PNID, SecretString::from("canary-whatsapp-token".to_owned()));
        change(&mut options);
        let mut graph = Graph::new(options, 7);
        let now = Now { mono: start(), wall: Timestamp::from_second(1_760_681_506).unwrap() };
        let person = Person::test_caller();
        let wacid = graph.new_wacid(&person, true);
        let offer = Offer::captured(&mut Dice::new(3)).sdp(now.wall);
        assert!(graph.ring(now, &wacid, &person, &offer));
        Self { graph, now, person, wacid, out: Vec::new() }
    }

    fn later(&mut self, by: Duration) -> &mut Self {
        self.now = self.now.after(by);
        self.graph.tick(self.now, &mut self.out);
        self
    }

    fn raw(&mut self, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> Option<HttpReply> {
        let request = HttpRequest { method, path, authorization: token, body };
        self.graph.handle(self.now, request, &mut self.out)
    }

    fn post(&mut self, edge: &str, body: &[u8]) -> Option<HttpReply> {
        self.raw("POST", &format!("/v26.0/{PNID}/{edge}"), Some("Bearer canary-whatsapp-token"), body)
    }

    fn get(&mut self, edge: &str) -> (u16, Value) {
        let path = format!("/v26.0/{PNID}{edge}");
        let reply = self.raw("GET", &path, Some("Bearer canary-whatsapp-token"), b"").unwrap();
        (reply.status, serde_json::from_slice(&reply.body).unwrap())
    }

    /// Asks as the product does, and reads the reply as the product does.
    fn ask(&mut self, ask: Ask) -> Result<(), RetryClass> {
        self.ask_with(ask, &sample())
    }

    fn ask_with(&mut self, ask: Ask, sdp: &Pii) -> Result<(), RetryClass> {
        let wacid = self.wacid.clone();
        let opaque = Opaque::new("call-1").unwrap();
        let body = match ask {
            Ask::PreAccept => CallRequest::pre_accept(&wacid, sdp),
            Ask::Accept => CallRequest::accept(&wacid, sdp, Some(&opaque)),
            Ask::Reject => CallRequest::reject(&wacid),
            Ask::Terminate | Ask::Text => CallRequest::terminate(&wacid),
        };
        let reply = self.post("calls", &body.to_json()).unwrap();
        read_action(ask, reply.status, &reply.body).map_err(|error| error.class)
    }

    fn text(&mut self, to: &sauti_core::pii::CallerAddress) -> Result<Pii, Option<i64>> {
        let opaque = Opaque::new("call-1").unwrap();
        let body = TextRequest::new(to, "Sorry!", &opaque).unwrap().to_json();
        let reply = self.post("messages", &body).unwrap();
        read_message(reply.status, &reply.body).map_err(|error| error.code)
    }

    fn causes(&self) -> Vec<Cause> {
        let cause = |effect: &GraphEffect| match effect {
            GraphEffect::Ended { ending, .. } => Some(ending.cause),
            _ => None,
        };
        self.out.iter().filter_map(cause).collect()
    }
}

/// The tests' monotonic clock: only differences count.
fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an Instant can only be had from the clock; the tests add to it")]
    Instant::now()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn code(reply: &HttpReply) -> (u16, i64) {
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    assert!(body["error"]["fbtrace_id"].as_str().is_some_and(|trace| trace.len() > 10), "{body}");
    (reply.status, body["error"]["code"].as_i64().unwrap())
}

#[test]
fn a_call_is_pre_accepted_accepted_and_terminated() {
    let mut world = World::new();
    assert_eq!(world.ask(Ask::PreAccept), Ok(()));
    assert_eq!(world.ask(Ask::Accept), Ok(()));
    world.later(secs(1));
    world.graph.media(world.now, &world.wacid);
    world.later(secs(9));
    assert_eq!(world.ask(Ask::Terminate), Ok(()));
    let [GraphEffect::AnswerDelivered { sdp, .. }, GraphEffect::Accepted { .. }, GraphEffect::Ended { ending, .. }] =
        world.out.as_slice()
    else {
        panic!("{:?}", world.out)
    };
    assert_eq!(sdp, &sample());
    assert_eq!(ending.cause, Cause::Terminated);
    assert_eq!(ending.end.as_second() - ending.start.unwrap().as_second(), 10);
    let record = world.graph.record(&world.wacid).unwrap();
    assert_eq!(record.answer.as_ref().unwrap().setup, Setup::Active);
    assert_eq!(record.opaque.as_deref(), Some("call-1"));
    assert!(!record.early_media);
    assert_eq!((record.times(Ask::Accept), world.graph.seen().len()), (1, 3));
}

#[test]
fn an_id_without_its_padding_means_the_same_call() {
    let mut world = World::new();
    world.wacid = Pii::new(world.wacid.expose().trim_end_matches('='));
    assert_eq!(world.ask(Ask::PreAccept), Ok(()));
    let GraphEffect::AnswerDelivered { wacid, .. } = &world.out[0] else { panic!() };
    assert!(wacid.expose().ends_with('='));
}

#[test]
fn an_accept_alone_delivers_the_answer_too() {
    let mut world = World::new();
    assert_eq!(world.ask(Ask::Accept), Ok(()));
    assert!(matches!(world.out[0], GraphEffect::AnswerDelivered { .. }));
    assert!(matches!(world.out[1], GraphEffect::Accepted { .. }));
}

#[test]
fn every_step_out_of_turn_is_refused() {
    let mut world = World::new();
    assert_eq!(world.ask(Ask::PreAccept), Ok(()));
    assert_eq!(world.ask(Ask::PreAccept), Err(RetryClass::AlreadyDone));
    let other = Pii::new(sample().expose().replace("sautiufrag", "otherufrag"));
    assert_eq!(world.ask_with(Ask::Accept, &other), Err(RetryClass::SdpRefused));
    assert_eq!(world.ask(Ask::Accept), Ok(()));
    assert_eq!(world.ask(Ask::Accept), Err(RetryClass::AlreadyDone));
    assert_eq!(world.ask(Ask::Reject), Err(RetryClass::AlreadyDone));
    assert_eq!(world.ask(Ask::Terminate), Ok(()));
    for ask in [Ask::PreAccept, Ask::Accept, Ask::Reject, Ask::Terminate] {
        assert_eq!(world.ask(ask), Err(RetryClass::AlreadyEnded), "{ask}");
    }
    assert_eq!(world.causes(), [Cause::Terminated]);
    world.wacid = Pii::new("wacid.HBgMnobody");
    assert_eq!(world.ask(Ask::Accept), Err(RetryClass::AlreadyEnded));
}

#[test]
fn a_rejected_call_was_never_picked_up() {
    let mut world = World::new();
    assert_eq!(world.ask(Ask::Reject), Ok(()));
    let GraphEffect::Ended { ending, .. } = world.out[0] else { panic!() };
    assert_eq!((ending.cause, ending.start, ending.code()), (Cause::Rejected, None, None));
}

#[test]
fn a_caller_who_left_is_told_to_whoever_asks() {
    let mut world = World::new();
    world.graph.end(world.now, &world.wacid.clone(), Cause::HungUp, &mut world.out);
    assert_eq!(world.ask(Ask::PreAccept), Err(RetryClass::AlreadyEnded));
    world.graph.end(world.now, &world.wacid.clone(), Cause::HungUp, &mut world.out);
    assert_eq!(world.causes(), [Cause::HungUp]);
}

#[test]
fn a_broken_answer_is_138008_and_leaves_the_call_ringing() {
    let mut world = World::new();
    let actpass = Pii::new(sample().expose().replace("active", "actpass"));
    assert_eq!(world.ask_with(Ask::PreAccept, &actpass), Err(RetryClass::SdpRefused));
    assert_eq!(world.ask(Ask::PreAccept), Ok(()));
    let mut world = World::with(|options| options.sdp_code = 100);
    assert_eq!(world.ask_with(Ask::Accept, &actpass), Err(RetryClass::SdpRefused));
    let body = json!({"messaging_product": "whatsapp", "call_id": world.wacid, "action": "accept",
        "session": {"sdp_type": "offer", "sdp": sample()}});
    let reply = world.post("calls", body.to_string().as_bytes()).unwrap();
    assert_eq!(code(&reply), (400, 100));
}

#[test]
fn a_wrong_token_number_or_path_is_refused_as_graph_does() {
    let mut world = World::new();
    let good = format!("/v26.0/{PNID}/calls");
    for (path, token, expected) in [
        (good.as_str(), Some("Bearer wrong"), (401, 190)),
        (&good, Some("canary-whatsapp-token"), (401, 190)),
        (&good, None, (401, 190)),
        ("/v26.0/7/calls", Some("Bearer canary-whatsapp-token"), (400, 100)),
        ("/calls", Some("Bearer canary-whatsapp-token"), (400, 2_500)),
        (&good, Some("bearer canary-whatsapp-token"), (400, 100)),
    ] {
        let reply = world.raw("POST", path, token, b"no json").unwrap();
        assert_eq!(code(&reply), expected, "{path} {token:?}");
    }
    assert!(world.out.is_empty());
}

#[test]
fn the_proof_of_the_app_secret_is_checked_when_it_is_demanded() {
    let mut world =
        World::with(|options| options.app_secret = Some(SecretString::from("canary-app-secret".to_owned())));
    assert_eq!(code(&world.post("calls", b"{}").unwrap()), (400, 100));
    let secrets = ["canary-app-secret", "canary-whatsapp-token"].map(|text| SecretString::from(text.to_owned()));
    let proof = sauti_core::whatsapp::signature::appsecret_proof(&secrets[0], &secrets[1]);
    let reply = world.post(&format!("settings?appsecret_proof={proof}"), br#"{"calling":{"status":"ENABLED"}}"#);
    assert_eq!(reply.unwrap().status, 200);
}

#[test]
fn faults_strike_when_they_are_told_to() {
    let mut world = World::new();
    let rule = |on, skip, times, fault| FaultRule { on, skip, times, fault };
    world.graph.inject(rule(Some(Ask::PreAccept), 0, 1, Fault::Status(503)));
    world.graph.inject(rule(Some(Ask::PreAccept), 0, 1, Fault::Code { http: 500, code: 131_016 }));
    world.graph.inject(rule(Some(Ask::PreAccept), 0, 1, Fault::NotDone));
    world.graph.inject(rule(Some(Ask::Accept), 1, u32::MAX, Fault::Code { http: 401, code: 190 }));
    for _ in 0..3 {
        assert_eq!(world.ask(Ask::PreAccept), Err(RetryClass::Retry));
    }
    assert!(world.out.is_empty());
    assert_eq!(world.ask(Ask::PreAccept), Ok(()));
    assert_eq!(world.ask(Ask::Accept), Ok(()));
    assert_eq!(world.ask(Ask::Accept), Err(RetryClass::TokenDead));
    assert_eq!(world.ask(Ask::Accept), Err(RetryClass::TokenDead));
    assert_eq!(world.ask(Ask::Terminate), Ok(()));
}

#[test]
fn silence_may_or_may_not_hide_that_it_was_done() {
    let mut world = World::new();
    let wacid = world.wacid.clone();
    let (answer, none) = (sample(), None);
    let accept = CallRequest::accept(&wacid, &answer, none).to_json();
    let silence = |done| FaultRule { on: Some(Ask::Accept), skip: 0, times: 1, fault: Fault::Silence { done } };
    world.graph.inject(silence(false));
    world.graph.inject(silence(true));
    assert_eq!(world.post("calls", &accept), None);
    assert!(world.graph.record(&wacid).unwrap().accepted_at.is_none());
    assert_eq!(world.post("calls", &accept), None);
    assert!(world.graph.record(&wacid).unwrap().accepted_at.is_some());
    let reply = world.post("calls", &accept).unwrap();
    let error = read_action(Ask::Accept, reply.status, &reply.body).unwrap_err();
    assert_eq!((error.failure, error.http), (Failure::Answered, Some(400)));
}

#[test]
fn replies_take_their_time_and_effects_come_no_later() {
    let mut world = World::with(|options| options.latency = (Duration::from_millis(50), Duration::from_millis(400)));
    let wacid = world.wacid.clone();
    let answer = sample();
    let slow = Fault::Slow(Duration::from_secs(2));
    world.graph.inject(FaultRule { on: None, skip: 0, times: 1, fault: slow });
    let reply = world.post("calls", &CallRequest::pre_accept(&wacid, &answer).to_json()).unwrap();
    assert!((2_050..=2_400).contains(&reply.delay.as_millis()));
    let GraphEffect::AnswerDelivered { at, .. } = world.out[0] else { panic!() };
    assert_eq!(at, world.now.mono + reply.delay);
    let reply = world.post("calls", &CallRequest::accept(&wacid, &answer, None).to_json()).unwrap();
    assert!((50..=400).contains(&reply.delay.as_millis()));
}

#[test]
fn texts_reach_who_called_within_a_day_and_nobody_else() {
    let mut world = World::new();
    let both = world.person.address();
    let by_bsuid = sauti_core::pii::CallerAddress { number: None, ..both.clone() };
    let id = world.text(&both).unwrap();
    assert!(world.text(&by_bsuid).is_ok());
    assert_eq!(world.graph.texts().len(), 2);
    assert_eq!(world.graph.texts()[0].to.expose(), "+250780000001");
    assert!(world.graph.texts()[1].by_bsuid);
    assert!(matches!(&world.out[0], GraphEffect::TextTaken { id: taken, opaque: Some(_), .. } if *taken == id));
    assert_eq!(world.text(&Person::numbered(5).address()), Err(Some(131_047)));
    world.later(secs(24 * 3600));
    assert_eq!(world.text(&both), Err(Some(131_047)));
    let bare = json!({"messaging_product": "whatsapp", "to": "250780000001", "type": "text", "text": {"body": "x"}});
    assert_eq!(code(&world.post("messages", bare.to_string().as_bytes()).unwrap()), (400, 131_047));
    let person = world.person.clone();
    world.graph.sign_of_life(world.now, &person);
    assert_eq!(world.post("messages", bare.to_string().as_bytes()).unwrap().status, 200);
    let flags: Vec<_> = world.graph.texts().iter().map(|text| text.without_plus).collect();
    assert_eq!(flags, [false, false, true]);
    let read = json!({"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.HBgM"});
    assert_eq!(world.post("messages", read.to_string().as_bytes()).unwrap().status, 200);
}

#[test]
fn nobody_answering_ends_the_call_when_patience_does() {
    let mut world = World::with(|options| options.patience.ring = secs(21));
    assert_eq!(world.graph.deadline(), Some(world.now.mono + secs(21)));
    assert_eq!(world.ask(Ask::PreAccept), Ok(()));
    world.later(secs(20)).later(secs(1)).later(secs(60));
    assert_eq!(world.causes(), [Cause::NotAnswered]);
    assert_eq!(world.ask(Ask::Accept), Err(RetryClass::AlreadyEnded));
    assert_eq!(world.graph.deadline(), None);
}

#[test]
fn an_accepted_call_without_media_ends_after_twenty_seconds() {
    let mut world = World::new();
    assert_eq!(world.ask(Ask::Accept), Ok(()));
    world.later(Duration::from_millis(19_999));
    assert!(world.causes().is_empty());
    world.later(Duration::from_millis(1));
    assert_eq!(world.causes(), [Cause::NoMedia]);
    let GraphEffect::Ended { ending, .. } = world.out.last().unwrap() else { panic!() };
    assert_eq!(ending.code(), Some(138_021));
    assert_eq!(ending.end.as_second() - ending.start.unwrap().as_second(), 20);
}

#[test]
fn media_that_stops_ends_the_call_after_thirty_seconds() {
    let mut world = World::new();
    assert_eq!(world.ask(Ask::Accept), Ok(()));
    for _ in 0..10 {
        world.later(secs(19));
        world.graph.media(world.now, &world.wacid);
    }
    assert!(world.causes().is_empty());
    world.later(secs(30));
    assert_eq!(world.causes(), [Cause::MediaStopped]);
}

#[test]
fn media_before_the_accept_is_noticed() {
    let mut world = World::new();
    assert_eq!(world.ask(Ask::PreAccept), Ok(()));
    world.graph.media(world.now, &world.wacid);
    world.later(secs(2));
    assert_eq!(world.ask(Ask::Accept), Ok(()));
    assert_eq!(world.ask(Ask::Terminate), Ok(()));
    let record = world.graph.record(&world.wacid).unwrap();
    assert!(record.early_media);
    let (_, ending) = record.ended.unwrap();
    assert_eq!(ending.end.as_second() - ending.start.unwrap().as_second(), 2);
}

#[test]
fn a_full_number_rings_no_more() {
    let mut world = World::with(|options| options.most_calls = 1);
    let other = Person::numbered(1);
    let wacid = world.graph.new_wacid(&other, false);
    assert!(!world.graph.ring(world.now, &wacid, &other, &Pii::default()));
    assert_eq!(world.ask(Ask::Reject), Ok(()));
    assert!(world.graph.ring(world.now, &wacid, &other, &Pii::default()));
    world.graph.forget();
    assert_eq!(world.graph.records().count(), 1);
}

#[test]
fn a_call_to_a_person_needs_permission_and_a_free_pair() {
    let mut world = World::new();
    let body = json!({"messaging_product": "whatsapp", "to": "+250780000001", "action": "connect",
        "session": {"sdp_type": "offer", "sdp": "v=0\r\n"}})
    .to_string();
    assert_eq!(code(&world.post("calls", body.as_bytes()).unwrap()), (401, 138_006));
    let person = world.person.clone();
    world.graph.permit_calls(&person);
    assert_eq!(code(&world.post("calls", body.as_bytes()).unwrap()), (400, 138_003));
    assert_eq!(world.ask(Ask::Reject), Ok(()));
    let reply = world.post("calls", body.as_bytes()).unwrap();
    assert_eq!(reply.status, 200);
    assert!(String::from_utf8(reply.body).unwrap().contains("wacid.HBgM"));
    assert!(matches!(world.out.last(), Some(GraphEffect::Calling { .. })));
    assert_eq!(world.get("/call_permissions?user_wa_id=%2B250780000001").1["permission"]["status"], "permanent");
    assert_eq!(world.get("/call_permissions?recipient=RW.1").1["permission"]["status"], "no_permission");
    assert_eq!(world.get("/call_permissions").0, 400);
}

#[test]
fn a_number_set_to_sip_or_off_takes_no_calls_here() {
    let mut world = World::new();
    let set = |body: Value| body.to_string().into_bytes();
    let on = set(json!({"calling": {"sip": {"status": "ENABLED", "servers": [{"hostname": "sip.example.com"}]}}}));
    assert_eq!(world.post("settings", &on).unwrap().status, 200);
    assert_eq!(world.ask(Ask::PreAccept), Err(RetryClass::Forbidden));
    assert_eq!(world.get("/settings").1["calling"]["sip"]["status"], "ENABLED");
    let off = set(json!({"calling": {"sip": {"status": "DISABLED", "servers": []}, "status": "DISABLED"}}));
    assert_eq!(world.post("settings", &off).unwrap().status, 200);
    assert_eq!(world.ask(Ask::PreAccept), Err(RetryClass::Forbidden));
    assert_eq!(world.get("?fields=health_status").1["health_status"]["can_send_message"], "BLOCKED");
    assert_eq!(world.out, [GraphEffect::SettingsChanged, GraphEffect::SettingsChanged]);
}

#[test]
fn nothing_personal_shows_in_the_debug_output_of_the_graph() {
    let mut world = World::new();
    assert_eq!(world.ask(Ask::PreAccept), Ok(()));
    let address = world.person.address();
    assert!(world.text(&address).is_ok());
    let shown = format!("{:?} {:?}", world.graph, world.out);
    for personal in ["250780000001", "canary-whatsapp-token", "HBgM", "ice-ufrag", "Sorry"] {
        assert!(!shown.contains(personal), "{personal}");
    }
}

proptest! {
    #[test]
    fn no_request_makes_graph_panic(method in "GET|POST|PUT|", path in "(/v26.0/100000000000002)?[a-z/?=&%0-9.]{0,30}",
        token in any::<bool>(), body in any::<Vec<u8>>(), words in "[ -~]{0,20}") {
        let mut world = World::new();
        let token = token.then_some("Bearer canary-whatsapp-token");
        prop_assert!(world.raw(&method, &path, token, &body).is_some());
        let json = json!({"messaging_product": "whatsapp", "action": words, "call_id": words, "to": words,
            "calling": {"sip": words}, "session": {"sdp": words, "sdp_type": "answer"}}).to_string();
        for edge in ["calls", "messages", "settings", "media", "x"] {
            prop_assert!(world.post(edge, json.as_bytes()).is_some());
        }
    }

    #[test]
    fn whatever_is_asked_a_call_ends_at_most_once(asks in prop::collection::vec(0_usize..7, 0..40), seed in any::<u64>()) {
        let mut world = World::new();
        let mut dice = Dice::new(seed);
        for ask in asks {
            match ask {
                0..4 => { let _taken = world.ask(Ask::ALL[ask]).is_ok(); }
                4 => { world.later(Duration::from_millis(dice.below(12_000))); }
                5 => world.graph.media(world.now, &world.wacid),
                _ => world.graph.end(world.now, &world.wacid.clone(), Cause::HungUp, &mut world.out),
            }
        }
        world.later(secs(60)).later(secs(60));
        prop_assert_eq!(world.causes().len(), 1);
        let accepted = world.out.iter().filter(|effect| matches!(effect, GraphEffect::Accepted { .. })).count();
        let delivered = world.out.iter().filter(|effect| matches!(effect, GraphEffect::AnswerDelivered { .. })).count();
        prop_assert!(accepted <= 1 && delivered <= 1 && accepted <= delivered);
    }
}

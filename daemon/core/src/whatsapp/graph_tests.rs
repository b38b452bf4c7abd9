//! Requests byte by byte, answers of every kind, and when to ask again.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::whatsapp::graph_codes::media_code;

const ANSWER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\na=ice-pwd:a/b==\r\na=x:\"é\"\r\n";

fn wacid() -> Pii {
    Pii::new("wacid.HBgM+/=")
}

fn read_back(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn envelope(code: i64, details: &str) -> Vec<u8> {
    json!({"error": {"message": format!("(#{code}) about +250780000001"), "type": "OAuthException", "code": code,
        "error_data": {"messaging_product": "whatsapp", "details": details}, "fbtrace_id": "Az8or2_x"}})
    .to_string()
    .into_bytes()
}

fn failed(ask: Ask, http: u16, code: i64, details: &str) -> GraphError {
    read_action(ask, http, &envelope(code, details)).unwrap_err()
}

#[test]
fn the_sdp_reaches_graph_byte_for_byte_and_escaped_once() {
    let (wacid, answer) = (wacid(), Pii::new(ANSWER));
    let opaque = Opaque::new("call-1").unwrap();
    let pre_accept = CallRequest::pre_accept(&wacid, &answer).to_json();
    let accept = CallRequest::accept(&wacid, &answer, Some(&opaque)).to_json();
    let text = String::from_utf8(accept.clone()).unwrap();
    assert!(text.contains(r"v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n"), "{text}");
    for body in [&pre_accept, &accept] {
        let body = read_back(body);
        assert_eq!(body["session"], json!({"sdp_type": "answer", "sdp": ANSWER}));
        assert_eq!(body["call_id"], "wacid.HBgM+/=");
        assert_eq!(body["messaging_product"], "whatsapp");
    }
    assert_eq!(read_back(&pre_accept)["action"], "pre_accept");
    assert_eq!(read_back(&accept)["biz_opaque_callback_data"], "call-1");
}

#[test]
fn reject_and_terminate_carry_the_call_alone() {
    let wacid = wacid();
    for (body, action) in [(CallRequest::reject(&wacid), "reject"), (CallRequest::terminate(&wacid), "terminate")] {
        assert_eq!(
            read_back(&body.to_json()),
            json!({"messaging_product": "whatsapp", "call_id": "wacid.HBgM+/=", "action": action})
        );
    }
}

#[test]
fn a_text_goes_to_the_number_with_a_plus_or_else_to_the_bsuid() {
    let opaque = Opaque::new("call-1").unwrap();
    let bsuid = Some(Pii::new("RW.13491208655302741918"));
    let both = CallerAddress { number: Some(Pii::new("250780000001")), bsuid: bsuid.clone() };
    let by_number = TextRequest::new(&both, " Sorry! ", &opaque).unwrap().to_json();
    assert_eq!(
        read_back(&by_number),
        json!({"messaging_product": "whatsapp", "recipient_type": "individual", "to": "+250780000001", "type": "text",
            "text": {"preview_url": false, "body": "Sorry!"}, "biz_opaque_callback_data": "call-1"})
    );
    let nameless = CallerAddress { number: None, bsuid };
    let by_bsuid = read_back(&TextRequest::new(&nameless, "Sorry!", &opaque).unwrap().to_json());
    assert_eq!((by_bsuid.get("to"), &by_bsuid["recipient"]), (None, &json!("RW.13491208655302741918")));
    assert!(TextRequest::new(&CallerAddress::default(), "Sorry!", &opaque).is_none());
    assert!(TextRequest::new(&both, "  ", &opaque).is_none());
}

#[test]
fn a_long_text_is_cut_between_characters_and_a_long_opaque_is_refused() {
    let opaque = Opaque::new("x").unwrap();
    let to = CallerAddress { number: Some(Pii::new("250780000001")), bsuid: None };
    let body = read_back(&TextRequest::new(&to, &"é".repeat(5_000), &opaque).unwrap().to_json());
    assert_eq!(body["text"]["body"].as_str().unwrap().chars().count(), 4_096);
    assert!(Opaque::new("x".repeat(512)).is_some() && Opaque::new("x".repeat(513)).is_none());
}

#[test]
fn asks_go_to_the_number_under_the_configured_version() {
    let endpoint = Endpoint { base: "https://graph.facebook.com/", version: "v26.0", phone_number_id: "1" };
    assert_eq!(endpoint.url(Ask::Accept), "https://graph.facebook.com/v26.0/1/calls");
    assert_eq!(endpoint.url(Ask::Text), "https://graph.facebook.com/v26.0/1/messages");
}

#[test]
fn nothing_personal_shows_in_the_debug_output_of_a_request() {
    let (wacid, answer, opaque) = (wacid(), Pii::new(ANSWER), Opaque::new("x").unwrap());
    let to = CallerAddress { number: Some(Pii::new("250780000001")), bsuid: None };
    let shown = format!(
        "{:?} {:?}",
        CallRequest::accept(&wacid, &answer, Some(&opaque)),
        TextRequest::new(&to, "Dear Test Caller", &opaque)
    );
    for personal in ["wacid", "v=0", "250780000001", "Test Caller"] {
        assert!(!shown.contains(personal), "{shown}");
    }
}

#[test]
fn only_success_true_counts_as_done() {
    assert_eq!(read_action(Ask::Accept, 200, br#"{"messaging_product":"whatsapp","success":true}"#), Ok(()));
    assert_eq!(read_action(Ask::Accept, 200, br#"{"success":true}"#), Ok(()));
    for body in [r#"{"success":false}"#, r#"{"success":"true"}"#, "{}", "", "<html>", "[]"] {
        let error = read_action(Ask::PreAccept, 200, body.as_bytes()).unwrap_err();
        assert_eq!((error.failure, error.class), (Failure::NotDone, RetryClass::Retry), "{body}");
    }
    assert!(read_action(Ask::Accept, 200, &envelope(190, "")).is_err());
    assert!(read_action(Ask::Accept, 500, br#"{"success":true}"#).is_err());
}

#[test]
fn the_id_of_a_text_is_read_and_its_absence_is_an_error() {
    let id = read_message(200, br#"{"messages":[{"id":"wamid.HBgM","message_status":"accepted"}]}"#).unwrap();
    assert_eq!(id.expose(), "wamid.HBgM");
    for body in ["{}", r#"{"messages":[]}"#, r#"{"messages":[{"id":""}]}"#, "x"] {
        let error = read_message(200, body.as_bytes()).unwrap_err();
        assert!(!error.was_not_done(), "{body}");
    }
    assert_eq!(read_message(400, &envelope(131_047, "")).unwrap_err().class, RetryClass::WindowClosed);
}

#[test]
fn each_code_has_its_class_and_its_culprit() {
    use RetryClass::{BackOff, Forbidden, Never, Retry, SdpRefused, TokenDead, WindowClosed};
    for (http, code, class, fault) in [
        (401, 190, TokenDead, Fault::Operator),
        (401, 0, TokenDead, Fault::Operator),
        (401, 138_000, Forbidden, Fault::Operator),
        (401, 138_006, Never, Fault::Caller),
        (400, 138_008, SdpRefused, Fault::Box),
        (429, 138_002, BackOff, Fault::Whatsapp),
        (500, 138_004, Retry, Fault::Whatsapp),
        (500, 131_016, Retry, Fault::Whatsapp),
        (500, 131_000, Retry, Fault::Whatsapp),
        (400, 4, BackOff, Fault::Whatsapp),
        (400, 80_007, BackOff, Fault::Whatsapp),
        (400, 130_429, BackOff, Fault::Whatsapp),
        (400, 131_047, WindowClosed, Fault::Operator),
        (400, 131_055, Forbidden, Fault::Operator),
        (403, 230, Forbidden, Fault::Operator),
        (403, 368, Forbidden, Fault::Operator),
        (500, 999_999, Retry, Fault::Whatsapp),
        (400, 999_999, Never, Fault::Whatsapp),
    ] {
        let error = failed(Ask::PreAccept, http, code, "");
        assert_eq!((error.class, error.fault), (class, fault), "code {code}");
        assert!(!error.remedy.is_empty());
    }
}

#[test]
fn an_answer_without_a_code_is_judged_by_its_status() {
    use RetryClass::{BackOff, Forbidden, Never, Retry, TokenDead};
    for (http, class) in [
        (401, TokenDead),
        (403, Forbidden),
        (404, Forbidden),
        (408, Retry),
        (429, BackOff),
        (502, Retry),
        (599, Retry),
        (302, Never),
        (418, Never),
    ] {
        let error = read_action(Ask::Accept, http, b"<html>bad gateway</html>").unwrap_err();
        assert_eq!((error.class, error.http, error.code), (class, Some(http), None));
    }
}

#[test]
fn code_100_is_read_by_what_was_asked_and_by_its_words() {
    use RetryClass::{AlreadyDone, AlreadyEnded, Never, SdpRefused};
    for (ask, details, class) in [
        (Ask::PreAccept, "", SdpRefused),
        (Ask::Accept, "", AlreadyDone),
        (Ask::Accept, "SDP answer in accept does not match pre-accept", SdpRefused),
        (Ask::Accept, "Accept an already In Progress/Completed/Failed call", AlreadyDone),
        (Ask::Accept, "The user has already terminated the call", AlreadyEnded),
        (Ask::PreAccept, "Call not found", AlreadyEnded),
        (Ask::Terminate, "", AlreadyEnded),
        (Ask::Reject, "Reject call is already in progress", AlreadyDone),
        (Ask::Text, "", Never),
    ] {
        assert_eq!(failed(ask, 400, 100, details).class, class, "{ask} {details}");
    }
    let body =
        json!({"error": {"code": "100", "error_subcode": 33, "message": "Unsupported post request"}}).to_string();
    let error = read_action(Ask::PreAccept, 400, body.as_bytes()).unwrap_err();
    assert_eq!((error.class, error.fault), (RetryClass::Forbidden, Fault::Operator));
}

#[test]
fn the_call_machine_gets_the_verdict_that_fits() {
    use DoorVerdict::{Done, Ended, Forbidden, Refused, SdpRefused, Unknown};
    for (error, verdict) in [
        (GraphError::timed_out(Ask::Accept), Unknown),
        (GraphError::broken(Ask::PreAccept), Unknown),
        (GraphError::unreachable(Ask::PreAccept), Refused),
        (read_action(Ask::Accept, 502, b"").unwrap_err(), Unknown),
        (failed(Ask::Accept, 400, 100, ""), Refused),
        (failed(Ask::Accept, 400, 138_008, ""), SdpRefused),
        (failed(Ask::Accept, 400, 100, "already terminated"), Ended),
        (failed(Ask::Terminate, 400, 100, "already terminated"), Done),
        (failed(Ask::Reject, 400, 100, "Reject call is already in progress"), Done),
        (failed(Ask::PreAccept, 401, 190, ""), Forbidden),
        (failed(Ask::PreAccept, 401, 138_000, ""), Forbidden),
    ] {
        assert_eq!(error.verdict(), verdict, "{error}");
    }
}

#[test]
fn a_repeated_pre_accept_is_done_if_its_first_attempt_may_have_been() {
    let refused = failed(Ask::PreAccept, 400, 100, "");
    assert_eq!(refused.verdict(), DoorVerdict::SdpRefused);
    assert_eq!(refused.after_doubt().verdict(), DoorVerdict::Done);
    let told = failed(Ask::PreAccept, 400, 100, "pre_accept an already In Progress call");
    assert_eq!(told.verdict(), DoorVerdict::Done);
    let gone = failed(Ask::PreAccept, 400, 100, "The user has already terminated the call").after_doubt();
    assert_eq!(gone.verdict(), DoorVerdict::Ended);
    assert_eq!(failed(Ask::PreAccept, 400, 138_008, "").after_doubt().verdict(), DoorVerdict::SdpRefused);
    assert_eq!(failed(Ask::Accept, 400, 100, "sdp").after_doubt().verdict(), DoorVerdict::SdpRefused);
}

#[test]
fn an_error_says_what_to_do_and_never_what_graph_said() {
    let error = failed(Ask::Text, 401, 190, "token canary-whatsapp-token of Test Caller");
    assert_eq!(
        error.to_string(),
        "Graph text: answered, HTTP 401, code 190, trace Az8or2_x: whatsapp_access_token is refused; renew it and restart the daemon"
    );
    assert!(error.is_alarm());
    let shown = format!("{error:?}");
    for personal in ["250780000001", "canary", "Test Caller"] {
        assert!(!shown.contains(personal), "{shown}");
    }
}

#[test]
fn a_passing_fault_is_tried_twice_more_within_the_budget() {
    let policy = RetryPolicy::of(Ask::PreAccept);
    let error = failed(Ask::PreAccept, 500, 131_016, "");
    let waits: Vec<_> = (0..4).map(|retried| policy.next(&error, retried, Duration::ZERO)).collect();
    assert_eq!(waits, [Some(Duration::from_millis(150)), Some(Duration::from_millis(300)), None, None]);
    assert_eq!(policy.next(&error, 0, policy.budget), None);
    assert_eq!(policy.next(&error, 0, Duration::MAX), None);
    let limited = failed(Ask::PreAccept, 400, 130_429, "");
    assert_eq!(policy.next(&limited, 1, Duration::ZERO), Some(Duration::from_secs(2)));
}

#[test]
fn final_errors_are_never_tried_again() {
    for (http, code) in [(401, 190), (400, 138_008), (400, 100), (400, 131_047), (403, 10), (400, 138_003)] {
        for ask in Ask::ALL {
            let error = failed(*ask, http, code, "");
            assert_eq!(RetryPolicy::of(*ask).next(&error, 0, Duration::ZERO), None, "{error}");
        }
    }
}

#[test]
fn a_text_that_may_have_been_sent_is_not_sent_again() {
    let policy = RetryPolicy::of(Ask::Text);
    let lost = read_message(502, b"bad gateway").unwrap_err();
    let unread = read_message(200, b"").unwrap_err();
    for error in [GraphError::timed_out(Ask::Text), GraphError::broken(Ask::Text), lost, unread] {
        assert_eq!(policy.next(&error, 0, Duration::ZERO), None, "{error}");
    }
    for error in [GraphError::unreachable(Ask::Text), failed(Ask::Text, 500, 131_016, "")] {
        assert!(policy.next(&error, 0, Duration::ZERO).is_some(), "{error}");
    }
}

#[test]
fn each_code_says_whether_a_text_is_owed_on_or_given_up() {
    use crate::record::TextVerdict::{Again, Failed, Unknown};
    // The window is closed, the person cannot be reached or has blocked us, or the text itself is refused: no more.
    for code in [131_047, 131_026, 131_009, 131_021, 131_030, 131_048, 131_049, 131_008] {
        assert_eq!(failed(Ask::Text, 400, code, "").text_verdict(), Failed, "{code}");
    }
    // Meta is not well or asks to slow down, or somebody has to change a setting: it waits.
    for code in
        [131_000, 131_016, 131_057, 130_429, 131_056, 133_010, 130_497, 131_042, 131_044, 190, 0, 1, 2, 4, 10, 368]
    {
        assert_eq!(failed(Ask::Text, 400, code, "").text_verdict(), Again, "{code}");
    }
    for (http, verdict) in [(400, Failed), (401, Again), (403, Again), (404, Again), (429, Again), (408, Again)] {
        assert_eq!(read_message(http, b"").unwrap_err().text_verdict(), verdict, "HTTP {http}");
    }
    // It may have gone out.
    for error in [
        GraphError::timed_out(Ask::Text),
        GraphError::broken(Ask::Text),
        read_message(502, b"bad gateway").unwrap_err(),
        read_message(200, b"").unwrap_err(),
    ] {
        assert_eq!(error.text_verdict(), Unknown, "{error}");
    }
    assert_eq!(GraphError::unreachable(Ask::Text).text_verdict(), Again);
}

#[test]
fn an_accept_without_an_answer_is_left_to_the_call_machine() {
    let policy = RetryPolicy::of(Ask::Accept);
    assert_eq!(policy.next(&GraphError::timed_out(Ask::Accept), 0, Duration::ZERO), None);
    assert!(policy.next(&GraphError::unreachable(Ask::Accept), 0, Duration::ZERO).is_some());
    assert!(policy.next(&failed(Ask::Accept, 500, 131_016, ""), 0, Duration::ZERO).is_some());
    assert!(RetryPolicy::of(Ask::Terminate).next(&GraphError::timed_out(Ask::Terminate), 0, Duration::ZERO).is_some());
}

#[test]
fn the_media_faults_of_a_terminate_name_their_culprit() {
    assert_eq!(media_code(138_021).unwrap().0, Fault::Box);
    assert_eq!(media_code(138_020).unwrap().0, Fault::Whatsapp);
    assert!(media_code(131_044).is_none());
}

proptest! {
    #[test]
    fn no_answer_makes_the_reader_panic(http in any::<u16>(), body in any::<Vec<u8>>(), code in any::<i64>(), words in ".{0,60}") {
        for ask in Ask::ALL {
            prop_assert!(read_action(*ask, http, &body).is_err());
            prop_assert!(read_action(*ask, http, &envelope(code, &words)).is_err());
        }
        prop_assert!(read_message(http, &body).is_err());
    }

    #[test]
    fn any_sdp_survives_the_way_through_json(sdp in any::<String>()) {
        let (wacid, answer) = (wacid(), Pii::new(sdp.clone()));
        let body = read_back(&CallRequest::pre_accept(&wacid, &answer).to_json());
        prop_assert_eq!(body["session"]["sdp"].as_str(), Some(sdp.as_str()));
    }

    #[test]
    fn no_ask_is_tried_beyond_its_retries_or_budget(code in any::<i64>(), http in any::<u16>(), retried in any::<u32>(), spent in any::<u32>()) {
        let spent = Duration::from_millis(u64::from(spent));
        for ask in Ask::ALL {
            let policy = RetryPolicy::of(*ask);
            if let Some(wait) = policy.next(&failed(*ask, http, code, ""), retried, spent) {
                prop_assert!(retried < policy.retries && spent + wait < policy.budget);
            }
        }
    }
}

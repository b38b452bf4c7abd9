//! Bodies as Meta sends them, and as nobody should.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::pii::BoxKey;

const OURS: &str = "100000000000002";
const WACID: &str = "wacid.HBgMMjUwNzgwMDAwMDAxFQIAEhggM0VCMEM0MzFEMjZBMUYwRAA=";

fn change(field: &str, mut value: Value) -> Value {
    if value.get("metadata").is_none() {
        value["metadata"] = json!({"display_phone_number": "35690000002", "phone_number_id": OURS});
    }
    value["messaging_product"] = json!("whatsapp");
    json!({"value": value, "field": field})
}

fn body(changes: &[Value]) -> Vec<u8> {
    let root = json!({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": changes}]});
    serde_json::to_vec(&root).unwrap()
}

fn read(changes: &[Value]) -> WebhookBody {
    parse(&body(changes), OURS).unwrap()
}

fn only(value: Value) -> WebhookEvent {
    let mut read = read(&[change("calls", value)]);
    assert_eq!(read.events.len(), 1);
    read.events.remove(0)
}

fn contact() -> Value {
    json!([{"profile": {"name": "Test Caller"}, "wa_id": "250780000001", "user_id": "RW.13491208655302741918"}])
}

fn connect_call() -> Value {
    json!({"id": WACID, "from": "250780000001", "from_user_id": "RW.13491208655302741918", "to": "35690000002",
        "event": "connect", "timestamp": "1760681506", "direction": "USER_INITIATED",
        "session": {"sdp": "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n", "sdp_type": "offer"}})
}

fn connect_of(event: WebhookEvent) -> CallConnect {
    match event {
        WebhookEvent::Connect(connect) => connect,
        other => panic!("{other:?}"),
    }
}

fn terminate_of(event: WebhookEvent) -> CallTerminate {
    match event {
        WebhookEvent::Terminate(terminate) => terminate,
        other => panic!("{other:?}"),
    }
}

fn without(mut call: Value, keys: &[&str]) -> Value {
    for key in keys {
        call.as_object_mut().unwrap().remove(*key);
    }
    call
}

#[test]
fn a_connect_of_2026_is_read_in_full() {
    let mut call = connect_call();
    call["deeplink_payload"] = json!("table 7");
    call["cta_payload"] = json!("");
    let connect = connect_of(only(json!({"contacts": contact(), "calls": [call]})));
    assert_eq!(connect.wacid.expose(), WACID);
    assert_eq!(connect.caller.number.unwrap().expose(), "250780000001");
    assert_eq!(connect.caller.bsuid.unwrap().expose(), "RW.13491208655302741918");
    assert_eq!(connect.name.unwrap().expose(), "Test Caller");
    assert_eq!(connect.to.unwrap().expose(), "35690000002");
    assert_eq!(connect.phone_number_id.as_deref(), Some(OURS));
    assert_eq!(connect.timestamp.unwrap().as_second(), 1_760_681_506);
    assert_eq!(connect.direction, Direction::UserInitiated);
    assert_eq!(connect.offer.unwrap().expose(), "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n");
    assert_eq!(connect.answer, None);
    assert_eq!(connect.deeplink_payload.unwrap().expose(), "table 7");
    assert_eq!(connect.cta_payload, None);
}

#[test]
fn a_caller_without_a_number_is_known_by_bsuid() {
    let call = without(connect_call(), &["from"]);
    let contacts = json!([{"profile": {"username": "tester"}, "user_id": "RW.13491208655302741918"}]);
    let connect = connect_of(only(json!({"contacts": contacts, "calls": [call]})));
    assert_eq!(connect.caller.number, None);
    assert_eq!(connect.caller.bsuid.unwrap().expose(), "RW.13491208655302741918");
    assert_eq!(connect.name, None);
}

#[test]
fn contacts_direction_and_session_may_all_be_missing() {
    let call = without(connect_call(), &["direction", "session", "from", "from_user_id", "to", "timestamp"]);
    let connect = connect_of(only(json!({"calls": [call]})));
    assert!(connect.caller.is_unknown());
    assert_eq!((connect.offer, connect.timestamp), (None, None));
    assert_eq!(connect.direction, Direction::UserInitiated);
    let connect =
        connect_of(only(json!({"contacts": contact(), "calls": [without(connect_call(), &["from", "from_user_id"])]})));
    assert_eq!(connect.caller.number.unwrap().expose(), "250780000001");
}

#[test]
fn ids_and_times_may_be_numbers() {
    let mut call = connect_call();
    call["from"] = json!(250_780_000_001_u64);
    call["timestamp"] = json!(1_760_681_506);
    let metadata = json!({"phone_number_id": 100_000_000_000_002_u64});
    let connect = connect_of(only(json!({"metadata": metadata, "contacts": contact(), "calls": [call]})));
    assert_eq!(connect.caller.number.unwrap().expose(), "250780000001");
    assert_eq!(connect.timestamp.unwrap().as_second(), 1_760_681_506);
    assert_eq!(connect.name.unwrap().expose(), "Test Caller");
}

#[test]
fn an_identity_is_never_made_of_the_digits_in_other_text() {
    let mut call = without(connect_call(), &["from_user_id"]);
    call["from"] = json!("RW.13491208655302741918");
    let caller = connect_of(only(json!({"calls": [call.clone()]}))).caller;
    assert_eq!((caller.number, caller.bsuid.unwrap().expose()), (None, "RW.13491208655302741918"));
    call["from"] = json!("+250780000001");
    let caller = connect_of(only(json!({"calls": [call]}))).caller;
    assert_eq!(caller.number.unwrap().expose(), "250780000001");
}

#[test]
fn two_calls_with_two_contacts_keep_their_own_names() {
    let mut other = connect_call();
    other["id"] = json!("wacid.HBgMother");
    other["from"] = json!("35699000003");
    other["from_user_id"] = json!("MT.1");
    let contacts = json!([{"profile": {"name": "Other"}, "user_id": "MT.1"}, contact()[0]]);
    let read = read(&[change("calls", json!({"contacts": contacts, "calls": [connect_call(), other]}))]);
    let names: Vec<_> = read.events.into_iter().map(|event| connect_of(event).name.unwrap()).collect();
    assert_eq!(names, [Pii::new("Test Caller"), Pii::new("Other")]);
}

#[test]
fn the_legacy_connection_beside_the_session_is_ignored() {
    let mut call = connect_call();
    call["connection"] = json!({"webrtc": {"sdp": "{\"sdp\":\"v=1\",\"type\":\"offer\"}"}});
    let connect = connect_of(only(json!({"calls": [call.clone()]})));
    assert!(connect.offer.unwrap().expose().starts_with("v=0"));
    let connect = connect_of(only(json!({"calls": [without(call, &["session"])]})));
    assert_eq!(connect.offer, None);
}

#[test]
fn the_answer_to_our_own_call_names_the_person_called() {
    let call = json!({"id": WACID, "from": "35690000002", "to": "250780000001", "to_user_id": "RW.1", "event": "connect",
        "direction": "BUSINESS_INITIATED", "session": {"sdp": "v=0\r\n", "sdp_type": "answer"}});
    let connect = connect_of(only(json!({"calls": [call]})));
    assert_eq!(connect.caller.number.unwrap().expose(), "250780000001");
    assert_eq!(connect.to.unwrap().expose(), "35690000002");
    assert_eq!((connect.offer, connect.answer), (None, Some(Pii::new("v=0\r\n"))));
    let silent = connect_of(only(json!({"calls": [without(call, &["direction"])]})));
    assert_eq!(silent.direction, Direction::BusinessInitiated);
}

#[test]
fn a_real_terminate_names_its_doubled_error_once() {
    let errors = json!([{"code": 138_021, "title": "no media", "message": "no media", "error_data": {"details": "…"}}]);
    let call = json!({"id": WACID, "from": "250780000001", "event": "terminate", "timestamp": "1760681533",
        "direction": "USER_INITIATED", "start_time": "1760681513", "end_time": "1760681533", "duration": 20,
        "status": "FAILED", "errors": errors, "deeplink_payload": "", "biz_opaque_callback_data": ""});
    let terminate = terminate_of(only(json!({"calls": [call], "errors": errors})));
    assert_eq!(terminate.status, TerminateStatus::Failed);
    assert_eq!(terminate.error_codes, [138_021]);
    assert_eq!(terminate.duration, Some(Duration::from_secs(20)));
    assert_eq!(terminate.start_time.unwrap().as_second(), 1_760_681_513);
    assert!(terminate.was_answered());
    assert_eq!(terminate.opaque, None);
}

#[test]
fn every_other_form_of_a_terminate_is_read_too() {
    let bare = |call: Value, errors: Value| {
        let mut call = call;
        call["id"] = json!(WACID);
        call["event"] = json!("terminate");
        terminate_of(only(json!({"calls": [call], "errors": errors})))
    };
    let unanswered = bare(json!({"status": "COMPLETED"}), Value::Null);
    assert_eq!((unanswered.status.clone(), unanswered.was_answered()), (TerminateStatus::Completed, false));
    assert_eq!(bare(json!({"status": "Completed"}), Value::Null).status, TerminateStatus::Completed);
    let documented = json!([{"code": 138_021, "message": "m", "href": "h", "error_data": {"details": "d"}}]);
    assert_eq!(bare(json!({"status": ["Failed"]}), documented).error_codes, [138_021]);
    let minimal = json!([{"code": "138021", "title": "No media for a long time."}]);
    assert_eq!(bare(json!({"errors": minimal}), Value::Null).error_codes, [138_021]);
    assert_eq!(bare(json!({}), Value::Null).status, TerminateStatus::Missing);
    assert_eq!(bare(json!({"duration": -5}), json!("oops")).duration, None);
    let odd = bare(json!({"status": "REJECTED by 250780000001"}), Value::Null).status;
    assert_eq!(odd, TerminateStatus::Other(Label::new("REJECTED?by?#")));
}

#[test]
fn a_call_without_an_event_is_told_by_its_shape() {
    assert!(matches!(only(json!({"calls": [without(connect_call(), &["event"])]})), WebhookEvent::Connect(_)));
    assert!(matches!(only(json!({"calls": [{"id": WACID, "duration": 3}]})), WebhookEvent::Terminate(_)));
    assert!(matches!(only(json!({"calls": [{"id": WACID}]})), WebhookEvent::Unknown(_)));
}

#[test]
fn statuses_of_calls_and_of_messages_are_told_apart() {
    let statuses = json!([
        {"id": WACID, "type": "call", "status": "RINGING", "timestamp": "1749197000", "recipient_id": "250780000001",
         "recipient_user_id": "RW.1", "biz_opaque_callback_data": "x"},
        {"id": "wamid.HBgM", "status": "failed", "recipient_id": "250780000001", "biz_opaque_callback_data": "call-1",
         "errors": [{"code": 131_047, "title": "Re-engagement message"}]},
        {"id": "wacid.HBgN", "status": "Accepted"},
        {"id": "wamid.HBgO", "status": "read"},
        {"id": "wamid.HBgO", "status": "warmed"}]);
    let read = read(&[change("messages", json!({"statuses": statuses}))]);
    let names: Vec<_> = read.events.iter().map(WebhookEvent::name).collect();
    assert_eq!(names, ["status:ringing", "message:failed", "status:accepted", "message:read", "message:warmed"]);
    let WebhookEvent::MessageStatus(failed) = &read.events[1] else { panic!() };
    assert_eq!(failed.error_codes, [131_047]);
    assert_eq!(failed.opaque.as_ref().unwrap().expose(), "call-1");
    assert!(!failed.status.was_sent() && Delivery::Read.was_sent());
    let WebhookEvent::CallStatus(ringing) = &read.events[0] else { panic!() };
    assert_eq!(ringing.recipient.number.as_ref().unwrap().expose(), "250780000001");
}

#[test]
fn a_text_gives_away_its_sender_but_not_its_words() {
    let message = json!({"from": "250780000001", "from_user_id": "RW.13491208655302741918", "id": "wamid.HBgM",
        "timestamp": "1760681506", "type": "text", "text": {"body": "hello"}});
    let read = read(&[change("messages", json!({"contacts": contact(), "messages": [message, {"type": "text"}]}))]);
    let WebhookEvent::Message(message) = &read.events[0] else { panic!() };
    assert_eq!(message.from.number.as_ref().unwrap().expose(), "250780000001");
    assert_eq!(message.kind.as_str(), "text");
    assert_eq!((read.events.len(), read.oddities.nameless), (1, 1));
}

#[test]
fn account_warnings_and_settings_are_told() {
    let restriction = json!({"value": {"phone_number": "35690000002", "event": "ACCOUNT_RESTRICTION", "restriction_info":
        [{"restriction_type": "RESTRICTED_USER_INITIATED_CALLING", "expiration": 1}]}, "field": "account_update"});
    let settings = json!({"value": {"messaging_product": "whatsapp", "type": "phone_number_settings",
        "phone_number_settings": {"phone_number_id": OURS, "calling": {"status": "DISABLED", "sip": {"status": "ENABLED"}}}},
        "field": "account_settings_update"});
    let mut foreign = settings.clone();
    foreign["value"]["phone_number_settings"]["phone_number_id"] = json!("2");
    let read = read(&[restriction, settings, foreign]);
    let WebhookEvent::Account(restricted) = &read.events[0] else { panic!() };
    assert_eq!(restricted.details, [Label::new("RESTRICTED_USER_INITIATED_CALLING")]);
    assert!(restricted.is_alarming());
    let WebhookEvent::Account(changed) = &read.events[1] else { panic!() };
    assert_eq!(changed.event.as_str(), "phone_number_settings");
    assert_eq!(changed.details, [Label::new("status:DISABLED"), Label::new("sip.status:ENABLED")]);
    assert!(changed.is_alarming());
    assert_eq!((read.events.len(), read.oddities.other_number), (2, 1));
}

#[test]
fn errors_that_belong_to_nothing_are_told_by_code() {
    let errors = json!([{"code": 131_044, "title": "no payment method"}]);
    let WebhookEvent::Errors(told) = only(json!({"errors": errors})) else { panic!() };
    assert_eq!(told.codes, [131_044]);
}

#[test]
fn unknown_events_and_fields_are_kept_and_harm_nothing() {
    let read = read(&[
        change("calls", json!({"calls": [{"id": WACID, "event": "call_created"}, connect_call()]})),
        change("flows", json!({"event": "ENDPOINT_LATENCY"})),
        change("calls", json!({"something": "new"})),
    ]);
    let names: Vec<_> = read.events.iter().map(WebhookEvent::name).collect();
    assert_eq!(names, ["call_created", "connect", "ENDPOINT_LATENCY", "calls"]);
    assert_eq!(read.oddities.unknown, 3);
    assert_eq!(read.events[0].wacid().unwrap().expose(), WACID);
}

#[test]
fn a_broken_part_never_hides_its_neighbours() {
    let good = || change("calls", json!({"calls": [connect_call()]}));
    let broken = [
        json!(7),
        json!({"field": "calls"}),
        json!({"field": "calls", "value": "x"}),
        json!({"field": "calls", "value": {"calls": "x", "contacts": 5, "metadata": []}}),
        change("calls", json!({"calls": [null, 3, {"event": "connect"}, {"id": {}, "event": "terminate"}]})),
        change("calls", json!({"calls": [{"id": WACID, "event": 5, "timestamp": 1e300, "session": []}]})),
    ];
    for part in broken {
        let read = read(&[good(), part.clone(), good()]);
        let connects = read.events.iter().filter(|event| matches!(event, WebhookEvent::Connect(_))).count();
        assert_eq!(connects, 2, "{part}");
        assert!(!read.oddities.is_clean(), "{part}");
    }
}

#[test]
fn entries_that_are_no_list_are_counted_or_taken_for_one() {
    for (text, malformed) in
        [(r#"{"entry":"x"}"#, 1), (r#"{"entry":[1,2,{"changes":[3]}]}"#, 3), ("{}", 0), (r#"{"entry":null}"#, 0)]
    {
        let read = parse(text.as_bytes(), OURS).unwrap();
        assert_eq!((read.events.len(), read.oddities.malformed), (0, malformed), "{text}");
    }
    let lone = json!({"entry": {"changes": change("calls", json!({"calls": connect_call()}))}});
    assert_eq!(parse(lone.to_string().as_bytes(), OURS).unwrap().events.len(), 1);
}

#[test]
fn updates_for_another_number_are_counted_and_left_out() {
    let foreign = json!({"metadata": {"phone_number_id": "2"}, "calls": [connect_call(), connect_call()]});
    let read = read(&[change("calls", foreign), change("calls", json!({"calls": [connect_call()]}))]);
    assert_eq!((read.events.len(), read.oddities.other_number), (1, 2));
}

#[test]
fn more_than_a_thousand_changes_are_all_read() {
    let changes: Vec<_> = (0..1_200)
        .map(|nth| {
            let mut call = connect_call();
            call["id"] = json!(format!("wacid.HBgM{nth}"));
            change("calls", json!({"contacts": contact(), "calls": [call]}))
        })
        .collect();
    let read = read(&changes);
    assert_eq!(read.events.len(), 1_200);
    assert!(read.oddities.is_clean());
}

#[test]
fn text_that_is_no_json_is_refused_without_being_shown() {
    for text in ["", "no json 250780000001", "[1", "{\"entry\":[", "\u{feff}{}"] {
        let error = parse(text.as_bytes(), OURS).unwrap_err();
        assert!(matches!(error, BodyError::NotJson { .. }), "{text}");
        assert!(!error.to_string().contains("250780000001"));
    }
    assert_eq!(parse(b"[]", OURS), Err(BodyError::NotAnObject));
    assert!(parse("[".repeat(100_000).as_bytes(), OURS).is_err());
}

#[test]
fn a_name_cut_in_half_does_not_lose_the_call() {
    let whole =
        String::from_utf8(body(&[change("calls", json!({"contacts": contact(), "calls": [connect_call()]}))])).unwrap();
    for (name, mended) in [
        (r"Test \ud83d", "Test \u{fffd}"),
        (r"\ude00 Test", "\u{fffd} Test"),
        (r"\ud83d\ude00 \ud83d\u0041 \\ud83d", "\u{1f600} \u{fffd}A \\ud83d"),
        (r"\ud83dé", "\u{fffd}é"),
    ] {
        let read = parse(whole.replace("Test Caller", name).as_bytes(), OURS).unwrap();
        assert_eq!(read.oddities.mended, 1);
        assert_eq!(connect_of(read.events.into_iter().next().unwrap()).name.unwrap().expose(), mended);
    }
    let mut bytes = whole.into_bytes();
    let at = bytes.windows(4).position(|window| window == b"Test").unwrap();
    bytes[at] = 0xff;
    assert_eq!(parse(&bytes, OURS).unwrap().events.len(), 1);
}

#[test]
fn escaped_slashes_and_letters_read_as_themselves() {
    let text = r#"{"entry":[{"changes":[{"field":"calls","value":{"calls":[{"id":"wacid.a\/b+c=","event":"connect",
        "session":{"sdp_type":"offer","sdp":"v=0\r\na=x:\u0041\/B==\r\n"}}]}}]}]}"#;
    let connect = connect_of(parse(text.as_bytes(), OURS).unwrap().events.remove(0));
    assert_eq!(connect.wacid.expose(), "wacid.a/b+c=");
    assert_eq!(connect.offer.unwrap().expose(), "v=0\r\na=x:A/B==\r\n");
}

#[test]
fn a_second_delivery_has_the_key_of_the_first_padded_or_not() {
    let key = BoxKey::new([9; 32]);
    let mut bare = connect_call();
    bare["id"] = json!(WACID.trim_end_matches('='));
    let keys: Vec<_> = [connect_call(), bare].map(|call| only(json!({"calls": [call]})).key(&key).unwrap()).into();
    assert_eq!(keys[0], keys[1]);
    let ended = only(json!({"calls": [{"id": WACID, "event": "terminate"}]})).key(&key).unwrap();
    assert_eq!(keys[0].call, ended.call);
    assert_ne!(keys[0], ended);
    assert_eq!(only(json!({"errors": [{"code": 1}]})).key(&key), None);
}

#[test]
fn nothing_personal_shows_in_debug_output() {
    let read = read(&[change("calls", json!({"contacts": contact(), "calls": [connect_call()]}))]);
    let shown = format!("{read:?}");
    for personal in ["250780000001", "35690000002", "RW.1349", "Test Caller", "wacid.", "v=0"] {
        assert!(!shown.contains(personal), "{personal} in {shown}");
    }
}

/// JSON of the right keys and any values at all.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "entry",
        "changes",
        "field",
        "value",
        "calls",
        "statuses",
        "messages",
        "contacts",
        "errors",
        "id",
        "event",
        "code",
        "metadata",
        "phone_number_id",
        "timestamp",
        "duration",
        "session",
        "sdp",
        "status",
        "from",
        "type",
        "restriction_info",
        "phone_number_settings",
        "calling",
        "profile",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["calls", "messages", "account_update", "connect", "terminate", OURS])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 96, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in any::<Vec<u8>>()) {
        prop_assert!(parse(&bytes, OURS).is_err());
    }

    #[test]
    fn no_json_makes_the_reader_panic(value in any_json()) {
        let text = value.to_string();
        prop_assert!(parse(text.as_bytes(), OURS).is_ok() == value.is_object());
        let nested = json!({"entry": [{"changes": [{"field": "calls", "value": value}]}]});
        prop_assert!(parse(nested.to_string().as_bytes(), OURS).is_ok());
    }

    #[test]
    fn no_cut_or_flipped_byte_makes_the_reader_panic(cut in 0_usize..900, at in 0_usize..900, byte in any::<u8>()) {
        let mut bytes = body(&[change("calls", json!({"contacts": contact(), "calls": [connect_call()]}))]);
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        if let Ok(read) = parse(&bytes, OURS) {
            prop_assert!(read.events.len() <= 1);
        }
        bytes.truncate(cut);
        prop_assert!(parse(&bytes, OURS).is_err() || cut >= bytes.len());
    }

    #[test]
    fn mending_leaves_sound_json_alone(text in any::<String>()) {
        let sound = Value::from(text).to_string();
        prop_assert_eq!(mended(&sound), sound.as_str());
    }

    #[test]
    fn mending_any_text_never_panics(text in r"(\\|u|d83d|ude00|é|x|[0-9a-f]){0,40}") {
        prop_assert!(mended(&text).len() <= text.len() + 1);
    }
}

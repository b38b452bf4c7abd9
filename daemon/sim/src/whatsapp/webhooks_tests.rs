//! Every body the emulator writes, read by the product.

use std::time::Duration;

use sauti_core::whatsapp::signature::{Verification, answer_verification};
use sauti_core::whatsapp::webhook::{CallTerminate, TerminateStatus, WebhookBody, WebhookEvent, parse};
use secrecy::SecretString;

use super::*;
use crate::whatsapp::calls::Cause;
use crate::whatsapp::offer::Offer;
use crate::whatsapp::wacid::{wacid, wamid};

const PNID: &str = "100000000000002";

fn wall() -> Timestamp {
    Timestamp::from_millisecond(1_760_681_506_762).unwrap()
}

fn hooks(generation: Generation) -> Webhooks {
    Webhooks { business: Business::test(PNID), generation }
}

fn read(changes: &[Change]) -> WebhookBody {
    let read = parse(&body(&Business::test(PNID), changes), PNID).unwrap();
    assert_eq!(read.oddities.malformed + read.oddities.nameless + read.oddities.mended, 0);
    read
}

fn one(change: Change) -> WebhookEvent {
    let mut read = read(&[change]);
    assert_eq!(read.events.len(), 1);
    read.events.remove(0)
}

fn call_id() -> Pii {
    wacid(&mut Dice::new(5), &Person::test_caller().number, &Pii::new("35690000002"), true)
}

fn terminate(ending: Ending, form: ErrorForm) -> CallTerminate {
    let change =
        hooks(Generation::Of2026).terminate(wall(), &call_id(), &Person::test_caller(), &ending, form, Some("c"));
    match one(change) {
        WebhookEvent::Terminate(terminate) => terminate,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connect_of_every_generation_is_read_with_the_caller_that_it_names() {
    let person = Person::test_caller();
    let offer = Offer::captured(&mut Dice::new(1)).sdp(wall());
    for generation in Generation::ALL {
        let change = hooks(generation).connect(wall(), &call_id(), &person, &offer);
        let WebhookEvent::Connect(connect) = one(change) else { panic!() };
        assert_eq!(connect.offer.as_ref(), Some(&offer), "{generation:?}");
        assert_eq!(connect.wacid, call_id());
        assert_eq!(connect.caller.number.is_some(), generation != Generation::UsernameOnly);
        assert_eq!(connect.caller.bsuid.is_some(), generation != Generation::Of2025);
        assert_eq!(connect.name.is_some(), generation != Generation::ContactsAbsent);
        assert_eq!(connect.timestamp.unwrap().as_second(), wall().as_second());
    }
}

#[test]
fn every_form_of_a_terminate_is_read() {
    let start = Some(wall());
    let end = wall() + Duration::from_secs(20);
    for form in [ErrorForm::Doubled, ErrorForm::Documented, ErrorForm::Minimal] {
        let failed = terminate(Ending { cause: Cause::NoMedia, start, end }, form);
        assert_eq!(failed.error_codes, [138_021], "{form:?}");
        assert_eq!(failed.status, TerminateStatus::Failed);
        assert_eq!(failed.duration, Some(Duration::from_secs(20)));
        assert_eq!(failed.opaque.unwrap().expose(), "c");
    }
    let answered = terminate(Ending { cause: Cause::HungUp, start, end }, ErrorForm::Doubled);
    assert!(answered.was_answered() && answered.error_codes.is_empty());
    let unanswered = terminate(Ending { cause: Cause::NotAnswered, start: None, end }, ErrorForm::Doubled);
    assert_eq!((unanswered.status.clone(), unanswered.was_answered()), (TerminateStatus::Completed, false));
}

#[test]
fn all_other_changes_are_read_as_what_they_are() {
    let (hooks, person) = (hooks(Generation::Of2026), Person::test_caller());
    let id = wamid(&mut Dice::new(1), "250780000001");
    let names: Vec<_> = [
        hooks.connect_with_payload(wall(), &call_id(), &person, &Pii::new("v=0"), "table 7"),
        hooks.connect_answer(wall(), &call_id(), &person, &Pii::new("v=0")),
        hooks.call_status(wall(), &call_id(), &person, "RINGING", "c"),
        hooks.message_status(wall(), &id, &person, "sent", Some("c"), None),
        hooks.message_status(wall(), &id, &person, "failed", None, Some(131_047)),
        hooks.text(wall(), &id, &person, "hello"),
        hooks.other_call_event(wall(), &call_id(), &person, "call_transcription_available"),
        hooks.errors(131_044),
        hooks.restriction(wall()),
        hooks.settings_update(
            wall(),
            json!({"type": "phone_number_settings", "phone_number_settings": {"phone_number_id": PNID}}),
        ),
        Change::new("flows", json!({"event": "FLOW_STATUS_CHANGE"})),
    ]
    .into_iter()
    .map(|change| one(change).name())
    .collect();
    assert_eq!(
        names,
        [
            "connect",
            "connect",
            "status:ringing",
            "message:sent",
            "message:failed",
            "message",
            "call_transcription_available",
            "errors",
            "ACCOUNT_RESTRICTION",
            "phone_number_settings",
            "FLOW_STATUS_CHANGE"
        ]
    );
}

#[test]
fn slashes_and_foreign_letters_are_escaped_and_read_back() {
    let value = json!({"a/b": "é😀\"\\\r\n\u{7}"});
    let bytes = escaped(&value);
    assert_eq!(String::from_utf8(bytes.clone()).unwrap(), r#"{"a\/b":"\u00e9\ud83d\ude00\"\\\r\n\u0007"}"#);
    assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), value);
}

#[test]
fn a_batch_holds_all_its_changes_under_one_entry() {
    let (hooks, person) = (hooks(Generation::Of2026), Person::test_caller());
    let changes: Vec<_> = (0..50)
        .map(|nth| hooks.text(wall(), &wamid(&mut Dice::new(nth), "250780000001"), &person, "x"))
        .chain([hooks.connect(wall(), &call_id(), &person, &Pii::new("v=0"))])
        .collect();
    assert_eq!(read(&changes).events.len(), 51);
}

#[test]
fn a_verification_is_answered_with_letters_and_all() {
    let (query, challenge) = verification("open sesame&", &mut Dice::new(1));
    assert!(challenge.parse::<u64>().is_err());
    assert!(query.ends_with("hub.verify_token=open%20sesame%26"), "{query}");
    let asked = Verification { mode: Some("subscribe"), token: Some("open sesame&"), challenge: Some(&challenge) };
    let echoed = answer_verification(&SecretString::from("open sesame&".to_owned()), asked);
    assert_eq!(echoed, Ok(challenge.as_str()));
}

#[test]
fn nothing_personal_shows_in_the_debug_output_of_a_change() {
    let change = hooks(Generation::Of2026).connect(wall(), &call_id(), &Person::test_caller(), &Pii::new("v=0"));
    assert_eq!(format!("{change:?}"), "Change(calls)");
}

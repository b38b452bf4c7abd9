//! Writes every kind of webhook body that the emulated WhatsApp sends, for readers that we did not write.
//!
//! One line each on stdout: kind, generation, signature, base64 of the exact body, apart by tabs. The app secret is
//! the first argument.

use std::io::{self, Write};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use sauti_core::pii::Pii;
use sauti_core::whatsapp::signature::sign;
use sauti_sim::whatsapp::answer;
use sauti_sim::whatsapp::calls::{Cause, Ending};
use sauti_sim::whatsapp::dice::Dice;
use sauti_sim::whatsapp::offer::Offer;
use sauti_sim::whatsapp::person::{Business, Person};
use sauti_sim::whatsapp::wacid::{wacid, wamid};
use sauti_sim::whatsapp::webhooks::{Change, ErrorForm, Generation, Webhooks, body};
use secrecy::SecretString;
use serde_json::json;

/// The time of the first captured call.
const WALL_MS: i64 = 1_760_681_506_762;

fn main() -> io::Result<()> {
    let secret = SecretString::from(std::env::args().nth(1).unwrap_or_else(|| "canary-app-secret".to_owned()));
    let business = Business::test("100000000000002");
    let mut out = io::stdout().lock();
    let mut batch = Vec::new();
    for generation in Generation::ALL {
        for (kind, change) in changes(&Webhooks { business: business.clone(), generation }) {
            let bytes = body(&business, std::slice::from_ref(&change));
            line(&mut out, kind, &format!("{generation:?}"), &secret, &bytes)?;
            batch.push(change);
        }
    }
    line(&mut out, "batch", "all", &secret, &body(&business, &batch))
}

fn line(out: &mut impl Write, kind: &str, generation: &str, secret: &SecretString, bytes: &[u8]) -> io::Result<()> {
    writeln!(out, "{kind}\t{generation}\t{}\t{}", sign(secret, bytes), STANDARD.encode(bytes))
}

fn changes(hooks: &Webhooks) -> Vec<(&'static str, Change)> {
    let mut dice = Dice::new(20_251_017);
    let wall = Timestamp::from_millisecond(WALL_MS).unwrap_or_default();
    let person = Person::test_caller();
    let mut changes = Vec::new();
    for padded in [true, false] {
        let wacid = wacid(&mut dice, &person.number, &hooks.business.number, padded);
        let mut offer = Offer::captured(&mut dice);
        offer.g711 = padded;
        changes.push(("connect", hooks.connect(wall, &wacid, &person, &offer.sdp(wall))));
        changes.push(("connect", hooks.connect_with_payload(wall, &wacid, &person, &offer.sdp(wall), "table/7 é")));
        changes.extend(terminates(hooks, wall, &wacid, &person).into_iter().map(|change| ("terminate", change)));
    }
    let wacid = wacid(&mut dice, &person.number, &hooks.business.number, true);
    changes.push(("connect", hooks.connect_answer(wall, &wacid, &person, &answer::sample())));
    for status in ["RINGING", "ACCEPTED", "REJECTED"] {
        changes.push(("call_status", hooks.call_status(wall, &wacid, &person, status, "call-1")));
    }
    let id = wamid(&mut dice, person.number.expose());
    for status in ["sent", "delivered", "read"] {
        changes.push(("message_status", hooks.message_status(wall, &id, &person, status, Some("call-1"), None)));
    }
    changes.push(("message_status", hooks.message_status(wall, &id, &person, "failed", None, Some(131_047))));
    changes.push(("message", hooks.text(wall, &id, &person, "Muraho / Hello \u{1f600}")));
    for event in ["call_created", "call_recording_available", "call_transcription_available"] {
        changes.push(("other_call_event", hooks.other_call_event(wall, &wacid, &person, event)));
    }
    changes.push(("errors", hooks.errors(131_044)));
    changes.push(("account_update", hooks.restriction(wall)));
    let calling = json!({"calling": {"status": "ENABLED"}, "phone_number_id": hooks.business.phone_number_id});
    let settings = json!({"messaging_product": "whatsapp", "type": "phone_number_settings",
        "phone_number_settings": calling});
    changes.push(("settings", hooks.settings_update(wall, settings)));
    changes.push(("unknown_field", Change::new("flows", json!({"event": "FLOW_STATUS_CHANGE", "flow_id": "1"}))));
    changes
}

/// Every way a call can end, in every form of its errors.
fn terminates(hooks: &Webhooks, wall: Timestamp, wacid: &Pii, person: &Person) -> Vec<Change> {
    let end = wall + Duration::from_secs(20);
    let picked_up = [Cause::HungUp, Cause::Terminated, Cause::NoMedia, Cause::MediaStopped, Cause::Fault(138_020)];
    let missed = [Cause::Rejected, Cause::NotAnswered, Cause::Fault(138_019)];
    let endings = (picked_up.into_iter().map(|cause| (cause, Some(wall)))).chain(missed.map(|cause| (cause, None)));
    let mut changes = Vec::new();
    for (cause, start) in endings {
        let ending = Ending { cause, start, end };
        for form in [ErrorForm::Doubled, ErrorForm::Documented, ErrorForm::Minimal] {
            changes.push(hooks.terminate(end, wacid, person, &ending, form, Some("call-1")));
        }
    }
    changes
}

//! Deliveries in virtual time.

use jiff::Timestamp;
use sauti_core::pii::Pii;
use sauti_core::whatsapp::signature::verify;
use sauti_core::whatsapp::webhook::{WebhookEvent, parse};

use super::*;
use crate::whatsapp::calls::{Cause, Ending};
use crate::whatsapp::person::Person;
use crate::whatsapp::webhooks::{ErrorForm, Generation, Webhooks};

const PNID: &str = "100000000000002";

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an Instant can only be had from the clock; the tests add to it")]
    Instant::now()
}

fn secret() -> SecretString {
    SecretString::from("canary-app-secret".to_owned())
}

fn office(habits: Habits, seed: u64) -> PostOffice {
    PostOffice::new(Business::test(PNID), secret(), habits, seed)
}

fn connect(nth: u64) -> Change {
    hooks().connect(
        Timestamp::UNIX_EPOCH,
        &Pii::new(format!("wacid.HBgM{nth}")),
        &Person::test_caller(),
        &Pii::new("v=0"),
    )
}

fn terminate(nth: u64) -> Change {
    let ending = Ending { cause: Cause::HungUp, start: None, end: Timestamp::UNIX_EPOCH };
    let wacid = Pii::new(format!("wacid.HBgM{nth}"));
    hooks().terminate(Timestamp::UNIX_EPOCH, &wacid, &Person::test_caller(), &ending, ErrorForm::Doubled, None)
}

fn hooks() -> Webhooks {
    Webhooks { business: Business::test(PNID), generation: Generation::Of2026 }
}

/// Everything that is delivered until the queue is empty, each taken with 200.
fn drain(office: &mut PostOffice) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while let Some(at) = office.deadline() {
        while let Some(delivery) = office.due(at) {
            office.answered(at, delivery.id, Some(if delivery.genuine { 200 } else { 401 }));
            taken.push(delivery);
        }
    }
    assert!(office.is_idle());
    taken
}

fn names(delivery: &Delivery) -> Vec<String> {
    parse(&delivery.body, PNID).unwrap().events.iter().map(WebhookEvent::name).collect()
}

#[test]
fn a_prompt_office_delivers_at_once_in_order_and_signed() {
    let (mut office, now) = (office(Habits::prompt(), 1), start());
    office.post(now, connect(1));
    office.post(now, terminate(1));
    let all = drain(&mut office);
    assert_eq!(all.iter().flat_map(names).collect::<Vec<_>>(), ["connect", "terminate"]);
    for delivery in all {
        assert_eq!(delivery.at, now);
        let signature = delivery.signature.unwrap();
        assert_eq!(verify(&secret(), Some(signature.as_bytes()), &delivery.body), Ok(()));
    }
}

#[test]
fn a_real_office_lags_by_one_and_a_half_to_two_and_a_half_seconds() {
    let (mut office, now) = (office(Habits { duplicates: 0, ..Habits::real() }, 1), start());
    for nth in 0..50 {
        office.post(now, connect(nth));
    }
    assert_eq!(office.due(now), None);
    for delivery in drain(&mut office) {
        assert!((1_500..=2_500).contains(&(delivery.at - now).as_millis()));
    }
}

#[test]
fn a_terminate_can_overtake_its_connect() {
    let (mut office, now) = (office(Habits::real(), 1), start());
    office.post_as(now, connect(1), Wish { after: Some(Duration::from_secs(9)), ..Wish::default() });
    office.post_as(now, terminate(1), Wish { after: Some(Duration::from_secs(1)), ..Wish::default() });
    assert_eq!(drain(&mut office).iter().flat_map(names).collect::<Vec<_>>(), ["terminate", "connect"]);
}

#[test]
fn a_hostile_office_loses_nothing_and_repeats_much() {
    let (mut office, now) = (office(Habits::hostile(), 4), start());
    for nth in 0..200 {
        office.post(now, connect(nth));
    }
    let all = drain(&mut office);
    let (genuine, forged): (Vec<_>, Vec<_>) = all.iter().partition(|delivery| delivery.genuine);
    let mut ids: Vec<_> = genuine
        .iter()
        .flat_map(|delivery| parse(&delivery.body, PNID).unwrap().events)
        .map(|event| event.wacid().unwrap().clone())
        .collect();
    let delivered = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
    assert!(delivered > 250, "{delivered}");
    assert!(forged.len() > 30);
    for delivery in forged {
        let signature = delivery.signature.as_ref().map(String::as_bytes);
        assert!(verify(&secret(), signature, &delivery.body).is_err());
    }
    assert!(genuine.iter().any(|delivery| delivery.at - now > Duration::from_secs(590)));
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let now = start();
    let story = |seed| {
        let mut office = office(Habits::hostile(), seed);
        for nth in 0..30 {
            office.post(now, connect(nth));
        }
        drain(&mut office)
    };
    assert_eq!(story(9), story(9));
    assert_ne!(story(9), story(10));
}

#[test]
fn what_is_due_together_travels_together() {
    let (mut office, now) = (office(Habits { batch: 3, ..Habits::prompt() }, 1), start());
    for nth in 0..7 {
        office.post(now, connect(nth));
    }
    let sizes: Vec<_> = drain(&mut office).iter().map(|delivery| delivery.changes).collect();
    assert_eq!(sizes, [3, 3, 1]);
}

#[test]
fn a_refused_delivery_comes_again_at_once_and_then_ever_more_rarely() {
    let (mut office, now) = (office(Habits::prompt(), 1), start());
    office.post(now, connect(1));
    let mut times = Vec::new();
    let mut body = None;
    for attempt in 0..6 {
        let at = office.deadline().unwrap();
        let delivery = office.due(at).unwrap();
        assert_eq!(delivery.attempt, attempt);
        assert_eq!(*body.get_or_insert_with(|| Arc::clone(&delivery.body)), delivery.body);
        times.push((at - now).as_secs());
        office.answered(
            at,
            delivery.id,
            [Some(500), None, Some(404), Some(503)][usize::try_from(attempt).unwrap() % 4],
        );
    }
    assert_eq!(times, [0, 0, 1, 3, 7, 15]);
}

#[test]
fn after_seven_days_a_delivery_is_given_up() {
    let (mut office, now) = (office(Habits::prompt(), 1), start());
    office.post(now, connect(1));
    while let Some(at) = office.deadline() {
        let delivery = office.due(at).unwrap();
        office.answered(at, delivery.id, None);
    }
    assert_eq!(office.given_up(), 1);
    assert!(office.is_idle());
}

#[test]
fn a_forged_delivery_is_never_repeated() {
    let (mut office, now) = (office(Habits::prompt(), 1), start());
    for signature in [Signature::Forged, Signature::Missing] {
        office.post_as(now, connect(1), Wish { signature, ..Wish::default() });
        let delivery = office.due(now).unwrap();
        office.answered(now, delivery.id, Some(401));
        assert_eq!((delivery.genuine, office.is_idle()), (false, true));
    }
}

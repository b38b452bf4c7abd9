//! Summaries: owed from a call's end on, written once, asked for a few times and then given up.

use sauti_core::call::outcome::Outcome;
use sauti_core::call::summary::Summary;
use sauti_core::config::Language;
use sauti_core::pii::Pii;
use sauti_core::record::{Speaker, Turn};

use super::Ended;
use super::read::Reader;
use super::tests::{Fixture, at, call_id, ended};

fn summary(text: &str) -> Summary {
    Summary {
        intent: "book_transport".to_owned(),
        text: Pii::new(text),
        language: Some(Language::Fr),
        follow_up: Some(Pii::new("Send a car.")),
    }
}

fn turn(item: &str, speaker: Speaker, second: i64, text: &str) -> Turn {
    Turn { item: item.to_owned(), speaker, began_at: at(second), heard: None, interrupted: false, text: Pii::new(text) }
}

async fn over() -> Fixture {
    let it = Fixture::with_call(1).await;
    it.store.turn(call_id(1), turn("b", Speaker::Caller, 8, "A ride, please."));
    it.store.turn(call_id(1), turn("a", Speaker::Agent, 5, "Hello!"));
    it.store.owe_summary(call_id(1), at(30));
    assert_eq!(it.store.end(call_id(1), ended(Outcome::Completed)).await.unwrap(), Ended::Now);
    it
}

#[tokio::test]
async fn a_summary_is_written_once_and_owed_no_more() {
    let it = over().await;
    assert_eq!(it.store.counts().owed_summaries, 1);
    assert!(it.store.summary(call_id(1), summary("A ride was asked for."), at(31)).await.unwrap());
    assert!(!it.store.summary(call_id(1), summary("Another one."), at(40)).await.unwrap(), "the first stays");
    assert_eq!(it.store.counts().owed_summaries, 0);
    assert!(it.store.next_summary(at(9_000)).await.unwrap().0.is_none());
    it.store.close().await;
    let reader = Reader::open(&it.dir.path().join("ledger.db")).unwrap();
    let row = reader.call(call_id(1)).unwrap().unwrap();
    let shown = reader.detail(row, true).unwrap().summary.unwrap();
    assert_eq!((shown.primary_intent.as_str(), shown.intent.as_str()), ("whatsapp_voice_call", "book_transport"));
    assert_eq!((shown.summary_text.as_str(), shown.language.as_deref()), ("A ride was asked for.", Some("fr")));
    assert_eq!((shown.follow_up.as_deref(), shown.created_at.0), (Some("Send a car."), at(31)));
}

#[tokio::test]
async fn what_the_calls_own_session_did_not_summarise_is_due_later_with_its_transcript_in_order() {
    let it = over().await;
    assert!(it.store.next_summary(at(31)).await.unwrap().0.is_none(), "its own session still has the word");
    let (owed, given_up) = it.store.next_summary(at(60)).await.unwrap();
    let owed = owed.unwrap();
    assert_eq!((owed.call_id, owed.attempt, given_up), (call_id(1), 0, 0));
    let said: Vec<_> = owed.turns.iter().map(|(speaker, words)| (*speaker, words.expose())).collect();
    assert_eq!(said, [(Speaker::Agent, "Hello!"), (Speaker::Caller, "A ride, please.")]);
    assert!(it.store.next_summary(at(61)).await.unwrap().0.is_none(), "a try counts when it begins");
}

#[tokio::test]
async fn a_summary_that_nobody_can_make_is_given_up_after_four_tries() {
    let it = over().await;
    for attempt in 0..4 {
        let (owed, _) = it.store.next_summary(at(100_000 * (i64::from(attempt) + 1))).await.unwrap();
        assert_eq!(owed.unwrap().attempt, attempt);
    }
    let (owed, given_up) = it.store.next_summary(at(1_000_000)).await.unwrap();
    assert!(owed.is_none());
    assert_eq!((given_up, it.store.counts().owed_summaries), (1, 0));
}

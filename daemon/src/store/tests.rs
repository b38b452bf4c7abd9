//! The store as its users meet it: commands in, rows and answers out, on files in folders of their own.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use sauti_core::call::cost::{Cost, Usage};
use sauti_core::call::outcome::{Door, Fault};
use sauti_core::config::Language;
use sauti_core::pii::{CallerAddress, Pii};
use sauti_core::record::{Direction, Speaker};
use tempfile::TempDir;

use super::*;

const NUMBER: &str = "250780000001";
const BSUID: &str = "RW.13491208655302741918";
const WACID: &str = "wacid.HBgMMjUwNzgwMDAwMDAxFQIAEhggcanary==";
const APOLOGY: &str = "Sorry, Test Caller, nobody could answer.";

/// Holds the thread in one statement until everything that the test queues behind it is queued.
const SLOW: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) INSERT INTO outbox SELECT 'x', 'x', count(*), 0 FROM n";

fn key() -> BoxKey {
    BoxKey::new([9; 32])
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_760_681_506 + seconds).unwrap()
}

pub(crate) fn call_id(n: u8) -> CallId {
    CallId::new(at(i64::from(n)), [n; 10])
}

fn text_id(n: u8) -> TextId {
    TextId::new(at(i64::from(n)), [n; 10])
}

fn address() -> CallerAddress {
    CallerAddress { number: Some(Pii::new(NUMBER)), bsuid: Some(Pii::new(BSUID)) }
}

pub(crate) fn new_call(n: u8) -> NewCall {
    NewCall {
        call_id: call_id(n),
        door: Door::Whatsapp,
        direction: Direction::Inbound,
        wa_call: Some(key().hash("wacid", &format!("{WACID}{n}"))),
        mtn_call_sid: None,
        caller: address().hash(&key()),
        language: Some(Language::Fr),
        offered_at: at(2),
        connect_at: Some(at(0)),
    }
}

pub(crate) fn live() -> LiveCall {
    LiveCall { wacid: Some(Pii::new(WACID)), address: address() }
}

pub(crate) fn ended(outcome: Outcome) -> EndRow {
    EndRow { outcome, fault: Fault::None, ended_at: at(30), talked: Some(Duration::from_millis(27_500)), text: None }
}

fn new_text(n: u8) -> NewText {
    NewText { text_id: text_id(n), address: address(), body: Pii::new(APOLOGY) }
}

pub(crate) fn dollars(micros: u64) -> Option<Cost> {
    Some(Cost::from_micro_usd(micros))
}

pub(crate) fn session(ordinal: u32, cost: Option<Cost>) -> SessionRow {
    SessionRow {
        ordinal,
        openai_session_id: Some("sess_1".to_owned()),
        model: "gpt-realtime-2.1".to_owned(),
        opened_at: at(3),
        closed_at: None,
        usage: Usage { audio_in: 10, duration: Duration::from_millis(70), ..Usage::default() },
        cost,
    }
}

/// A ledger in a folder of its own, and a second connection that looks at the rows.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("ledger.db"), &key()).unwrap();
        Self { dir, store }
    }

    pub(crate) async fn with_call(n: u8) -> Self {
        let it = Self::new();
        assert_eq!(it.store.admit(new_call(n), Some(live())).await.unwrap(), Admitted::New);
        it
    }

    /// What is left when the process is killed now: the files as they are, without a close.
    fn killed(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in ["ledger.db", "ledger.db-wal"] {
            std::fs::copy(self.dir.path().join(file), dir.path().join(file)).unwrap();
        }
        let store = Store::open(&dir.path().join("ledger.db"), &key()).unwrap();
        Self { dir, store }
    }

    async fn restarted(self) -> Self {
        self.store.close().await;
        let store = Store::open(&self.dir.path().join("ledger.db"), &key()).unwrap();
        Self { store, ..self }
    }

    fn rows(&self) -> Connection {
        Connection::open(self.dir.path().join("ledger.db")).unwrap()
    }

    fn one<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        self.rows().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Runs words on the store's own connection, behind everything told before.
    pub(crate) async fn sql(&self, sql: &'static str) -> Result<(), StoreError> {
        self.store.ask(|reply| Command::Sql { sql, reply }).await
    }

    pub(crate) async fn settled(&self) {
        self.sql("SELECT 1").await.unwrap();
    }

    fn bytes_on_disk(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            all.extend(std::fs::read(entry.unwrap().path()).unwrap());
        }
        all
    }
}

fn holds(bytes: &[u8], canary: &str) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary.as_bytes())
}

#[tokio::test]
async fn a_webhook_event_is_new_once_also_across_a_restart() {
    let it = Fixture::new();
    let call = key().hash("wacid", WACID);
    assert_eq!(it.store.seen(call, "connect", at(0)).await.unwrap(), Seen::New);
    assert_eq!(it.store.seen(call, "connect", at(1)).await.unwrap(), Seen::Duplicate);
    let it = it.restarted().await;
    assert_eq!(it.store.seen(call, "connect", at(2)).await.unwrap(), Seen::Duplicate);
    assert_eq!(it.store.seen(call, "terminate", at(2)).await.unwrap(), Seen::New);
}

#[tokio::test]
async fn a_terminate_without_a_connect_leaves_a_tombstone() {
    let it = Fixture::new();
    let call = key().hash("wacid", WACID);
    assert!(!it.store.has_terminated(call).await.unwrap());
    it.store.seen(call, "terminate", at(0)).await.unwrap();
    let it = it.killed();
    assert!(it.store.has_terminated(call).await.unwrap());
    assert!(!it.store.has_terminated(key().hash("wacid", "another")).await.unwrap());
}

#[tokio::test]
async fn the_events_of_one_body_are_judged_in_order_and_a_repeat_within_it_is_a_duplicate() {
    let it = Fixture::new();
    let call = key().hash("wacid", WACID);
    let events = vec![(call, "connect".to_owned()), (call, "connect".to_owned()), (call, "é".repeat(3_000_000))];
    assert_eq!(it.store.seen_all(events, at(0)).await.unwrap(), [Seen::New, Seen::Duplicate, Seen::New]);
    assert_eq!(it.one::<i64>("SELECT max(length(CAST(event AS BLOB))) FROM webhook_seen"), 64);
}

#[tokio::test]
async fn webhook_events_are_forgotten_after_seven_days_and_not_before() {
    let it = Fixture::new();
    let old: Vec<_> = (0..1200).map(|n| (key().hash("wacid", &n.to_string()), "connect".to_owned())).collect();
    it.store.seen_all(old.clone(), at(0)).await.unwrap();
    let day = 24 * 3600;
    assert_eq!(it.store.seen(old[0].0, "connect", at(7 * day - 1)).await.unwrap(), Seen::Duplicate);
    for n in 0..3 {
        // More than an hour later; a few hundred go with each webhook.
        it.store.seen(key().hash("wacid", "fresh"), "connect", at(7 * day + 4000 + n)).await.unwrap();
    }
    assert_eq!(it.one::<i64>("SELECT count(*) FROM webhook_seen"), 1);
    assert_eq!(it.store.seen(old[0].0, "connect", at(7 * day + 4010)).await.unwrap(), Seen::New);
}

#[tokio::test]
async fn a_call_passes_its_stages_and_ends_with_one_row_one_outcome_and_one_outbox_row() {
    let it = Fixture::with_call(1).await;
    let id = call_id(1);
    assert_eq!(it.store.counts().live_calls, 1);
    for (stage, second) in [(Stage::MediaUp, 3), (Stage::Accepted, 4), (Stage::FirstAudio, 5), (Stage::Accepted, 9)] {
        it.store.stage(id, stage, at(second));
    }
    let fields = BTreeMap::from([("ms".to_owned(), serde_json::json!(412))]);
    it.store.event(id, EventRow { at: at(4), event: "WA_CALL_ACCEPTED".to_owned(), fields });
    it.store.session(id, session(0, dollars(1_500)));
    it.store.session(id, session(0, dollars(2_500)));
    it.store.session(id, session(1, dollars(60)));
    let beside = SessionRow { model: "gpt-transcribe".to_owned(), ..session(1, dollars(40)) };
    it.store.session(id, beside);
    assert_eq!(it.store.end(id, ended(Outcome::Completed)).await.unwrap(), Ended::Now);
    assert_eq!(it.one::<i64>("SELECT accepted_at FROM voice_calls"), at(4).as_millisecond());
    assert_eq!(it.one::<Option<i64>>("SELECT pre_accepted_at FROM voice_calls"), None);
    assert_eq!(it.one::<String>("SELECT outcome FROM voice_calls"), "completed");
    assert_eq!(it.one::<String>("SELECT language FROM voice_calls"), "fr");
    assert!((it.one::<f64>("SELECT seconds FROM voice_calls") - 27.5).abs() < 1e-9);
    assert_eq!(it.one::<i64>("SELECT cost_micro_usd FROM voice_calls"), 2_600);
    assert_eq!(it.one::<i64>("SELECT count(*) FROM openai_sessions"), 3);
    assert_eq!(it.one::<String>("SELECT fields FROM voice_events"), r#"{"ms":412}"#);
    assert_eq!(it.one::<String>("SELECT row_key FROM outbox WHERE kind = 'voice_calls'"), id.to_string());
    assert_eq!(it.store.counts().live_calls, 0);
    assert_eq!(it.one::<i64>("SELECT count(*) FROM live_calls"), 0);
}

#[tokio::test]
async fn cost_is_unknown_as_soon_as_one_session_is_and_nothing_for_a_call_without_a_session() {
    let it = Fixture::with_call(1).await;
    it.store.admit(new_call(2), None).await.unwrap();
    it.store.session(call_id(1), session(0, dollars(10)));
    it.store.session(call_id(1), session(1, None));
    for n in [1, 2] {
        it.store.end(call_id(n), ended(Outcome::Completed)).await.unwrap();
    }
    let cost =
        |n| it.one::<Option<i64>>(&format!("SELECT cost_micro_usd FROM voice_calls WHERE call_id = '{}'", call_id(n)));
    assert_eq!((cost(1), cost(2)), (None, Some(0)));
    // The usage of the last response may come after the end.
    it.store.session(call_id(1), session(1, dollars(5)));
    it.settled().await;
    assert_eq!(cost(1), Some(15));
}

#[tokio::test]
async fn a_second_outcome_is_refused_by_the_store_and_by_the_schema() {
    let it = Fixture::with_call(1).await;
    it.store.end(call_id(1), ended(Outcome::Limit)).await.unwrap();
    let again = it.store.end(call_id(1), ended(Outcome::Completed)).await.unwrap();
    assert_eq!(again, Ended::Already(Outcome::Limit));
    let error = it.rows().execute("UPDATE voice_calls SET outcome = 'completed'", []).unwrap_err();
    assert!(error.to_string().contains("one outcome"), "{error}");
    assert_eq!(it.one::<i64>("SELECT count(*) FROM outbox"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_ends_at_once_exactly_one_is_written() {
    let it = Fixture::with_call(1).await;
    let ends = Outcome::ALL.iter().cycle().take(100).map(|outcome| {
        let store = it.store.clone();
        let end = ended(*outcome);
        tokio::spawn(async move { store.end(call_id(1), end).await.unwrap() })
    });
    let mut first = 0;
    for end in ends.collect::<Vec<_>>() {
        first += i32::from(end.await.unwrap() == Ended::Now);
    }
    assert_eq!(first, 1);
    assert_eq!(it.one::<i64>("SELECT count(*) FROM outbox"), 1);
}

#[tokio::test]
async fn a_second_call_with_the_same_wacid_gets_no_row() {
    let it = Fixture::with_call(1).await;
    let twin = NewCall { call_id: call_id(2), ..new_call(1) };
    assert_eq!(it.store.admit(twin, Some(live())).await.unwrap(), Admitted::Duplicate);
    assert_eq!(it.store.admit(new_call(1), Some(live())).await.unwrap(), Admitted::Duplicate);
    assert_eq!(it.store.counts().live_calls, 1);
    assert_eq!(it.one::<i64>("SELECT count(*) FROM voice_calls"), 1);
}

#[tokio::test]
async fn what_belongs_to_no_admitted_call_is_refused_and_counted() {
    let it = Fixture::new();
    let error = it.store.end(call_id(7), ended(Outcome::Completed)).await.unwrap_err();
    assert!(matches!(error, StoreError::UnknownCall(id) if id == call_id(7)));
    let error = it.store.owe_text(call_id(7), new_text(1), at(0)).await.unwrap_err();
    assert!(matches!(error, StoreError::UnknownCall(_)));
    it.store.stage(call_id(7), Stage::Accepted, at(0));
    it.store.session(call_id(7), session(0, None));
    it.settled().await;
    assert_eq!(it.store.counts().lost, 2);
}

#[tokio::test]
async fn a_turn_written_again_keeps_its_place_and_changes_its_words() {
    let it = Fixture::with_call(1).await;
    let turn = |text: &str, heard| Turn {
        item: "item_1".to_owned(),
        speaker: Speaker::Agent,
        began_at: at(5),
        heard: Some(Duration::from_millis(heard)),
        interrupted: heard < 2000,
        text: Pii::new(text),
    };
    it.store.turn(call_id(1), turn("Hello! How can I help", 2000));
    it.store.turn(call_id(1), turn("Hello!", 600));
    it.settled().await;
    assert_eq!(it.one::<String>("SELECT text FROM transcripts"), "Hello!");
    assert_eq!(it.one::<i64>("SELECT heard_ms FROM transcripts"), 600);
    assert_eq!(it.one::<i64>("SELECT interrupted FROM transcripts"), 1);
}

#[tokio::test]
async fn after_a_kill_the_open_calls_end_as_restart_and_are_handed_out_until_released() {
    let it = Fixture::with_call(1).await;
    it.store.admit(new_call(2), Some(live())).await.unwrap();
    it.store.stage(call_id(2), Stage::FirstAudio, at(3));
    it.store.admit(new_call(3), Some(live())).await.unwrap();
    it.store.end(call_id(3), ended(Outcome::Completed)).await.unwrap();

    let it = it.killed();
    assert_eq!(it.store.counts().live_calls, 2);
    // A call of this run is not a leftover, even if it came first.
    it.store.admit(new_call(4), Some(live())).await.unwrap();
    let Recovered { closed, unfinished: left } = it.store.recover(at(60)).await.unwrap();
    assert_eq!(closed, [Door::Whatsapp; 2]);
    assert_eq!(
        left.iter().map(|left| (left.call_id, left.was_heard)).collect::<Vec<_>>(),
        [(call_id(1), false), (call_id(2), true)]
    );
    assert_eq!(left[0].live, Some(live()));
    assert_eq!((left[0].door, left[0].language), (Door::Whatsapp, Some(Language::Fr)));
    assert_eq!(it.one::<i64>("SELECT count(*) FROM voice_calls WHERE outcome = 'restart' AND fault = 'box'"), 2);
    assert_eq!(it.one::<i64>("SELECT count(*) FROM outbox"), 3);
    it.store.release(call_id(1)).await.unwrap();

    let it = it.killed();
    let Recovered { closed, unfinished: left } = it.store.recover(at(90)).await.unwrap();
    assert_eq!(closed, [Door::Whatsapp], "the second one was ended at the start before this one");
    assert_eq!(left.iter().map(|left| left.call_id).collect::<Vec<_>>(), [call_id(2), call_id(4)]);
    assert_eq!(it.one::<i64>("SELECT count(*) FROM outbox"), 4);
    assert_eq!(it.one::<i64>("SELECT count(*) FROM voice_calls WHERE ended_at = 1760681566000"), 2);
    for call in [2, 4] {
        it.store.release(call_id(call)).await.unwrap();
    }
    assert_eq!(it.store.counts().live_calls, 0);
    let it = it.restarted().await;
    let Recovered { closed, unfinished } = it.store.recover(at(99)).await.unwrap();
    assert!(closed.is_empty() && unfinished.is_empty());
    assert_eq!(it.one::<i64>("SELECT count(*) FROM outbox"), 4);
}

#[tokio::test]
async fn with_another_box_key_a_left_call_is_still_ended_but_cannot_be_acted_on() {
    let it = Fixture::with_call(1).await;
    it.store.owe_text(call_id(1), new_text(1), at(1)).await.unwrap();
    it.store.close().await;
    let store = Store::open(it.store.path(), &BoxKey::new([1; 32])).unwrap();
    let left = store.recover(at(60)).await.unwrap().unfinished;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].live, None);
    assert!(store.texts_due().await.unwrap().is_empty());
    assert_eq!(it.one::<String>("SELECT text_state FROM voice_calls"), "failed");
    assert_eq!(it.one::<String>("SELECT outcome FROM voice_calls"), "restart");
    assert_eq!(store.counts().owed_texts, 0);
}

#[tokio::test]
async fn a_text_is_owed_with_the_end_of_its_call_sent_once_and_wiped() {
    let it = Fixture::with_call(1).await;
    let end = EndRow { text: Some(new_text(1)), ..ended(Outcome::ModelFailed) };
    it.store.end(call_id(1), end).await.unwrap();
    assert_eq!(it.store.counts().owed_texts, 1);
    assert!(!it.store.owe_text(call_id(1), new_text(2), at(31)).await.unwrap());
    let it = it.killed();
    let due = it.store.texts_due().await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].text_id, due[0].call_id, due[0].attempts), (text_id(1), call_id(1), 0));
    assert_eq!((due[0].body.expose(), &due[0].address, due[0].owed_at), (APOLOGY, &address(), at(30)));
    assert!(it.store.sending(text_id(1)).await.unwrap());
    assert!(!it.store.sending(text_id(1)).await.unwrap());
    assert!(it.store.texts_due().await.unwrap().is_empty());
    it.store.settle_text(text_id(1), TextVerdict::Sent).await.unwrap();
    assert_eq!(it.one::<String>("SELECT text_state FROM voice_calls"), "sent");
    assert_eq!(it.one::<i64>("SELECT count(*) FROM owed_texts"), 0);
    assert_eq!(it.store.counts().owed_texts, 0);
    assert!(!it.store.owe_text(call_id(1), new_text(3), at(40)).await.unwrap());
}

#[tokio::test]
async fn a_text_that_graph_surely_did_not_take_is_owed_again() {
    let it = Fixture::with_call(1).await;
    it.store.owe_text(call_id(1), new_text(1), at(1)).await.unwrap();
    assert!(it.store.sending(text_id(1)).await.unwrap());
    it.store.settle_text(text_id(1), TextVerdict::Again).await.unwrap();
    assert_eq!(it.store.texts_due().await.unwrap()[0].attempts, 1);
    // A status webhook knows better than an error: it was taken after all.
    it.store.text_status(text_id(1), true).await.unwrap();
    assert!(it.store.texts_due().await.unwrap().is_empty());
    assert!(!it.store.sending(text_id(1)).await.unwrap());
    assert_eq!(it.one::<String>("SELECT text_state FROM voice_calls"), "sent");
}

#[tokio::test]
async fn a_text_cut_off_by_a_crash_stays_unknown_until_a_status_webhook_decides() {
    let it = Fixture::with_call(1).await;
    it.store.owe_text(call_id(1), new_text(1), at(1)).await.unwrap();
    assert!(it.store.sending(text_id(1)).await.unwrap());
    let it = it.killed();
    it.store.recover(at(60)).await.unwrap();
    let counts = it.store.counts();
    assert_eq!((counts.owed_texts, counts.texts_unknown), (0, 1));
    assert!(it.store.texts_due().await.unwrap().is_empty());
    assert!(!it.store.sending(text_id(1)).await.unwrap());
    assert!(!it.store.owe_text(call_id(1), new_text(2), at(61)).await.unwrap());
    it.store.text_status(text_id(1), false).await.unwrap();
    assert_eq!(it.one::<String>("SELECT text_state FROM voice_calls"), "failed");
    assert_eq!(it.store.counts().texts_unknown, 0);
}

#[tokio::test]
async fn a_status_webhook_that_overtakes_graphs_answer_is_not_overruled() {
    let it = Fixture::with_call(1).await;
    it.store.owe_text(call_id(1), new_text(1), at(1)).await.unwrap();
    it.store.sending(text_id(1)).await.unwrap();
    it.store.text_status(text_id(1), false).await.unwrap();
    it.store.settle_text(text_id(1), TextVerdict::Sent).await.unwrap();
    it.store.settle_text(text_id(1), TextVerdict::Again).await.unwrap();
    assert_eq!(it.one::<String>("SELECT text_state FROM voice_calls"), "failed");
    // Somebody else's callback data.
    it.store.text_status(text_id(99), true).await.unwrap();
}

#[tokio::test]
async fn nothing_personal_is_readable_in_the_files_but_the_words_of_the_transcript() {
    let it = Fixture::with_call(1).await;
    it.store.owe_text(call_id(1), new_text(1), at(1)).await.unwrap();
    it.store.seen(key().hash("wacid", WACID), "connect", at(0)).await.unwrap();
    let text = Pii::new("an order of two teas");
    let turn =
        Turn { item: "i".to_owned(), speaker: Speaker::Caller, began_at: at(4), heard: None, interrupted: false, text };
    it.store.turn(call_id(1), turn);
    it.settled().await;
    let bytes = it.bytes_on_disk();
    assert!(holds(&bytes, "an order of two teas"), "the search finds what is there");
    for canary in [NUMBER, &BSUID[3..], WACID, "wacid.HBgM", "MjUwNzgwMDAwMDAx", "Test Caller"] {
        assert!(!holds(&bytes, canary), "{canary} lies open in the ledger");
    }
    assert_eq!(it.store.recover(at(1)).await.unwrap().unfinished.len(), 0);
    let mode = |file: &str| std::fs::metadata(it.dir.path().join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ledger.db"), mode("ledger.db-wal"), mode("ledger.db-shm")), (0o600, 0o600, 0o600));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_commands_share_a_few_transactions() {
    let it = Fixture::with_call(1).await;
    let told = (0..1000).map(|n| {
        let store = it.store.clone();
        let row = EventRow { at: at(n), event: "WA_VOICE_CALL_EVENT".to_owned(), fields: BTreeMap::new() };
        tokio::spawn(async move { store.event(call_id(1), row) })
    });
    for told in told.collect::<Vec<_>>() {
        told.await.unwrap();
    }
    it.settled().await;
    let counts = it.store.counts();
    assert_eq!(it.one::<i64>("SELECT count(*) FROM voice_events"), 1000);
    assert_eq!((counts.commands, counts.queued, counts.lost), (1002, 0, 0));
    assert!(counts.commits < counts.commands, "{counts:?}");
}

#[tokio::test]
async fn commands_queued_behind_a_busy_transaction_are_committed_together() {
    let it = Fixture::with_call(1).await;
    let before = it.store.counts().commits;
    let busy = it.sql(SLOW);
    let events = async {
        for n in 0..1000 {
            let row = EventRow { at: at(n), event: "WA_VOICE_CALL_EVENT".to_owned(), fields: BTreeMap::new() };
            it.store.event(call_id(1), row);
        }
    };
    let (done, ()) = tokio::join!(busy, events);
    done.unwrap();
    it.settled().await;
    assert_eq!(it.one::<i64>("SELECT count(*) FROM voice_events"), 1000);
    assert!(it.store.counts().commits - before <= 8, "{:?}", it.store.counts());
}

#[tokio::test]
async fn one_bad_command_does_not_take_its_neighbours_along() {
    let it = Fixture::with_call(1).await;
    let bad = it.sql("INSERT INTO outbox VALUES ('a', 'a', 'a', 1); INSERT INTO nowhere VALUES (1)");
    let good = it.store.end(call_id(1), ended(Outcome::Completed));
    let (bad, good) = tokio::join!(bad, good);
    assert!(bad.is_err());
    assert_eq!(good.unwrap(), Ended::Now);
    assert_eq!(it.one::<i64>("SELECT count(*) FROM outbox"), 1);
}

#[tokio::test]
async fn when_sqlite_gives_up_a_transaction_those_before_learn_it_and_those_after_are_done() {
    let it = Fixture::with_call(1).await;
    it.store.admit(new_call(2), None).await.unwrap();
    let (_, before, _, after) = tokio::join!(
        it.sql(SLOW),
        it.store.end(call_id(1), ended(Outcome::Completed)),
        it.sql("ROLLBACK"),
        it.store.end(call_id(2), ended(Outcome::Completed)),
    );
    let error = before.unwrap_err().to_string();
    assert!(error.contains("ledger.db") && error.contains("rolled back"), "{error}");
    assert_eq!(after.unwrap(), Ended::Now);
    assert_eq!(it.one::<i64>("SELECT count(*) FROM voice_calls WHERE outcome IS NOT NULL"), 1);
    assert_eq!(it.store.counts().live_calls, 1);
    assert_eq!(it.store.end(call_id(1), ended(Outcome::Completed)).await.unwrap(), Ended::Now);
}

#[tokio::test]
async fn a_full_disk_comes_back_as_an_error_with_path_and_remedy_and_room_ends_it() {
    let it = Fixture::with_call(1).await;
    it.sql("PRAGMA max_page_count = 1").await.unwrap();
    let words = Pii::new("word ".repeat(100_000));
    let turn = Turn {
        item: "i".to_owned(),
        speaker: Speaker::Caller,
        began_at: at(4),
        heard: None,
        interrupted: false,
        text: words,
    };
    it.store.turn(call_id(1), turn.clone());
    let asked = it
        .sql("CREATE TABLE filler AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99999) SELECT * FROM n")
        .await;
    let error = asked.unwrap_err().to_string();
    assert!(error.contains("ledger.db") && error.contains("free space"), "{error}");
    it.store.has_terminated(key().hash("wacid", WACID)).await.unwrap();
    assert_eq!(it.store.counts().lost, 1);
    it.sql("PRAGMA max_page_count = 100000").await.unwrap();
    it.store.turn(call_id(1), turn);
    assert_eq!(it.store.end(call_id(1), ended(Outcome::Completed)).await.unwrap(), Ended::Now);
    assert!(!it.store.counts().failing);
    assert_eq!(it.one::<i64>("SELECT count(*) FROM transcripts"), 1);
}

#[tokio::test]
async fn a_file_that_became_read_only_answers_everybody_with_the_reason() {
    let it = Fixture::with_call(1).await;
    it.sql("PRAGMA query_only = ON").await.unwrap();
    let error = it.store.end(call_id(1), ended(Outcome::Completed)).await.unwrap_err().to_string();
    assert!(error.contains("ledger.db") && error.contains("writable"), "{error}");
    it.store.stage(call_id(1), Stage::Accepted, at(4));
    assert!(it.store.texts_due().await.is_err());
    assert_eq!(it.store.counts().lost, 1);
    assert!(it.store.counts().failing);
}

#[tokio::test]
async fn a_writer_from_outside_delays_but_does_not_break() {
    let it = Fixture::with_call(1).await;
    let other = it.rows();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let store = it.store.clone();
    let end = tokio::spawn(async move { store.end(call_id(1), ended(Outcome::Completed)).await });
    tokio::task::yield_now().await;
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(end.await.unwrap().unwrap(), Ended::Now);
}

#[tokio::test]
async fn a_dead_thread_is_noticed_and_everything_after_it_is_refused() {
    let it = Fixture::with_call(1).await;
    assert!(it.store.alive());
    it.store.tell(Command::Panic).await.unwrap();
    it.store.closed().await;
    assert!(!it.store.alive());
    let error = it.store.end(call_id(1), ended(Outcome::Completed)).await.unwrap_err();
    assert!(matches!(error, StoreError::Closed));
}

#[tokio::test]
async fn a_close_writes_what_is_queued_and_leaves_one_file() {
    let it = Fixture::with_call(1).await;
    it.store.stage(call_id(1), Stage::Accepted, at(4));
    it.store.close().await;
    it.store.close().await;
    it.store.stage(call_id(1), Stage::Accepted, at(4));
    assert_eq!(it.store.counts().lost, 1, "nobody waits for it, so it is counted");
    assert!(!it.dir.path().join("ledger.db-wal").exists());
    assert_eq!(it.one::<i64>("SELECT accepted_at FROM voice_calls"), at(4).as_millisecond());
    assert_eq!(it.one::<i64>("PRAGMA auto_vacuum"), 2);
}

#[tokio::test]
async fn a_second_daemon_on_the_same_ledger_is_refused() {
    let it = Fixture::new();
    let error = Store::open(it.store.path(), &key()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    let it = it.restarted().await;
    assert!(it.store.alive());
}

#[tokio::test]
async fn a_ledger_that_cannot_be_had_says_where_why_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nowhere/ledger.db");
    let error = Store::open(&missing, &key()).unwrap_err().to_string();
    assert!(error.contains("nowhere/ledger.db") && error.contains("folder"), "{error}");
    let text = dir.path().join("text.db");
    std::fs::write(&text, "no database at all, only a text of some length\n".repeat(100)).unwrap();
    let error = Store::open(&text, &key()).unwrap_err().to_string();
    assert!(error.contains("text.db") && error.contains("move the file away"), "{error}");
    assert!(Store::open(dir.path(), &key()).is_err());
}

#[tokio::test]
async fn a_damaged_ledger_is_refused() {
    let it = Fixture::with_call(1).await;
    for n in 2..120 {
        it.store.admit(new_call(n), None).await.unwrap();
    }
    it.store.close().await;
    let path = it.dir.path().join("ledger.db");
    let mut bytes = std::fs::read(&path).unwrap();
    for page in bytes.chunks_mut(4096).skip(2) {
        page[..64].fill(0xA5);
    }
    std::fs::write(&path, bytes).unwrap();
    let error = Store::open(&path, &key()).unwrap_err().to_string();
    assert!(error.contains("ledger.db") && error.contains("restore a copy"), "{error}");
}

#[tokio::test]
async fn a_newer_ledger_is_refused_and_not_touched() {
    let it = Fixture::new();
    it.store.close().await;
    it.rows().execute_batch("PRAGMA user_version = 7").unwrap();
    let error = Store::open(it.store.path(), &key()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 7, .. }), "{error}");
}

//! Asks what calls were about: on the session of a call that has just ended, else later from its transcript.
//!
//! The ledger owes the summary from the call's end on, so neither a stop nor a crash loses it. The caller is gone, her
//! permit is given back and the outcome is written before anything here begins. What is asked, and what is made of the
//! answer, is `core::call::summary`'s. Words of a person are never logged; only what became of a try is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sauti_core::ai::session::Billed;
use sauti_core::call::summary::{Answer, Asking, Missing};
use sauti_core::ids::CallId;
use sauti_core::record::{SessionRow, Speaker};
use tokio::sync::{Semaphore, watch};

use crate::ai::link::{Link, LinkEvent};
use crate::ai::providers::Course;
use crate::house::House;
use crate::ledger_session::SessionLedger;
use crate::store::{OwedSummary, StoreError};

/// Sessions of ended calls that are kept open for a summary at one time; what finds no place waits in the ledger.
const TOGETHER: u32 = 64;
static OPEN: Semaphore = Semaphore::const_new(TOGETHER as usize);
/// How often the ledger is asked for what was not summarised at once.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// Longest wait for the model's side of a close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// The first ordinal of sessions that were opened for a summary alone: no call reconnects so often.
const ORDINAL: u32 = 1_000;

/// Asks on the session that a call leaves behind, and closes it.
pub(crate) async fn at_end(house: Arc<House>, call: CallId, mut link: Link, mut ledger: SessionLedger) {
    let Ok(_place) = OPEN.try_acquire() else {
        house.metrics.summary("no_session");
        link.close(CLOSE_WITHIN).await;
        return;
    };
    let (asking, request) = Asking::about_session(Instant::now());
    link.send_text(&request);
    let answer = answer(&asking, &mut link).await;
    if let Some(usage) = answer.usage {
        ledger.usage(Billed::Model, usage);
    }
    ledger.closed();
    keep(&house, call, answer).await;
    link.close(CLOSE_WITHIN).await;
}

/// Works off what is owed, one call at a time, until `last` is true or the ledger is gone.
pub(crate) async fn run(house: Arc<House>, mut last: watch::Receiver<bool>) {
    while !*last.borrow_and_update() {
        match house.store.next_summary(Timestamp::now()).await {
            Ok((owed, given_up)) => {
                for _ in 0..given_up {
                    house.metrics.summary("given_up");
                }
                if let Some(owed) = owed {
                    tokio::select! {
                        () = later(&house, owed) => continue,
                        _ = last.changed() => return,
                    }
                }
            }
            Err(StoreError::Closed) => return,
            Err(_) => house.metrics.summary("not_kept"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = last.changed() => {}
        }
    }
}

/// Waits for those that are being asked for; what is not there then is asked for after the next start.
pub(crate) async fn finish() {
    let within = sauti_core::call::summary::WITHIN;
    // An error means that the time is over, or that nobody closes this semaphore.
    tokio::time::timeout(within, OPEN.acquire_many(TOGETHER)).await.ok();
}

async fn later(house: &House, owed: OwedSummary) {
    let OwedSummary { call_id, attempt, turns } = owed;
    let opened_at = Timestamp::now();
    if !turns.iter().any(|(speaker, _)| *speaker == Speaker::Caller) {
        house.metrics.summary("unreadable");
        return;
    }
    let mut course = Course::new(&house.providers);
    let dialled = house.connect_model(course.begin(), None).await;
    for miss in &dialled.misses {
        house.metrics.model_session(miss.failure.loss.label(), miss.provider);
    }
    let Ok(mut link) = course.arrived(dialled) else {
        house.metrics.summary("no_session");
        return;
    };
    house.metrics.model_session("ready", course.provider());
    let (asking, request) = Asking::about_transcript(Instant::now(), &turns);
    link.send_text(&request);
    let answer = answer(&asking, &mut link).await;
    if let Some(usage) = answer.usage {
        let model = course.model().to_owned();
        let row = SessionRow {
            ordinal: ORDINAL.saturating_add(attempt),
            openai_session_id: None,
            opened_at,
            closed_at: Some(Timestamp::now()),
            usage,
            cost: house.prices.cost(&model, &usage),
            model,
        };
        house.store.session(call_id, row);
    }
    if answer.summary.is_ok() {
        course.worked();
    }
    keep(house, call_id, answer).await;
    link.close(CLOSE_WITHIN).await;
}

async fn answer(asking: &Asking, link: &mut Link) -> Answer {
    let none = |why| Answer { summary: Err(why), usage: None };
    let read = async {
        loop {
            match link.next().await {
                LinkEvent::Text(text) => {
                    if let Some(answer) = asking.message(&text) {
                        return answer;
                    }
                }
                LinkEvent::Alive => {}
                LinkEvent::Closed { .. } | LinkEvent::Lost(_) => return none(Missing::Failed),
            }
        }
    };
    tokio::time::timeout_at(asking.deadline().into(), read).await.unwrap_or_else(|_| none(Missing::TimedOut))
}

async fn keep(house: &House, call: CallId, answer: Answer) {
    let summary = match answer.summary {
        Ok(summary) => summary,
        Err(missing) => {
            house.metrics.summary(missing.label());
            return;
        }
    };
    let kept = async {
        let summary =
            if house.agent.summary_keeps_pii { summary } else { summary.redacted(&house.store.heard(call).await?) };
        house.store.summary(call, summary, Timestamp::now()).await
    };
    house.metrics.summary(if kept.await.is_ok() { "written" } else { "not_kept" });
}

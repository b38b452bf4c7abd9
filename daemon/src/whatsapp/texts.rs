//! Sends the texts that are owed to callers who could not be served: at most once each.
//!
//! `sending` is journalled before the act; what a crash leaves in that state is never sent again (contract §6).
//! One task for the whole box: texts are rare, and Graph limits the pair rate anyway.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use sauti_core::record::{OwedText, TextVerdict};
use sauti_core::whatsapp::graph::Opaque;
use tokio::sync::{Notify, watch};

use super::graph::{Graph, graph_error_fields};
use crate::obs::logging::{EventName, log_event};
use crate::obs::metrics::Metrics;
use crate::store::{Store, StoreError};

/// How often the ledger is asked when nobody rings: texts that Graph could not take wait here.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Texts under way at one time: one that Graph is slow to take must not keep the others waiting.
const TOGETHER: usize = 8;
/// How late a text may be. Meta's window is open for 24 h after an inbound call, answered or not (whatsapp-calling
/// §2.5), but "call again in a few minutes" helps nobody who has long done so, or gone elsewhere.
const LATEST: jiff::SignedDuration = jiff::SignedDuration::from_hours(2);

/// Sends what is due now and again, until the ledger is gone; once `last` is true, what is due then and no more.
pub async fn run(
    store: Store,
    graph: Graph,
    metrics: Arc<Metrics>,
    ring: Arc<Notify>,
    mut last: watch::Receiver<bool>,
) {
    loop {
        let is_last = *last.borrow_and_update();
        match store.texts_due().await {
            Ok(due) => {
                let all = stream::iter(due);
                all.for_each_concurrent(TOGETHER, |text| attempt(&store, &graph, &metrics, text)).await;
            }
            Err(StoreError::Closed) => return,
            Err(_) => metrics.text("not_read"),
        }
        if is_last {
            return;
        }
        tokio::select! {
            () = ring.notified() => {},
            _ = last.changed() => {},
            () = tokio::time::sleep(LOOK_EVERY) => {},
        }
    }
}

async fn attempt(store: &Store, graph: &Graph, metrics: &Metrics, text: OwedText) {
    if send(store, graph, metrics, &text).await.is_err() {
        metrics.text("not_journalled");
    }
}

async fn send(store: &Store, graph: &Graph, metrics: &Metrics, text: &OwedText) -> Result<(), StoreError> {
    if jiff::Timestamp::now().duration_since(text.owed_at) > LATEST {
        metrics.text("expired");
        return store.settle_text(text.text_id, TextVerdict::Failed).await;
    }
    if !store.sending(text.text_id).await? {
        return Ok(());
    }
    let Some(opaque) = Opaque::new(text.text_id.to_string()) else {
        return store.settle_text(text.text_id, TextVerdict::Failed).await;
    };
    let (verdict, error) = graph.text(&text.address, &text.body, &opaque).await;
    metrics.text(verdict.label());
    if let Some(error) = error {
        log_event(EventName::WaVoiceError, Some(text.call_id), &graph_error_fields(&error));
    }
    store.settle_text(text.text_id, verdict).await
}

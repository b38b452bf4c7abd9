//! `GET` and `POST /webhooks/whatsapp`: signature, persistence, answer; the work follows.
//!
//! It acknowledges whatever carries a good signature: Meta repeats what is not answered, for days. It decides
//! nothing about calls; each event that is new goes to the switchboard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::BytesMut;
use futures_util::StreamExt;
use jiff::Timestamp;
use sauti_core::config::WhatsApp;
use sauti_core::now::Now;
use sauti_core::pii::BoxKey;
use sauti_core::whatsapp::signature::{self, SIGNATURE_HEADER, Verification};
use sauti_core::whatsapp::webhook::{self, WebhookEvent};

use crate::http::{MAX_BODY, refusal};
use crate::obs::metrics::Metrics;
use crate::store::{Seen, Store};
use crate::switchboard::{News, Switchboard};

/// How long the answer waits for the ledger (issue: 30 ms, then 200 and a counter).
const PERSIST_WITHIN: Duration = Duration::from_millis(30);
/// So much of a body that is too long is read before its client is cut off.
const MAX_DISCARDED: usize = 16 * 1024 * 1024;
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// What the webhook needs.
#[derive(Debug)]
pub struct Webhooks {
    /// `[whatsapp]`.
    pub config: WhatsApp,
    /// Hashes the `wacid`.
    pub key: BoxKey,
    /// Remembers what was seen.
    pub store: Store,
    /// Takes the events.
    pub switchboard: Switchboard,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// The door's routes.
pub fn routes(webhooks: Arc<Webhooks>) -> Router {
    Router::new()
        .route("/webhooks/whatsapp", get(verify).post(receive))
        .layer(DefaultBodyLimit::disable())
        .with_state(webhooks)
}

async fn verify(State(webhooks): State<Arc<Webhooks>>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let value = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let asked =
        Verification { mode: value("hub.mode"), token: value("hub.verify_token"), challenge: value("hub.challenge") };
    match signature::answer_verification(&webhooks.config.verify_token, asked) {
        Ok(challenge) => {
            webhooks.metrics.webhook("verified");
            challenge.to_owned().into_response()
        }
        Err(why) => {
            webhooks.metrics.webhook("verification_refused");
            refusal(StatusCode::FORBIDDEN, "verification_refused", &why.to_string())
        }
    }
}

async fn receive(State(webhooks): State<Arc<Webhooks>>, headers: HeaderMap, body: Body) -> Response {
    let received = Now { mono: Instant::now(), wall: Timestamp::now() };
    let body = match read(body).await {
        Ok(body) => body,
        Err(response) => {
            webhooks.metrics.webhook("unreadable");
            return response;
        }
    };
    let header = headers.get(SIGNATURE_HEADER).map(axum::http::HeaderValue::as_bytes);
    if let Err(why) = signature::verify(&webhooks.config.app_secret, header, &body) {
        webhooks.metrics.webhook(why.label());
        return refusal(StatusCode::UNAUTHORIZED, "bad_signature", &why.to_string());
    }
    webhooks.metrics.webhook("accepted");
    let work = tokio::spawn(handle(Arc::clone(&webhooks), received, body));
    if tokio::time::timeout(PERSIST_WITHIN, work).await.is_err() {
        // The work goes on; only Meta does not wait for it.
        webhooks.metrics.webhook("answered_before_persisted");
    }
    StatusCode::OK.into_response()
}

async fn read(body: Body) -> Result<Bytes, Response> {
    match tokio::time::timeout(BODY_WITHIN, collect(body)).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => {
            Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "bodies end at 3 MiB and have to arrive whole"))
        }
        Err(_) => Err(refusal(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body has to arrive within 10 s")),
    }
}

/// The bytes of a body; `None` when it is too long or breaks off. What is too long is read on for a while and thrown
/// away: a client that still writes when the connection is closed never sees the answer.
async fn collect(body: Body) -> Option<Bytes> {
    let mut pieces = body.into_data_stream();
    let (mut bytes, mut length) = (BytesMut::new(), 0_usize);
    while let Some(piece) = pieces.next().await {
        let piece = piece.ok()?;
        length += piece.len();
        if length <= MAX_BODY {
            bytes.extend_from_slice(&piece);
        } else if length <= MAX_DISCARDED {
            bytes = BytesMut::new();
        } else {
            return None;
        }
    }
    (length <= MAX_BODY).then(|| bytes.freeze())
}

/// Persists every event of a body and hands the new ones on, in the order of the body.
async fn handle(webhooks: Arc<Webhooks>, received: Now, body: Bytes) {
    let metrics = &webhooks.metrics;
    let Ok(parsed) = webhook::parse(&body, &webhooks.config.phone_number_id) else {
        // Signed and yet no payload: acknowledged, or Meta would send it for a week.
        metrics.webhook("malformed");
        return;
    };
    for (kind, count) in parsed.oddities.counts() {
        for _ in 0..count {
            metrics.webhook(kind);
        }
    }
    let mut fresh = persist(&webhooks, &parsed.events, received).await.into_iter();
    for event in parsed.events {
        if event.wacid().is_none() || fresh.next().unwrap_or(true) {
            webhooks.switchboard.tell(News { event, received }).await;
        } else {
            metrics.webhook("duplicate");
        }
    }
}

/// Which events were not seen before, for those that are about a call, in their order and in one transaction.
///
/// A ledger that fails lets them pass: a caller is waiting, and the switchboard knows its own live calls.
async fn persist(webhooks: &Webhooks, events: &[WebhookEvent], received: Now) -> Vec<bool> {
    let keys: Vec<_> =
        events.iter().filter_map(|event| event.key(&webhooks.key)).map(|key| (key.call, key.event)).collect();
    if keys.is_empty() {
        return Vec::new();
    }
    match webhooks.store.seen_all(keys, received.wall).await {
        Ok(verdicts) => verdicts.into_iter().map(|seen| seen == Seen::New).collect(),
        Err(_) => {
            webhooks.metrics.webhook("not_persisted");
            Vec::new()
        }
    }
}

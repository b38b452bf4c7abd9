//! The two listeners: what the world may ask of this box, and what its operator may.
//!
//! Routes and their answers; the work behind a webhook is `whatsapp::http`'s and the switchboard's.

pub mod serve;
pub mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::ai::providers::Providers;
use crate::lanes::Lanes;
use crate::obs::metrics::Metrics;
use crate::sip::Sip;
use crate::store::Store;
use crate::switchboard::Switchboard;

/// Largest body that is read: Meta's payloads end at 3 MB (whatsapp-calling §1.2).
pub const MAX_BODY: usize = 3 * 1024 * 1024;

/// What `/health`, `/ready` and `/metrics` look at.
#[derive(Debug)]
pub struct Vitals {
    /// Every counter.
    pub metrics: Arc<Metrics>,
    /// The media threads.
    pub lanes: Arc<Lanes>,
    /// The ways to the model.
    pub providers: Arc<Providers>,
    /// The ledger.
    pub store: Store,
    /// The registry of calls.
    pub switchboard: Switchboard,
    /// SIP, where it is configured.
    pub sip: Option<Sip>,
    /// Boot is over.
    pub ready: AtomicBool,
    /// The daemon was told to stop.
    pub draining: AtomicBool,
}

impl Vitals {
    /// Named conditions that make the box unfit; empty when all is well.
    #[must_use]
    pub fn conditions(&self) -> Vec<&'static str> {
        let mut found = Vec::new();
        if !self.store.alive() || self.store.counts().failing {
            found.push("ledger");
        }
        if !self.switchboard.is_alive() {
            found.push("switchboard");
        }
        found
    }

    /// What does not stop the box from serving and still wants somebody's eye; `trunk` while one is down.
    #[must_use]
    pub fn remarks(&self) -> Vec<&'static str> {
        self.sip.as_ref().map(Sip::conditions).unwrap_or_default()
    }

    /// Brings the gauges that live elsewhere up to date.
    fn refresh(&self) {
        let tables = self.lanes.tables();
        let metrics = &self.metrics;
        metrics.set_table("legs", tables.legs as u64);
        metrics.set_table("slots", tables.slots as u64);
        metrics.set_table("drains", tables.drains as u64);
        metrics.set_tick_late(self.lanes.late_p99());
        self.providers.publish();
        let calls = self.switchboard.live();
        metrics.set_table("calls", calls as u64);
        metrics.set_live(calls);
        let ledger = self.store.counts();
        metrics.set_table("store_queue", ledger.queued);
        metrics.set_table("live_calls", ledger.live_calls);
        metrics.set_table("owed_texts", ledger.owed_texts);
        metrics.set_texts_unknown(ledger.texts_unknown);
        metrics.set_summaries_owed(ledger.owed_summaries);
        metrics.set_ledger(ledger.commits, ledger.lost);
        let sip = self.sip.as_ref().map(Sip::tables).unwrap_or_default();
        metrics.set_table("sip_dialogs", sip.dialogs as u64);
        metrics.set_table("sip_transactions", sip.transactions as u64);
        metrics.set_table("sip_registrations", sip.registrations as u64);
        metrics.set_table("sip_sources", sip.sources as u64);
    }
}

/// A refusal in the contract's words.
#[must_use]
pub fn refusal(status: StatusCode, code: &'static str, message: &str) -> Response {
    let body = json!({ "error": { "code": code, "message": message } });
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Adds what every listener answers: unknown routes and wrong methods.
pub fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "not_found", "there is no such route") })
        .method_not_allowed_fallback(|| async {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this route does not take that method")
        })
}

/// `/health` of the public listener.
pub fn public_routes(vitals: Arc<Vitals>) -> Router {
    Router::new().route("/health", get(health)).with_state(vitals)
}

/// `/metrics`, `/ready`, `/health` and `/api/trunks` of the admin listener; with a token, only for who bears it (contract §4).
pub fn admin_routes(vitals: Arc<Vitals>, token: Option<&SecretString>) -> Router {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/health", get(health))
        .route("/api/trunks", get(trunks))
        .with_state(vitals);
    behind_token(with_fallbacks(routes), token)
}

/// Lets only requests through that bear the token, if there is one.
fn behind_token(router: Router, token: Option<&SecretString>) -> Router {
    let expected = token.map(|token| Sha256::digest(format!("Bearer {}", token.expose_secret())));
    router.layer(middleware::from_fn(move |request: Request, next: Next| async move {
        let given = request.headers().get(header::AUTHORIZATION).map(|value| Sha256::digest(value.as_bytes()));
        // Digests are compared: how long that takes says nothing about the token.
        if expected.is_some_and(|expected| given != Some(expected)) {
            return refusal(StatusCode::UNAUTHORIZED, "unauthorized", "this listener wants the bearer admin_token");
        }
        next.run(request).await
    }))
}

async fn health(State(vitals): State<Arc<Vitals>>) -> Response {
    let conditions = vitals.conditions();
    let (code, status) = if vitals.draining.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if conditions.is_empty() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
    };
    let body = json!({
        "status": status,
        "timestamp": Timestamp::now().to_string(),
        "service": "sauti",
        "version": env!("CARGO_PKG_VERSION"),
        "conditions": conditions.iter().chain(&vitals.remarks()).collect::<Vec<_>>(),
        "calls": vitals.switchboard.live(),
    });
    (code, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn ready(State(vitals): State<Arc<Vitals>>) -> Response {
    if vitals.ready.load(Ordering::Relaxed)
        && !vitals.draining.load(Ordering::Relaxed)
        && vitals.conditions().is_empty()
    {
        (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], r#"{"ready":true}"#).into_response()
    } else {
        refusal(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "the daemon is starting, stopping or unhealthy")
    }
}

async fn trunks(State(vitals): State<Arc<Vitals>>) -> Response {
    let statuses = vitals.sip.as_ref().map_or_else(Vec::new, Sip::statuses);
    ([(header::CONTENT_TYPE, "application/json")], json!(statuses).to_string()).into_response()
}

async fn metrics(State(vitals): State<Arc<Vitals>>) -> Response {
    vitals.refresh();
    let content = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content)], vitals.metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::watch;

    use super::serve::Listener;
    use super::*;

    async fn status(address: SocketAddr, authorization: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /nowhere HTTP/1.1\r\nhost: box\r\nconnection: close\r\n{authorization}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_whitespace().nth(1).unwrap().to_owned()
    }

    #[tokio::test]
    async fn an_admin_listener_with_a_token_answers_only_who_bears_it() {
        let token = SecretString::from("canary-admin-token".to_owned());
        let router = behind_token(with_fallbacks(Router::new()), Some(&token));
        let listener = Listener::bind("admin", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = listener.address().unwrap();
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(listener.serve(router, None, stopped));
        assert_eq!(status(address, "").await, "401");
        assert_eq!(status(address, "authorization: Bearer wrong\r\n").await, "401");
        assert_eq!(status(address, "authorization: Bearer canary-admin-token\r\n").await, "404");
    }
}

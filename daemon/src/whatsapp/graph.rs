//! The way to Graph: one HTTP client, every request with a deadline, retries as `core::whatsapp::graph` decides.
//!
//! It performs; what a failure means for a call is the machine's to decide, and its caller's to log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use sauti_core::call::machine::Action;
use sauti_core::config::WhatsApp;
use sauti_core::pii::{CallerAddress, Pii};
use sauti_core::record::TextVerdict;
use sauti_core::whatsapp::graph::{
    Ask, CallRequest, Endpoint, GraphError, Opaque, RetryPolicy, TextRequest, read_action, read_message,
};
use secrecy::ExposeSecret;

use crate::obs::logging::{Field, LogValue};
use crate::obs::metrics::Metrics;

/// Longest wait for TCP and TLS; shorter than any attempt.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Idle connections kept: pre-accept, accept and terminate of a call come seconds apart.
const IDLE: usize = 8;

/// A client of one phone number.
#[derive(Debug, Clone)]
pub struct Graph {
    http: reqwest::Client,
    config: Arc<WhatsApp>,
    metrics: Arc<Metrics>,
}

/// The HTTP client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("HTTP client for Graph: {0}")]
pub struct ClientError(String);

impl Graph {
    /// A client that trusts what `tls` trusts.
    ///
    /// # Errors
    /// The TLS configuration is not taken.
    pub fn new(config: Arc<WhatsApp>, tls: &Arc<ClientConfig>, metrics: Arc<Metrics>) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(tls))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .pool_max_idle_per_host(IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("sauti/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ClientError(error.without_url().to_string()))?;
        Ok(Self { http, config, metrics })
    }

    /// Does `action` for a call; `answer` goes with pre-accept and accept.
    ///
    /// # Errors
    /// The last error, once no retry is left; [`GraphError::verdict`] says what it means for the call.
    pub async fn act(
        &self,
        action: Action,
        wacid: &Pii,
        answer: Option<&Pii>,
        opaque: Option<&Opaque>,
    ) -> Result<(), GraphError> {
        let empty = Pii::default();
        let answer = answer.unwrap_or(&empty);
        let request = match action {
            Action::PreAccept => CallRequest::pre_accept(wacid, answer),
            Action::Accept => CallRequest::accept(wacid, answer, opaque),
            Action::Reject => CallRequest::reject(wacid),
            Action::Terminate => CallRequest::terminate(wacid),
        };
        let ask = Ask::from(action);
        self.retried(ask, request.to_json(), |status, body| read_action(ask, status, body)).await
    }

    /// Sends a text; its id at Graph is not kept, our own id comes back as `opaque`.
    pub async fn text(&self, to: &CallerAddress, body: &Pii, opaque: &Opaque) -> (TextVerdict, Option<GraphError>) {
        let Some(request) = TextRequest::new(to, body.expose(), opaque) else { return (TextVerdict::Failed, None) };
        match self.retried(Ask::Text, request.to_json(), read_message).await {
            Ok(_) => (TextVerdict::Sent, None),
            Err(error) => (error.text_verdict(), Some(error)),
        }
    }

    async fn retried<T>(
        &self,
        ask: Ask,
        body: Vec<u8>,
        read: impl Fn(u16, &[u8]) -> Result<T, GraphError>,
    ) -> Result<T, GraphError> {
        let body = bytes::Bytes::from(body);
        let policy = RetryPolicy::of(ask);
        let began = Instant::now();
        let mut retried = 0;
        // An attempt stayed without an answer, and so may have been done: the next answer is read in that light.
        let mut in_doubt = false;
        loop {
            let asked = Instant::now();
            let answer = match tokio::time::timeout(policy.attempt, self.post(ask, body.clone())).await {
                Ok(Ok((status, answer))) => read(status, &answer),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(GraphError::timed_out(ask)),
            };
            let answer = if in_doubt { answer.map_err(GraphError::after_doubt) } else { answer };
            let result = answer.as_ref().err().map_or("done", |error| error.class.label());
            self.metrics.graph(ask.label(), result, asked.elapsed());
            let error = match answer {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            in_doubt |= !error.was_not_done();
            match policy.next(&error, retried, began.elapsed()) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
            }
            retried += 1;
        }
    }

    async fn post(&self, ask: Ask, body: bytes::Bytes) -> Result<(u16, bytes::Bytes), GraphError> {
        let endpoint = Endpoint {
            base: &self.config.graph_url,
            version: &self.config.graph_version,
            phone_number_id: &self.config.phone_number_id,
        };
        // What reqwest says may hold the address; only the kind of failure goes on.
        let lost = |error: reqwest::Error| {
            if error.is_connect() { GraphError::unreachable(ask) } else { GraphError::broken(ask) }
        };
        let answer = self
            .http
            .post(endpoint.url(ask))
            .bearer_auth(self.config.access_token.expose_secret())
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await
            .map_err(lost)?;
        let status = answer.status().as_u16();
        Ok((status, answer.bytes().await.map_err(lost)?))
    }
}

/// What the log says of a failed ask; the remedy is what the operator reads first.
#[must_use]
pub fn graph_error_fields(error: &GraphError) -> Vec<(Field, LogValue)> {
    let mut values = vec![
        (Field::Stage, error.ask.label().into()),
        (Field::Reason, error.class.label().into()),
        (Field::Fault, error.fault.label().into()),
        (Field::Remedy, error.remedy.into()),
    ];
    values.extend(error.http.map(|http| (Field::Status, http.into())));
    values.extend(error.code.map(|code| (Field::Code, code.into())));
    values.extend(error.trace.as_ref().map(|trace| (Field::Trace, trace.into())));
    values
}

//! Opens WebSockets to the model: address, headers, TCP, TLS, handshake.
//!
//! A [`Dialer`] is made once from `[openai]` and used for every call. An open socket is a [`Link`].
//! Why a socket could not be opened comes out as a [`Failure`] without any text of the far end and without the key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use sauti_core::ai::verdict::{Code, Failure, Loss};
use sauti_core::config::OpenAi;
use sauti_core::pii::KeyedHash;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Response, Uri, header};

use super::link::{self, Heartbeat, Link, Times, Wire};

/// How long one of several addresses of a host is tried before the next one.
const NEXT_ADDRESS: Duration = Duration::from_millis(700);

/// `[openai]` cannot be made an address or a header.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DialError {
    /// `url` is none, holds a user or password, or its scheme is not one of the four.
    #[error(
        "[openai] url: not an http, https, ws or wss address without a password; write one like https://api.openai.com/v1"
    )]
    Url,
    /// A value holds characters that a header cannot carry.
    #[error("[openai] {0}: holds characters that an HTTP header cannot carry; remove them")]
    Header(&'static str),
}

/// Opens sessions at one provider.
pub struct Dialer {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    heartbeat: Heartbeat,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Dialer {
    /// Prepares address and headers. `tls` is used for `https` and `wss`; its ALPN is set here.
    ///
    /// # Errors
    /// [`DialError`] when `[openai]` cannot be made an address or a header.
    pub fn new(openai: &OpenAi, tls: &ClientConfig) -> Result<Self, DialError> {
        let base: Uri = openai.url.parse().map_err(|_| DialError::Url)?;
        let secure = match base.scheme_str() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            _ => return Err(DialError::Url),
        };
        let authority = base.authority().ok_or(DialError::Url)?;
        // A password in the address would show wherever the address does.
        if authority.as_str().contains('@') {
            return Err(DialError::Url);
        }
        // An IPv6 literal stands in brackets, which neither a resolver nor TLS wants.
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let query = base.query().map(|query| format!("{query}&")).unwrap_or_default();
        let uri: Uri = format!(
            "{}://{authority}{}/realtime?{query}model={}",
            if secure { "wss" } else { "ws" },
            base.path().trim_end_matches('/'),
            encoded(&openai.model)
        )
        .parse()
        .map_err(|_| DialError::Url)?;
        let tls = if secure {
            let mut config = tls.clone();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let name = ServerName::try_from(host.clone()).map_err(|_| DialError::Url)?;
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        let headers = headers(openai)?;
        Ok(Self { uri, host, port, tls, headers, heartbeat: Heartbeat::default() })
    }

    /// Replaces the pace at which a silent socket is probed.
    #[must_use]
    pub const fn with_heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// Where sessions are opened; holds no secret.
    #[must_use]
    pub fn address(&self) -> String {
        self.uri.to_string()
    }

    /// Opens a session's socket, or says within `within` why not. `caller` goes out as the safety identifier.
    ///
    /// # Errors
    /// [`Failure`]: refused for key, quota or account, or broken and worth another attempt.
    pub async fn connect(&self, caller: Option<KeyedHash>, within: Duration) -> Result<Link, Failure> {
        let deadline = Instant::now() + within;
        match timeout_at(deadline, self.open(caller, deadline)).await {
            Ok(opened) => opened,
            Err(_) => Err(broken("connect_timeout")),
        }
    }

    async fn open(&self, caller: Option<KeyedHash>, deadline: Instant) -> Result<Link, Failure> {
        let request = self.request(caller)?;
        let begun = Instant::now();
        let (tcp, round_trip) = self.tcp(deadline).await?;
        if tcp.set_nodelay(true).is_err() {
            return Err(broken("connect_failed"));
        }
        let wire: Box<dyn Wire> = match &self.tls {
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), tcp).await.map_err(|_| broken("tls_failed"))?;
                Box::new(stream)
            }
            None => Box::new(tcp),
        };
        match client_async_with_config(request, wire, Some(link::config())).await {
            Ok((socket, _)) => Ok(Link::new(socket, self.heartbeat, Times { round_trip, whole: begun.elapsed() })),
            Err(Error::Http(response)) => Err(refused(&response)),
            Err(_) => Err(broken("handshake_failed")),
        }
    }

    /// Tries the host's addresses one after the other, so that one that leads nowhere does not cost the whole time.
    /// Says as well how long the one that answered took, which is a round trip.
    async fn tcp(&self, deadline: Instant) -> Result<(TcpStream, Duration), Failure> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let addresses: Vec<SocketAddr> = found.map_err(|_| broken("dns_failed"))?.collect();
        let mut failure = "dns_failed";
        for (index, address) in addresses.iter().enumerate() {
            let last = index + 1 == addresses.len();
            let patience = if last { deadline.saturating_duration_since(Instant::now()) } else { NEXT_ADDRESS };
            let begun = Instant::now();
            failure = match timeout(patience, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok((stream, begun.elapsed())),
                Ok(Err(_)) => "connect_failed",
                Err(_) => "connect_timeout",
            };
        }
        Err(broken(failure))
    }

    fn request(&self, caller: Option<KeyedHash>) -> Result<Request, Failure> {
        // The address was checked when the dialer was made; a fault here is ours and no attempt heals it.
        let fault = || Failure { loss: Loss::Broken, code: Code::known("bad_request"), retry: false };
        let mut request = self.uri.clone().into_client_request().map_err(|_| fault())?;
        for (name, value) in &self.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        if let Some(caller) = caller {
            let value = HeaderValue::from_str(&caller.to_string()).map_err(|_| fault())?;
            request.headers_mut().insert(HeaderName::from_static("openai-safety-identifier"), value);
        }
        Ok(request)
    }
}

/// The headers that are the same for every call. There is no `OpenAI-Beta`: it gets a session closed.
fn headers(openai: &OpenAi) -> Result<Vec<(HeaderName, HeaderValue)>, DialError> {
    let bearer = format!("Bearer {}", openai.api_key.expose_secret());
    let mut key = HeaderValue::from_str(&bearer).map_err(|_| DialError::Header("api key"))?;
    key.set_sensitive(true);
    let agent = HeaderValue::from_static(concat!("sauti/", env!("CARGO_PKG_VERSION")));
    let mut headers = vec![(header::AUTHORIZATION, key), (header::USER_AGENT, agent)];
    let optional =
        [("organization", "openai-organization", &openai.organization), ("project", "openai-project", &openai.project)];
    for (key, name, value) in optional {
        if let Some(value) = value {
            let value = HeaderValue::from_str(value).map_err(|_| DialError::Header(key))?;
            headers.push((HeaderName::from_static(name), value));
        }
    }
    Ok(headers)
}

fn broken(code: &'static str) -> Failure {
    Failure::broken(Code::known(code))
}

/// Sorts a handshake that the server answered with something else than 101.
fn refused(response: &Response<Option<Vec<u8>>>) -> Failure {
    #[derive(Deserialize)]
    struct Body {
        error: Cause,
    }
    #[derive(Deserialize)]
    struct Cause {
        code: Option<String>,
        #[serde(rename = "type")]
        kind: Option<String>,
    }
    let body = response.body().as_deref().and_then(|body| serde_json::from_slice::<Body>(body).ok());
    let said = body.and_then(|body| body.error.code.or(body.error.kind));
    Failure::from_handshake(response.status().as_u16(), said.as_deref())
}

/// Percent-encodes what a query value cannot hold (RFC 3986 §2.3).
fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
    out
}

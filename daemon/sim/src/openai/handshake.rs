//! What the server answers to the WebSocket's HTTP request, before there is a session.

use serde_json::json;

use super::{session::SessionKind, settings::ServerSettings};

/// The request as the socket's skin saw it.
#[derive(Debug, Clone, Default)]
pub struct RequestFacts {
    /// Path without the query.
    pub path: String,
    /// Query without the question mark, still percent-encoded.
    pub query: String,
    /// Header names (any case) and values, in order.
    pub headers: Vec<(String, String)>,
    /// Number of this connection on its listener, from 0.
    pub connection: u64,
}

impl RequestFacts {
    /// Returns the values of a header, ignoring the case of its name.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.headers.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn subprotocols(&self) -> impl Iterator<Item = &str> {
        self.header("sec-websocket-protocol").flat_map(|list| list.split(',')).map(str::trim)
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| percent_decoded(value)).next()
    }

    /// What the connection is opened for, if the query says exactly one thing.
    #[must_use]
    pub fn kind(&self) -> Option<SessionKind> {
        match (self.parameter("model"), self.parameter("call_id"), self.parameter("intent")) {
            (Some(model), None, None) => Some(SessionKind::Realtime { model }),
            (None, Some(_), None) => Some(SessionKind::Sideband),
            (None, None, Some(intent)) if intent == "transcription" => Some(SessionKind::Transcription),
            _ => None,
        }
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handshake {
    /// 101, with this subprotocol selected if one was offered; then drive a `RealtimeServer`.
    Accept {
        /// `realtime`, when the client offered it.
        subprotocol: Option<String>,
    },
    /// No WebSocket: an HTTP answer with a JSON body.
    Refuse {
        /// HTTP status.
        status: u16,
        /// JSON error body.
        body: String,
    },
    /// 101, then these frames, then a close: how the service refuses a bad key or the former beta interface.
    AcceptThenClose {
        /// `realtime`, when the client offered it.
        subprotocol: Option<String>,
        /// Text frames before the close.
        events: Vec<String>,
        /// WebSocket close code.
        code: u16,
        /// Close reason.
        reason: String,
    },
}

/// Decides the answer to a request.
#[must_use]
pub fn handshake(settings: &ServerSettings, facts: &RequestFacts) -> Handshake {
    if let Some(fault) = settings.handshake_faults.iter().find(|fault| facts.connection < fault.connections) {
        return refuse(fault.status, &fault.code, "The emulator was told to refuse this connection.");
    }
    if facts.path != settings.path {
        return refuse(404, "not_found", "Unknown request URL.");
    }
    let subprotocol = facts.subprotocols().find(|name| *name == "realtime").map(str::to_owned);
    let beta = facts.header("openai-beta").any(|value| value.contains("realtime="))
        || facts.subprotocols().any(|name| name.starts_with("openai-beta."));
    if beta {
        let message = "The Realtime beta API shape is no longer available. Remove the OpenAI-Beta header.";
        return then_close(subprotocol, "beta_api_shape_disabled", message, 4_000);
    }
    let bearer = facts.header("authorization").find_map(|value| value.strip_prefix("Bearer "));
    let in_protocol = || facts.subprotocols().find_map(|name| name.strip_prefix("openai-insecure-api-key."));
    let Some(key) = bearer.or_else(in_protocol) else {
        return refuse(401, "missing_authorization", "Missing bearer or basic authentication in header");
    };
    if !settings.expected_key.accepts(key.trim()) {
        return Handshake::AcceptThenClose {
            subprotocol,
            events: Vec::new(),
            code: 3_000,
            reason: "invalid_request_error.invalid_api_key".into(),
        };
    }
    match facts.kind() {
        None => refuse(400, "invalid_request", "Exactly one of 'model', 'call_id' and 'intent' must be given."),
        Some(SessionKind::Sideband) => {
            let wanted = facts.parameter("call_id").unwrap_or_default();
            if settings.call_ids.contains(&wanted) {
                Handshake::Accept { subprotocol }
            } else {
                refuse(404, "call_id_not_found", "No session found for the given call id.")
            }
        }
        Some(SessionKind::Realtime { model }) if !settings.models.is_empty() && !settings.models.contains(&model) => {
            let message = "The requested model does not exist or you do not have access to it.";
            then_close(subprotocol, "model_not_found", message, 4_000)
        }
        Some(_) => Handshake::Accept { subprotocol },
    }
}

fn refuse(status: u16, code: &str, message: &str) -> Handshake {
    let kind = match status {
        401 | 403 => "authentication_error",
        429 => "requests",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string();
    Handshake::Refuse { status, body }
}

fn then_close(subprotocol: Option<String>, code_name: &str, message: &str, code: u16) -> Handshake {
    let event = json!({
        "type": "error",
        "event_id": "event_refused",
        "error": {"type": "invalid_request_error", "code": code_name, "message": message, "param": null,
            "event_id": null},
    });
    let reason = format!("invalid_request_error.{code_name}");
    Handshake::AcceptThenClose { subprotocol, events: vec![event.to_string()], code, reason }
}

/// Lists the headers that seem to hold a telephone number, a WhatsApp call id or one of `private`.
pub(super) fn private_headers(facts: &RequestFacts, private: &[String]) -> Vec<String> {
    let credentials = ["authorization", "sec-websocket-key", "sec-websocket-protocol", "cookie"];
    let looks_private = |value: &str| {
        has_telephone_number(value) || value.contains("wacid.") || private.iter().any(|text| value.contains(text))
    };
    let suspects = facts.headers.iter().filter(|(name, value)| {
        !credentials.iter().any(|skip| name.eq_ignore_ascii_case(skip)) && looks_private(value)
    });
    let queried = looks_private(&percent_decoded(&facts.query)).then(|| "(query)".to_owned());
    suspects.map(|(name, _)| name.clone()).chain(queried).collect()
}

/// Nine to fifteen digits standing alone, with or without a plus; longer or embedded runs are ids and hashes.
fn has_telephone_number(value: &str) -> bool {
    let words = value.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| (9..=15).contains(&word.len())).any(|word| word.bytes().all(|byte| byte.is_ascii_digit()))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut ahead = rest.clone();
        let pair = (byte == b'%').then(|| (ahead.next(), ahead.next()));
        match pair {
            Some((Some(high), Some(low))) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digits = [high, low];
                let decoded = std::str::from_utf8(&digits).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                bytes.push(decoded.unwrap_or(b'?'));
                rest = ahead;
            }
            _ => bytes.push(if byte == b'+' { b' ' } else { byte }),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{ExpectedKey, HandshakeFault, Script};

    fn settings() -> ServerSettings {
        let mut settings = ServerSettings::new(ExpectedKey::new("canary-openai-key"), Script::default());
        settings.models = vec!["gpt-realtime-2.1".into()];
        settings.call_ids = vec!["rtc_1".into()];
        settings
    }

    fn request(query: &str, headers: &[(&str, &str)]) -> RequestFacts {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        RequestFacts { path: "/v1/realtime".into(), query: query.into(), headers, connection: 0 }
    }

    const KEY: (&str, &str) = ("Authorization", "Bearer canary-openai-key");

    fn status(answer: Handshake) -> u16 {
        match answer {
            Handshake::Accept { .. } => 101,
            Handshake::Refuse { status, .. } => status,
            Handshake::AcceptThenClose { code, .. } => code,
        }
    }

    #[test]
    fn the_right_key_and_exactly_one_purpose_open_the_socket() {
        let ask = |query: &str| status(handshake(&settings(), &request(query, &[KEY])));
        assert_eq!(ask("model=gpt-realtime-2.1"), 101);
        assert_eq!(ask("model=gpt%2Drealtime-2.1"), 101);
        assert_eq!(ask("call_id=rtc_1"), 101);
        assert_eq!(ask("intent=transcription"), 101);
        assert_eq!(ask("call_id=rtc_2"), 404);
        assert_eq!(ask(""), 400);
        assert_eq!(ask("model=gpt-realtime-2.1&call_id=rtc_1"), 400);
        assert_eq!(ask("model=gpt-5-realtime"), 4_000);
    }

    #[test]
    fn a_wrong_key_is_accepted_and_closed_with_3000() {
        let facts = request("model=gpt-realtime-2.1", &[("authorization", "Bearer other")]);
        let answer = handshake(&settings(), &facts);
        let reason = "invalid_request_error.invalid_api_key".to_owned();
        let closed = Handshake::AcceptThenClose { subprotocol: None, events: vec![], code: 3_000, reason };
        assert_eq!(answer, closed);
        assert_eq!(status(handshake(&settings(), &request("model=gpt-realtime-2.1", &[]))), 401);
    }

    #[test]
    fn the_beta_header_is_told_off_and_closed_with_4000() {
        for beta in [("OpenAI-Beta", "realtime=v1"), ("Sec-WebSocket-Protocol", "realtime, openai-beta.realtime-v1")] {
            match handshake(&settings(), &request("model=gpt-realtime-2.1", &[KEY, beta])) {
                Handshake::AcceptThenClose { events, code: 4_000, .. } => {
                    assert!(events[0].contains("beta_api_shape_disabled"));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_browser_may_bring_its_key_as_a_subprotocol() {
        let offer = ("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.canary-openai-key");
        let answer = handshake(&settings(), &request("model=gpt-realtime-2.1", &[offer]));
        assert_eq!(answer, Handshake::Accept { subprotocol: Some("realtime".into()) });
    }

    #[test]
    fn planned_refusals_strike_the_first_connections_only() {
        let mut settings = settings();
        settings.handshake_faults = vec![HandshakeFault { connections: 2, status: 429, code: "slow_down".into() }];
        let mut facts = request("model=gpt-realtime-2.1", &[KEY]);
        facts.connection = 1;
        assert_eq!(status(handshake(&settings, &facts)), 429);
        facts.connection = 2;
        assert_eq!(status(handshake(&settings, &facts)), 101);
    }

    #[test]
    fn private_values_in_headers_are_found_and_hashes_are_not() {
        let hash = "a3f8812034455667778889990001112223344556677889900aabbccddeeff001";
        let headers =
            [KEY, ("OpenAI-Safety-Identifier", hash), ("X-From", "tel:+250780000001"), ("X-Name", "Test Caller")];
        let found = private_headers(&request("model=x", &headers), &["Test Caller".into()]);
        assert_eq!(found, ["X-From", "X-Name"]);
    }
}

//! The answers of Graph as bytes: envelopes, lists, ids.

use std::time::Duration;

use serde_json::{Value, json};

use super::dice::{ALPHANUMERIC, Dice};

/// A request to Graph, as far as it counts.
#[derive(Debug, Clone, Copy)]
pub struct HttpRequest<'a> {
    /// `GET`, `POST` and so on.
    pub method: &'a str,
    /// Path with query: `/v26.0/100000000000002/calls`.
    pub path: &'a str,
    /// The value of `Authorization`.
    pub authorization: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// An answer of Graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// The status.
    pub status: u16,
    /// The body; JSON, but for errors of a gateway.
    pub body: Vec<u8>,
    /// How long Graph takes before it answers.
    pub delay: Duration,
}

/// A status with a body, before its delay is known.
pub(super) type Said = (u16, Value);

/// A JSON value that is asked for its parts; what is absent or of another type is `None`.
#[derive(Clone, Copy)]
pub(super) struct Body<'a>(pub(super) &'a Value);

impl<'a> Body<'a> {
    pub(super) fn text(self, key: &str) -> Option<&'a str> {
        self.0.get(key).and_then(Value::as_str)
    }

    pub(super) fn inner(self, key: &str) -> Self {
        Self(self.0.get(key).unwrap_or(&Value::Null))
    }
}

/// An error envelope.
pub(super) fn error(dice: &mut Dice, status: u16, code: i64, subcode: Option<i64>, details: &str) -> Said {
    let kind = if code == 100 && subcode == Some(33) { "GraphMethodException" } else { "OAuthException" };
    let mut error = json!({
        "message": format!("(#{code}) {}", title(code)),
        "type": kind,
        "code": code,
        "fbtrace_id": format!("A{}", dice.text(22, ALPHANUMERIC)),
    });
    if let Some(subcode) = subcode {
        error["error_subcode"] = json!(subcode);
    }
    if !details.is_empty() {
        error["error_data"] = json!({"messaging_product": "whatsapp", "details": details});
    }
    (status, json!({ "error": error }))
}

fn title(code: i64) -> &'static str {
    match code {
        0 | 190 => "Invalid OAuth access token",
        4 | 80_007 => "Application request limit reached",
        33 | 100 => "Invalid parameter",
        2_500 => "Unknown path components",
        130_429 => "Rate limit hit",
        131_000 => "Something went wrong",
        131_016 => "Service unavailable",
        131_047 => "Re-engagement message",
        131_055 => "Method not allowed",
        138_000 => "Calling not enabled",
        138_002 => "Concurrent calls limit reached",
        138_003 => "Duplicate call",
        138_006 => "No approved call permission from the recipient",
        138_008 => "SDP Validation error",
        _ => "An error occurred",
    }
}

/// `{"messaging_product":"whatsapp","success":…}`.
pub(super) fn success(done: bool) -> Said {
    (200, json!({"messaging_product": "whatsapp", "success": done}))
}

/// The last segment behind version and number, the number's id, and the query; `None` if the path is of another shape.
pub(super) fn route(path: &str) -> Option<(&str, &str, &str)> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut parts = path.strip_prefix('/')?.split('/');
    let version = parts.next()?.strip_prefix('v')?;
    let (major, minor) = version.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(major) || !digits(minor) {
        return None;
    }
    let number = parts.next().filter(|number| digits(number))?;
    let edge = parts.next().unwrap_or_default();
    parts.next().is_none().then_some((number, edge, query))
}

/// A value of the query, percent-decoding left out but for `+` and `%2B`.
pub(super) fn query_value(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
    Some(value.replace("%2B", "+").replace("%2b", "+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_version_of_two_numbers_is_a_route() {
        assert_eq!(route("/v26.0/12/calls"), Some(("12", "calls", "")));
        assert_eq!(route("/v9.11/12?fields=x"), Some(("12", "", "fields=x")));
        for path in ["", "/", "/26.0/12/calls", "/v26/12/calls", "/vx.y/12/calls", "/v26.0/me/calls", "/v1.0/1/a/b"] {
            assert_eq!(route(path), None, "{path}");
        }
    }

    #[test]
    fn query_values_are_found_by_name() {
        assert_eq!(query_value("a=1&user_wa_id=%2B250&b", "user_wa_id").as_deref(), Some("+250"));
        assert_eq!(query_value("a=1", "b"), None);
    }
}

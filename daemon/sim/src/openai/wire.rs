//! Turns a server event into the text of a frame: ids, order of keys, the former beta names.

use std::fmt::Write as _;

use serde_json::Value;

use super::settings::{KeyOrder, ServerSettings};

/// A seeded source of ids and spreads (SplitMix64).
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed ^ 0x5A07_1BAD_C0FF_EE11)
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Makes an id such as `item_8fKq…`, 21 characters after the underscore.
    pub(super) fn id(&mut self, prefix: &str) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789ab";
        let mut id = String::with_capacity(prefix.len() + 22);
        id.push_str(prefix);
        id.push('_');
        for _ in 0..3 {
            let mut bits = self.roll();
            for _ in 0..7 {
                let index = usize::try_from(bits & 63).unwrap_or_default();
                id.push(char::from(ALPHABET[index]));
                bits >>= 6;
            }
        }
        id
    }
}

/// The name under which an event leaves; `None` when the beta interface has no such event.
pub(super) fn event_name(kind: &'static str, beta: bool) -> Option<&'static str> {
    if !beta {
        return Some(kind);
    }
    Some(match kind {
        "response.output_audio.delta" => "response.audio.delta",
        "response.output_audio.done" => "response.audio.done",
        "response.output_audio_transcript.delta" => "response.audio_transcript.delta",
        "response.output_audio_transcript.done" => "response.audio_transcript.done",
        "response.output_text.delta" => "response.text.delta",
        "response.output_text.done" => "response.text.done",
        "conversation.item.added" => "conversation.item.created",
        "conversation.item.done" => return None,
        other => other,
    })
}

/// Renders an event; `None` when it does not exist under the names in force.
pub(super) fn render(settings: &ServerSettings, kind: &'static str, id: &str, mut body: Value) -> Option<String> {
    let name = event_name(kind, settings.beta_names)?;
    if settings.beta_names {
        rename_contents(&mut body);
    }
    let rest = body.to_string();
    let inner = rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    let mut text = String::with_capacity(rest.len() + id.len() + name.len() + 32);
    let comma = if inner.is_empty() { "" } else { "," };
    // A String takes every write.
    let written = match settings.key_order {
        KeyOrder::TypeFirst => write!(text, r#"{{"type":"{name}","event_id":"{id}"{comma}{inner}}}"#),
        KeyOrder::TypeLast => write!(text, r#"{{{inner}{comma}"event_id":"{id}","type":"{name}"}}"#),
    };
    written.is_ok().then_some(text)
}

/// Where an audio delta belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeltaOf<'a> {
    pub(super) response_id: &'a str,
    pub(super) item_id: &'a str,
    pub(super) output_index: usize,
}

/// Renders an audio delta without a tree: it is by far the most frequent and the largest event.
pub(super) fn render_audio(settings: &ServerSettings, id: &str, of: DeltaOf<'_>, base64: &str) -> String {
    let name = if settings.beta_names { "response.audio.delta" } else { "response.output_audio.delta" };
    let DeltaOf { response_id, item_id, output_index } = of;
    let extra = if settings.extra_keys { r#","obfuscation":"Zk3vQ9""# } else { "" };
    let inner = format!(
        r#""response_id":"{response_id}","item_id":"{item_id}","output_index":{output_index},"content_index":0,"delta":"{base64}"{extra}"#
    );
    match settings.key_order {
        KeyOrder::TypeFirst => format!(r#"{{"type":"{name}","event_id":"{id}",{inner}}}"#),
        KeyOrder::TypeLast => format!(r#"{{{inner},"event_id":"{id}","type":"{name}"}}"#),
    }
}

fn rename_contents(value: &mut Value) {
    match value {
        Value::Array(entries) => entries.iter_mut().for_each(rename_contents),
        Value::Object(object) => {
            for (key, entry) in object.iter_mut() {
                match entry.as_str() {
                    Some("output_audio") if key == "type" => *entry = Value::from("audio"),
                    Some("output_text") if key == "type" => *entry = Value::from("text"),
                    _ => rename_contents(entry),
                }
            }
        }
        _ => {}
    }
}

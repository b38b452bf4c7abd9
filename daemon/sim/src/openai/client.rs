//! Reads the client's events, checks them to the last key, and hands them to the part that they concern.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ClientFaultKind, RealtimeServer,
    conversation::{Body, Item, Part, Truncation, short},
    schema::Rejection,
    session::SessionKind,
    shapes,
    usage::Tokens,
};

/// An append, read without a tree; anything unusual about it goes the long way.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppendFrame<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    audio: Cow<'a, str>,
    #[serde(borrow, default)]
    event_id: Option<Cow<'a, str>>,
}

impl RealtimeServer {
    /// Takes one text frame.
    pub(super) fn handle_frame(&mut self, text: &str) {
        if let Ok(AppendFrame { kind, audio, event_id }) = serde_json::from_str(text)
            && kind == "input_audio_buffer.append"
        {
            self.check_ownership("input_audio_buffer.append");
            let outcome = self.append(&audio);
            return self.answer(outcome, "input_audio_buffer.append", event_id.as_deref());
        }
        let event = match serde_json::from_str::<Value>(text) {
            Ok(event) if event.is_object() => event,
            _ => {
                self.blame(ClientFaultKind::Malformed, format!("{} bytes that are no JSON object", text.len()));
                let rejection = Rejection::plain("invalid_event", "The event could not be parsed as a JSON object.");
                return self.refuse(&rejection, None);
            }
        };
        let event_id = event.get("event_id").and_then(Value::as_str);
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        self.check_ownership(kind);
        let outcome = shapes::CLIENT_EVENT.check(&event, "").and_then(|()| self.dispatch(kind, &event));
        self.answer(outcome, kind, event_id);
    }

    /// Notes the first thing that was said to a session which belongs to nobody.
    fn check_ownership(&mut self, kind: &str) {
        if !self.settings.owned_sessions || self.updates_owed == 0 {
            return;
        }
        if kind == "session.update" {
            self.updates_owed -= 1;
        } else {
            self.updates_owed = 0;
            let kind: String = kind.chars().take(64).collect();
            self.blame(ClientFaultKind::NotOwned, kind);
        }
    }

    fn answer(&mut self, outcome: Result<(), Rejection>, kind: &str, event_id: Option<&str>) {
        let Err(rejection) = outcome else { return };
        let fault = match (rejection.code, rejection.param.as_deref()) {
            (_, Some("type")) => ClientFaultKind::UnknownEventType,
            ("conversation_already_has_active_response", _) => ClientFaultKind::CreateWhileActive,
            _ if rejection.message.starts_with("Audio content of") => ClientFaultKind::TruncateBeyondReceived,
            ("response_cancel_not_active" | "input_audio_buffer_commit_empty", _) => ClientFaultKind::TooLate,
            ("invalid_value", Some("item.call_id")) => ClientFaultKind::UnexpectedToolResult,
            (code, _) if code.ends_with("_invalid_item_id") => ClientFaultKind::UnknownItem,
            _ => ClientFaultKind::Refused,
        };
        let param: String = rejection.param.as_deref().unwrap_or_default().chars().take(120).collect();
        let kind: String = kind.chars().take(64).collect();
        self.blame(fault, format!("{kind}: {} {param}", rejection.code).trim_end());
        // The real error for a truncation names no parameter; it is told apart above only.
        let shown = if fault == ClientFaultKind::TruncateBeyondReceived {
            Rejection { param: None, ..rejection }
        } else {
            rejection
        };
        self.refuse(&shown, event_id);
    }

    fn dispatch(&mut self, kind: &str, event: &Value) -> Result<(), Rejection> {
        let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
        match kind {
            "session.update" => self.update_session(event),
            "input_audio_buffer.append" => self.append(text("audio")),
            "input_audio_buffer.commit" => self.commit(),
            "input_audio_buffer.clear" => {
                self.clear();
                Ok(())
            }
            "conversation.item.create" => self.create_item(event),
            "conversation.item.retrieve" => self.retrieve_item(text("item_id")),
            "conversation.item.truncate" => self.truncate_item(event, text("item_id")),
            "conversation.item.delete" => self.delete_item(text("item_id")),
            "response.create" => self.create_response(event.get("response").unwrap_or(&Value::Null)),
            "response.cancel" => self.cancel_response(event.get("response_id").and_then(Value::as_str)),
            // Only calls over WebRTC or SIP have an output buffer on the server.
            _ => Err(Rejection::plain("invalid_event", "This event is only available on WebRTC and SIP sessions.")),
        }
    }

    fn update_session(&mut self, event: &Value) -> Result<(), Rejection> {
        let patch = event.get("session").unwrap_or(&Value::Null);
        let activity = self.activity();
        self.session.update(patch, activity)?;
        self.turn_settings_changed();
        let body = json!({"session": self.session.json()});
        self.emit_after(self.settings.latency.session_updated, "session.updated", body);
        Ok(())
    }

    fn create_item(&mut self, event: &Value) -> Result<(), Rejection> {
        let given = event.get("item").unwrap_or(&Value::Null);
        check_item(given, "item")?;
        let wanted = given.get("id").and_then(Value::as_str).map(str::to_owned);
        if let Some(id) = wanted.as_deref().filter(|id| self.conversation.find(id).is_some()) {
            let message = format!("Error adding item: an item with id '{}' already exists.", short(id));
            return Err(Rejection { code: "item_create_duplicate_item_id", message, param: Some("item.id".into()) });
        }
        let id = wanted.unwrap_or_else(|| self.dice.id("item"));
        let item = self.item_from(id.clone(), given)?;
        let previous = event.get("previous_item_id").and_then(Value::as_str);
        let result_of = match &item.body {
            Body::CallOutput { call_id, .. } => Some(call_id.clone()),
            _ => None,
        };
        let shown = item.json(false);
        self.conversation.insert(previous, item)?;
        if let Some(call_id) = result_of
            && self.calls.insert(call_id.clone(), true) == Some(true)
        {
            self.blame(ClientFaultKind::UnexpectedToolResult, format!("second result for {call_id}"));
        }
        let body = json!({"previous_item_id": self.conversation.before(&id), "item": shown});
        self.emit("conversation.item.added", body.clone());
        self.emit("conversation.item.done", body);
        Ok(())
    }

    fn item_from(&mut self, id: String, given: &Value) -> Result<Item, Rejection> {
        let text = |key: &str| given.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let body = match given.get("type").and_then(Value::as_str) {
            Some("function_call_output") => {
                let call_id = text("call_id");
                let known = |item: &Item| matches!(&item.body, Body::Call { call_id: made, .. } if *made == call_id);
                if !self.calls.contains_key(&call_id) && !self.conversation.items().iter().any(known) {
                    let message = format!("Tool call ID '{}' not found in conversation.", short(&call_id));
                    return Err(Rejection::invalid_value("item.call_id", message));
                }
                Body::CallOutput { call_id, output: text("output") }
            }
            Some("function_call") => {
                let call_id = Some(text("call_id")).filter(|call_id| !call_id.is_empty());
                let call_id = call_id.unwrap_or_else(|| self.dice.id("call"));
                Body::Call { call_id, name: text("name"), arguments: text("arguments") }
            }
            Some("message") => message_from(given)?,
            _ => Body::Other(given.clone()),
        };
        Ok(Item { id, status: "completed", body })
    }

    fn retrieve_item(&mut self, id: &str) -> Result<(), Rejection> {
        let Some(item) = self.conversation.find(id) else {
            return Err(unknown_item("item_retrieve_invalid_item_id", id));
        };
        let body = json!({"item": item.json(true)});
        self.emit("conversation.item.retrieved", body);
        Ok(())
    }

    fn truncate_item(&mut self, event: &Value, id: &str) -> Result<(), Rejection> {
        let whole = |key: &str| event.get(key).and_then(Value::as_i64).unwrap_or_default();
        let (index, end_ms) = (whole("content_index"), whole("audio_end_ms"));
        let bias = u64::try_from(self.settings.truncate_bias.as_millis()).unwrap_or(u64::MAX);
        match self.conversation.truncate(id, index, end_ms, bias)? {
            Truncation::Beyond(there) => {
                let message = format!("Audio content of {there}ms is already shorter than {end_ms}ms");
                Err(Rejection::invalid_value("audio_end_ms", message))
            }
            Truncation::Done => {
                if let Some(spoken) = self.record.spoken_mut(id) {
                    spoken.truncated_at_ms = u64::try_from(end_ms).ok();
                }
                let body = json!({"item_id": id, "content_index": index, "audio_end_ms": end_ms});
                self.emit("conversation.item.truncated", body);
                Ok(())
            }
        }
    }

    fn delete_item(&mut self, id: &str) -> Result<(), Rejection> {
        if !self.conversation.remove(id) {
            return Err(unknown_item("item_delete_invalid_item_id", id));
        }
        if let Some(spoken) = self.record.spoken_mut(id) {
            spoken.deleted = true;
        }
        self.emit("conversation.item.deleted", json!({"item_id": id}));
        Ok(())
    }

    /// Tokens of the items given to a response instead of the conversation.
    pub(super) fn read_input(&self, entries: &[Value]) -> Result<Vec<(String, Tokens)>, Rejection> {
        let mut context = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("response.input[{index}]");
            if entry.get("type").and_then(Value::as_str) == Some("item_reference") {
                shapes::REFERENCE.check(entry, &path)?;
                let id = entry.get("id").and_then(Value::as_str).unwrap_or_default();
                let Some(item) = self.conversation.find(id) else {
                    let message = format!("Item with id not found: {}", short(id));
                    return Err(Rejection::invalid_value(&format!("{path}.id"), message));
                };
                context.push((item.id.clone(), item.tokens()));
            } else {
                check_item(entry, &path)?;
                context.push((format!("given {index}"), Tokens::of_text(entry.to_string().len())));
            }
        }
        Ok(context)
    }

    /// The refusal of a second response at a time.
    pub(super) fn already_active(&self, number: u64) -> Rejection {
        let id = self.responses.get(&number).map(|response| response.id.as_str()).unwrap_or_default();
        Rejection::plain(
            "conversation_already_has_active_response",
            format!(
                "Conversation already has an active response in progress: {id}. Wait until the response is finished \
                 before creating a new one."
            ),
        )
    }

    /// Whether this connection can hold a conversation at all.
    pub(super) fn needs_conversation(&self) -> Result<(), Rejection> {
        match self.kind {
            SessionKind::Transcription => {
                Err(Rejection::plain("invalid_event", "Responses are not available in transcription sessions."))
            }
            SessionKind::Realtime { .. } | SessionKind::Sideband => Ok(()),
        }
    }
}

fn unknown_item(code: &'static str, id: &str) -> Rejection {
    Rejection::plain(code, format!("Item with item_id not found: {}", short(id)))
}

fn check_item(given: &Value, path: &str) -> Result<(), Rejection> {
    if given.get("type").and_then(Value::as_str) == Some("message") {
        shapes::MESSAGE.check(given, path)
    } else {
        shapes::OTHER_ITEM.check(given, path)
    }
}

fn message_from(given: &Value) -> Result<Body, Rejection> {
    let role = match given.get("role").and_then(Value::as_str) {
        Some("assistant") => "assistant",
        Some("system") => "system",
        _ => "user",
    };
    let mut parts = Vec::new();
    for (index, part) in given.get("content").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let text = |key: &str| part.get(key).and_then(Value::as_str).map(str::to_owned);
        parts.push(match part.get("type").and_then(Value::as_str) {
            Some("output_text") => Part::OutputText(text("text").unwrap_or_default()),
            Some("input_image") => Part::InputImage,
            Some("input_audio") => {
                let Ok(bytes) = STANDARD.decode(text("audio").unwrap_or_default()) else {
                    let param = format!("item.content[{index}].audio");
                    let message = format!("Invalid '{param}'. Expected base64-encoded audio bytes.");
                    return Err(Rejection::invalid_value(&param, message));
                };
                let samples: Vec<i16> =
                    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
                Part::InputAudio { samples: samples.into(), transcript: text("transcript") }
            }
            _ => Part::InputText(text("text").unwrap_or_default()),
        });
    }
    Ok(Body::Message { role, parts })
}

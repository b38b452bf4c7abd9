//! What a call was about, in a few words: asked of the model when the caller has gone, or later from what was heard.
//!
//! The request is an out-of-band response (protocol reference §2.4): text, outside the conversation, known again by its
//! metadata, so that it disturbs nothing that still runs. The answer is read tolerantly, bounded and redacted. Whoever
//! drives it owns the socket and the clock; a session's own machine is not asked, it has ended by then.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cost::Usage;
use super::redact::{redact, remember_names};
use crate::ai::events::{self, ResponseStatus, ServerEvent};
use crate::call::outcome::labels;
use crate::config::Language;
use crate::pii::Pii;
use crate::record::Speaker;

/// How long the model may take.
pub const WITHIN: Duration = Duration::from_secs(5);
/// Most tokens of the answer; the four values need about a hundred.
const MOST_TOKENS: u32 = 600;
/// Longest message that is looked at: the answer stands in it three times at most.
const LONGEST_MESSAGE: usize = 64 * 1024;
/// Longest summary that is kept, characters.
const LONGEST_TEXT: usize = 1_000;
/// Longest note on what is to follow, characters.
const LONGEST_FOLLOW_UP: usize = 300;
/// Longest intent, bytes.
const LONGEST_INTENT: usize = 64;
/// Most of a transcript that is sent, characters; its end says what came of the call.
const LONGEST_TRANSCRIPT: usize = 24_000;
/// What our request is called; errors and the answer carry it.
const EVENT_ID: &str = "summary_1";

labels! {
    /// Why there is no summary.
    Missing {
        /// No answer within [`WITHIN`].
        TimedOut => "timed_out",
        /// The model failed, was cut off, or refused the request.
        Failed => "failed",
        /// The answer holds no summary.
        Unreadable => "unreadable",
    }
}

/// What a call was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The model's finding: a word like `book_transport`, or `unknown`.
    pub intent: String,
    /// Two sentences.
    pub text: Pii,
    /// The language that was mostly spoken, if it is one of ours.
    pub language: Option<Language>,
    /// What somebody has to do now; `None` = nothing.
    pub follow_up: Option<Pii>,
}

/// One turn as the ledger keeps it.
pub type Heard = (Speaker, Pii);

/// A request whose answer has not come.
#[derive(Debug)]
pub struct Asking {
    until: Instant,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The summary, or why there is none.
    pub summary: Result<Summary, Missing>,
    /// What it cost.
    pub usage: Option<Usage>,
}

impl Asking {
    /// Asks about the conversation that the session holds; the second value is the message to be sent.
    #[must_use]
    pub fn about_session(now: Instant) -> (Self, String) {
        (Self { until: now + WITHIN }, request(None))
    }

    /// Asks about a transcript, in a session of its own.
    #[must_use]
    pub fn about_transcript(now: Instant, turns: &[Heard]) -> (Self, String) {
        (Self { until: now + WITHIN }, request(Some(&transcript(turns))))
    }

    /// When to give up.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.until
    }

    /// Takes a message of the model; `None` = it is about something else.
    #[must_use]
    pub fn message(&self, text: &str) -> Option<Answer> {
        // Audio of a response that still runs is most of what comes now.
        if text.len() > LONGEST_MESSAGE || !text.contains(EVENT_ID) {
            return None;
        }
        match events::read(text).ok()? {
            ServerEvent::ResponseDone(done) if done.client_event_id.as_deref() == Some(EVENT_ID) => {
                let summary = match done.status {
                    ResponseStatus::Completed => words(text).as_deref().and_then(parse).ok_or(Missing::Unreadable),
                    _ => Err(Missing::Failed),
                };
                Some(Answer { summary, usage: done.usage })
            }
            ServerEvent::Error { event_id, .. } if event_id.as_deref() == Some(EVENT_ID) => {
                Some(Answer { summary: Err(Missing::Failed), usage: None })
            }
            _ => None,
        }
    }
}

impl Summary {
    /// Without numbers, addresses and the names that the caller gave.
    #[must_use]
    pub fn redacted(self, turns: &[Heard]) -> Self {
        let mut names = BTreeSet::new();
        for (speaker, words) in turns {
            if *speaker == Speaker::Caller {
                remember_names(&mut names, words.expose());
            }
        }
        let hide = |text: &Pii| Pii::new(redact(text.expose(), &names));
        let tells = names.iter().any(|name| self.intent.split('_').any(|word| word == name));
        Self {
            intent: if tells { UNKNOWN.to_owned() } else { self.intent },
            text: hide(&self.text),
            follow_up: self.follow_up.as_ref().map(hide),
            language: self.language,
        }
    }
}

const UNKNOWN: &str = "unknown";

const INSTRUCTIONS: &str = "The telephone call is over; nobody hears you any more. Summarise it for the operator's \
     records. Answer with one JSON object and nothing else, no code fence, with exactly these keys: \
     \"intent\": what the caller wanted, as two or three lower-case English words joined by underscores, like \
     \"book_transport\"; \
     \"summary\": at most two sentences in English on what was wanted and what came of it; \
     \"language\": the code of the language that the caller mostly spoke, \"en\", \"fr\", \"rw\" or \"sw\"; \
     \"follow_up\": what somebody has to do now, in one sentence, or \"\". \
     Never write names of persons, telephone or account numbers, or street or mail addresses: say \"the caller\".";

#[derive(Serialize)]
struct Create<'a> {
    r#type: &'static str,
    event_id: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
struct Response<'a> {
    conversation: &'static str,
    output_modalities: [&'static str; 1],
    instructions: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<[Message<'a>; 1]>,
    tools: [(); 0],
    max_output_tokens: u32,
    metadata: Metadata,
}

#[derive(Serialize)]
struct Metadata {
    purpose: &'static str,
    client_event_id: &'static str,
}

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'static str,
    role: &'static str,
    content: [Content<'a>; 1],
}

#[derive(Serialize)]
struct Content<'a> {
    r#type: &'static str,
    text: &'a str,
}

fn request(transcript: Option<&str>) -> String {
    let message = |text| Message { r#type: "message", role: "user", content: [Content { r#type: "input_text", text }] };
    let create = Create {
        r#type: "response.create",
        event_id: EVENT_ID,
        response: Response {
            conversation: "none",
            output_modalities: ["text"],
            instructions: INSTRUCTIONS,
            input: transcript.map(|text| [message(text)]),
            tools: [],
            max_output_tokens: MOST_TOKENS,
            metadata: Metadata { purpose: "call_summary", client_event_id: EVENT_ID },
        },
    };
    // Structs with plain keys always have a JSON form.
    serde_json::to_string(&create).unwrap_or_default()
}

/// The last part of what was said, one line a turn.
fn transcript(turns: &[Heard]) -> String {
    let mut lines = Vec::new();
    let mut room = LONGEST_TRANSCRIPT;
    for (speaker, words) in turns.iter().rev() {
        let line = format!("{}: {}\n", speaker.label(), words.expose());
        room = match room.checked_sub(line.chars().count()) {
            Some(left) => left,
            None => break,
        };
        lines.push(line);
    }
    lines.reverse();
    lines.concat()
}

/// The words of a `response.done`.
fn words(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        response: Body<'a>,
    }
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow, default)]
        output: Vec<Item<'a>>,
    }
    #[derive(Deserialize)]
    struct Item<'a> {
        #[serde(borrow, default)]
        content: Vec<Part<'a>>,
    }
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(borrow, default)]
        text: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        transcript: Option<Cow<'a, str>>,
    }
    let event: Event<'_> = serde_json::from_str(text).ok()?;
    let parts = event.response.output.into_iter().flat_map(|item| item.content);
    let words: String = parts.filter_map(|part| part.text.or(part.transcript)).collect();
    (!words.is_empty()).then_some(words)
}

/// Reads the model's words: the outermost object in them, wherever it stands.
fn parse(words: &str) -> Option<Summary> {
    let object = words.get(words.find('{')?..=words.rfind('}')?)?;
    let value: Value = serde_json::from_str(object).ok()?;
    let text = text_of(value.get("summary").or_else(|| value.get("summary_text"))?, LONGEST_TEXT)?;
    let language = value.get("language").and_then(Value::as_str);
    let language = language.and_then(|code| Language::parse(&code.trim().get(..2)?.to_ascii_lowercase()));
    let follow_up = value.get("follow_up").or_else(|| value.get("follow-up"));
    Some(Summary {
        intent: value.get("intent").and_then(Value::as_str).map_or_else(|| UNKNOWN.to_owned(), intent),
        text,
        language,
        follow_up: follow_up.and_then(|value| text_of(value, LONGEST_FOLLOW_UP)),
    })
}

/// A text, or a list of them; `None` if it says nothing.
fn text_of(value: &Value, longest: usize) -> Option<Pii> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        _ => return None,
    };
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(longest).collect();
    (!text.is_empty()).then(|| Pii::new(text))
}

/// The model's finding as one word; one that could hold a number is none.
fn intent(text: &str) -> String {
    let mut word = String::new();
    for c in text.trim().chars().take(LONGEST_INTENT) {
        if c.is_ascii_alphanumeric() {
            word.push(c.to_ascii_lowercase());
        } else if !word.ends_with('_') && !word.is_empty() {
            word.push('_');
        }
    }
    let word = word.trim_end_matches('_');
    if word.is_empty() || word.bytes().any(|byte| byte.is_ascii_digit()) { UNKNOWN.to_owned() } else { word.to_owned() }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;

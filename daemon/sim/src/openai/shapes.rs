//! The shapes of everything a client may send, key by key, written from the published reference.

use super::schema::{Field, Rule, opt, req};

/// Longest event id, item id and the like.
const ID: Rule = Rule::Text(512);
/// Longest instructions and other free text.
const PROSE: Rule = Rule::Text(1 << 20);
const WORD: Rule = Rule::Text(256);

const PCM: &[Field] = &[opt("rate", &Rule::Whole(24_000, 24_000))];
const FORMAT: Rule = Rule::Tagged("type", &[("audio/pcm", PCM), ("audio/pcmu", &[]), ("audio/pcma", &[])]);
const VOICE: Rule = Rule::Either(&[WORD, Rule::Object(&[req("id", &ID)])]);
const EFFORT: Rule = Rule::Object(&[opt("effort", &Rule::Choice(&["minimal", "low", "medium", "high", "xhigh"]))]);
const MAX_TOKENS: Rule = Rule::Either(&[Rule::Whole(1, 4_096), Rule::Choice(&["inf"])]);
const MODALITIES: Rule = Rule::List(1, &Rule::Choice(&["text", "audio"]));
const METADATA: Rule = Rule::Pairs(16, 64, 512);
const PROMPT: Rule = Rule::Object(&[req("id", &ID), opt("version", &WORD), opt("variables", &Rule::Any)]);

const TOOL_CHOICE: Rule = Rule::Either(&[
    Rule::Choice(&["none", "auto", "required"]),
    Rule::Tagged("type", &[("function", &[req("name", &WORD)]), ("mcp", MCP_CHOICE)]),
]);
const MCP_CHOICE: &[Field] = &[req("server_label", &WORD), opt("name", &WORD)];
const FUNCTION: &[Field] = &[req("name", &WORD), opt("description", &PROSE), opt("parameters", &Rule::Any)];
const MCP: &[Field] = &[
    req("server_label", &WORD),
    opt("server_url", &PROSE),
    opt("connector_id", &WORD),
    opt("tunnel_id", &WORD),
    opt("authorization", &PROSE),
    opt("headers", &Rule::Pairs(64, 256, 8_192)),
    opt("allowed_tools", &Rule::Any),
    opt("allowed_callers", &Rule::Any),
    opt("require_approval", &Rule::Any),
    opt("server_description", &PROSE),
    opt("defer_loading", &Rule::Bool),
];
const TOOLS: Rule = Rule::List(128, &Rule::Tagged("type", &[("function", FUNCTION), ("mcp", MCP)]));

const SERVER_VAD: &[Field] = &[
    opt("threshold", &Rule::Number(0.0, 1.0)),
    opt("prefix_padding_ms", &Rule::Whole(0, 5_000)),
    opt("silence_duration_ms", &Rule::Whole(0, 10_000)),
    opt("idle_timeout_ms", &Rule::Whole(5_000, 30_000)),
    opt("create_response", &Rule::Bool),
    opt("interrupt_response", &Rule::Bool),
];
const SEMANTIC_VAD: &[Field] = &[
    opt("eagerness", &Rule::Choice(&["low", "medium", "high", "auto"])),
    opt("create_response", &Rule::Bool),
    opt("interrupt_response", &Rule::Bool),
];
const TURN_DETECTION: Rule = Rule::Tagged("type", &[("server_vad", SERVER_VAD), ("semantic_vad", SEMANTIC_VAD)]);

const TRANSCRIPTION: Rule = Rule::Object(&[
    opt("model", &WORD),
    opt("language", &Rule::Text(16)),
    opt("languages", &Rule::List(64, &Rule::Text(16))),
    opt("keywords", &Rule::List(1_000, &WORD)),
    opt("prompt", &PROSE),
    opt("delay", &Rule::Choice(&["minimal", "low", "medium", "high", "xhigh"])),
]);
const NOISE_REDUCTION: Rule =
    Rule::Object(&[opt("type", &Rule::Choice(&["near_field", "far_field"])), opt("strength", &Rule::Number(0.0, 1.0))]);
const INPUT: Rule = Rule::Object(&[
    opt("format", &FORMAT),
    opt("noise_reduction", &NOISE_REDUCTION),
    opt("transcription", &TRANSCRIPTION),
    opt("turn_detection", &TURN_DETECTION),
]);
const OUTPUT: Rule =
    Rule::Object(&[opt("format", &FORMAT), opt("voice", &VOICE), opt("speed", &Rule::Number(0.25, 1.5))]);

const TRACING: Rule = Rule::Either(&[
    Rule::Choice(&["auto"]),
    Rule::Object(&[opt("workflow_name", &WORD), opt("group_id", &WORD), opt("metadata", &Rule::Any)]),
]);
const RETENTION: &[Field] = &[
    req("retention_ratio", &Rule::Number(0.0, 1.0)),
    opt("token_limits", &Rule::Object(&[opt("post_instructions", &Rule::Whole(0, 1_000_000))])),
];
const TRUNCATION: Rule =
    Rule::Either(&[Rule::Choice(&["auto", "disabled"]), Rule::Tagged("type", &[("retention_ratio", RETENTION)])]);
const INCLUDE: Rule = Rule::List(1, &Rule::Choice(&["item.input_audio_transcription.logprobs"]));

const REALTIME: &[Field] = &[
    opt("model", &WORD),
    opt("output_modalities", &MODALITIES),
    opt("instructions", &PROSE),
    opt("audio", &Rule::Object(&[opt("input", &INPUT), opt("output", &OUTPUT)])),
    opt("tools", &TOOLS),
    opt("tool_choice", &TOOL_CHOICE),
    opt("parallel_tool_calls", &Rule::Bool),
    opt("reasoning", &EFFORT),
    opt("max_output_tokens", &MAX_TOKENS),
    opt("truncation", &TRUNCATION),
    opt("tracing", &TRACING),
    opt("prompt", &PROMPT),
    opt("include", &INCLUDE),
];
const TRANSCRIBING: &[Field] = &[opt("audio", &Rule::Object(&[opt("input", &INPUT)])), opt("include", &INCLUDE)];
const SESSION: Rule = Rule::Tagged("type", &[("realtime", REALTIME), ("transcription", TRANSCRIBING)]);

const USER_PART: Rule = Rule::Tagged(
    "type",
    &[
        ("input_text", &[req("text", &PROSE)]),
        ("input_audio", &[req("audio", &Rule::Text(20 << 20)), opt("transcript", &PROSE)]),
        ("input_image", &[req("image_url", &Rule::Text(20 << 20)), opt("detail", &Rule::Choice(DETAIL))]),
    ],
);
const DETAIL: &[&str] = &["auto", "low", "high"];
const SYSTEM_PART: Rule = Rule::Tagged("type", &[("input_text", &[req("text", &PROSE)])]);
// Assistant audio cannot be put in by a client: only text.
const ASSISTANT_PART: Rule = Rule::Tagged("type", &[("output_text", &[req("text", &PROSE)])]);
const STATUS: Rule = Rule::Choice(&["completed", "incomplete", "in_progress"]);
const OBJECT: Rule = Rule::Choice(&["realtime.item"]);

const fn message(part: &'static Rule) -> [Field; 5] {
    [opt("id", &ITEM_ID), opt("object", &OBJECT), opt("status", &STATUS), opt("type", &WORD), req("content", part)]
}
const ITEM_ID: Rule = Rule::Text(32);
const USER_PARTS: Rule = Rule::List(64, &USER_PART);
const SYSTEM_PARTS: Rule = Rule::List(64, &SYSTEM_PART);
const ASSISTANT_PARTS: Rule = Rule::List(64, &ASSISTANT_PART);
const USER: &[Field] = &message(&USER_PARTS);
const SYSTEM: &[Field] = &message(&SYSTEM_PARTS);
const ASSISTANT: &[Field] = &message(&ASSISTANT_PARTS);

/// A message item; what may stand in `content` follows from the role.
pub(super) const MESSAGE: Rule = Rule::Tagged("role", &[("user", USER), ("system", SYSTEM), ("assistant", ASSISTANT)]);

const CALL: &[Field] = &[
    opt("id", &ITEM_ID),
    opt("object", &OBJECT),
    opt("status", &STATUS),
    opt("call_id", &WORD),
    req("name", &WORD),
    req("arguments", &PROSE),
];
const CALL_OUTPUT: &[Field] = &[
    opt("id", &ITEM_ID),
    opt("object", &OBJECT),
    opt("status", &STATUS),
    req("call_id", &WORD),
    req("output", &PROSE),
];
const APPROVAL: &[Field] =
    &[req("id", &ID), req("approval_request_id", &ID), req("approve", &Rule::Bool), opt("reason", &PROSE)];
/// Items other than messages.
pub(super) const OTHER_ITEM: Rule = Rule::Tagged(
    "type",
    &[
        ("message", &[]),
        ("function_call", CALL),
        ("function_call_output", CALL_OUTPUT),
        ("mcp_approval_response", APPROVAL),
    ],
);
/// An item by reference, legal in `response.create` only.
pub(super) const REFERENCE: Rule = Rule::Object(&[req("type", &Rule::Choice(&["item_reference"])), req("id", &ID)]);

const RESPONSE_OUTPUT: Rule = Rule::Object(&[opt("format", &FORMAT), opt("voice", &VOICE)]);
/// The body of `response.create`; the entries of `input` are checked one by one.
const RESPONSE: Rule = Rule::Object(&[
    opt("conversation", &Rule::Choice(&["auto", "none"])),
    opt("input", &Rule::List(10_000, &Rule::Any)),
    opt("instructions", &PROSE),
    opt("output_modalities", &MODALITIES),
    opt("tools", &TOOLS),
    opt("tool_choice", &TOOL_CHOICE),
    opt("max_output_tokens", &MAX_TOKENS),
    opt("audio", &Rule::Object(&[opt("output", &RESPONSE_OUTPUT)])),
    opt("metadata", &METADATA),
    opt("reasoning", &EFFORT),
    opt("parallel_tool_calls", &Rule::Bool),
    opt("prompt", &PROMPT),
]);

const WHEN_MS: Rule = Rule::Whole(i64::MIN, i64::MAX);

/// The client events. Limits that have an error of their own (the size of an append) are checked by their handlers.
pub(super) const CLIENT_EVENT: Rule = Rule::Tagged(
    "type",
    &[
        ("session.update", &[opt("event_id", &ID), req("session", &SESSION)]),
        ("input_audio_buffer.append", &[opt("event_id", &ID), req("audio", &Rule::Text(usize::MAX))]),
        ("input_audio_buffer.commit", &[opt("event_id", &ID)]),
        ("input_audio_buffer.clear", &[opt("event_id", &ID)]),
        ("conversation.item.create", &[opt("event_id", &ID), opt("previous_item_id", &ID), req("item", &Rule::Any)]),
        ("conversation.item.retrieve", &[opt("event_id", &ID), req("item_id", &ID)]),
        (
            "conversation.item.truncate",
            &[opt("event_id", &ID), req("item_id", &ID), req("content_index", &WHEN_MS), req("audio_end_ms", &WHEN_MS)],
        ),
        ("conversation.item.delete", &[opt("event_id", &ID), req("item_id", &ID)]),
        ("response.create", &[opt("event_id", &ID), opt("response", &RESPONSE)]),
        ("response.cancel", &[opt("event_id", &ID), opt("response_id", &ID)]),
        ("output_audio_buffer.clear", &[opt("event_id", &ID)]),
    ],
);

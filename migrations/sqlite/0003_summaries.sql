-- What calls were about. `primary_intent` is the kind of conversation, `whatsapp_voice_call` for every WhatsApp call:
-- readers elsewhere query it; the model's own finding is `intent`. Numbers, addresses and names that the caller gave
-- are replaced in `intent`, `summary_text` and `follow_up`, unless `[agent] summary_pii = "keep"`.
CREATE TABLE call_summaries (
    call_id         TEXT PRIMARY KEY NOT NULL REFERENCES voice_calls (call_id),
    primary_intent  TEXT NOT NULL,
    intent          TEXT NOT NULL,
    summary_text    TEXT NOT NULL,
    language        TEXT CHECK (language IN ('en', 'fr', 'rw', 'sw')),  -- mostly spoken; NULL = none of ours, or not said
    follow_up       TEXT,                                               -- NULL = nothing is left to do
    created_at      INTEGER NOT NULL
) STRICT;

-- Local only: calls whose summary is still to be asked for. Written with the outcome, so that nothing loses it; a row
-- goes when the summary came or was given up.
CREATE TABLE owed_summaries (
    call_id   TEXT PRIMARY KEY NOT NULL REFERENCES voice_calls (call_id),
    owed_at   INTEGER NOT NULL,
    due_at    INTEGER NOT NULL,
    attempts  INTEGER NOT NULL
) STRICT;

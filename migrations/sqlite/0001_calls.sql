-- The ledger, first version: what the WhatsApp door writes.
--
-- Only tables that something writes are here; mcp_tool_calls, call_consents, wa_threads and
-- voice_memories come with the steps that fill them, each in a file of its own. A file that was released is
-- never edited: the next number changes what it made.
--
-- Every `*_at` is Unix time in milliseconds, UTC. Keys are UUIDv7 in their hyphenated form, made on this box.
-- Hashes are HMAC-SHA256 under `box_key`, cut to 16 bytes, in hex. Money is integer micro-USD, NULL = not known.
-- The words in the CHECK lists are those of `sauti-core`; a test compares them.

-- One row for each call that was ever admitted or refused by name.
CREATE TABLE voice_calls (
    call_id          TEXT PRIMARY KEY NOT NULL,
    door             TEXT NOT NULL CHECK (door IN ('whatsapp', 'whatsapp-sip', 'trunk', 'carrier', 'openai-sip')),
    direction        TEXT NOT NULL CHECK (direction IN ('inbound', 'outbound')),
    wa_call_id_hash  TEXT,
    mtn_call_sid     TEXT,
    caller_hash      TEXT,
    language         TEXT CHECK (language IN ('en', 'fr', 'rw', 'sw')),
    -- Stages, in the order in which a WhatsApp call normally passes them; NULL = never reached.
    connect_at       INTEGER,           -- the far side made its offer: `o=` of the SDP
    offered_at       INTEGER NOT NULL,  -- the offer reached this box
    pre_accepted_at  INTEGER,
    media_up_at      INTEGER,           -- ICE and DTLS
    model_up_at      INTEGER,           -- the model's session is configured
    accepted_at      INTEGER,
    first_audio_at   INTEGER,           -- first frame of the agent on the wire
    ended_at         INTEGER,
    outcome          TEXT CHECK (outcome IN ('completed', 'caller_left_early', 'refused_capacity', 'refused_config', 'stale', 'no_media', 'model_failed', 'model_refused', 'graph_failed', 'limit', 'drained', 'restart', 'internal')),
    fault            TEXT CHECK (fault IN ('caller', 'whatsapp', 'carrier', 'model', 'box', 'operator', 'none')),
    seconds          REAL CHECK (seconds >= 0),            -- time in conversation; NULL = not known
    cost_micro_usd   INTEGER CHECK (cost_micro_usd >= 0),  -- sum over openai_sessions, written when the call ends
    -- The text message instead of an answer: our id in Graph's opaque callback data, and how far it got.
    text_id          TEXT UNIQUE,
    text_state       TEXT CHECK (text_state IN ('owed', 'sending', 'sent', 'failed', 'unknown')),
    CHECK ((outcome IS NULL) = (fault IS NULL)),
    CHECK ((outcome IS NULL) = (ended_at IS NULL)),
    CHECK ((text_id IS NULL) = (text_state IS NULL))
) STRICT;

CREATE UNIQUE INDEX idx_voice_calls_wa_call ON voice_calls (wa_call_id_hash) WHERE wa_call_id_hash IS NOT NULL;
CREATE INDEX idx_voice_calls_mtn_sid ON voice_calls (mtn_call_sid);
CREATE INDEX idx_voice_calls_open ON voice_calls (call_id) WHERE outcome IS NULL;
CREATE INDEX idx_voice_calls_text_unknown ON voice_calls (text_state) WHERE text_state = 'unknown';

CREATE TRIGGER voice_calls_outcome_once
BEFORE UPDATE OF outcome, fault, ended_at ON voice_calls
WHEN OLD.outcome IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a call has one outcome and this one has it');
END;

-- What happened in a call, in the order of rowid; `fields` is a JSON object without personal values.
CREATE TABLE voice_events (
    event_id  TEXT PRIMARY KEY NOT NULL,
    call_id   TEXT NOT NULL REFERENCES voice_calls (call_id),
    at        INTEGER NOT NULL,
    event     TEXT NOT NULL,
    fields    TEXT NOT NULL CHECK (json_valid(fields))
) STRICT;

CREATE INDEX idx_voice_events_call ON voice_events (call_id);

-- What each model did in each session: one row for the session's own model, one for a model that transcribes beside
-- it. A call that had to reconnect has several sessions, told apart by `ordinal`. As on the wire, `*_cached` is a part
-- of `*_in`; `metered_ms` is audio taken by a model that charges by time.
CREATE TABLE openai_sessions (
    session_id         TEXT PRIMARY KEY NOT NULL,
    call_id            TEXT NOT NULL REFERENCES voice_calls (call_id),
    ordinal            INTEGER NOT NULL CHECK (ordinal >= 0),
    openai_session_id  TEXT,
    model              TEXT NOT NULL,
    opened_at          INTEGER NOT NULL,
    closed_at          INTEGER,
    text_in            INTEGER NOT NULL,
    text_cached        INTEGER NOT NULL,
    text_out           INTEGER NOT NULL,
    audio_in           INTEGER NOT NULL,
    audio_cached       INTEGER NOT NULL,
    audio_out          INTEGER NOT NULL,
    metered_ms         INTEGER NOT NULL,
    cost_micro_usd     INTEGER CHECK (cost_micro_usd >= 0),
    UNIQUE (call_id, ordinal, model)
) STRICT;

-- Turns as heard: of the agent's words only what left the box before it was interrupted.
CREATE TABLE transcripts (
    turn_id      TEXT PRIMARY KEY NOT NULL,
    call_id      TEXT NOT NULL REFERENCES voice_calls (call_id),
    item         TEXT NOT NULL,          -- the model's id of the item
    speaker      TEXT NOT NULL CHECK (speaker IN ('caller', 'agent')),
    began_at     INTEGER NOT NULL,
    heard_ms     INTEGER CHECK (heard_ms >= 0),
    interrupted  INTEGER NOT NULL CHECK (interrupted IN (0, 1)),
    text         TEXT NOT NULL,
    UNIQUE (call_id, item)
) STRICT;

-- What upstream has not got yet; one row for each outcome.
CREATE TABLE outbox (
    outbox_id   TEXT PRIMARY KEY NOT NULL,
    kind        TEXT NOT NULL,           -- the table
    row_key     TEXT NOT NULL,           -- its primary key
    created_at  INTEGER NOT NULL,
    UNIQUE (kind, row_key)
) STRICT;

-- Local only, never synced: what is needed to act after a crash. BLOBs are sealed with a key derived from `box_key`.
-- A row goes when its call has ended.
CREATE TABLE live_calls (
    call_id   TEXT PRIMARY KEY NOT NULL REFERENCES voice_calls (call_id),
    wacid     BLOB,
    address   BLOB NOT NULL
) STRICT;

-- Local only, sealed likewise. A row goes when its text was sent, failed, or may have been sent; voice_calls.text_state keeps the fact.
CREATE TABLE owed_texts (
    text_id   TEXT PRIMARY KEY NOT NULL,
    call_id   TEXT NOT NULL UNIQUE REFERENCES voice_calls (call_id),
    owed_at   INTEGER NOT NULL,
    attempts  INTEGER NOT NULL,
    address   BLOB NOT NULL,
    body      BLOB NOT NULL
) STRICT;

-- Local only: which webhook events were already taken, kept for 7 days. A `terminate` in here is the tombstone
-- that a late `connect` meets.
CREATE TABLE webhook_seen (
    wa_call_id_hash  TEXT NOT NULL,
    event            TEXT NOT NULL,
    seen_at          INTEGER NOT NULL,
    PRIMARY KEY (wa_call_id_hash, event)
) STRICT, WITHOUT ROWID;

CREATE INDEX idx_webhook_seen_at ON webhook_seen (seen_at);

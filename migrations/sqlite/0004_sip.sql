-- What SIP leaves behind of a call: the messages, redacted, and what it takes to hang up after a crash.

-- The messages of each dialog of a call, at most 64 (daemon/core/src/sip/trace.rs): no number, name, Call-ID, tag or
-- body. Written when the call ends. `leg` 0 is the caller's, 1 that of whoever the call was handed to.
CREATE TABLE sip_messages (
    call_id  TEXT NOT NULL REFERENCES voice_calls (call_id),
    leg      INTEGER NOT NULL CHECK (leg IN (0, 1)),
    number   INTEGER NOT NULL CHECK (number >= 0),   -- its place in the dialog; one that is missing was left out for the bound
    at_ms    INTEGER NOT NULL CHECK (at_ms >= 0),    -- since the first message
    way      TEXT NOT NULL CHECK (way IN ('in', 'out')),
    first    TEXT NOT NULL,                          -- first line, without user part and parameters
    cseq     TEXT NOT NULL,
    reason   TEXT,                                   -- protocol and cause of a Reason header
    PRIMARY KEY (call_id, leg, number)
) STRICT, WITHOUT ROWID;

-- Local only, never synced, sealed like live_calls: the dialogs that stand, so that each gets its BYE after a crash.
-- A row goes when its call has ended.
CREATE TABLE live_dialogs (
    call_id  TEXT NOT NULL REFERENCES voice_calls (call_id),
    leg      INTEGER NOT NULL CHECK (leg IN (0, 1)),
    dialog   BLOB NOT NULL,
    PRIMARY KEY (call_id, leg)
) STRICT, WITHOUT ROWID;

-- How each call sounded: one row for a call in which media of the caller came.
--
-- An estimate of the line by the E-model (daemon/core/src/media/quality.rs), written when the call ends. `heard_*` is
-- what this box heard of the caller, `spoken_*` what the caller heard of it, by the far end's RTCP; NULL = not reported.
CREATE TABLE call_quality (
    call_id        TEXT PRIMARY KEY NOT NULL REFERENCES voice_calls (call_id),
    heard_mos      REAL CHECK (heard_mos BETWEEN 1 AND 5),
    spoken_mos     REAL CHECK (spoken_mos BETWEEN 1 AND 5),
    heard_loss     REAL NOT NULL CHECK (heard_loss BETWEEN 0 AND 100),   -- percent of packets, rebuilt ones included
    spoken_loss    REAL CHECK (spoken_loss BETWEEN 0 AND 100),
    burst_ratio    REAL NOT NULL CHECK (burst_ratio >= 1),               -- how much longer losses run than by chance
    jitter_ms      REAL NOT NULL CHECK (jitter_ms >= 0),                 -- mean of RFC 3550's estimate
    buffer_ms      REAL NOT NULL CHECK (buffer_ms >= 0),                 -- mean delay of the jitter buffer
    round_trip_ms  REAL CHECK (round_trip_ms >= 0),                      -- mean, to the far end of the media and back
    underruns      INTEGER NOT NULL CHECK (underruns >= 0)               -- frames of speech that were due and not there
) STRICT;

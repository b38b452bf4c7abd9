//! The ledger read for people and scripts, also while a daemon writes to it: WAL lets readers by.
//!
//! Nothing here writes, locks out the writer, or opens what is sealed. Driven by `sauti calls`.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, OptionalExtension, Row};
use sauti_core::ids::CallId;
use serde::Serialize;

use super::error::StoreError;
use super::migrate;

/// The columns of [`CallRow`], in its order.
const CALL: &str = "SELECT rowid, call_id, door, direction, wa_call_id_hash, mtn_call_sid, caller_hash, language,
    connect_at, offered_at, pre_accepted_at, media_up_at, model_up_at, accepted_at, first_audio_at, ended_at,
    outcome, fault, seconds, cost_micro_usd, text_state FROM voice_calls";

/// A stored time; written to JSON as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl Time {
    /// Milliseconds from `earlier` to this.
    #[must_use]
    pub fn millis_after(self, earlier: Self) -> i64 {
        self.0.as_millisecond() - earlier.0.as_millisecond()
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromSql for Time {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let millis = value.as_i64()?;
        Timestamp::from_millisecond(millis).map(Self).map_err(|_| FromSqlError::OutOfRange(millis))
    }
}

/// One call as stored; the names are those of the columns.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the columns are described in migrations/sqlite")]
pub struct CallRow {
    #[serde(skip)]
    pub rowid: i64,
    pub call_id: String,
    pub door: String,
    pub direction: String,
    pub wa_call_id_hash: Option<String>,
    pub mtn_call_sid: Option<String>,
    pub caller_hash: Option<String>,
    pub language: Option<String>,
    pub connect_at: Option<Time>,
    pub offered_at: Time,
    pub pre_accepted_at: Option<Time>,
    pub media_up_at: Option<Time>,
    pub model_up_at: Option<Time>,
    pub accepted_at: Option<Time>,
    pub first_audio_at: Option<Time>,
    pub ended_at: Option<Time>,
    pub outcome: Option<String>,
    pub fault: Option<String>,
    pub seconds: Option<f64>,
    pub cost_micro_usd: Option<i64>,
    pub text_state: Option<String>,
}

impl CallRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            rowid: row.get(0)?,
            call_id: row.get(1)?,
            door: row.get(2)?,
            direction: row.get(3)?,
            wa_call_id_hash: row.get(4)?,
            mtn_call_sid: row.get(5)?,
            caller_hash: row.get(6)?,
            language: row.get(7)?,
            connect_at: row.get(8)?,
            offered_at: row.get(9)?,
            pre_accepted_at: row.get(10)?,
            media_up_at: row.get(11)?,
            model_up_at: row.get(12)?,
            accepted_at: row.get(13)?,
            first_audio_at: row.get(14)?,
            ended_at: row.get(15)?,
            outcome: row.get(16)?,
            fault: row.get(17)?,
            seconds: row.get(18)?,
            cost_micro_usd: row.get(19)?,
            text_state: row.get(20)?,
        })
    }
}

/// What a call was about.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the columns are described in migrations/sqlite")]
pub struct SummaryLine {
    pub primary_intent: String,
    pub intent: String,
    pub summary_text: String,
    pub language: Option<String>,
    pub follow_up: Option<String>,
    pub created_at: Time,
}

/// What one model did in one session of a call.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the columns are described in migrations/sqlite")]
pub struct SessionLine {
    pub ordinal: i64,
    pub model: String,
    pub openai_session_id: Option<String>,
    pub opened_at: Time,
    pub closed_at: Option<Time>,
    pub text_in: i64,
    pub text_cached: i64,
    pub text_out: i64,
    pub audio_in: i64,
    pub audio_cached: i64,
    pub audio_out: i64,
    pub metered_ms: i64,
    pub cost_micro_usd: Option<i64>,
}

/// One event of a call.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the columns are described in migrations/sqlite")]
pub struct EventLine {
    pub at: Time,
    pub event: String,
    pub fields: serde_json::Value,
}

/// One turn of a call, with its words.
#[derive(Clone, Serialize)]
#[expect(missing_docs, reason = "the columns are described in migrations/sqlite")]
pub struct TurnLine {
    pub began_at: Time,
    pub speaker: String,
    pub heard_ms: Option<i64>,
    pub interrupted: bool,
    pub text: String,
}

/// How a call sounded.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the columns are described in migrations/sqlite")]
pub struct QualityLine {
    pub heard_mos: Option<f64>,
    pub spoken_mos: Option<f64>,
    pub heard_loss: f64,
    pub spoken_loss: Option<f64>,
    pub burst_ratio: f64,
    pub jitter_ms: f64,
    pub buffer_ms: f64,
    pub round_trip_ms: Option<f64>,
    pub underruns: i64,
}

/// One SIP message of a call, redacted.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the columns are described in migrations/sqlite")]
pub struct SipLine {
    pub leg: u8,
    pub number: u32,
    pub at_ms: i64,
    pub way: String,
    pub first: String,
    pub cseq: String,
    pub reason: Option<String>,
}

/// A call with what belongs to it.
#[derive(Clone, Serialize)]
pub struct CallDetail {
    /// Its own row.
    #[serde(flatten)]
    pub call: CallRow,
    /// Its sessions with the model, in order.
    pub sessions: Vec<SessionLine>,
    /// How it sounded; `None` when no media of the caller came.
    pub quality: Option<QualityLine>,
    /// Its events, in the order in which they were written.
    pub events: Vec<EventLine>,
    /// Its SIP messages, in order; empty where it did not come by SIP.
    pub sip: Vec<SipLine>,
    /// Its words, in the order in which they began; `None` where they were not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transcript: Option<Vec<TurnLine>>,
    /// What it was about; `None` where words were not asked for, or there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<SummaryLine>,
}

/// A ledger opened for reading.
pub struct Reader {
    connection: Connection,
    path: PathBuf,
}

impl Reader {
    /// Opens the ledger at `path` without changing it.
    ///
    /// # Errors
    /// It is not there, cannot be read, or has another schema version than this program; the text says what to do.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if let Err(error) = std::fs::File::open(path) {
            let path = path.to_owned();
            return Err(match error.kind() {
                std::io::ErrorKind::NotFound => StoreError::Missing { path },
                _ => StoreError::Unreadable { path, reason: error.to_string() },
            });
        }
        let connection = open_to_read(path).map_err(|error| StoreError::sqlite(path, "read it", &error))?;
        let found = migrate::version(&connection, path)?;
        let known = migrate::known_version();
        if found < known {
            return Err(StoreError::Older { path: path.to_owned(), found, known });
        }
        Ok(Self { connection, path: path.to_owned() })
    }

    /// The latest `limit` calls, the newest last.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn latest(&self, limit: u32) -> Result<Vec<CallRow>, StoreError> {
        let mut calls: Vec<_> = self.read(|| {
            let mut ask = self.ask("ORDER BY rowid DESC LIMIT ?1")?;
            ask.query_map([limit], CallRow::read)?.collect()
        })?;
        calls.reverse();
        Ok(calls)
    }

    /// The calls that came after the one with this `rowid`, at most a thousand, the newest last.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn after(&self, rowid: i64) -> Result<Vec<CallRow>, StoreError> {
        self.read(|| {
            let mut ask = self.ask("WHERE rowid > ?1 ORDER BY rowid LIMIT 1000")?;
            ask.query_map([rowid], CallRow::read)?.collect()
        })
    }

    /// The call with this id.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn call(&self, id: CallId) -> Result<Option<CallRow>, StoreError> {
        self.read(|| self.ask("WHERE call_id = ?1")?.query_row([id.to_string()], CallRow::read).optional())
    }

    /// What belongs to `call`, the words only if `words`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn detail(&self, call: CallRow, words: bool) -> Result<CallDetail, StoreError> {
        let sessions = self.sessions(&call.call_id)?;
        let quality = self.quality(&call.call_id)?;
        let events = self.events(&call.call_id)?;
        let sip = self.sip(&call.call_id)?;
        let transcript = if words { Some(self.turns(&call.call_id)?) } else { None };
        let summary = if words { self.summary(&call.call_id)? } else { None };
        Ok(CallDetail { call, sessions, quality, events, sip, transcript, summary })
    }

    fn sessions(&self, id: &str) -> Result<Vec<SessionLine>, StoreError> {
        self.read(|| {
            let mut ask = self.connection.prepare_cached(
                "SELECT ordinal, model, openai_session_id, opened_at, closed_at, text_in, text_cached, text_out,
                 audio_in, audio_cached, audio_out, metered_ms, cost_micro_usd
                 FROM openai_sessions WHERE call_id = ?1 ORDER BY ordinal, rowid",
            )?;
            let rows = ask.query_map([id], |row| {
                Ok(SessionLine {
                    ordinal: row.get(0)?,
                    model: row.get(1)?,
                    openai_session_id: row.get(2)?,
                    opened_at: row.get(3)?,
                    closed_at: row.get(4)?,
                    text_in: row.get(5)?,
                    text_cached: row.get(6)?,
                    text_out: row.get(7)?,
                    audio_in: row.get(8)?,
                    audio_cached: row.get(9)?,
                    audio_out: row.get(10)?,
                    metered_ms: row.get(11)?,
                    cost_micro_usd: row.get(12)?,
                })
            })?;
            rows.collect()
        })
    }

    fn quality(&self, id: &str) -> Result<Option<QualityLine>, StoreError> {
        self.read(|| {
            let mut ask = self.connection.prepare_cached(
                "SELECT heard_mos, spoken_mos, heard_loss, spoken_loss, burst_ratio, jitter_ms, buffer_ms,
                 round_trip_ms, underruns FROM call_quality WHERE call_id = ?1",
            )?;
            let read = |row: &Row<'_>| {
                Ok(QualityLine {
                    heard_mos: row.get(0)?,
                    spoken_mos: row.get(1)?,
                    heard_loss: row.get(2)?,
                    spoken_loss: row.get(3)?,
                    burst_ratio: row.get(4)?,
                    jitter_ms: row.get(5)?,
                    buffer_ms: row.get(6)?,
                    round_trip_ms: row.get(7)?,
                    underruns: row.get(8)?,
                })
            };
            ask.query_row([id], read).optional()
        })
    }

    fn events(&self, id: &str) -> Result<Vec<EventLine>, StoreError> {
        self.read(|| {
            let mut ask = self
                .connection
                .prepare_cached("SELECT at, event, fields FROM voice_events WHERE call_id = ?1 ORDER BY rowid")?;
            let rows = ask.query_map([id], |row| {
                let fields: String = row.get(2)?;
                let fields = serde_json::from_str(&fields).unwrap_or(serde_json::Value::Null);
                Ok(EventLine { at: row.get(0)?, event: row.get(1)?, fields })
            })?;
            rows.collect()
        })
    }

    fn sip(&self, id: &str) -> Result<Vec<SipLine>, StoreError> {
        self.read(|| {
            let mut ask = self.connection.prepare_cached(
                "SELECT leg, number, at_ms, way, first, cseq, reason FROM sip_messages WHERE call_id = ?1
                 ORDER BY leg, number",
            )?;
            let rows = ask.query_map([id], |row| {
                Ok(SipLine {
                    leg: row.get(0)?,
                    number: row.get(1)?,
                    at_ms: row.get(2)?,
                    way: row.get(3)?,
                    first: row.get(4)?,
                    cseq: row.get(5)?,
                    reason: row.get(6)?,
                })
            })?;
            rows.collect()
        })
    }

    fn turns(&self, id: &str) -> Result<Vec<TurnLine>, StoreError> {
        self.read(|| {
            let mut ask = self.connection.prepare_cached(
                "SELECT began_at, speaker, heard_ms, interrupted, text FROM transcripts WHERE call_id = ?1
                 ORDER BY began_at, rowid",
            )?;
            let rows = ask.query_map([id], |row| {
                Ok(TurnLine {
                    began_at: row.get(0)?,
                    speaker: row.get(1)?,
                    heard_ms: row.get(2)?,
                    interrupted: row.get(3)?,
                    text: row.get(4)?,
                })
            })?;
            rows.collect()
        })
    }

    fn summary(&self, id: &str) -> Result<Option<SummaryLine>, StoreError> {
        self.read(|| {
            let mut ask = self.connection.prepare_cached(
                "SELECT primary_intent, intent, summary_text, language, follow_up, created_at FROM call_summaries
                 WHERE call_id = ?1",
            )?;
            let row = ask.query_row([id], |row| {
                Ok(SummaryLine {
                    primary_intent: row.get(0)?,
                    intent: row.get(1)?,
                    summary_text: row.get(2)?,
                    language: row.get(3)?,
                    follow_up: row.get(4)?,
                    created_at: row.get(5)?,
                })
            });
            row.optional()
        })
    }

    fn ask(&self, rest: &str) -> rusqlite::Result<CachedStatement<'_>> {
        self.connection.prepare_cached(&format!("{CALL} {rest}"))
    }

    fn read<T>(&self, work: impl FnOnce() -> rusqlite::Result<T>) -> Result<T, StoreError> {
        work().map_err(|error| StoreError::sqlite(&self.path, "read it", &error))
    }
}

/// Opens the file as a reader beside a running daemon. Where no daemon runs and this user may not make the files that
/// readers share, it is opened as one that nobody changes.
fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match usable(Connection::open_with_flags(path, flags)) {
        Err(error) if needs_to_write(&error) && !has_log(path) => {
            let still = format!("file:{}?immutable=1", uri_path(path));
            usable(Connection::open_with_flags(still, flags | OpenFlags::SQLITE_OPEN_URI))
        }
        opened => opened,
    }
}

/// A reader makes the shared files if they are not there, and may not be allowed to.
fn needs_to_write(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

/// SQLite opens lazily: only the first read tells.
fn usable(opened: rusqlite::Result<Connection>) -> rusqlite::Result<Connection> {
    let connection = opened?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Path::new(&log).exists()
}

/// The path inside a `file:` address: everything but plain characters in hex.
fn uri_path(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;

    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(text, "%{byte:02X}").ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_nobody_changes_is_read_from_any_folder_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a b?c#d%e");
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("ledger.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let still = format!("file:{}?immutable=1", uri_path(&path));
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let connection = usable(Connection::open_with_flags(still, flags)).unwrap();
        assert_eq!(connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)), Ok(1));
    }
}

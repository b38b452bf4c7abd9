//! The rows of calls, as SQL. Every function runs inside a savepoint of the thread's transaction.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY;
use rusqlite::{OptionalExtension, named_params, params};
use sauti_core::call::cost::Cost;
use sauti_core::call::outcome::{Door, Fault, Outcome};
use sauti_core::config::Language;
use sauti_core::ids::CallId;
use sauti_core::media::quality::LineQuality;
use sauti_core::pii::{CallerAddress, KeyedHash, Pii};
use sauti_core::record::{
    EndRow, EventRow, LiveCall, NewCall, Recovered, SessionRow, Stage, Turn, Unfinished, row_uuid,
};

use super::error::StoreError;
use super::thread::{Ledger, Trouble};
use super::{Admitted, Ended, Seen};

/// How long a webhook event is known as a duplicate.
const SEEN_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How often expired ones are looked for.
const PRUNE_EVERY: SignedDuration = SignedDuration::from_hours(1);
/// How many are taken away at once, so that a webhook's answer does not wait for the rest.
const PRUNE_ROWS: u16 = 500;
/// Longest event name kept; Meta's are below 40 characters, but an unknown one comes from the network.
const EVENT_NAME: usize = 64;
/// The event that leaves a tombstone.
const TERMINATE: &str = "terminate";

impl Ledger {
    pub(crate) fn seen(&mut self, events: &[(KeyedHash, String)], at: Timestamp) -> Result<Vec<Seen>, Trouble> {
        let mut insert =
            self.connection.prepare_cached("INSERT INTO webhook_seen VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?;
        let mut verdicts = Vec::with_capacity(events.len());
        for (key, event) in events {
            let event = event.get(..event.floor_char_boundary(EVENT_NAME)).unwrap_or_default();
            let new = insert.execute(params![key.to_string(), event, at.as_millisecond()])? == 1;
            verdicts.push(if new { Seen::New } else { Seen::Duplicate });
        }
        drop(insert);
        self.prune(at)?;
        Ok(verdicts)
    }

    /// Takes expired events away, a few at a time: the table grows by webhooks, so webhooks keep it short.
    fn prune(&mut self, now: Timestamp) -> Result<(), Trouble> {
        if self.pruned_at.is_some_and(|at| now.duration_since(at).abs() < PRUNE_EVERY) {
            return Ok(());
        }
        let before = now.saturating_sub(SEEN_FOR).unwrap_or(Timestamp::MIN);
        let gone = self
            .connection
            .prepare_cached(
                "DELETE FROM webhook_seen WHERE (wa_call_id_hash, event) IN
                 (SELECT wa_call_id_hash, event FROM webhook_seen WHERE seen_at < ?1 LIMIT ?2)",
            )?
            .execute(params![before.as_millisecond(), PRUNE_ROWS])?;
        if gone < usize::from(PRUNE_ROWS) {
            self.pruned_at = Some(now);
        }
        Ok(())
    }

    pub(crate) fn has_terminated(&self, key: KeyedHash) -> Result<bool, Trouble> {
        let mut ask = self
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM webhook_seen WHERE wa_call_id_hash = ?1 AND event = ?2)")?;
        Ok(ask.query_row(params![key.to_string(), TERMINATE], |row| row.get(0))?)
    }

    pub(crate) fn admit(&mut self, call: &NewCall, live: Option<&LiveCall>) -> Result<Admitted, Trouble> {
        let id = call.call_id.to_string();
        let new = self
            .connection
            .prepare_cached(
                "INSERT INTO voice_calls
                 (call_id, door, direction, wa_call_id_hash, mtn_call_sid, caller_hash, language, connect_at, offered_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                id,
                call.door.label(),
                call.direction.label(),
                call.wa_call.map(|hash| hash.to_string()),
                call.mtn_call_sid,
                call.caller.map(|hash| hash.to_string()),
                call.language.map(Language::code),
                call.connect_at.map(Timestamp::as_millisecond),
                call.offered_at.as_millisecond(),
            ])?;
        if new == 0 {
            return Ok(Admitted::Duplicate);
        }
        if let Some(live) = live {
            let wacid = live
                .wacid
                .as_ref()
                .map(|wacid| self.sealer.seal(&id, "live_calls.wacid", wacid.expose().as_bytes()))
                .transpose()?;
            let address = self.seal_address(&id, "live_calls.address", &live.address)?;
            self.connection
                .prepare_cached("INSERT INTO live_calls VALUES (?1, ?2, ?3)")?
                .execute(params![id, wacid, address])?;
            self.recount = true;
        }
        Ok(Admitted::New)
    }

    pub(crate) fn stage(&mut self, call: CallId, stage: Stage, at: Timestamp) -> Result<(), Trouble> {
        let sql = match stage {
            Stage::PreAccepted => {
                "UPDATE voice_calls SET pre_accepted_at = coalesce(pre_accepted_at, ?2) WHERE call_id = ?1"
            }
            Stage::MediaUp => "UPDATE voice_calls SET media_up_at = coalesce(media_up_at, ?2) WHERE call_id = ?1",
            Stage::ModelUp => "UPDATE voice_calls SET model_up_at = coalesce(model_up_at, ?2) WHERE call_id = ?1",
            Stage::Accepted => "UPDATE voice_calls SET accepted_at = coalesce(accepted_at, ?2) WHERE call_id = ?1",
            Stage::FirstAudio => {
                "UPDATE voice_calls SET first_audio_at = coalesce(first_audio_at, ?2) WHERE call_id = ?1"
            }
        };
        let rows = self.connection.prepare_cached(sql)?.execute(params![call.to_string(), at.as_millisecond()])?;
        if rows == 1 { Ok(()) } else { Err(StoreError::UnknownCall(call).into()) }
    }

    pub(crate) fn event(&mut self, call: CallId, row: &EventRow) -> Result<(), Trouble> {
        let fields = serde_json::to_string(&row.fields).unwrap_or_else(|_| "{}".to_owned());
        let key = self.row_key(row.at)?;
        let written = self
            .connection
            .prepare_cached("INSERT INTO voice_events VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![key, call.to_string(), row.at.as_millisecond(), row.event, fields]);
        of_known_call(call, written)
    }

    pub(crate) fn turn(&mut self, call: CallId, row: &Turn) -> Result<(), Trouble> {
        let key = self.row_key(row.began_at)?;
        let heard = row.heard.map(millis);
        let written = self
            .connection
            .prepare_cached(
                "INSERT INTO transcripts VALUES (:key, :call, :item, :speaker, :began_at, :heard, :interrupted, :text)
                 ON CONFLICT (call_id, item) DO UPDATE SET
                 heard_ms = excluded.heard_ms, interrupted = excluded.interrupted, text = excluded.text",
            )?
            .execute(named_params! {
                ":key": key,
                ":call": call.to_string(),
                ":item": row.item,
                ":speaker": row.speaker.label(),
                ":began_at": row.began_at.as_millisecond(),
                ":heard": heard,
                ":interrupted": row.interrupted,
                ":text": row.text.expose(),
            });
        of_known_call(call, written)
    }

    pub(crate) fn session(&mut self, call: CallId, row: &SessionRow) -> Result<(), Trouble> {
        let key = self.row_key(row.opened_at)?;
        let usage = row.usage;
        let written = self
            .connection
            .prepare_cached(
                "INSERT INTO openai_sessions VALUES (:key, :call, :ordinal, :openai_id, :model, :opened_at, :closed_at,
                 :text_in, :text_cached, :text_out, :audio_in, :audio_cached, :audio_out, :metered, :cost)
                 ON CONFLICT (call_id, ordinal, model) DO UPDATE SET
                 openai_session_id = coalesce(excluded.openai_session_id, openai_session_id),
                 closed_at = coalesce(excluded.closed_at, closed_at),
                 text_in = excluded.text_in, text_cached = excluded.text_cached, text_out = excluded.text_out,
                 audio_in = excluded.audio_in, audio_cached = excluded.audio_cached, audio_out = excluded.audio_out,
                 metered_ms = excluded.metered_ms, cost_micro_usd = excluded.cost_micro_usd",
            )?
            .execute(named_params! {
                ":key": key,
                ":call": call.to_string(),
                ":ordinal": row.ordinal,
                ":openai_id": row.openai_session_id,
                ":model": row.model,
                ":opened_at": row.opened_at.as_millisecond(),
                ":closed_at": row.closed_at.map(Timestamp::as_millisecond),
                ":text_in": integer(usage.text_in),
                ":text_cached": integer(usage.text_cached),
                ":text_out": integer(usage.text_out),
                ":audio_in": integer(usage.audio_in),
                ":audio_cached": integer(usage.audio_cached),
                ":audio_out": integer(usage.audio_out),
                ":metered": millis(usage.duration),
                ":cost": row.cost.map(Cost::micro_usd),
            });
        of_known_call(call, written)?;
        self.price(call)
    }

    /// Writes what an ended call cost: the sum over its sessions, unknown as soon as one of them is unknown.
    pub(crate) fn quality(&mut self, call: CallId, row: &LineQuality) -> Result<(), Trouble> {
        let written = self
            .connection
            .prepare_cached(
                "INSERT INTO call_quality VALUES (:call, :heard_mos, :spoken_mos, :heard_loss, :spoken_loss,
                 :burst_ratio, :jitter, :buffer, :round_trip, :underruns)
                 ON CONFLICT (call_id) DO UPDATE SET
                 heard_mos = excluded.heard_mos, spoken_mos = excluded.spoken_mos, heard_loss = excluded.heard_loss,
                 spoken_loss = excluded.spoken_loss, burst_ratio = excluded.burst_ratio,
                 jitter_ms = excluded.jitter_ms, buffer_ms = excluded.buffer_ms,
                 round_trip_ms = excluded.round_trip_ms, underruns = excluded.underruns",
            )?
            .execute(named_params! {
                ":call": call.to_string(),
                ":heard_mos": row.heard_mos,
                ":spoken_mos": row.spoken_mos,
                ":heard_loss": row.heard_loss,
                ":spoken_loss": row.spoken_loss,
                ":burst_ratio": row.burst_ratio,
                ":jitter": row.jitter_ms,
                ":buffer": row.buffer_ms,
                ":round_trip": row.round_trip_ms,
                ":underruns": integer(row.underruns),
            });
        of_known_call(call, written)
    }

    fn price(&mut self, call: CallId) -> Result<(), Trouble> {
        self.connection
            .prepare_cached(
                "UPDATE voice_calls SET cost_micro_usd =
                 (SELECT CASE WHEN count(*) = count(cost_micro_usd) THEN coalesce(sum(cost_micro_usd), 0) END
                  FROM openai_sessions WHERE call_id = ?1)
                 WHERE call_id = ?1 AND outcome IS NOT NULL",
            )?
            .execute([call.to_string()])?;
        Ok(())
    }

    pub(crate) fn end(&mut self, call: CallId, end: &EndRow) -> Result<Ended, Trouble> {
        let ended =
            self.end_once(call, end.outcome, end.fault, end.ended_at, end.talked.map(|talked| talked.as_secs_f64()))?;
        self.release(call)?;
        if let Some(text) = &end.text {
            self.owe(call, text, end.ended_at)?;
        }
        Ok(ended)
    }

    fn end_once(
        &mut self,
        call: CallId,
        outcome: Outcome,
        fault: Fault,
        at: Timestamp,
        seconds: Option<f64>,
    ) -> Result<Ended, Trouble> {
        let id = call.to_string();
        let first = self
            .connection
            .prepare_cached(
                "UPDATE voice_calls SET outcome = ?2, fault = ?3, ended_at = ?4, seconds = ?5
                 WHERE call_id = ?1 AND outcome IS NULL",
            )?
            .execute(params![id, outcome.label(), fault.label(), at.as_millisecond(), seconds])?
            == 1;
        if first {
            self.price(call)?;
            let key = self.row_key(at)?;
            self.connection
                .prepare_cached("INSERT INTO outbox VALUES (?1, 'voice_calls', ?2, ?3)")?
                .execute(params![key, id, at.as_millisecond()])?;
            return Ok(Ended::Now);
        }
        let already: Option<String> = self
            .connection
            .prepare_cached("SELECT outcome FROM voice_calls WHERE call_id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        match already.as_deref().and_then(Outcome::parse) {
            Some(outcome) => Ok(Ended::Already(outcome)),
            None => Err(StoreError::UnknownCall(call).into()),
        }
    }

    pub(crate) fn release(&mut self, call: CallId) -> Result<(), Trouble> {
        let gone =
            self.connection.prepare_cached("DELETE FROM live_calls WHERE call_id = ?1")?.execute([call.to_string()])?;
        self.connection.prepare_cached("DELETE FROM live_dialogs WHERE call_id = ?1")?.execute([call.to_string()])?;
        self.recount |= gone > 0;
        Ok(())
    }

    /// Ends the calls of earlier runs and hands out what is still to be done for them.
    pub(crate) fn recover(&mut self, now: Timestamp) -> Result<Recovered, Trouble> {
        self.texts_after_a_crash()?;
        let open: Vec<(String, String)> = self
            .connection
            .prepare_cached(
                "SELECT call_id, door FROM voice_calls WHERE outcome IS NULL AND rowid <= ?1 ORDER BY rowid",
            )?
            .query_map([self.boot_row], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut closed = Vec::with_capacity(open.len());
        for (id, door) in open {
            let Some(call) = CallId::parse(&id) else { continue };
            self.end_once(call, Outcome::Restart, Fault::Box, now, None)?;
            closed.extend(Door::parse(&door));
        }
        let mut ask = self.connection.prepare_cached(
            "SELECT call_id, door, language, first_audio_at IS NOT NULL, wacid, address
             FROM live_calls JOIN voice_calls USING (call_id) WHERE voice_calls.rowid <= ?1 ORDER BY voice_calls.rowid",
        )?;
        let mut rows = ask.query([self.boot_row])?;
        let mut unfinished = Vec::new();
        while let Some(row) = rows.next()? {
            let id: String = row.get(0)?;
            let (Some(call_id), Some(door)) = (CallId::parse(&id), Door::parse(row.get_ref(1)?.as_str().unwrap_or("")))
            else {
                continue;
            };
            let language: Option<String> = row.get(2)?;
            let wacid: Option<Vec<u8>> = row.get(4)?;
            let wacid = wacid.map(|sealed| self.open_text(&id, "live_calls.wacid", &sealed));
            let address: Vec<u8> = row.get(5)?;
            let address = self.open_address(&id, "live_calls.address", &address);
            let live = match (wacid, address) {
                (None, Some(address)) => Some(LiveCall { wacid: None, address }),
                (Some(Some(wacid)), Some(address)) => Some(LiveCall { wacid: Some(wacid), address }),
                (Some(None), _) | (_, None) => None,
            };
            let language = language.as_deref().and_then(Language::parse);
            let dialogs = self.left_dialogs(&id)?;
            unfinished.push(Unfinished { call_id, door, language, was_heard: row.get(3)?, live, dialogs });
        }
        Ok(Recovered { closed, unfinished })
    }

    pub(crate) fn seal_address(
        &self,
        row: &str,
        column: &'static str,
        address: &CallerAddress,
    ) -> Result<Vec<u8>, StoreError> {
        let plain = serde_json::to_vec(address).map_err(|_| StoreError::Seal(column))?;
        self.sealer.seal(row, column, &plain)
    }

    pub(crate) fn open_address(&self, row: &str, column: &'static str, sealed: &[u8]) -> Option<CallerAddress> {
        serde_json::from_slice(&self.sealer.open(row, column, sealed)?).ok()
    }

    pub(crate) fn open_text(&self, row: &str, column: &'static str, sealed: &[u8]) -> Option<Pii> {
        String::from_utf8(self.sealer.open(row, column, sealed)?).ok().map(Pii::new)
    }

    pub(crate) fn row_key(&self, at: Timestamp) -> Result<String, StoreError> {
        Ok(row_uuid(at, self.sealer.random()?).to_string())
    }
}

/// Token counts come from the network: beyond SQLite's integers they are cut.
fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn of_known_call(call: CallId, written: Result<usize, rusqlite::Error>) -> Result<(), Trouble> {
    match written {
        Ok(_) => Ok(()),
        Err(rusqlite::Error::SqliteFailure(code, _)) if code.extended_code == SQLITE_CONSTRAINT_FOREIGNKEY => {
            Err(StoreError::UnknownCall(call).into())
        }
        Err(error) => Err(error.into()),
    }
}

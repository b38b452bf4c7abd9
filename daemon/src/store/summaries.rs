//! Summaries of calls: owed with the outcome, written once, given up after a few tries.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{OptionalExtension, params};
use sauti_core::call::outcome::Door;
use sauti_core::call::summary::{Heard, Summary};
use sauti_core::config::Language;
use sauti_core::ids::CallId;
use sauti_core::pii::Pii;
use sauti_core::record::Speaker;

use super::OwedSummary;
use super::error::StoreError;
use super::thread::{Ledger, Trouble};

/// A call's own session has this long to summarise it before another one is asked.
const FIRST_DUE: SignedDuration = SignedDuration::from_secs(30);
/// Pauses before the next tries; after the last one it is given up.
const AGAIN_AFTER: [SignedDuration; 4] = [
    SignedDuration::from_mins(1),
    SignedDuration::from_mins(5),
    SignedDuration::from_mins(30),
    SignedDuration::from_mins(10),
];
/// Turns of a transcript that are read: more than is sent to a model.
const MOST_TURNS: u16 = 500;

impl Ledger {
    /// Owes the summary of a call that has just ended.
    pub(crate) fn owe_summary(&mut self, call: CallId, at: Timestamp) -> Result<(), Trouble> {
        let due = at.saturating_add(FIRST_DUE).unwrap_or(Timestamp::MAX);
        self.connection
            .prepare_cached("INSERT INTO owed_summaries VALUES (?1, ?2, ?3, 0) ON CONFLICT DO NOTHING")?
            .execute(params![call.to_string(), at.as_millisecond(), due.as_millisecond()])?;
        self.recount = true;
        Ok(())
    }

    /// The one that has been due longest; its next try is put off at once, so that a crash in the middle counts.
    /// What has been tried too often is given up here, and counted in the second value.
    pub(crate) fn next_summary(&mut self, now: Timestamp) -> Result<(Option<OwedSummary>, u64), Trouble> {
        let mut given_up = 0;
        loop {
            let due: Option<(String, i64)> = self
                .connection
                .prepare_cached(
                    "SELECT call_id, attempts FROM owed_summaries WHERE due_at <= ?1 ORDER BY due_at LIMIT 1",
                )?
                .query_row([now.as_millisecond()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((key, attempts)) = due else { return Ok((None, given_up)) };
            let attempts = usize::try_from(attempts).unwrap_or(usize::MAX);
            if let (Some(pause), Some(call_id)) = (AGAIN_AFTER.get(attempts), CallId::parse(&key)) {
                let due = now.saturating_add(*pause).unwrap_or(Timestamp::MAX);
                self.connection
                    .prepare_cached(
                        "UPDATE owed_summaries SET attempts = attempts + 1, due_at = ?2 WHERE call_id = ?1",
                    )?
                    .execute(params![key, due.as_millisecond()])?;
                let turns = self.heard(&key)?;
                let attempt = u32::try_from(attempts).unwrap_or(u32::MAX);
                return Ok((Some(OwedSummary { call_id, attempt, turns }), given_up));
            }
            self.connection.prepare_cached("DELETE FROM owed_summaries WHERE call_id = ?1")?.execute([&key])?;
            self.recount = true;
            given_up += 1;
        }
    }

    /// What was said in a call, as far as it is written.
    pub(crate) fn heard_in(&mut self, call: CallId) -> Result<Vec<Heard>, Trouble> {
        self.heard(&call.to_string())
    }

    fn heard(&self, key: &str) -> Result<Vec<Heard>, Trouble> {
        let mut ask = self.connection.prepare_cached(
            "SELECT speaker, text FROM (SELECT began_at, rowid, speaker, text FROM transcripts WHERE call_id = ?1
             ORDER BY began_at DESC, rowid DESC LIMIT ?2) ORDER BY began_at, rowid",
        )?;
        let rows = ask.query_map(params![key, MOST_TURNS], |row| {
            let speaker: String = row.get(0)?;
            let text: String = row.get(1)?;
            Ok((Speaker::parse(&speaker), Pii::new(text)))
        })?;
        let mut turns = Vec::new();
        for row in rows {
            let (speaker, text) = row?;
            turns.extend(speaker.map(|speaker| (speaker, text)));
        }
        Ok(turns)
    }

    /// Writes a summary, the first one of a call, queues it for upstream and owes it no more; false = it had one.
    pub(crate) fn summary(&mut self, call: CallId, row: &Summary, at: Timestamp) -> Result<bool, Trouble> {
        let key = call.to_string();
        let door: Option<String> = self
            .connection
            .prepare_cached("SELECT door FROM voice_calls WHERE call_id = ?1")?
            .query_row([&key], |row| row.get(0))
            .optional()?;
        let door = door.ok_or(StoreError::UnknownCall(call))?;
        let new = self
            .connection
            .prepare_cached("INSERT INTO call_summaries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING")?
            .execute(params![
                key,
                primary_intent(&door),
                row.intent,
                row.text.expose(),
                row.language.map(Language::code),
                row.follow_up.as_ref().map(|text| text.expose().to_owned()),
                at.as_millisecond(),
            ])?
            == 1;
        if new {
            let outbox = self.row_key(at)?;
            self.connection
                .prepare_cached("INSERT INTO outbox VALUES (?1, 'call_summaries', ?2, ?3)")?
                .execute(params![outbox, key, at.as_millisecond()])?;
        }
        self.connection.prepare_cached("DELETE FROM owed_summaries WHERE call_id = ?1")?.execute([&key])?;
        self.recount = true;
        Ok(new)
    }
}

/// What readers elsewhere filter by.
fn primary_intent(door: &str) -> String {
    match Door::parse(door) {
        Some(Door::Whatsapp | Door::WhatsappSip) => "whatsapp_voice_call".to_owned(),
        _ => format!("{}_voice_call", door.replace('-', "_")),
    }
}

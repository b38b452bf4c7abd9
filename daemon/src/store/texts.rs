//! Owed texts: each is sent at most once.
//!
//! `owed` → `sending` is on the disk before anything goes out. Whoever then learns what came of it settles it; after a
//! crash nobody has, so it becomes `unknown` and only a status webhook may still say more.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};
use sauti_core::ids::CallId;
use sauti_core::record::{NewText, OwedText, TextId, TextState, TextVerdict};

use super::error::StoreError;
use super::thread::{Ledger, Trouble};

impl Ledger {
    /// False when the call already owes or has settled a text.
    pub(crate) fn owe(&mut self, call: CallId, text: &NewText, at: Timestamp) -> Result<bool, Trouble> {
        let (call_key, key) = (call.to_string(), text.text_id.to_string());
        let new = self
            .connection
            .prepare_cached(
                "UPDATE voice_calls SET text_id = ?2, text_state = 'owed' WHERE call_id = ?1 AND text_id IS NULL",
            )?
            .execute(params![call_key, key])?;
        if new == 0 {
            let known: Option<i64> = self
                .connection
                .prepare_cached("SELECT 1 FROM voice_calls WHERE call_id = ?1")?
                .query_row([call_key], |row| row.get(0))
                .optional()?;
            return known.map(|_| false).ok_or_else(|| StoreError::UnknownCall(call).into());
        }
        let address = self.seal_address(&key, "owed_texts.address", &text.address)?;
        let body = self.sealer.seal(&key, "owed_texts.body", text.body.expose().as_bytes())?;
        self.connection.prepare_cached("INSERT INTO owed_texts VALUES (?1, ?2, ?3, 0, ?4, ?5)")?.execute(params![
            key,
            call_key,
            at.as_millisecond(),
            address,
            body
        ])?;
        self.recount = true;
        Ok(true)
    }

    pub(crate) fn texts_due(&mut self) -> Result<Vec<OwedText>, Trouble> {
        let mut due = Vec::new();
        let mut lost = Vec::new();
        {
            let mut ask = self.connection.prepare_cached(
                "SELECT owed_texts.text_id, call_id, owed_at, attempts, address, body
                 FROM owed_texts JOIN voice_calls USING (call_id) WHERE text_state = 'owed' ORDER BY owed_texts.rowid",
            )?;
            let mut rows = ask.query([])?;
            while let Some(row) = rows.next()? {
                let key: String = row.get(0)?;
                let call: String = row.get(1)?;
                let (Some(text_id), Some(call_id)) = (TextId::parse(&key), CallId::parse(&call)) else { continue };
                let address: Vec<u8> = row.get(4)?;
                let body: Vec<u8> = row.get(5)?;
                let opened = self.open_address(&key, "owed_texts.address", &address).zip(self.open_text(
                    &key,
                    "owed_texts.body",
                    &body,
                ));
                let Some((address, body)) = opened else {
                    lost.push(text_id);
                    continue;
                };
                let owed_at = Timestamp::from_millisecond(row.get(2)?).unwrap_or(Timestamp::UNIX_EPOCH);
                due.push(OwedText { text_id, call_id, owed_at, attempts: row.get(3)?, address, body });
            }
        }
        for text in lost {
            // Sealed with another box_key: nobody can send it any more.
            self.settle(text, TextVerdict::Failed)?;
        }
        Ok(due)
    }

    /// True when the text was owed and may be sent now; false = somebody else has it or it is settled.
    pub(crate) fn sending(&mut self, text: TextId) -> Result<bool, Trouble> {
        let key = text.to_string();
        let ours = self.move_text(&key, TextState::Sending, "text_state = 'owed'")?;
        if ours {
            self.connection
                .prepare_cached("UPDATE owed_texts SET attempts = attempts + 1 WHERE text_id = ?1")?
                .execute([key])?;
        }
        Ok(ours)
    }

    pub(crate) fn settle(&mut self, text: TextId, verdict: TextVerdict) -> Result<(), Trouble> {
        let key = text.to_string();
        let (state, from) = match verdict {
            TextVerdict::Again => (TextState::Owed, "text_state = 'sending'"),
            TextVerdict::Unknown => (TextState::Unknown, "text_state = 'sending'"),
            // A status webhook may have overtaken Graph's answer; it knows better.
            TextVerdict::Sent => (TextState::Sent, "text_state IN ('owed', 'sending', 'unknown')"),
            TextVerdict::Failed => (TextState::Failed, "text_state IN ('owed', 'sending', 'unknown')"),
        };
        if self.move_text(&key, state, from)? && state != TextState::Owed {
            self.wipe_text(&key)?;
        }
        Ok(())
    }

    pub(crate) fn text_status(&mut self, text: TextId, delivered: bool) -> Result<(), Trouble> {
        let key = text.to_string();
        let state = if delivered { TextState::Sent } else { TextState::Failed };
        if self.move_text(&key, state, "text_state IS NOT NULL")? {
            self.wipe_text(&key)?;
        }
        Ok(())
    }

    /// Texts that an earlier run was about to send: nobody here knows whether they went out.
    pub(crate) fn texts_after_a_crash(&mut self) -> Result<(), Trouble> {
        let cut_off: Vec<String> = self
            .connection
            .prepare_cached(
                "SELECT owed_texts.text_id FROM owed_texts JOIN voice_calls USING (call_id)
                 WHERE text_state = 'sending' AND voice_calls.rowid <= ?1",
            )?
            .query_map([self.boot_row], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for key in cut_off {
            self.move_text(&key, TextState::Unknown, "text_state = 'sending'")?;
            self.wipe_text(&key)?;
        }
        Ok(())
    }

    fn move_text(&mut self, key: &str, state: TextState, from: &'static str) -> Result<bool, Trouble> {
        let sql = format!("UPDATE voice_calls SET text_state = ?2 WHERE text_id = ?1 AND {from}");
        let moved = self.connection.prepare_cached(&sql)?.execute(params![key, state.label()])? == 1;
        self.recount |= moved;
        Ok(moved)
    }

    fn wipe_text(&mut self, key: &str) -> Result<(), Trouble> {
        self.connection.prepare_cached("DELETE FROM owed_texts WHERE text_id = ?1")?.execute([key])?;
        Ok(())
    }
}

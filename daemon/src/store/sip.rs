//! The rows of SIP, as SQL: the messages of a call, and the dialogs that stand, sealed.

use rusqlite::params;
use sauti_core::ids::CallId;
use sauti_core::record::LiveDialog;
use sauti_core::sip::trace::TraceLine;

use super::error::StoreError;
use super::thread::{Ledger, Trouble};
use super::write::{millis, of_known_call};

/// Where a sealed dialog belongs.
const DIALOG: &str = "live_dialogs.dialog";

impl Ledger {
    /// Writes the messages of a dialog of a call; told again it replaces them.
    pub(crate) fn sip_messages(&mut self, call: CallId, leg: u8, lines: &[TraceLine]) -> Result<(), Trouble> {
        let id = call.to_string();
        self.connection
            .prepare_cached("DELETE FROM sip_messages WHERE call_id = ?1 AND leg = ?2")?
            .execute(params![id, leg])?;
        let mut insert =
            self.connection.prepare_cached("INSERT INTO sip_messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
        for line in lines {
            let way = line.way.label();
            let values = params![id, leg, line.number, millis(line.at), way, line.first, line.cseq, line.reason];
            of_known_call(call, insert.execute(values))?;
        }
        Ok(())
    }

    /// Seals what it takes to hang up in a dialog of a call; `None` wipes it.
    pub(crate) fn dialog(&mut self, call: CallId, leg: u8, dialog: Option<&LiveDialog>) -> Result<(), Trouble> {
        let id = call.to_string();
        let Some(dialog) = dialog else {
            self.connection
                .prepare_cached("DELETE FROM live_dialogs WHERE call_id = ?1 AND leg = ?2")?
                .execute(params![id, leg])?;
            return Ok(());
        };
        let plain = serde_json::to_vec(dialog).map_err(|_| StoreError::Seal(DIALOG))?;
        let sealed = self.sealer.seal(&place(&id, leg), DIALOG, &plain)?;
        let written = self
            .connection
            .prepare_cached(
                // A call that has its outcome has no dialog that stands: what is told late is not kept.
                "INSERT INTO live_dialogs SELECT ?1, ?2, ?3
                 WHERE NOT EXISTS (SELECT 1 FROM voice_calls WHERE call_id = ?1 AND outcome IS NOT NULL)
                 ON CONFLICT DO UPDATE SET dialog = excluded.dialog",
            )?
            .execute(params![id, leg, sealed]);
        of_known_call(call, written)
    }

    /// The dialogs that a call of an earlier run left; those that do not open, as with another `box_key`, are left out.
    pub(crate) fn left_dialogs(&self, id: &str) -> Result<Vec<LiveDialog>, Trouble> {
        let mut ask =
            self.connection.prepare_cached("SELECT leg, dialog FROM live_dialogs WHERE call_id = ?1 ORDER BY leg")?;
        let rows = ask.query_map([id], |row| Ok((row.get::<_, u8>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        let mut dialogs = Vec::new();
        for row in rows {
            let (leg, sealed) = row?;
            let plain = self.sealer.open(&place(id, leg), DIALOG, &sealed);
            dialogs.extend(plain.and_then(|plain| serde_json::from_slice(&plain).ok()));
        }
        Ok(dialogs)
    }
}

fn place(call: &str, leg: u8) -> String {
    format!("{call}/{leg}")
}

//! What an interruption cuts: the running response, the reservoir, and the server's memory of it.

use super::Session;
use super::io::Effect;
use super::responses::Ask;
use crate::ai::client::ClientEvent;
use crate::media::playout::{Cut, Playout};
use crate::now::Now;

impl Session {
    /// The caller speaks: what was not heard yet is thrown away, here and at the server.
    pub(super) fn interrupted(&mut self, now: Now, playout: &mut Playout, out: &mut Vec<Effect>) {
        // Where the server judges, it has cancelled by itself.
        self.interrupted_by(!self.interrupts, now, playout, out);
    }

    /// The same; with `cancel` the server does not know of it.
    pub(super) fn interrupted_by(&mut self, cancel: bool, now: Now, playout: &mut Playout, out: &mut Vec<Effect>) {
        self.turn_owed = None;
        // Whoever still speaks is not hung up on.
        self.tools.leave = None;
        // The server will answer what is being said now; a line still has to be said.
        if matches!(self.retry, Some((_, Ask::Answer))) {
            self.retry = None;
        }
        self.wanted.retain(|ask| *ask != Ask::Answer);
        self.cut_off(now, cancel, playout, out);
    }

    /// Gives up the running response and all that the caller has not heard.
    pub(super) fn cut_off(&mut self, now: Now, cancel: bool, playout: &mut Playout, out: &mut Vec<Effect>) {
        self.discard_active(cancel, out);
        self.flush(now, playout, out);
    }

    /// What still comes of the running response is dropped; with `cancel` the server is told to stop it.
    pub(super) fn discard_active(&mut self, cancel: bool, out: &mut Vec<Effect>) {
        if let Some(active) = self.active
            && let Some(response) = self.responses.get_mut(active.response)
            && !response.discarded
        {
            response.discarded = true;
            if cancel {
                let response_id = response.id.clone();
                let event_id = self.event_id("rx");
                out.push(Effect::Send(ClientEvent::ResponseCancel { event_id, response_id }));
            }
        }
    }

    /// Empties the reservoir and cuts the server's history to what was heard.
    pub(super) fn flush(&mut self, now: Now, playout: &mut Playout, out: &mut Vec<Effect>) {
        self.transcripts.note_heard(now, playout);
        let Some(flushed) = playout.flush() else { return };
        out.push(Effect::Flush { epoch: flushed.epoch });
        if let Some(spoken) = &mut self.spoken
            && !flushed.cuts.is_empty()
            && spoken.done == Some(true)
        {
            spoken.done = Some(false);
        }
        for cut in flushed.cuts {
            if let Some(response) = self.responses.get_mut(cut.response) {
                response.settle_item(&cut.item_id);
                // Also what the server sends late, of a response that it had called done.
                response.discarded = true;
            }
            // A server that never had the item would only object.
            if !cut.disowned {
                self.cut_at_server(&cut, out);
            }
            self.transcripts.cut(&cut);
        }
    }

    fn cut_at_server(&mut self, cut: &Cut, out: &mut Vec<Effect>) {
        if cut.heard_ms == 0 {
            self.delete(cut.item_id.clone(), out);
            return;
        }
        let event_id = self.event_id("tr");
        out.push(Effect::Send(ClientEvent::Truncate {
            event_id,
            item_id: cut.item_id.clone(),
            content_index: cut.content_index,
            audio_end_ms: cut.heard_ms,
        }));
    }

    pub(super) fn delete(&mut self, item_id: String, out: &mut Vec<Effect>) {
        let event_id = self.event_id("dl");
        out.push(Effect::Send(ClientEvent::Delete { event_id, item_id }));
    }
}

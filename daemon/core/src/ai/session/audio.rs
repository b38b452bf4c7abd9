//! The model's audio on its way into the reservoir, and what happens when there is too much of it.

use super::io::{Effect, Odd};
use super::{SCRATCH, Session};
use crate::ai::client::ClientEvent;
use crate::ai::events::{self, Place};
use crate::media::playout::{Part, Playout, Received};
use crate::now::Now;

impl Session {
    pub(super) fn audio(
        &mut self,
        now: Now,
        place: &Place<'_>,
        delta: &str,
        playout: &mut Playout,
        out: &mut Vec<Effect>,
    ) {
        let number = self.response_seen(now, &place.response_id, None, playout, out);
        let Some(response) = self.responses.get_mut(number) else { return };
        if response.discarded {
            let delete = response.drop_item(&place.item_id);
            self.transcripts.agent_dropped(number, place, delta.len() as u64 * 3 / 4 / self.format.bytes_per_ms());
            if delete {
                self.delete(place.item_id.clone().into_owned(), out);
            }
            return;
        }
        if let Err(error) = events::decode_audio(delta, &mut self.pcm) {
            out.push(Effect::Odd(Odd::Event(error)));
            return;
        }
        if self.pcm.is_empty() {
            return;
        }
        let part = Part {
            response: number,
            item_id: &place.item_id,
            output_index: place.output_index,
            content_index: place.content_index,
        };
        let received = playout.receive(part, &self.pcm);
        let bytes = self.pcm.len() as u64;
        if self.pcm.capacity() > SCRATCH {
            self.pcm = Vec::new();
        }
        match received {
            Received::Stored => {
                let first = !response.has_audio;
                response.has_audio = true;
                self.stalls = 0;
                self.patience.answered();
                if response.done {
                    playout.close_response(number);
                }
                out.push(Effect::Audio { first });
            }
            Received::Overflow { received_ms } => {
                self.transcripts.agent_dropped(number, place, bytes / self.format.bytes_per_ms());
                self.overflow(number, place, received_ms, out);
            }
        }
    }

    /// More than a response may hold: stop it, and let the server forget what was not kept.
    pub(super) fn overflow(&mut self, number: u64, place: &Place<'_>, received_ms: u64, out: &mut Vec<Effect>) {
        out.push(Effect::Odd(Odd::Overflow));
        let Some(response) = self.responses.get_mut(number) else { return };
        response.discarded = true;
        response.overflowed = true;
        let (running, response_id) = (!response.done, response.id.clone());
        let mut delete = false;
        if received_ms == 0 {
            delete = response.drop_item(&place.item_id);
        } else {
            response.settle_item(&place.item_id);
        }
        if running {
            let event_id = self.event_id("rx");
            out.push(Effect::Send(ClientEvent::ResponseCancel { event_id, response_id }));
        }
        if delete {
            self.delete(place.item_id.clone().into_owned(), out);
        }
        if received_ms > 0 {
            let event_id = self.event_id("tr");
            out.push(Effect::Send(ClientEvent::Truncate {
                event_id,
                item_id: place.item_id.clone().into_owned(),
                content_index: place.content_index,
                audio_end_ms: received_ms,
            }));
        }
    }
}

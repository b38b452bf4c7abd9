//! Who said what, as heard: the caller's words as they were transcribed, the agent's as far as they were played.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Speaker, Turn};
use crate::ai::events::{MAX_WORDS, Place};
use crate::media::playout::{Cut, Finished, Playout, heard_text};
use crate::now::Now;
use crate::pii::Pii;

/// Utterances of each side that are followed at one time.
const KEPT: usize = 64;

/// One utterance of the caller.
#[derive(Debug)]
struct Caller {
    item_id: String,
    began: Now,
    transcribed: bool,
}

/// One item of the agent.
#[derive(Debug)]
struct Agent {
    response: u64,
    item_id: String,
    content_index: u32,
    text: String,
    /// The whole text is known.
    complete: bool,
    began: Option<Now>,
    /// Audio that came and was dropped, milliseconds.
    dropped_ms: u64,
    /// Cut off: how much was heard, and how much was received and not dropped at once.
    cut: Option<(u64, u64)>,
    /// No more of it will be heard.
    over: bool,
}

/// The utterances of a session that are not written down yet.
#[derive(Debug, Default)]
pub(super) struct Transcripts {
    callers: VecDeque<Caller>,
    agents: VecDeque<Agent>,
    ready: VecDeque<Turn>,
}

impl Transcripts {
    /// The caller began to speak; the second of two such notes changes nothing.
    pub(super) fn caller_began(&mut self, now: Now, item_id: &str) {
        if self.callers.iter().any(|caller| caller.item_id == item_id) {
            return;
        }
        if self.callers.len() >= KEPT {
            self.callers.pop_front();
        }
        self.callers.push_back(Caller { item_id: item_id.to_owned(), began: now, transcribed: false });
    }

    /// The caller's words are known. A second transcript of one item is ignored.
    pub(super) fn caller_said(&mut self, now: Now, item_id: &str, text: &str) -> Option<Turn> {
        self.caller_began(now, item_id);
        let caller = self.callers.iter_mut().find(|caller| caller.item_id == item_id)?;
        let text = text.trim();
        if std::mem::replace(&mut caller.transcribed, true) || text.is_empty() {
            return None;
        }
        let mut kept = String::new();
        push_capped(&mut kept, text);
        Some(Turn { who: Speaker::Caller, began: caller.began, text: Pii::new(kept), interrupted: false, heard: None })
    }

    fn agent(&mut self, response: u64, item_id: &str, content_index: u32) -> &mut Agent {
        let known =
            self.agents.iter().position(|agent| agent.item_id == item_id && agent.content_index == content_index);
        let place = known.unwrap_or_else(|| {
            if self.agents.len() >= KEPT {
                self.agents.pop_front();
            }
            self.agents.push_back(Agent {
                response,
                item_id: item_id.to_owned(),
                content_index,
                text: String::new(),
                complete: false,
                began: None,
                dropped_ms: 0,
                cut: None,
                over: false,
            });
            self.agents.len() - 1
        });
        &mut self.agents[place]
    }

    /// The next words of an item.
    pub(super) fn agent_says(&mut self, response: u64, place: &Place<'_>, delta: &str) {
        let agent = self.agent(response, &place.item_id, place.content_index);
        if !agent.complete {
            push_capped(&mut agent.text, delta);
        }
    }

    /// All words of an item.
    pub(super) fn agent_said(&mut self, response: u64, place: &Place<'_>, transcript: &str) {
        let agent = self.agent(response, &place.item_id, place.content_index);
        if agent.complete {
            return;
        }
        agent.complete = true;
        if !transcript.is_empty() {
            agent.text.clear();
            push_capped(&mut agent.text, transcript);
        }
        self.collect();
    }

    /// Audio of an item was dropped: its words are spread over this as well.
    pub(super) fn agent_dropped(&mut self, response: u64, place: &Place<'_>, ms: u64) {
        let agent = self.agent(response, &place.item_id, place.content_index);
        agent.dropped_ms = agent.dropped_ms.saturating_add(ms);
    }

    /// Notes for items that are being heard when that began.
    pub(super) fn note_heard(&mut self, now: Now, playout: &Playout) {
        for agent in self.agents.iter_mut().filter(|agent| agent.began.is_none()) {
            if playout.heard_ms(&agent.item_id, agent.content_index).is_some_and(|heard| heard > 0) {
                agent.began = Some(now);
            }
        }
    }

    /// All that was kept of an item was heard.
    pub(super) fn finished(&mut self, now: Now, finished: &Finished) {
        if let Some(agent) = self.find(&finished.item_id, finished.content_index) {
            agent.over = true;
            agent.complete = true;
            agent.began.get_or_insert(now);
            if agent.dropped_ms > 0 {
                agent.cut = Some((finished.received_ms, finished.received_ms));
            }
        }
        self.collect();
    }

    /// An item was cut off. What was heard of it is written down when all of its words are known.
    pub(super) fn cut(&mut self, cut: &Cut) {
        if let Some(agent) = self.find(&cut.item_id, cut.content_index) {
            agent.over = true;
            agent.cut = Some((cut.heard_ms, cut.received_ms));
        }
        self.collect();
    }

    /// A response is done: no more words come, and items without audio were never said.
    pub(super) fn response_done(&mut self, response: u64, playout: &Playout) {
        for agent in self.agents.iter_mut().filter(|agent| agent.response == response) {
            agent.complete = true;
        }
        self.collect();
        self.agents.retain(|agent| agent.response != response || agent.over || playout.holds_item(&agent.item_id));
    }

    /// Words of the agent that are being heard, or will be, and are no turn yet; the oldest first.
    pub(super) fn under_way(&self) -> Vec<Pii> {
        let open = self.agents.iter().filter(|agent| !agent.over && !agent.text.trim().is_empty());
        open.map(|agent| Pii::new(agent.text.trim())).collect()
    }

    /// The connection is gone: no more words come. True when what the caller said last never
    /// became text.
    pub(super) fn cut_off(&mut self) -> bool {
        for agent in &mut self.agents {
            agent.complete = true;
        }
        let lost = self.callers.back().is_some_and(|caller| !caller.transcribed);
        self.callers.clear();
        self.collect();
        lost
    }

    /// Nothing more will be heard or come.
    pub(super) fn end(&mut self) {
        for agent in &mut self.agents {
            agent.complete = true;
        }
        self.collect();
        self.agents.clear();
        self.callers.clear();
    }

    /// Turns that can be written down now.
    pub(super) fn turns(&mut self) -> impl Iterator<Item = Turn> {
        self.ready.drain(..)
    }

    fn find(&mut self, item_id: &str, content_index: u32) -> Option<&mut Agent> {
        self.agents.iter_mut().find(|agent| agent.item_id == item_id && agent.content_index == content_index)
    }

    /// Moves items that are over and whose words are known to the turns.
    fn collect(&mut self) {
        while let Some(place) = self.agents.iter().position(|agent| agent.over && agent.complete) {
            let Some(agent) = self.agents.remove(place) else { return };
            let text = match agent.cut {
                Some((heard_ms, kept_ms)) => {
                    heard_text(&agent.text, heard_ms, kept_ms.saturating_add(agent.dropped_ms))
                }
                None => agent.text.trim(),
            };
            if let (false, Some(began)) = (text.is_empty(), agent.began) {
                let heard = agent.cut.map(|(heard_ms, _)| Duration::from_millis(heard_ms));
                let (text, interrupted) = (Pii::new(text), heard.is_some());
                self.ready.push_back(Turn { who: Speaker::Agent, began, text, interrupted, heard });
            }
        }
    }
}

/// Appends as much of `more` as fits under the bound, whole characters only.
fn push_capped(text: &mut String, more: &str) {
    let room = MAX_WORDS.saturating_sub(text.len());
    let end = more.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= room).last().unwrap_or(0);
    text.push_str(more.get(..end).unwrap_or_default());
}

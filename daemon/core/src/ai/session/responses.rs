//! The responses that a session knows: the latest few, by the server's ids and by our own numbers.

use std::collections::VecDeque;
use std::time::Instant;

use super::Line;
use crate::pii::Pii;

/// Responses that are remembered; only the last one or two ever matter.
const KEPT: usize = 16;
/// Items of a discarded response that are remembered for deletion.
const DROPPED: usize = 16;

/// What a response is wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// To say a text word for word.
    Say(Line, Pii),
    /// To answer the caller.
    Answer,
}

/// The response that runs at the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Active {
    pub(super) response: u64,
    pub(super) since: Instant,
}

/// One response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) id: String,
    number: u64,
    pub(super) ask: Option<Ask>,
    /// What still comes of it is dropped.
    pub(super) discarded: bool,
    pub(super) overflowed: bool,
    pub(super) done: bool,
    pub(super) has_audio: bool,
    /// Items whose audio was dropped from its first byte on: the server is to forget them.
    pub(super) dropped: Vec<String>,
    /// Items that the server was told to cut or to forget.
    settled: Vec<String>,
}

impl Response {
    /// Audio of an item was dropped. True when the item has to be deleted now, as the response is done already.
    pub(super) fn drop_item(&mut self, item_id: &str) -> bool {
        let known = self.dropped.iter().chain(&self.settled).any(|item| item == item_id);
        if known || self.dropped.len() >= DROPPED {
            return false;
        }
        if self.done {
            self.settle_item(item_id);
        } else {
            self.dropped.push(item_id.to_owned());
        }
        self.done
    }

    /// The server was told to cut an item or to forget it, or the caller heard it: it is not to be deleted.
    pub(super) fn settle_item(&mut self, item_id: &str) {
        self.dropped.retain(|item| item != item_id);
        if self.settled.len() < DROPPED {
            self.settled.push(item_id.to_owned());
        }
    }
}

/// The latest responses, oldest first.
#[derive(Debug, Default)]
pub(super) struct Responses {
    list: VecDeque<Response>,
    next: u64,
}

impl Responses {
    /// The number of a known response.
    pub(super) fn find(&self, id: &str) -> Option<u64> {
        self.list.iter().rev().find(|response| response.id == id).map(|response| response.number)
    }

    pub(super) fn get(&self, number: u64) -> Option<&Response> {
        self.list.iter().rev().find(|response| response.number == number)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Response> {
        self.list.iter_mut().rev().find(|response| response.number == number)
    }

    /// Remembers a response, and forgets the oldest if there are too many.
    pub(super) fn add(&mut self, id: &str, ask: Option<Ask>) -> u64 {
        if self.list.len() >= KEPT {
            self.list.pop_front();
        }
        let number = self.next;
        self.next += 1;
        self.list.push_back(Response {
            id: id.to_owned(),
            number,
            ask,
            discarded: false,
            overflowed: false,
            done: false,
            has_audio: false,
            dropped: Vec::new(),
            settled: Vec::new(),
        });
        number
    }
}

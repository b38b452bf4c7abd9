//! What the caller will hear and what the caller has heard: the reservoir and the ledger behind it.
//!
//! The model sends audio several times faster than it is spoken. [`Playout`] holds what came early, hands out
//! frames, and knows for every item how much of it the lane has really consumed; that figure is what an
//! interruption is measured by (a response that the model calls done may still have twenty seconds to go).
//! It holds no ring and no atomic: the call task moves the frames and passes the lane's count in.
//! It decides nothing about the model: [`crate::ai::session`] does.

use std::collections::VecDeque;

use super::frame::{AudioFormat, FRAME_SAMPLES, Frame, SAMPLES_PER_MS};

/// Audio that one output token of the model stands for.
const MS_PER_TOKEN: u64 = 50;
/// The same in samples at 24 kHz, of which there are the most.
pub const SAMPLES_PER_TOKEN: u64 = MS_PER_TOKEN * SAMPLES_PER_MS;
/// The most that `[openai] max_output_tokens` may be.
pub const MAX_OUTPUT_TOKENS: u16 = 4096;
/// Items held at one time; the model has no reason for more, and each costs memory beside its audio.
pub const MAX_ITEMS: usize = 64;
/// Deltas are joined into chunks of up to this many samples, so that tiny ones cost no chunk each.
const CHUNK_SAMPLES: usize = 10 * FRAME_SAMPLES;

/// The most audio that a reservoir holds for a given `max_output_tokens`, in bytes of PCM.
#[must_use]
pub const fn worst_case_bytes(max_output_tokens: u16) -> u64 {
    max_output_tokens as u64 * SAMPLES_PER_TOKEN * 2
}

// 51.2 s of speech at the default, and what the highest allowed setting can cost a call.
const _: () = assert!(worst_case_bytes(1024) == 2_457_600);
const _: () = assert!(worst_case_bytes(MAX_OUTPUT_TOKENS) <= 10 * 1024 * 1024);

/// How many frames of an epoch a lane has consumed, as the one word that lane and call task share.
///
/// One word, because the pair must be read whole: a count of one epoch must never meet another's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumed {
    /// The epoch that the lane plays.
    pub epoch: u32,
    /// Frames of that epoch taken so far; starts at 0 with each epoch.
    pub frames: u32,
}

impl Consumed {
    /// Packs the pair for an atomic: epoch in the upper half.
    #[must_use]
    pub const fn pack(self) -> u64 {
        (self.epoch as u64) << 32 | self.frames as u64
    }

    /// Reads the pair back.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each half is cut out on purpose")]
    pub const fn unpack(word: u64) -> Self {
        Self { epoch: (word >> 32) as u32, frames: word as u32 }
    }
}

/// Where a piece of audio belongs.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The response, as the session counts them; later responses play later.
    pub response: u64,
    /// The item within the conversation.
    pub item_id: &'a str,
    /// The item's place within its response; lower ones play first.
    pub output_index: u32,
    /// The content part within the item.
    pub content_index: u32,
}

/// What became of a piece of audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It is held.
    Stored,
    /// It would have gone over the bound and none of it is held; the response is to be cancelled and what follows of
    /// it dropped. What the item held before still plays.
    Overflow {
        /// Audio held for the item, milliseconds.
        received_ms: u64,
    },
}

/// An item that the caller heard to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The item.
    pub item_id: String,
    /// The content part.
    pub content_index: u32,
    /// Its length, milliseconds.
    pub received_ms: u64,
}

/// An item that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The response, as in [`Part`].
    pub response: u64,
    /// The item.
    pub item_id: String,
    /// The content part.
    pub content_index: u32,
    /// What the lane had consumed of it, whole milliseconds; never more than `received_ms`. 0 = never heard.
    pub heard_ms: u64,
    /// What had come of it, whole milliseconds.
    pub received_ms: u64,
    /// The session that runs now does not know it: nothing is to be cut at the server.
    pub disowned: bool,
}

/// The result of a flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flushed {
    /// The epoch from now on; the lane drops frames of any other.
    pub epoch: u32,
    /// Items that were not heard to their end, in playing order.
    pub cuts: Vec<Cut>,
}

/// Audio of one content part.
#[derive(Debug)]
struct Item {
    key: u64,
    response: u64,
    output_index: u32,
    content_index: u32,
    id: String,
    chunks: VecDeque<Vec<i16>>,
    /// Samples of the first chunk that were handed out.
    offset: usize,
    /// First half of a sample whose second half comes with the next delta.
    odd: Option<u8>,
    /// Samples that came, were handed out, were heard.
    received: u64,
    taken: u64,
    heard: u64,
    /// No more audio will come: the last frame may be padded.
    ended: bool,
    /// The model is done with it: once heard it is finished.
    closed: bool,
    /// Audio of our own, or of a session that is gone.
    disowned: bool,
}

impl Item {
    const fn order(&self) -> (u64, u32, u32) {
        (self.response, self.output_index, self.content_index)
    }

    /// Audio of this box, which no transcript and no server knows.
    const fn is_clip(&self) -> bool {
        self.id.is_empty()
    }

    const fn pending(&self) -> u64 {
        self.received - self.taken
    }

    /// Adds what the model sent, as linear samples.
    fn append(&mut self, format: AudioFormat, bytes: &[u8]) {
        match format.law() {
            None => self.append_pcm(bytes),
            Some(law) => self.extend(bytes.len(), bytes.iter().map(|code| law.decode(*code))),
        }
    }

    /// Adds PCM (little endian), joining a sample that was torn between two deltas.
    fn append_pcm(&mut self, pcm: &[u8]) {
        let mut bytes = pcm;
        if let Some(low) = self.odd
            && let Some((high, rest)) = bytes.split_first()
        {
            self.extend(1, std::iter::once(i16::from_le_bytes([low, *high])));
            self.odd = None;
            bytes = rest;
        }
        let pairs = bytes.chunks_exact(2);
        if let [last] = pairs.remainder() {
            self.odd = Some(*last);
        }
        let samples = pairs.clone().map(|pair| match pair {
            [low, high] => i16::from_le_bytes([*low, *high]),
            _ => 0,
        });
        self.extend(pairs.len(), samples);
    }

    fn extend(&mut self, count: usize, samples: impl Iterator<Item = i16>) {
        if count == 0 {
            return;
        }
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() + count <= CHUNK_SAMPLES => chunk.extend(samples),
            _ => {
                let mut chunk = Vec::with_capacity(count);
                chunk.extend(samples);
                self.chunks.push_back(chunk);
            }
        }
        self.received += count as u64;
    }

    /// Moves up to `whole` samples out, one frame; returns how many it holds, the rest is silence.
    fn take(&mut self, whole: usize, out: &mut [i16; FRAME_SAMPLES]) -> usize {
        let mut filled = 0;
        while filled < whole {
            let Some(chunk) = self.chunks.front() else { break };
            let left = chunk.get(self.offset..).unwrap_or_default();
            let count = left.len().min(whole - filled);
            for (to, from) in out.iter_mut().skip(filled).zip(left.iter().take(count)) {
                *to = *from;
            }
            filled += count;
            self.offset += count;
            if self.offset >= chunk.len() {
                self.chunks.pop_front();
                self.offset = 0;
            }
        }
        out.iter_mut().skip(filled).for_each(|sample| *sample = 0);
        self.taken += filled as u64;
        filled
    }

    const fn is_heard(&self) -> bool {
        self.heard == self.received
    }
}

/// Frames of one item that were handed out and not yet consumed; only the last of them may be partly padding.
#[derive(Debug, Clone, Copy)]
struct Run {
    key: u64,
    frames: u32,
    samples: u64,
}

/// The reservoir and ledger of one call. It outlives a session that breaks, so that epochs never repeat.
#[derive(Debug)]
pub struct Playout {
    format: AudioFormat,
    limit: u64,
    epoch: u32,
    /// In playing order.
    items: VecDeque<Item>,
    runs: VecDeque<Run>,
    /// The item that the last frame came from.
    current: Option<u64>,
    /// Frames of this epoch.
    pushed: u32,
    consumed: u32,
    /// Samples held and not handed out.
    pending: u64,
    finished: VecDeque<Finished>,
    next_key: u64,
    /// The latest response that audio came of.
    latest: u64,
    /// The response that the caller is to hear out.
    firm: Option<u64>,
}

impl Playout {
    /// An empty reservoir in epoch 1 for a session that speaks PCM, bounded by what one response of `max_output_tokens`
    /// can hold.
    #[must_use]
    pub fn new(max_output_tokens: u16) -> Self {
        Self {
            format: AudioFormat::default(),
            limit: u64::from(max_output_tokens.clamp(1, MAX_OUTPUT_TOKENS)) * SAMPLES_PER_TOKEN,
            epoch: 1,
            items: VecDeque::new(),
            runs: VecDeque::new(),
            current: None,
            pushed: 0,
            consumed: 0,
            pending: 0,
            finished: VecDeque::new(),
            next_key: 0,
            latest: 0,
            firm: None,
        }
    }

    /// The same for a session that speaks `format`; before anything is received.
    #[must_use]
    pub const fn in_format(mut self, format: AudioFormat) -> Self {
        self.limit = self.limit / self.format.samples_per_ms() * format.samples_per_ms();
        self.format = format;
        self
    }

    const fn frame_samples(&self) -> u64 {
        self.format.frame_samples() as u64
    }

    const fn ms(&self, samples: u64) -> u64 {
        samples / self.format.samples_per_ms()
    }

    /// What the session speaks.
    #[must_use]
    pub const fn format(&self) -> AudioFormat {
        self.format
    }

    /// The epoch that frames are stamped with; the lane must play this one. Starts at 1.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Takes audio of the model in the session's format: G.711 codes, or PCM of signed 16 bit, little endian, cut
    /// anywhere, also within a sample.
    pub fn receive(&mut self, part: Part<'_>, audio: &[u8]) -> Received {
        let format = self.format;
        if audio.is_empty() {
            return Received::Stored;
        }
        let found = self.items.iter_mut().find(|item| {
            item.response == part.response && item.content_index == part.content_index && item.id == part.item_id
        });
        let coming = audio.len() as u64 / format.bytes_per_sample() + 1;
        let full = self.pending + coming > self.limit + 1;
        if let Some(item) = found {
            if full {
                item.ended = true;
                return Received::Overflow { received_ms: item.received / format.samples_per_ms() };
            }
            let before = item.received;
            item.append(format, audio);
            self.pending += item.received - before;
            return Received::Stored;
        }
        if full || self.items.len() >= MAX_ITEMS {
            return Received::Overflow { received_ms: 0 };
        }
        self.latest = self.latest.max(part.response);
        let mut item = self.new_item(part);
        item.append(format, audio);
        self.insert(item);
        Received::Stored
    }

    const fn item_key(&mut self) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        key
    }

    fn new_item(&mut self, part: Part<'_>) -> Item {
        Item {
            key: self.item_key(),
            response: part.response,
            output_index: part.output_index,
            content_index: part.content_index,
            id: part.item_id.to_owned(),
            chunks: VecDeque::new(),
            offset: 0,
            odd: None,
            received: 0,
            taken: 0,
            heard: 0,
            ended: false,
            closed: false,
            disowned: false,
        }
    }

    fn insert(&mut self, item: Item) {
        self.pending += item.received;
        let place = self.items.iter().position(|other| other.order() > item.order()).unwrap_or(self.items.len());
        self.items.insert(place, item);
    }

    /// Plays audio of this box after all that is held, before any later response; samples at the format's rate. False when it does not fit.
    ///
    /// It is paced, counted and flushed like speech of the model, but no cut and no end of it is reported.
    pub fn play_clip(&mut self, samples: &[i16]) -> bool {
        if samples.is_empty() || self.pending + samples.len() as u64 > self.limit || self.items.len() >= MAX_ITEMS {
            return false;
        }
        let part = Part { response: self.latest, item_id: "", output_index: u32::MAX, content_index: 0 };
        let mut item = self.new_item(part);
        item.chunks.extend(samples.chunks(CHUNK_SAMPLES).map(<[i16]>::to_vec));
        item.received = samples.len() as u64;
        (item.ended, item.closed, item.disowned) = (true, true, true);
        self.insert(item);
        true
    }

    /// The session that sent what is held is gone: it still plays, and no later session is told of it.
    pub fn disown(&mut self) {
        for item in &mut self.items {
            (item.ended, item.closed, item.disowned) = (true, true, true);
        }
        self.sweep();
    }

    /// Frames of this response say that they are not to be paused; `None` for no response.
    pub const fn set_firm(&mut self, response: Option<u64>) {
        self.firm = response;
    }

    /// All audio of an item has come: its last frame may go out padded.
    pub fn end_item(&mut self, item_id: &str, content_index: u32) {
        for item in self.items.iter_mut().filter(|item| item.id == item_id && item.content_index == content_index) {
            item.ended = true;
        }
    }

    /// The model is done with an item.
    pub fn close_item(&mut self, item_id: &str) {
        for item in self.items.iter_mut().filter(|item| item.id == item_id) {
            item.ended = true;
            item.closed = true;
        }
        self.sweep();
    }

    /// The model is done with a response and with all of its items.
    pub fn close_response(&mut self, response: u64) {
        for item in self.items.iter_mut().filter(|item| item.response == response) {
            item.ended = true;
            item.closed = true;
        }
        self.sweep();
    }

    /// Writes the next frame, stamped with the epoch, and counts it as given to the lane; false when there is none.
    ///
    /// A frame is whole except at the end of an item, where silence fills it. Items play in the order of their
    /// `output_index`; one that runs dry while a later one already has audio is taken to be over.
    /// The caller must have room for the frame before it asks: a frame dropped here is counted as heard later.
    #[must_use]
    pub fn next_frame(&mut self, frame: &mut Frame) -> bool {
        let Some(index) = self.pick() else { return false };
        let whole = self.frame_samples();
        let Some(item) = self.items.get_mut(index) else { return false };
        let samples = item.take(self.format.frame_samples(), &mut frame.samples) as u64;
        frame.epoch = self.epoch;
        frame.firm = self.firm == Some(item.response);
        self.current = Some(item.key);
        self.pending -= samples;
        self.pushed += 1;
        match self.runs.back_mut() {
            Some(run) if run.key == item.key && run.samples == u64::from(run.frames) * whole => {
                run.frames += 1;
                run.samples += samples;
            }
            _ => self.runs.push_back(Run { key: item.key, frames: 1, samples }),
        }
        true
    }

    /// The item that the next frame comes from.
    fn pick(&self) -> Option<usize> {
        let current = self.items.iter().position(|item| Some(item.key) == self.current && item.pending() > 0);
        let index = current.or_else(|| self.items.iter().position(|item| item.pending() > 0))?;
        let item = self.items.get(index)?;
        let whole = item.pending() >= self.frame_samples();
        (whole || item.ended || self.pending > item.pending()).then_some(index)
    }

    /// Takes the lane's count. Counts of another epoch, older counts and counts beyond what was handed out change
    /// nothing that was not heard.
    pub fn consumed(&mut self, consumed: Consumed) {
        if consumed.epoch != self.epoch {
            return;
        }
        let mut frames = consumed.frames.min(self.pushed).saturating_sub(self.consumed);
        if frames == 0 {
            return;
        }
        self.consumed += frames;
        let whole = self.frame_samples();
        while frames > 0 {
            let Some(run) = self.runs.front_mut() else { break };
            let count = frames.min(run.frames);
            let samples = run.samples.min(u64::from(count) * whole);
            if let Some(item) = self.items.iter_mut().find(|item| item.key == run.key) {
                item.heard += samples;
            }
            frames -= count;
            run.frames -= count;
            run.samples -= samples;
            if run.frames == 0 {
                self.runs.pop_front();
            }
        }
        self.sweep();
    }

    /// Moves items that are closed and heard to the finished ones.
    fn sweep(&mut self) {
        while let Some(place) = self.items.iter().position(|item| item.closed && item.is_heard()) {
            let Some(item) = self.items.remove(place) else { return };
            self.finish(item);
        }
    }

    fn finish(&mut self, item: Item) {
        if item.received > 0 && !item.is_clip() {
            self.finished.push_back(Finished {
                item_id: item.id,
                content_index: item.content_index,
                received_ms: self.ms(item.received),
            });
        }
    }

    /// The next item that was heard to its end, in the order in which they ended.
    pub fn next_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Throws away all that was not consumed and starts a new epoch; `None` when there was nothing to cut.
    ///
    /// Pass the lane's latest count to [`Playout::consumed`] first: it decides what was heard.
    pub fn flush(&mut self) -> Option<Flushed> {
        if self.items.is_empty() && self.ahead() == 0 {
            return None;
        }
        self.epoch = self.epoch.wrapping_add(1);
        self.pushed = 0;
        self.consumed = 0;
        self.pending = 0;
        self.current = None;
        self.runs.clear();
        let mut cuts = Vec::new();
        for item in std::mem::take(&mut self.items) {
            if item.ended && item.is_heard() {
                self.finish(item);
            } else if !item.is_clip() {
                cuts.push(Cut {
                    response: item.response,
                    heard_ms: self.ms(item.heard),
                    received_ms: self.ms(item.received),
                    content_index: item.content_index,
                    item_id: item.id,
                    disowned: item.disowned,
                });
            }
        }
        Some(Flushed { epoch: self.epoch, cuts })
    }

    /// Begins a new epoch: what the lane plays from now on is somebody else's, or was until now. Everything that is held is
    /// thrown away.
    pub fn set_apart(&mut self) -> u32 {
        if self.flush().is_none() {
            self.epoch = self.epoch.wrapping_add(1);
            (self.pushed, self.consumed) = (0, 0);
        }
        self.epoch
    }

    /// Frames that the lane has been given and has not consumed; top up while this is below the lead.
    ///
    /// Right after a flush the ring may still hold as many stale frames, so it needs room for twice the lead.
    #[must_use]
    pub const fn ahead(&self) -> u32 {
        self.pushed - self.consumed
    }

    /// Frames of this epoch that the lane has consumed.
    #[must_use]
    pub const fn played(&self) -> u32 {
        self.consumed
    }

    /// Audio held and not handed out, milliseconds.
    #[must_use]
    pub const fn depth_ms(&self) -> u64 {
        self.ms(self.pending)
    }

    /// Audio that the caller has still to hear, milliseconds: held or with the lane.
    #[must_use]
    pub const fn remaining_ms(&self) -> u64 {
        self.depth_ms() + self.ahead() as u64 * self.ms(self.frame_samples())
    }

    /// True when there is nothing to play and all that was handed out has been consumed.
    ///
    /// Less than a frame that waits for the rest of it is nothing to play: the rest may never come.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.ahead() == 0 && self.pick().is_none()
    }

    /// True while an item is being said of which more audio may come.
    #[must_use]
    pub fn expects_more(&self) -> bool {
        self.items.iter().any(|item| !item.ended)
    }

    /// True while an item of the response is held.
    #[must_use]
    pub fn holds_response(&self, response: u64) -> bool {
        self.items.iter().any(|item| item.response == response)
    }

    /// True while audio of the item is held or on its way to the ear.
    #[must_use]
    pub fn holds_item(&self, item_id: &str) -> bool {
        self.items.iter().any(|item| item.id == item_id)
    }

    /// What was consumed of an item that is held, milliseconds; `None` when it is not.
    #[must_use]
    pub fn heard_ms(&self, item_id: &str, content_index: u32) -> Option<u64> {
        let item = self.items.iter().find(|item| item.id == item_id && item.content_index == content_index)?;
        Some(self.ms(item.heard))
    }
}

/// The part of a transcript that was heard: cut in proportion, back to a word boundary.
///
/// Text and audio are not aligned on the wire, so the proportion is the best that can be said.
#[must_use]
pub fn heard_text(text: &str, heard_ms: u64, received_ms: u64) -> &str {
    let text = text.trim();
    if heard_ms >= received_ms {
        return text;
    }
    let chars = text.chars().count() as u64;
    let keep = chars.saturating_mul(heard_ms) / received_ms.max(1);
    let end =
        usize::try_from(keep).ok().and_then(|keep| text.char_indices().nth(keep)).map_or(text.len(), |(at, _)| at);
    let (head, tail) = text.split_at(end);
    if tail.starts_with(char::is_whitespace) {
        return head.trim_end();
    }
    head.rfind(char::is_whitespace).and_then(|at| head.get(..at)).unwrap_or_default().trim_end()
}

#[cfg(test)]
mod tests;

//! The machine of one conversation with the model: from the open socket to its end, over as many connections as it
//! takes.
//!
//! It decides what is sent, when a response may be asked for, what an interruption cuts and what was really said.
//! It owns no socket, no audio and no clock: messages and the [`Playout`] of the call are passed in, effects come
//! out of [`Session::handle`] at once. Late, repeated and unknown events are normal and yield nothing; after the end
//! nothing comes out. A connection that breaks leaves the conversation whole: what was received still plays, and
//! [`Input::Reopen`] begins another one, which is told what was said.

mod age;
mod audio;
mod floor;
mod interruption;
mod io;
mod keys;
mod patience;
mod recap;
mod responses;
mod signs;
mod tools;
mod trouble;
mod words;

use std::time::{Duration, Instant};

use self::floor::Caller;
pub use self::io::{Billed, Effect, Input, Line, Odd, Silence, Speaker, Timer, Turn};
use self::keys::Keys;
use self::patience::{Due, Patience};
use self::recap::Recap;
use self::responses::{Active, Ask, Responses};
use self::signs::Signs;
pub use self::tools::HandOver;
use self::tools::Tools;
use self::words::Transcripts;
use super::client::{ClientEvent, ResponseCreate, ResponseMetadata, SessionUpdate, word_for_word};
use super::events::{self, ResponseDone, ResponseStatus, ServerEvent};
use super::verdict::{Code, Failure};
use crate::media::frame::AudioFormat;
use crate::media::playout::Playout;
use crate::now::Now;
use crate::pii::Pii;

/// How long an open socket may be silent before `session.created`.
const CREATED_WITHIN: Duration = Duration::from_secs(3);
/// How long a response may take to its first sign of life, and from one to the next until its first audio.
const AUDIO_WITHIN: Duration = Duration::from_secs(4);
/// Requests that were given up and may still be answered.
const ABANDONED: usize = 4;
/// Pause before a failed response is asked for once more.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Speech still to be heard that a goodbye waits for; more is cut off.
const GOODBYE_WAITS_MS: u64 = 2000;
/// A buffer that one huge delta blew up is not kept beyond this, bytes.
const SCRATCH: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Opening { since: Instant, created: bool },
    Ready,
    Failed,
    Ended,
}

/// A `response.create` whose `response.created` has not come.
#[derive(Debug)]
struct Requested {
    event_id: String,
    ask: Ask,
    since: Instant,
}

/// A line on its way to the caller's ear.
#[derive(Debug)]
struct Spoken {
    line: Line,
    text: Pii,
    /// The response that says it, once it is known.
    response: Option<u64>,
    /// Its `response.done` has come: with success or not.
    done: Option<bool>,
}

/// What a lost connection left undone.
#[derive(Debug, Default)]
struct Unfinished {
    /// The model owes the caller an answer.
    answer: bool,
    /// What the caller said last never became text.
    words_lost: bool,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    update: Option<SessionUpdate>,
    /// What the model's audio comes in.
    format: AudioFormat,
    /// The server answers turns by itself.
    creates: bool,
    /// The server cancels a response when the caller speaks.
    interrupts: bool,
    events_sent: u64,
    last_event: Option<Instant>,
    responses: Responses,
    active: Option<Active>,
    requested: Option<Requested>,
    /// What is asked for once nothing is active.
    wanted: Vec<Ask>,
    /// A turn of the caller was committed and the server has not begun to answer it.
    turn_owed: Option<Instant>,
    retry: Option<(Instant, Ask)>,
    /// Failed responses in a row.
    failures: u8,
    /// The latest sign that the response which is waited for gets on.
    progress: Option<Instant>,
    /// Requests in a row that brought no audio.
    stalls: u8,
    /// Requests that were given up.
    abandoned: Vec<String>,
    /// The caller speaks, as the server hears it.
    caller_speaks: bool,
    signs: Signs,
    /// When the connection was made.
    opened: Option<Instant>,
    /// What a lost connection left, until the next one is ready.
    unfinished: Option<Unfinished>,
    recap: Recap,
    patience: Patience,
    tools: Tools,
    spoken: Option<Spoken>,
    transcripts: Transcripts,
    caller: Caller,
    keys: Keys,
    pcm: Vec<u8>,
}

impl Session {
    /// A session that is being connected. `update` goes out as soon as the socket is open.
    #[must_use]
    pub fn new(update: SessionUpdate) -> Self {
        Self {
            phase: Phase::Connecting,
            format: update.format(),
            creates: update.creates_responses(),
            interrupts: update.interrupts_responses(),
            patience: Patience::new(update.silence_ends_turn()),
            update: Some(update),
            events_sent: 0,
            last_event: None,
            responses: Responses::default(),
            active: None,
            requested: None,
            wanted: Vec::new(),
            turn_owed: None,
            retry: None,
            failures: 0,
            progress: None,
            stalls: 0,
            abandoned: Vec::new(),
            caller_speaks: false,
            signs: Signs::default(),
            opened: None,
            unfinished: None,
            recap: Recap::default(),
            tools: Tools::default(),
            spoken: None,
            transcripts: Transcripts::default(),
            caller: Caller::default(),
            keys: Keys::default(),
            pcm: Vec::new(),
        }
    }

    /// Says after how much silence of both sides [`Effect::Silence`] comes; without this it never does.
    #[must_use]
    pub const fn with_still_there_after(mut self, after: Option<Duration>) -> Self {
        self.patience.still_there_after = after;
        self
    }

    /// Says whether the model may hand the caller to a person; without this it may not.
    #[must_use]
    pub const fn with_hand_over(mut self, hand_over: HandOver) -> Self {
        self.tools.hand_over = hand_over;
        self
    }

    /// True once the session is configured and until it is lost or over: only then is audio to be appended.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// True when the model has nothing to say and the caller has heard all that it said.
    #[must_use]
    pub fn is_quiet(&self, playout: &Playout) -> bool {
        let asked = self.requested.is_some() || self.retry.is_some() || !self.wanted.is_empty();
        self.active.is_none() && !asked && self.turn_owed.is_none() && playout.is_drained()
    }

    /// Since when the server owes an event, counted anew with each event that comes; `None` when it owes none.
    ///
    /// It owes one from the open socket to `session.updated`, and from a `response.create` or a committed turn until
    /// `response.done`.
    #[must_use]
    pub fn owes_event(&self) -> Option<Instant> {
        let since = match self.phase {
            Phase::Opening { since, .. } => Some(since),
            Phase::Ready => {
                let requested = self.requested.as_ref().map(|requested| requested.since);
                let active = self.active.map(|active| active.since);
                [requested, active, self.turn_owed].into_iter().flatten().min()
            }
            Phase::Connecting | Phase::Failed | Phase::Ended => None,
        }?;
        Some(self.last_event.map_or(since, |last| last.max(since)))
    }

    /// The next deadline and what it is for; derived from the state alone.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, Timer)> {
        let created = match self.phase {
            Phase::Opening { since, created: false } => Some((since + CREATED_WITHIN, Timer::Created)),
            _ => None,
        };
        let retry = self.retry.as_ref().map(|(at, _)| (*at, Timer::Retry));
        let no_audio = self.no_audio_at().map(|at| (at, Timer::NoAudio));
        let ended = self.phase == Phase::Ended;
        let silence = self.patience.deadline(self.is_waiting()).filter(|_| !ended).map(|at| (at, Timer::Silence));
        let leave = self.leave_at().filter(|_| !ended).map(|at| (at, Timer::Leave));
        let answer = self.answer_at().map(|at| (at, Timer::Answer));
        let keys = self.keys_at().map(|at| (at, Timer::Keys));
        [created, retry, no_audio, silence, leave, answer, keys, self.sign_at(), self.aged_at()]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// When the response that is waited for has shown no sign of life for too long.
    fn no_audio_at(&self) -> Option<Instant> {
        if self.phase != Phase::Ready {
            return None;
        }
        let since = match (self.active, &self.requested) {
            (Some(active), _) => {
                let response = self.responses.get(active.response)?;
                (response.discarded || !response.has_audio).then_some(active.since)?
            }
            (None, Some(requested)) => requested.since,
            (None, None) => self.turn_owed?,
        };
        Some(self.progress.map_or(since, |progress| progress.max(since)) + AUDIO_WITHIN)
    }

    /// The caller waits for something of ours.
    fn is_waiting(&self) -> bool {
        let ready = self.phase == Phase::Ready;
        let asked = self.requested.is_some() || self.retry.is_some() || !self.wanted.is_empty();
        let owed = self.turn_owed.is_some() || self.answer_at().is_some();
        !ready || self.signs.deaf || self.active.is_some() || owed || asked
    }

    /// Takes one input and hands out what follows from it.
    pub fn handle(&mut self, now: Now, input: Input<'_>, playout: &mut Playout, out: &mut Vec<Effect>) {
        match (self.phase, input) {
            (Phase::Ended, _) => return,
            (_, Input::Consumed(consumed)) => {
                playout.consumed(consumed);
                self.transcripts.note_heard(now, playout);
            }
            (_, Input::End) => {
                self.end(now, playout, out);
                return;
            }
            (_, Input::OnAir) => self.patience.on_air(now.mono),
            (_, Input::Hold(held)) => self.patience.hold(now.mono, held),
            (_, Input::TransferMissed(why)) => self.missed(now.mono, why, out),
            (Phase::Failed, Input::Reopen(update)) => self.reopen(*update),
            (_, Input::Reopen(_)) => {}
            (Phase::Failed, Input::Timer) => self.timer(now, playout, out),
            (_, Input::Key(key)) if !self.tools.away => self.key(now, &key, playout, out),
            (Phase::Failed, _) => return,
            (Phase::Connecting, Input::Opened) => self.opened(now, out),
            (Phase::Connecting, Input::Adopted) => self.adopted(now, out),
            (_, Input::Opened | Input::Adopted) => {}
            (_, Input::NotOpened(failure)) => self.fail(now, failure, out),
            (_, Input::Closed { code, reason }) => self.fail(now, Failure::from_close(code, reason), out),
            (_, Input::Message(text)) => {
                self.sign_of_life(now);
                match events::read(text) {
                    Ok(event) => {
                        self.last_event = Some(now.mono);
                        self.event(now, event, playout, out);
                    }
                    Err(error) => out.push(Effect::Odd(Odd::Event(error))),
                }
            }
            (_, Input::Alive) => self.sign_of_life(now),
            // Nobody hears it now, and what it was about may be over then.
            (_, Input::Say(line, _) | Input::SayFirmly(line, _)) if self.tools.away && !line.is_last() => {}
            (_, Input::Overlap(_)) if self.tools.away => {}
            (_, Input::Key(_)) => {}
            (_, Input::Say(line, text)) => self.say(now, line, text, playout, out),
            (_, Input::Overlap(overlap)) => self.overlap(now, overlap, playout, out),
            (_, Input::SayFirmly(line, text)) => self.say_firmly(now, line, text, playout, out),
            (_, Input::Timer) => self.timer(now, playout, out),
        }
        self.settle(now, playout, out);
    }

    /// Begins another connection; responses and items of the lost one are unknown there.
    fn reopen(&mut self, update: SessionUpdate) {
        self.phase = Phase::Connecting;
        self.format = update.format();
        self.creates = update.creates_responses();
        self.interrupts = update.interrupts_responses();
        self.update = Some(update);
        self.last_event = None;
    }

    /// The server took our configuration.
    fn ready(&mut self, out: &mut Vec<Effect>) {
        let Some(unfinished) = self.unfinished.take() else {
            out.push(Effect::Ready);
            return;
        };
        let under_way = self.transcripts.under_way();
        let lost = unfinished.answer && unfinished.words_lost;
        for item in self.recap.items(under_way, lost).collect::<Vec<_>>() {
            let event_id = self.event_id("it");
            out.push(Effect::Send(recap::create(event_id, item)));
        }
        // A line that was not heard to its end is said anew; it stands before an answer.
        match &mut self.spoken {
            Some(spoken) if spoken.done != Some(true) => {
                (spoken.response, spoken.done) = (None, None);
                self.wanted.push(Ask::Say(spoken.line, spoken.text.clone()));
            }
            _ => {}
        }
        let last = self.spoken.as_ref().is_some_and(|spoken| spoken.line.is_last());
        if unfinished.answer && !last {
            self.wanted.push(Ask::Answer);
        }
        out.push(Effect::Resumed);
    }

    fn opened(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.phase = Phase::Opening { since: now.mono, created: false };
        self.opened = Some(now.mono);
        if let Some(update) = self.update.take() {
            let event_id = self.event_id("up");
            out.push(Effect::Send(ClientEvent::SessionUpdate { event_id, session: Box::new(update) }));
        }
    }

    /// The answer to the second `session.update` is not waited for: the server takes events in their order.
    fn adopted(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.phase = Phase::Ready;
        self.opened = Some(now.mono);
        if let Some(update) = self.update.take() {
            let event_id = self.event_id("up");
            out.push(Effect::Send(ClientEvent::SessionUpdate { event_id, session: Box::new(update) }));
        }
        self.ready(out);
    }

    fn event_id(&mut self, what: &str) -> String {
        self.events_sent += 1;
        format!("{what}_{}", self.events_sent)
    }

    fn event(&mut self, now: Now, event: ServerEvent<'_>, playout: &mut Playout, out: &mut Vec<Effect>) {
        match event {
            ServerEvent::SessionCreated => {
                if let Phase::Opening { created, .. } = &mut self.phase {
                    *created = true;
                }
            }
            ServerEvent::SessionUpdated => {
                if matches!(self.phase, Phase::Opening { .. }) {
                    self.phase = Phase::Ready;
                    self.ready(out);
                }
            }
            ServerEvent::SpeechStarted { item_id } => {
                self.transcripts.caller_began(now, &item_id);
                self.caller_speaks = true;
                self.patience.caller_began(now.mono);
                out.push(Effect::SpeechStarted);
                self.model_hears(now, playout, out);
            }
            ServerEvent::SpeechStopped { .. } => {
                self.caller_speaks = false;
                self.patience.caller_stopped(now.mono);
                self.model_heard_the_end(now);
                out.push(Effect::SpeechStopped);
            }
            ServerEvent::Committed { item_id } => {
                self.transcripts.caller_began(now, &item_id);
                if !self.is_no_turn(now) {
                    self.committed(now);
                }
            }
            ServerEvent::CallerWords { item_id, transcript, usage } => {
                if let Some(usage) = usage {
                    out.push(Effect::Usage(Billed::Transcription, usage));
                }
                if let Some(turn) = self.transcripts.caller_said(now, &item_id, transcript.expose()) {
                    self.recap.note(&turn);
                    out.push(Effect::Turn(turn));
                }
            }
            ServerEvent::CallerWordsFailed { code } => out.push(Effect::Odd(Odd::NoTranscript(code))),
            ServerEvent::ResponseCreated { response_id, client_event_id } => {
                self.response_seen(now, &response_id, client_event_id.as_deref(), playout, out);
            }
            ServerEvent::Audio { place, delta } => self.audio(now, &place, delta.expose(), playout, out),
            ServerEvent::AudioDone { place } => playout.end_item(&place.item_id, place.content_index),
            ServerEvent::AgentWordsDelta { place, delta } => {
                let response = self.response_seen(now, &place.response_id, None, playout, out);
                self.transcripts.agent_says(response, &place, delta.expose());
            }
            ServerEvent::AgentWords { place, transcript } => {
                let response = self.response_seen(now, &place.response_id, None, playout, out);
                self.transcripts.agent_said(response, &place, transcript.expose());
            }
            ServerEvent::ItemDone { item_id, call } => {
                playout.close_item(&item_id);
                if let Some(call) = call {
                    self.tool_call(now, &call, playout, out);
                }
            }
            ServerEvent::ResponseDone(done) => self.response_done(now, &done, playout, out),
            ServerEvent::Error { code, kind, param, event_id } => {
                self.error(now, code, kind, param, event_id.as_deref(), out);
            }
            ServerEvent::Other => {}
        }
    }

    /// The caller's turn is over; either the server answers it or we ask for the answer.
    fn committed(&mut self, now: Now) {
        if self.phase != Phase::Ready {
            return;
        }
        if !self.creates {
            self.want_answer();
        } else if self.active.is_some() {
            self.note_unanswered();
        } else {
            // While a response runs the server may leave the turn unanswered, so then it owes nothing.
            self.turn_owed = Some(now.mono);
        }
    }

    /// Finds a response by its id. One that was never announced is the one that we asked for, the answer that the
    /// server owes, or one of the server's own.
    fn response_seen(
        &mut self,
        now: Now,
        response_id: &str,
        client_event_id: Option<&str>,
        playout: &mut Playout,
        out: &mut Vec<Effect>,
    ) -> u64 {
        self.progress = Some(now.mono);
        if let Some(response) = self.responses.find(response_id) {
            return response;
        }
        let ours = match (&self.requested, client_event_id) {
            (Some(requested), Some(echo)) => requested.event_id == echo,
            // No echo: the server answers by itself only where a turn is owed an answer.
            (Some(_), None) => self.turn_owed.is_none(),
            (None, _) => false,
        };
        let ask = if ours { self.requested.take().map(|requested| requested.ask) } else { None };
        let abandoned = client_event_id.is_some_and(|echo| self.abandoned.iter().any(|id| id == echo));
        if ask.is_none() && !abandoned {
            self.turn_owed = None;
        }
        let response = self.responses.add(response_id, ask.clone());
        self.active = Some(Active { response, since: now.mono });
        if abandoned {
            // It was given up and asked for anew: two answers would be heard.
            self.discard_active(true, out);
            return response;
        }
        out.push(Effect::ResponseStarted);
        if let Some(Ask::Say(line, _)) = &ask
            && let Some(spoken) = self.spoken.as_mut().filter(|spoken| spoken.line == *line)
        {
            spoken.response = Some(response);
        }
        if self.is_unwanted(ask.is_none()) || self.tools.away {
            self.discard_active(true, out);
        }
        if ask.is_none() && self.goodbye_waits() {
            self.cut_off(now, true, playout, out);
        }
        response
    }

    fn goodbye_waits(&self) -> bool {
        self.wanted.iter().any(|ask| matches!(ask, Ask::Say(line, _) if line.is_last()))
    }

    fn response_done(&mut self, now: Now, done: &ResponseDone<'_>, playout: &mut Playout, out: &mut Vec<Effect>) {
        let number = self.response_seen(now, &done.response_id, done.client_event_id.as_deref(), playout, out);
        let Some(response) = self.responses.get_mut(number) else { return };
        if response.done {
            return;
        }
        response.done = true;
        let (discarded, overflowed, said_something) = (response.discarded, response.overflowed, response.has_audio);
        let (ask, dropped) = (response.ask.take(), std::mem::take(&mut response.dropped));
        if self.active.is_some_and(|active| active.response == number) {
            self.active = None;
        }
        // Whatever turn was owed an answer, this was it or the server could not begin another beside it.
        self.turn_owed = None;
        playout.close_response(number);
        if let Some(usage) = done.usage {
            out.push(Effect::Usage(Billed::Model, usage));
        }
        out.push(Effect::ResponseDone { status: done.status, code: done.code.clone() });
        for item_id in dropped {
            self.delete(item_id, out);
        }
        self.transcripts.response_done(number, playout);
        self.leave_after(done.status == ResponseStatus::Completed && !discarded, said_something);
        let mut complete = !discarded && !overflowed && done.status == ResponseStatus::Completed;
        match done.status {
            ResponseStatus::Completed => self.failures = 0,
            ResponseStatus::Failed if !discarded => {
                let again = ask.unwrap_or(Ask::Answer);
                if self.failed_response(now, done.code.as_ref(), done.kind.as_ref(), again, out) {
                    return;
                }
                complete = false;
            }
            ResponseStatus::Failed | ResponseStatus::Cancelled | ResponseStatus::Incomplete => {}
        }
        if !discarded && self.say_again(number, done.status) {
            return;
        }
        if let Some(spoken) = self.spoken.as_mut().filter(|spoken| spoken.response == Some(number)) {
            spoken.done = Some(complete);
        }
    }

    fn say(&mut self, now: Now, line: Line, text: Pii, playout: &mut Playout, out: &mut Vec<Effect>) {
        if let Some(spoken) = self.spoken.take() {
            out.push(Effect::LineOver { line: spoken.line, complete: false });
        }
        self.spoken = Some(Spoken { line, text: text.clone(), response: None, done: None });
        if line.is_last() {
            // Nothing else is worth saying any more.
            self.wanted.clear();
            self.retry = None;
            if self.active.is_some() || playout.remaining_ms() > GOODBYE_WAITS_MS {
                self.cut_off(now, true, playout, out);
            }
        }
        self.wanted.push(Ask::Say(line, text));
    }

    fn timer(&mut self, now: Now, playout: &mut Playout, out: &mut Vec<Effect>) {
        match self.deadline() {
            Some((due, Timer::Created)) if due <= now.mono => {
                self.fail(now, Failure::broken(Code::known("no_session_created")), out);
            }
            Some((due, Timer::Retry)) if due <= now.mono => {
                if let Some((_, ask)) = self.retry.take() {
                    self.wanted.insert(0, ask);
                }
            }
            Some((due, Timer::Leave)) if due <= now.mono => {
                self.left(now.mono, out);
            }
            Some((due, Timer::NoAudio)) if due <= now.mono => self.no_audio(now, out),
            Some((due, Timer::Silence)) if due <= now.mono => {
                out.push(match self.patience.fire(now.mono, self.is_waiting()) {
                    Due::Word => Effect::OneMoment,
                    Due::Silence(what) => Effect::Silence(what),
                });
            }
            Some((due, Timer::Answer)) if due <= now.mono => self.answer_now(),
            Some((due, timer @ (Timer::Ask | Timer::Deaf | Timer::Gone))) if due <= now.mono => {
                self.no_sign(now, timer, out);
            }
            Some((due, Timer::Keys)) if due <= now.mono => self.entered(now, playout, out),
            Some((due, Timer::Aged)) if due <= now.mono => self.too_old(now, out),
            _ => {}
        }
    }

    /// What follows from the new state, whatever led to it.
    fn settle(&mut self, now: Now, playout: &mut Playout, out: &mut Vec<Effect>) {
        while let Some(finished) = playout.next_finished() {
            self.transcripts.finished(now, &finished);
        }
        for turn in self.transcripts.turns() {
            self.recap.note(&turn);
            out.push(Effect::Turn(turn));
        }
        if self.phase == Phase::Failed {
            playout.disown();
        }
        if !playout.is_drained() {
            self.patience.sounds(now.mono);
        }
        if let Some(spoken) = &self.spoken
            && let (Some(response), Some(complete)) = (spoken.response, spoken.done)
            && !playout.holds_response(response)
        {
            out.push(Effect::LineOver { line: spoken.line, complete });
            self.spoken = None;
        }
        self.mark_firm(playout);
        self.ask(now, out);
        self.patience.waits(now.mono, self.is_waiting());
        self.note_leave(now.mono, playout);
        self.renew(now, playout, out);
    }

    /// Asks for the next response: never while one is active, asked for, or about to be begun by the server.
    fn ask(&mut self, now: Now, out: &mut Vec<Effect>) {
        let busy = self.active.is_some() || self.requested.is_some() || self.turn_owed.is_some();
        // A caller who is being handed on does not hear what would be said.
        let waits = busy || self.retry.is_some() || self.tools.away;
        if self.phase != Phase::Ready || waits || self.wanted.is_empty() {
            return;
        }
        let ask = self.wanted.remove(0);
        let event_id = self.event_id("rc");
        let instructions = match &ask {
            Ask::Say(_, text) => Some(word_for_word(text.expose())),
            Ask::Answer => None,
        };
        let metadata = ResponseMetadata { client_event_id: event_id.clone() };
        let response = ResponseCreate { instructions, metadata };
        out.push(Effect::Send(ClientEvent::ResponseCreate { event_id: event_id.clone(), response }));
        self.requested = Some(Requested { event_id, ask, since: now.mono });
    }

    fn end(&mut self, now: Now, playout: &mut Playout, out: &mut Vec<Effect>) {
        self.phase = Phase::Ended;
        self.transcripts.note_heard(now, playout);
        let flushed = playout.flush();
        while let Some(finished) = playout.next_finished() {
            self.transcripts.finished(now, &finished);
        }
        for cut in flushed.into_iter().flat_map(|flushed| flushed.cuts) {
            self.transcripts.cut(&cut);
        }
        self.transcripts.end();
        out.extend(self.transcripts.turns().map(Effect::Turn));
        if let Some(spoken) = self.spoken.take() {
            out.push(Effect::LineOver { line: spoken.line, complete: false });
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

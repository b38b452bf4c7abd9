//! What goes into a session and what comes out of it.

use std::time::Duration;

use crate::ai::client::{ClientEvent, SessionUpdate};
use crate::ai::events::{EventError, ResponseStatus};
use crate::ai::verdict::{Code, ErrorClass, Failure};
use crate::call::cost::Usage;
use crate::call::outcome::labels;
use crate::media::floor::Overlap;
use crate::media::playout::Consumed;
use crate::now::Now;
use crate::pii::Pii;

labels! {
    /// A text that is said word for word.
    Line {
        /// Said first.
        Greeting => "greeting",
        /// Said last.
        Goodbye => "goodbye",
        /// Asked when nobody has said anything for long.
        StillThere => "still_there",
        /// Said last to somebody who did not answer that.
        NobodyThere => "nobody_there",
    }
}

impl Line {
    /// After it the call ends, so nothing else is worth saying any more.
    #[must_use]
    pub const fn is_last(self) -> bool {
        matches!(self, Self::Goodbye | Self::NobodyThere)
    }
}

labels! {
    /// Nobody speaks: what is to be done about it.
    Silence {
        /// Ask whether the caller is still there.
        Ask => "ask",
        /// Take leave and end the call.
        Leave => "leave",
    }
}

pub use crate::record::Speaker;

labels! {
    /// Whose tokens they are; each is priced by its own model name.
    Billed {
        /// The speaking model.
        Model => "model",
        /// The transcription model.
        Transcription => "transcription",
    }
}

/// Something happened to the session.
#[derive(Debug)]
pub enum Input<'a> {
    /// The socket is open.
    Opened,
    /// The session was opened and configured ahead of its call: what is this call's own is told, and it is ready.
    Adopted,
    /// The socket could not be opened.
    NotOpened(Failure),
    /// A text message came. Pass the lane's count before it, as a message may be an interruption.
    Message(&'a str),
    /// The socket is closed, with the close code and reason if there was a close frame.
    Closed {
        /// RFC 6455 §7.4.
        code: Option<u16>,
        /// Looked through for known words, never kept.
        reason: &'a str,
    },
    /// The server answered [`Effect::AskAlive`].
    Alive,
    /// A new connection is being made after a loss: this is what it will be told first.
    Reopen(Box<SessionUpdate>),
    /// From now on the caller hears what is played.
    OnAir,
    /// The far side put the caller on hold (true), or took her off: meanwhile nobody is asked whether she is there.
    Hold(bool),
    /// The lane's count of consumed frames moved.
    Consumed(Consumed),
    /// The caller pressed a key: one of `0`–`9`, `*`, `#`, `A`–`D`.
    Key(Pii),
    /// What the lane hears of the caller.
    Overlap(Overlap),
    /// The caller could not be handed to a person, for this reason: the model goes on with her.
    TransferMissed(&'static str),
    /// Have this said word for word.
    Say(Line, Pii),
    /// The same for what the caller has to hear out (consent, notices): it is neither paused nor cut off.
    SayFirmly(Line, Pii),
    /// [`Session::deadline`](super::Session::deadline) has come.
    Timer,
    /// The call is over: what was said until now comes out as turns, then nothing more.
    End,
}

/// What the driver has to do or to know.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send this.
    Send(ClientEvent),
    /// The session is configured for the first time.
    Ready,
    /// A session that was opened again is configured and knows what was said.
    Resumed,
    /// Audio was put into the reservoir.
    Audio {
        /// The first of its response.
        first: bool,
    },
    /// What the lane holds is stale: it must play this epoch from now on.
    Flush {
        /// See [`Playout::epoch`](crate::media::playout::Playout::epoch).
        epoch: u32,
    },
    /// It was no interruption: the lane goes on with what it paused.
    Resume,
    /// The caller began to speak.
    SpeechStarted,
    /// The caller stopped speaking.
    SpeechStopped,
    /// The model begins to answer.
    ResponseStarted,
    /// The model is done with a response; the caller may still be hearing it.
    ResponseDone {
        /// How it ended.
        status: ResponseStatus,
        /// Why, where the server said so.
        code: Option<Code>,
    },
    /// A line was heard to its end, or will not be.
    LineOver {
        /// Which.
        line: Line,
        /// Heard from its first word to its last.
        complete: bool,
    },
    /// Somebody said something, and this much of it was heard.
    Turn(Turn),
    /// An answer takes long: the caller is to hear that somebody is there.
    OneMoment,
    /// Nobody says anything.
    Silence(Silence),
    /// The model took leave, and its last words were heard.
    Concluded,
    /// The model hands the caller to a person, and its words were heard: from now on it hears nothing, until
    /// [`Input::TransferMissed`].
    Transfer,
    /// It wanted to, and was told that this cannot be.
    TransferRefused,
    /// Ask the server for a sign of life; [`Input::Alive`] follows if it gives one.
    AskAlive,
    /// Tokens were used.
    Usage(Billed, Usage),
    /// Something odd, for a counter and a log line.
    Odd(Odd),
    /// There is no connection any more. What was received still plays; [`Input::Reopen`] goes on.
    Failed(Failure),
}

/// One utterance, as heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Who spoke.
    pub who: Speaker,
    /// When it began: onset of the caller's speech, first frame of the agent's consumed.
    pub began: Now,
    /// The words. The agent's are cut to what the caller heard.
    pub text: Pii,
    /// The agent was cut off.
    pub interrupted: bool,
    /// How much of it the caller heard, where it was cut off.
    pub heard: Option<Duration>,
}

/// Something that is counted and otherwise changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Odd {
    /// A message that could not be taken.
    Event(EventError),
    /// An `error` event that does not end the session.
    Error {
        /// Its class.
        class: ErrorClass,
        /// `error.code`, else `error.type`.
        code: Code,
        /// The key of ours that it names.
        param: Option<Code>,
    },
    /// The model sent more than a response may hold; it was cancelled.
    Overflow,
    /// The caller's words could not be transcribed.
    NoTranscript(Code),
}

impl Odd {
    /// The word for counters.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Event(_) => "event_unreadable",
            Self::Error { .. } => "error_event",
            Self::Overflow => "overflow",
            Self::NoTranscript(_) => "no_transcript",
        }
    }
}

/// Which deadline is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// `session.created` did not come.
    Created,
    /// A failed response is asked for again.
    Retry,
    /// A response was asked for and no audio of it comes.
    NoAudio,
    /// The caller hears nothing.
    Silence,
    /// The last words were heard, or those before a transfer.
    Leave,
    /// Nobody has begun to answer a caller who interrupted.
    Answer,
    /// Somebody speaks and nothing comes from the server: it is asked whether it hears.
    Ask,
    /// It has not said that it does.
    Deaf,
    /// Nor later.
    Gone,
    /// The caller has pressed her last key.
    Keys,
    /// The session is as old as one may become.
    Aged,
}

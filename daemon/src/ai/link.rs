//! One open WebSocket to the model, for one call task and its single `select!`.
//!
//! Sending never waits: it puts the message into a queue that [`Link::next`] empties while it waits for the next
//! event, so a slow uplink cannot stop the reading (`speech_started` rides the same socket as the audio). When the
//! uplink stalls, the oldest audio is dropped, events of ours never are. [`Link::next`] may be cancelled at any time.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Sink as _, Stream as _};
use sauti_core::ai::events::MAX_MESSAGE;
use sauti_core::ai::session::Input;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

/// Audio messages that wait for a stalled uplink: two seconds in pieces of 20 ms.
const MAX_AUDIO: usize = 100;
/// Events of ours that wait; so many only when the far end has stopped reading for good.
const MAX_EVENTS: usize = 256;

/// What a socket runs over: TCP, or TLS over TCP.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// How a socket is proved to be alive.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// Pause between two pings.
    pub every: Duration,
    /// How long after a ping something, whatever it is, must have come.
    pub within: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { every: Duration::from_secs(15), within: Duration::from_secs(10) }
    }
}

/// How long a handshake took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// TCP's own handshake: one round trip to the provider's region, nothing else.
    pub round_trip: Duration,
    /// From the look-up of the name to the open WebSocket.
    pub whole: Duration,
}

/// Limits of the protocol layer: buffers small enough for a hundred calls, messages no longer than is read.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(16 * 1024)
        .max_write_buffer_size(4 * 1024 * 1024)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// What a ping carries that was asked for, so that its answer is told from that to a heartbeat.
const ASKED: &[u8] = b"?";

/// Something came from the socket.
#[derive(Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A text message.
    Text(Utf8Bytes),
    /// The answer to [`Link::ask_alive`].
    Alive,
    /// The far end closed the session in order.
    Closed {
        /// RFC 6455 §7.4; `None` = it gave none.
        code: Option<u16>,
        /// May quote a key: to be looked through, not to be shown.
        reason: Utf8Bytes,
    },
    /// The socket is gone.
    Lost(Lost),
}

impl LinkEvent {
    /// The event as the session's machine takes it.
    #[must_use]
    pub fn input(&self) -> Input<'_> {
        match self {
            Self::Text(text) => Input::Message(text),
            Self::Alive => Input::Alive,
            Self::Closed { code, reason } => Input::Closed { code: *code, reason },
            Self::Lost(_) => Input::Closed { code: None, reason: "" },
        }
    }

    /// True when nothing can follow.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Lost(_))
    }
}

impl fmt::Debug for LinkEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text(‹{} bytes›)", text.len()),
            Self::Alive => f.write_str("Alive"),
            Self::Closed { code, .. } => write!(f, "Closed({code:?})"),
            Self::Lost(lost) => write!(f, "Lost({lost:?})"),
        }
    }
}

/// How a socket was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Reset, or another error of TCP or TLS.
    Io,
    /// The stream ended without a close frame.
    Ended,
    /// Nothing came after a ping.
    Silent,
    /// A message was longer than [`MAX_MESSAGE`].
    TooLarge,
    /// No WebSocket, or no UTF-8.
    Protocol,
    /// The far end took nothing of what we sent for too long.
    Stalled,
}

impl Lost {
    /// The word for log and counters.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Ended => "ended",
            Self::Silent => "silent",
            Self::TooLarge => "too_large",
            Self::Protocol => "protocol",
            Self::Stalled => "stalled",
        }
    }

    fn from_error(error: &Error) -> Self {
        match error {
            Error::Capacity(_) => Self::TooLarge,
            Error::Protocol(tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)
            | Error::ConnectionClosed
            | Error::AlreadyClosed => Self::Ended,
            Error::Protocol(_) | Error::Utf8(_) => Self::Protocol,
            _ => Self::Io,
        }
    }
}

/// Where the proof of life stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pulse {
    /// The next ping is due when the timer comes.
    Resting,
    /// A ping is out and nothing has come since; when the timer comes, the socket is dead.
    Asked,
    /// Something came after the ping.
    Answered,
}

struct Outgoing {
    message: Message,
    audio: bool,
}

/// An open socket.
pub struct Link {
    socket: WebSocketStream<Box<dyn Wire>>,
    queue: VecDeque<Outgoing>,
    /// Audio messages in the queue.
    audio: usize,
    dropped: u64,
    /// Something was written that may not have been flushed.
    dirty: bool,
    /// Texts are built here; its memory comes back when a message has been written.
    spare: BytesMut,
    heartbeat: Heartbeat,
    timer: Pin<Box<Sleep>>,
    pulse: Pulse,
    times: Times,
    over: Option<LinkEvent>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("queued", &self.queue.len()).field("over", &self.over).finish_non_exhaustive()
    }
}

impl Link {
    /// Takes over a socket whose handshake is done.
    pub(super) fn new(socket: WebSocketStream<Box<dyn Wire>>, heartbeat: Heartbeat, times: Times) -> Self {
        Self {
            socket,
            queue: VecDeque::new(),
            audio: 0,
            dropped: 0,
            dirty: false,
            spare: BytesMut::new(),
            heartbeat,
            timer: Box::pin(sleep(heartbeat.every)),
            pulse: Pulse::Resting,
            times,
            over: None,
        }
    }

    /// Sets another pace of proofs of life, from the next ping on.
    pub fn set_heartbeat(&mut self, heartbeat: Heartbeat) {
        self.heartbeat = heartbeat;
        if self.pulse == Pulse::Resting {
            self.timer.as_mut().reset(Instant::now() + heartbeat.every);
        }
    }

    /// Asks the far end for a sign of life, ahead of what waits; [`LinkEvent::Alive`] comes when it answers.
    pub fn ask_alive(&mut self) {
        self.queue.push_front(Outgoing { message: Message::Ping(Bytes::from_static(ASKED)), audio: false });
    }

    /// Queues an event of ours. It goes out while [`Link::next`] is awaited.
    pub fn send_text(&mut self, text: &str) {
        if self.queue.len() - self.audio >= MAX_EVENTS {
            self.over.get_or_insert(LinkEvent::Lost(Lost::Stalled));
            return;
        }
        self.push(text, false);
    }

    /// Queues a piece of audio; when too much waits, the oldest piece is dropped for it.
    pub fn send_audio(&mut self, text: &str) {
        if self.audio >= MAX_AUDIO
            && let Some(oldest) = self.queue.iter().position(|outgoing| outgoing.audio)
        {
            self.queue.remove(oldest);
            self.audio -= 1;
            self.dropped += 1;
        }
        self.push(text, true);
    }

    fn push(&mut self, text: &str, audio: bool) {
        self.spare.extend_from_slice(text.as_bytes());
        // It was a &str: the check cannot fail, and what is no text is not sent.
        let Ok(text) = Utf8Bytes::try_from(self.spare.split().freeze()) else { return };
        self.queue.push_back(Outgoing { message: Message::Text(text), audio });
        self.audio += usize::from(audio);
    }

    /// How long its handshake took.
    #[must_use]
    pub const fn times(&self) -> Times {
        self.times
    }

    /// Pieces of audio that were dropped as the uplink stalled.
    #[must_use]
    pub const fn dropped_audio(&self) -> u64 {
        self.dropped
    }

    /// Messages that wait to be sent.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The next event; sends what is queued and keeps the socket alive meanwhile. After the end it returns the end
    /// again. Cancelling it loses nothing.
    pub async fn next(&mut self) -> LinkEvent {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Sends what is queued, closes the session in order and waits up to `within` for the far end to do the same.
    pub async fn close(mut self, within: Duration) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        self.queue.push_back(Outgoing { message: Message::Close(Some(frame)), audio: false });
        let farewell = async { while !self.next().await.is_end() {} };
        // Late or not, the socket is dropped now.
        timeout(within, farewell).await.unwrap_or_default();
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        loop {
            if let Some(over) = &self.over {
                return Poll::Ready(over.clone());
            }
            if let Err(error) = self.poll_write(cx) {
                // What the far end said before it went is worth more than that writing failed.
                let said = self.last_words(cx);
                self.over = Some(said.unwrap_or_else(|| LinkEvent::Lost(Lost::from_error(&error))));
                continue;
            }
            match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Ready(message) => {
                    if self.pulse == Pulse::Asked {
                        self.pulse = Pulse::Answered;
                    }
                    if let Some(event) = self.received(message) {
                        return Poll::Ready(event);
                    }
                }
                Poll::Pending => {
                    ready!(self.timer.as_mut().poll(cx));
                    self.beat();
                }
            }
        }
    }

    /// Sorts what was read; the end is kept.
    fn received(&mut self, message: Option<Result<Message, Error>>) -> Option<LinkEvent> {
        let over = match message {
            Some(Ok(Message::Text(text))) => return Some(LinkEvent::Text(text)),
            Some(Ok(Message::Close(frame))) => frame.map_or_else(
                || LinkEvent::Closed { code: None, reason: Utf8Bytes::default() },
                |frame| LinkEvent::Closed { code: Some(frame.code.into()), reason: frame.reason },
            ),
            Some(Ok(Message::Pong(asked))) if asked.as_ref() == ASKED => return Some(LinkEvent::Alive),
            // The protocol has no binary messages; pings are answered by the socket itself.
            Some(Ok(_)) => return None,
            Some(Err(error)) => LinkEvent::Lost(Lost::from_error(&error)),
            None => LinkEvent::Lost(Lost::Ended),
        };
        self.over = Some(over);
        None
    }

    /// Reads on after a failed write, as far as it goes without waiting, for a close frame.
    fn last_words(&mut self, cx: &mut Context<'_>) -> Option<LinkEvent> {
        while let Poll::Ready(Some(Ok(message))) = Pin::new(&mut self.socket).poll_next(cx) {
            if let Message::Close(Some(frame)) = message {
                return Some(LinkEvent::Closed { code: Some(frame.code.into()), reason: frame.reason });
            }
        }
        None
    }

    /// Moves the queue into the socket as far as it takes it.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        while !self.queue.is_empty() {
            match Pin::new(&mut self.socket).poll_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return Ok(()),
            }
            let Some(outgoing) = self.queue.pop_front() else { break };
            self.audio -= usize::from(outgoing.audio);
            Pin::new(&mut self.socket).start_send(outgoing.message)?;
            self.dirty = true;
        }
        if self.dirty
            && let Poll::Ready(flushed) = Pin::new(&mut self.socket).poll_flush(cx)
        {
            flushed?;
            self.dirty = false;
        }
        Ok(())
    }

    /// The timer has come: a ping is due, or its answer was.
    fn beat(&mut self) {
        let pause = match self.pulse {
            Pulse::Resting => {
                self.queue.push_front(Outgoing { message: Message::Ping(Bytes::new()), audio: false });
                self.pulse = Pulse::Asked;
                self.heartbeat.within
            }
            Pulse::Asked => {
                self.over = Some(LinkEvent::Lost(Lost::Silent));
                return;
            }
            Pulse::Answered => {
                self.pulse = Pulse::Resting;
                self.heartbeat.every
            }
        };
        self.timer.as_mut().reset(Instant::now() + pause);
    }
}

#[cfg(test)]
mod lifecycle;
#[cfg(test)]
pub(crate) mod tests;

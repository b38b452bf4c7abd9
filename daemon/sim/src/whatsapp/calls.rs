//! The calls of the emulated Graph: one state machine per `wacid`, from the first ring to the terminate webhook.
//!
//! It knows nothing of HTTP: [`super::graph`] turns refusals into error envelopes. Every call ends exactly once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sauti_core::now::Now;
use sauti_core::pii::Pii;
use sauti_core::whatsapp::graph::Ask;

use super::answer::{AnswerFacts, OfferFacts, SdpFault, check};

/// How long Meta and the caller's client wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the first ring to "not answered"; 30 to 60 s on paper, about 21 s in the field.
    pub ring: Duration,
    /// From the accept to the first media of the box.
    pub first_media: Duration,
    /// Between two media packets of the box, RTCP included.
    pub media_gap: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let (ring, first_media, media_gap) = (30, 20, 30);
        Self {
            ring: Duration::from_secs(ring),
            first_media: Duration::from_secs(first_media),
            media_gap: Duration::from_secs(media_gap),
        }
    }
}

/// What happens on the caller's side, and what has to be told by webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphEffect {
    /// The box's answer reached the relay: from now on STUN is answered and a ClientHello is heard.
    AnswerDelivered {
        /// The call.
        wacid: Pii,
        /// The answer, byte for byte.
        sdp: Pii,
        /// When it takes hold: at the latest when the reply is written.
        at: Instant,
    },
    /// The call is open: the caller hears, and speaks.
    Accepted {
        /// The call.
        wacid: Pii,
        /// When it takes hold.
        at: Instant,
    },
    /// The call is over, for whatever reason: the phone stops, a terminate webhook is due. Once per call.
    Ended {
        /// The call.
        wacid: Pii,
        /// How it ended.
        ending: Ending,
        /// When it takes hold.
        at: Instant,
    },
    /// The box calls a person.
    Calling {
        /// The new call.
        wacid: Pii,
        /// Number or BSUID.
        to: Pii,
        /// The box's offer.
        offer: Pii,
        /// What it wants back in the webhooks.
        opaque: Option<String>,
    },
    /// A text message was taken; status webhooks may follow.
    TextTaken {
        /// The message's id.
        id: Pii,
        /// Number or BSUID.
        to: Pii,
        /// What the box wants back in the status webhooks.
        opaque: Option<String>,
    },
    /// The settings changed: an `account_settings_update` webhook is due.
    SettingsChanged,
}

/// Why a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The box rejected it.
    Rejected,
    /// The box hung up.
    Terminated,
    /// The person hung up.
    HungUp,
    /// Nobody accepted in time.
    NotAnswered,
    /// Accepted, but no media of the box arrived: 138021.
    NoMedia,
    /// The media of the box stopped: 138021.
    MediaStopped,
    /// A fault put in on purpose, by its code: 138019, 138020, 138022, 138023.
    Fault(i64),
}

/// How a call ended, as the terminate webhook tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub cause: Cause,
    /// When it was picked up; `None` if it was not.
    pub start: Option<Timestamp>,
    /// When it ended.
    pub end: Timestamp,
}

impl Ending {
    /// The error code of the webhook, if it has one.
    #[must_use]
    pub const fn code(&self) -> Option<i64> {
        match self.cause {
            Cause::NoMedia | Cause::MediaStopped => Some(138_021),
            Cause::Fault(code) => Some(code),
            Cause::Rejected | Cause::Terminated | Cause::HungUp | Cause::NotAnswered => None,
        }
    }
}

/// Why an ask is refused: always HTTP 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such call.
    #[error("Call not found: invalid call id")]
    UnknownCall,
    /// The person hung up before.
    #[error("The user has already terminated the call")]
    UserGone,
    /// The call is over.
    #[error("{0} an already Completed/Failed call")]
    Over(Ask),
    /// The call is past this step.
    #[error("{0} an already In Progress call")]
    InProgress(Ask),
    /// Another SDP than before.
    #[error("SDP answer in accept does not match pre-accept")]
    Mismatch,
    /// The SDP breaks a rule.
    #[error("{0}")]
    Sdp(SdpFault),
    /// There is no session, or it is no answer.
    #[error("session with sdp and sdp_type answer is required")]
    NoAnswer,
}

impl Refusal {
    /// True when the SDP is at fault: code 138008 rather than 100.
    #[must_use]
    pub const fn is_sdp(&self) -> bool {
        matches!(self, Self::Sdp(_))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ringing,
    PreAccepted,
    Accepted { since: Instant },
    Ended,
}

/// What a call went through, for tests and reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// The id under which it rang.
    pub wacid: Pii,
    /// Who called.
    pub person: Pii,
    /// When it began to ring.
    pub rang_at: Instant,
    /// When the pre-accept was taken.
    pub pre_accepted_at: Option<Instant>,
    /// When the accept was taken.
    pub accepted_at: Option<Instant>,
    /// When the first media of the box arrived.
    pub first_media_at: Option<Instant>,
    /// Media came before the accept: the caller's client takes that for an accept.
    pub early_media: bool,
    /// What the answer says.
    pub answer: Option<AnswerFacts>,
    /// `biz_opaque_callback_data` of the accept.
    pub opaque: Option<String>,
    /// Every ask about the call, and whether it was taken.
    pub asks: Vec<(Instant, Ask, bool)>,
    /// When it ended, and how.
    pub ended: Option<(Instant, Ending)>,
    phase: Phase,
    offer: OfferFacts,
    sdp: Option<Pii>,
    picked_up: Option<Timestamp>,
    last_media: Option<Instant>,
}

impl CallRecord {
    /// How often something was asked about this call.
    #[must_use]
    pub fn times(&self, ask: Ask) -> usize {
        self.asks.iter().filter(|(_, asked, _)| *asked == ask).count()
    }

    fn deadline(&self, patience: &Patience) -> Option<(Instant, Cause)> {
        match self.phase {
            Phase::Ringing | Phase::PreAccepted => match self.last_media {
                Some(last) => Some((last + patience.media_gap, Cause::MediaStopped)),
                None => Some((self.rang_at + patience.ring, Cause::NotAnswered)),
            },
            Phase::Accepted { since } => {
                Some(self.last_media.map_or((since + patience.first_media, Cause::NoMedia), |last| {
                    (last.max(since) + patience.media_gap, Cause::MediaStopped)
                }))
            }
            Phase::Ended => None,
        }
    }
}

/// All calls, running and ended.
#[derive(Debug, Default)]
pub struct Calls {
    patience: Patience,
    calls: BTreeMap<Pii, CallRecord>,
}

/// What an ask carries beside the call's id.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried<'a> {
    /// The SDP of a session of type `answer`.
    pub answer: Option<&'a Pii>,
    /// `biz_opaque_callback_data`.
    pub opaque: Option<&'a str>,
}

impl Calls {
    /// No calls yet.
    #[must_use]
    pub const fn new(patience: Patience) -> Self {
        Self { patience, calls: BTreeMap::new() }
    }

    /// A person calls: the call rings. An id that is known already is left as it is.
    pub fn ring(&mut self, now: Now, wacid: &Pii, person: &Pii, offer: &Pii) {
        let record = CallRecord {
            wacid: wacid.clone(),
            person: person.clone(),
            rang_at: now.mono,
            pre_accepted_at: None,
            accepted_at: None,
            first_media_at: None,
            early_media: false,
            answer: None,
            opaque: None,
            asks: Vec::new(),
            ended: None,
            phase: Phase::Ringing,
            offer: OfferFacts::read(offer.expose()),
            sdp: None,
            picked_up: None,
            last_media: None,
        };
        self.calls.entry(key(wacid)).or_insert(record);
    }

    /// A call's record.
    #[must_use]
    pub fn record(&self, wacid: &Pii) -> Option<&CallRecord> {
        self.calls.get(&key(wacid))
    }

    /// All records.
    pub fn records(&self) -> impl Iterator<Item = &CallRecord> {
        self.calls.values()
    }

    /// How many calls are not over.
    #[must_use]
    pub fn running(&self) -> usize {
        self.records().filter(|record| record.ended.is_none()).count()
    }

    /// Forgets calls that are over, so that a long run stays small; returns how many.
    pub fn forget_ended(&mut self) -> usize {
        let before = self.calls.len();
        self.calls.retain(|_, record| record.ended.is_none());
        before - self.calls.len()
    }

    /// Does what the box asks; it takes hold `settle` after now.
    ///
    /// # Errors
    ///
    /// The call's state or the SDP forbids it; then nothing has changed.
    pub fn ask(
        &mut self,
        now: Now,
        settle: Duration,
        ask: Ask,
        wacid: &Pii,
        carried: Carried<'_>,
        out: &mut Vec<GraphEffect>,
    ) -> Result<(), Refusal> {
        let record = self.calls.get_mut(&key(wacid)).ok_or(Refusal::UnknownCall)?;
        let at = now.mono + settle;
        let done = match ask {
            Ask::PreAccept => pre_accept(record, at, carried, out),
            Ask::Accept => accept(record, now.after(settle), carried, out),
            Ask::Reject => reject(record),
            Ask::Terminate | Ask::Text => terminate(record),
        };
        if record.asks.len() < 64 {
            record.asks.push((now.mono, ask, done.is_ok()));
        }
        done?;
        match ask {
            Ask::Reject => end(record, now.after(settle), Cause::Rejected, out),
            Ask::Terminate => end(record, now.after(settle), Cause::Terminated, out),
            Ask::PreAccept | Ask::Accept | Ask::Text => {}
        }
        Ok(())
    }

    /// The person hung up, or a fault was put in; nothing if the call is over or unknown.
    pub fn end(&mut self, now: Now, wacid: &Pii, cause: Cause, out: &mut Vec<GraphEffect>) {
        if let Some(record) = self.calls.get_mut(&key(wacid)) {
            end(record, now, cause, out);
        }
    }

    /// Media of the box arrived, RTCP included.
    pub fn media(&mut self, now: Now, wacid: &Pii) {
        let Some(record) = self.calls.get_mut(&key(wacid)) else { return };
        if record.phase == Phase::Ended {
            return;
        }
        record.first_media_at.get_or_insert(now.mono);
        record.last_media = Some(now.mono);
        if !matches!(record.phase, Phase::Accepted { .. }) {
            record.early_media = true;
            record.picked_up.get_or_insert(now.wall);
        }
    }

    /// When [`Calls::tick`] has something to do next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.records().filter_map(|record| record.deadline(&self.patience)).map(|(at, _)| at).min()
    }

    /// Ends the calls whose patience is over.
    pub fn tick(&mut self, now: Now, out: &mut Vec<GraphEffect>) {
        for record in self.calls.values_mut() {
            if let Some((_, cause)) = record.deadline(&self.patience).filter(|(at, _)| *at <= now.mono) {
                end(record, now, cause, out);
            }
        }
    }
}

/// The same call has one key, however its id is padded.
fn key(wacid: &Pii) -> Pii {
    Pii::new(wacid.expose().trim_end_matches('='))
}

fn judge(record: &CallRecord, carried: Carried<'_>) -> Result<(Pii, AnswerFacts), Refusal> {
    let sdp = carried.answer.ok_or(Refusal::NoAnswer)?;
    let facts = check(sdp.expose(), &record.offer).map_err(Refusal::Sdp)?;
    Ok((sdp.clone(), facts))
}

fn over(record: &CallRecord, ask: Ask) -> Refusal {
    match record.ended {
        Some((_, Ending { cause: Cause::HungUp, .. })) => Refusal::UserGone,
        _ => Refusal::Over(ask),
    }
}

fn pre_accept(
    record: &mut CallRecord,
    at: Instant,
    carried: Carried<'_>,
    out: &mut Vec<GraphEffect>,
) -> Result<(), Refusal> {
    match record.phase {
        Phase::Ringing => {}
        Phase::PreAccepted | Phase::Accepted { .. } => return Err(Refusal::InProgress(Ask::PreAccept)),
        Phase::Ended => return Err(over(record, Ask::PreAccept)),
    }
    let (sdp, facts) = judge(record, carried)?;
    record.phase = Phase::PreAccepted;
    record.pre_accepted_at = Some(at);
    record.answer = Some(facts);
    record.sdp = Some(sdp.clone());
    out.push(GraphEffect::AnswerDelivered { wacid: record.wacid.clone(), sdp, at });
    Ok(())
}

fn accept(record: &mut CallRecord, then: Now, carried: Carried<'_>, out: &mut Vec<GraphEffect>) -> Result<(), Refusal> {
    let at = then.mono;
    match record.phase {
        Phase::Ringing => {
            let (sdp, facts) = judge(record, carried)?;
            record.answer = Some(facts);
            record.sdp = Some(sdp.clone());
            out.push(GraphEffect::AnswerDelivered { wacid: record.wacid.clone(), sdp, at });
        }
        Phase::PreAccepted if record.sdp.as_ref() != carried.answer => {
            return Err(carried.answer.map_or(Refusal::NoAnswer, |_| Refusal::Mismatch));
        }
        Phase::PreAccepted => {}
        Phase::Accepted { .. } => return Err(Refusal::InProgress(Ask::Accept)),
        Phase::Ended => return Err(over(record, Ask::Accept)),
    }
    record.phase = Phase::Accepted { since: at };
    record.accepted_at = Some(at);
    record.opaque = carried.opaque.map(str::to_owned);
    record.picked_up.get_or_insert(then.wall);
    out.push(GraphEffect::Accepted { wacid: record.wacid.clone(), at });
    Ok(())
}

fn reject(record: &CallRecord) -> Result<(), Refusal> {
    match record.phase {
        Phase::Ringing | Phase::PreAccepted => Ok(()),
        Phase::Accepted { .. } => Err(Refusal::InProgress(Ask::Reject)),
        Phase::Ended => Err(over(record, Ask::Reject)),
    }
}

fn terminate(record: &CallRecord) -> Result<(), Refusal> {
    if record.phase == Phase::Ended { Err(over(record, Ask::Terminate)) } else { Ok(()) }
}

fn end(record: &mut CallRecord, now: Now, cause: Cause, out: &mut Vec<GraphEffect>) {
    if record.phase == Phase::Ended {
        return;
    }
    record.phase = Phase::Ended;
    let ending = Ending { cause, start: record.picked_up, end: now.wall };
    record.ended = Some((now.mono, ending));
    out.push(GraphEffect::Ended { wacid: record.wacid.clone(), ending, at: now.mono });
}

//! One INVITE dialog as a call sees it: a handle with what can be done, a stream of what happens.
//!
//! The library owns the state machine of RFC 3261; `attend` turns its states into events, runs the session timer and
//! takes the dialog out of every table when it is over. It decides nothing about the call.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rsipstack::dialog::dialog::TransactionHandle;
use rsipstack::dialog::invite_dialog::InviteDialog;
use rsipstack::sip::prelude::HeadersExt;
use rsipstack::sip::{Header, Response, StatusCode, StatusCodeKind};
use rsipstack::transaction::endpoint::EndpointInnerRef;
use rsipstack::transaction::key::TransactionRole;
use rsipstack::transaction::transaction::{TransactionEvent, TransactionEventSender};
use sauti_core::call::outcome::Fault;
use sauti_core::config::Transport;
use sauti_core::pii::Pii;
use sauti_core::record::LiveDialog;
use sauti_core::sip::timer::{self, Agreed, Asked, SessionExpires, SessionTimer};
use sauti_core::sip::trace::{Trace, TraceLine};
use tokio::sync::{Notify, mpsc};

use super::{desk, read, wire};

/// Events waiting for a call: it reads them as they come; keys of a wild far end are dropped beyond.
pub(super) const EVENTS: usize = 32;
/// Longest wait for the answer to a request within a dialog; the library gives up at 32 s (RFC 3261 timer F).
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// What happens in a dialog.
pub type DialogEvents = mpsc::Receiver<DialogEvent>;

/// One of them.
#[derive(Debug)]
pub enum DialogEvent {
    /// A call that we made rings, perhaps with early media.
    Ringing {
        /// The SDP of a 183.
        sdp: Option<Pii>,
    },
    /// The dialog stands: our 200 was acknowledged, or theirs came.
    Confirmed {
        /// Their SDP, where it came with this message: our call's answer, or the ACK of a delayed offer.
        sdp: Option<Pii>,
    },
    /// A call that we made was refused.
    Refused {
        /// The final status code.
        code: u16,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The caller gave up before we answered; 487 was sent.
    Cancelled,
    /// The far end hung up; 200 was sent.
    Bye,
    /// No ACK came within 32 s (RFC 3261 §13.3.1.4); a BYE was sent. See [`NO_ACK`].
    NoAck,
    /// A re-INVITE or UPDATE with an offer, or a re-INVITE that wants one from us. It waits for an answer.
    Reoffer {
        /// Their offer.
        sdp: Option<Pii>,
        /// How to answer.
        reply: Reply,
    },
    /// The answer to the offer that went out with our 200 to a re-INVITE: it came in the ACK (RFC 3261 §14.2).
    Answered {
        /// Their answer.
        sdp: Pii,
    },
    /// The session is to be refreshed, and the far end knows no UPDATE: [`Dialog::reinvite`] with what is in force
    /// (RFC 4028 §7.4).
    RefreshDue,
    /// A key, by INFO.
    Dtmf(char),
    /// How a REFER of ours goes on (RFC 3515).
    Referred {
        /// The status of the referred call.
        code: u16,
        /// True when there will be no other.
        is_final: bool,
    },
    /// The dialog is over for a reason of the line.
    Broken(Broken),
}

/// Why a dialog broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The session timer ran out: nobody refreshed (RFC 4028 §10).
    SessionExpired,
    /// A request was not answered.
    Silent,
}

/// What to say when no ACK came: nearly always one cause (peers §3, bug 44).
pub const NO_ACK: &str = "the far end never acknowledged the answer: it cannot reach the address in our Contact; set \
                          advertise of the trunk to the address that it sees, and open the port";

/// The same where Meta is the far end: it goes by the name that the number's settings have.
pub const NO_ACK_META: &str = "Meta never acknowledged the answer: it reaches this box by the host name of the number's SIP \
                               settings; compare it and its port with [whatsapp.sip] hostname and [sip] tls, and open the port";

/// Why something could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DialogError {
    /// The far end did not answer in time.
    #[error("the far end did not answer")]
    Timeout,
    /// It refused.
    #[error("the far end refused with {code}")]
    Refused {
        /// Its status code.
        code: u16,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The dialog is over, or not in a state in which that could be done.
    #[error("the dialog does not stand")]
    Gone,
    /// The far end is known not to do that: WhatsApp answers a re-INVITE with 500 (whatsapp-calling §4).
    #[error("this far end cannot do that")]
    Unsupported,
    /// Nothing could be sent.
    #[error("nothing could be sent")]
    Transport,
}

impl DialogError {
    /// The word for the log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timed_out",
            Self::Refused { .. } => "refused",
            Self::Gone => "gone",
            Self::Unsupported => "unsupported",
            Self::Transport => "not_sent",
        }
    }

    /// Whose affair it is.
    #[must_use]
    pub const fn fault(self) -> Fault {
        match self {
            Self::Timeout | Self::Refused { .. } | Self::Transport => Fault::Carrier,
            Self::Gone => Fault::None,
            Self::Unsupported => Fault::Operator,
        }
    }
}

/// A final refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refuse {
    /// 300 to 699.
    pub code: u16,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
}

impl Refuse {
    /// 503: no room now.
    #[must_use]
    pub const fn busy() -> Self {
        Self { code: 503, retry_after: Some(Duration::from_secs(5)) }
    }

    /// 488: the offer holds nothing that we can do.
    #[must_use]
    pub const fn not_acceptable() -> Self {
        Self { code: 488, retry_after: None }
    }
}

/// How to answer an offer within a dialog. Dropped without a word, it answers 488.
#[derive(Debug)]
pub struct Reply {
    handle: Option<TransactionHandle>,
    line: Arc<Line>,
    asked: Asked,
}

impl Reply {
    pub(super) const fn new(handle: TransactionHandle, line: Arc<Line>, asked: Asked) -> Self {
        Self { handle: Some(handle), line, asked }
    }

    /// 200 with this SDP; a session timer is refreshed by it.
    pub async fn answer(mut self, sdp: &str) {
        let Some(handle) = self.handle.take() else { return };
        match timer::answer(desk::now(), self.asked) {
            Agreed::TooSmall => {
                let least = vec![Header::MinSE(timer::MIN_SE.to_string().into())];
                respond(&handle, 422, least, None).await;
            }
            agreed => {
                let mut headers = with_sdp();
                headers.extend(self.line.agree(agreed));
                respond(&handle, 200, headers, Some(sdp.as_bytes().to_vec())).await;
            }
        }
    }

    /// Refuses; the session goes on as it was (RFC 3261 §14.2).
    pub async fn refuse(mut self, code: u16) {
        if let Some(handle) = self.handle.take() {
            respond(&handle, code, Vec::new(), None).await;
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let (Some(handle), Ok(runtime)) = (self.handle.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { respond(&handle, 488, Vec::new(), None).await });
        }
    }
}

/// Hands an answer to its transaction; one that is over needs none any more.
pub(super) async fn respond(handle: &TransactionHandle, code: u16, headers: Vec<Header>, body: Option<Vec<u8>>) {
    handle.respond(wire::status(code), Some(headers), body).await.ok();
}

fn with_sdp() -> Vec<Header> {
    vec![Header::ContentType(wire::SDP.into()), Header::Allow(wire::ALLOW.into())]
}

/// What the handle, the replies and `attend` share of one dialog.
pub(super) struct Line {
    timer: Mutex<Option<SessionTimer>>,
    /// Rung when the timer was set or moved.
    pub(super) bell: Notify,
    /// Rung when a PRACK came.
    pub(super) pracked: Notify,
    /// Rung when the library gave the INVITE up without ending the dialog, as with a challenge that it cannot read.
    pub(super) lost: Notify,
    pub(super) is_whatsapp: bool,
    /// Whether our answer may go ahead of the 200.
    early_media: bool,
    /// Set by a REFER of ours: only then are NOTIFYs awaited.
    pub(super) refers: AtomicBool,
    /// Whether we ended it ourselves, so that its end is no news.
    pub(super) ours: AtomicBool,
    /// The INVITE that we answer: where a response of ours goes, and who makes it.
    transaction: Option<(TransactionEventSender, EndpointInnerRef)>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("is_whatsapp", &self.is_whatsapp).finish_non_exhaustive()
    }
}

impl Line {
    pub(super) fn new(is_whatsapp: bool, transaction: Option<(TransactionEventSender, EndpointInnerRef)>) -> Self {
        Self {
            timer: Mutex::new(None),
            bell: Notify::new(),
            pracked: Notify::new(),
            lost: Notify::new(),
            is_whatsapp,
            early_media: false,
            refers: AtomicBool::new(false),
            ours: AtomicBool::new(false),
            transaction,
        }
    }

    /// The same line, on which our answer may go ahead of the 200.
    pub(super) const fn with_early_media(mut self, early_media: bool) -> Self {
        self.early_media = early_media;
        self
    }

    /// Looks at the session timer, and changes it.
    pub(super) fn timer<T>(&self, look: impl FnOnce(&mut Option<SessionTimer>) -> T) -> T {
        look(&mut self.timer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_timer(&self, timer: Option<SessionTimer>) {
        self.timer(|slot| *slot = timer);
        self.bell.notify_one();
    }

    /// Takes up what was agreed; the headers that say so.
    pub(super) fn agree(&self, agreed: Agreed) -> Vec<Header> {
        match agreed {
            Agreed::None | Agreed::TooSmall => Vec::new(),
            Agreed::Timer { header, require, timer } => {
                self.set_timer(Some(timer));
                let mut headers = vec![Header::SessionExpires(header.write().into())];
                headers.extend(require.then(|| Header::Require("timer".into())));
                headers
            }
        }
    }

    /// What a request of ours says that refreshes the session: nothing where no timer runs.
    pub(super) fn renewing(&self) -> Vec<Header> {
        let header = self.timer(|timer| timer.as_ref().map(SessionTimer::header));
        let headers =
            |header: SessionExpires| [Header::SessionExpires(header.write().into()), Header::Supported("timer".into())];
        header.into_iter().flat_map(headers).collect()
    }

    /// Takes up what a 2xx to a request of ours says.
    pub(super) fn answered(&self, response: &Response) {
        if self.is_whatsapp {
            return;
        }
        let expires = read::value(response, "Session-Expires").and_then(|value| SessionExpires::parse(&value));
        if let Some(timer) = timer::answered(desk::now(), expires) {
            self.set_timer(Some(timer));
        } else {
            self.timer(|slot| slot.iter_mut().for_each(|timer| timer.refreshed(desk::now())));
            self.bell.notify_one();
        }
    }
}

/// Over whom and what a dialog was opened.
#[derive(Debug, Clone)]
pub(super) struct Over {
    pub(super) trunk: Arc<str>,
    pub(super) transport: Transport,
}

/// A handle on one dialog; cheap to clone. When the last one goes, what is owed to the far end is sent.
#[derive(Clone)]
pub struct Dialog {
    inner: Arc<Inner>,
}

struct Inner {
    dialog: InviteDialog,
    line: Arc<Line>,
    trace: Arc<Mutex<Trace>>,
    /// What the INVITE that we answer says of timers.
    asked: Asked,
    over: Over,
}

impl std::fmt::Debug for Dialog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialog").field("is_whatsapp", &self.inner.line.is_whatsapp).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.dialog.state().is_terminated() {
            return;
        }
        self.line.ours.store(true, Ordering::Relaxed);
        let (dialog, line) = (self.dialog.clone(), Arc::clone(&self.line));
        let runtime = tokio::runtime::Handle::try_current();
        if let Ok(runtime) = runtime {
            runtime.spawn(async move { end(&dialog, &line, Refuse { code: 480, retry_after: None }).await });
        }
    }
}

/// Ends a dialog in whatever state it is: a refusal, CANCEL or BYE.
async fn end(dialog: &InviteDialog, line: &Line, refuse: Refuse) -> Result<(), DialogError> {
    if dialog.state().can_cancel() && dialog.role() == TransactionRole::Server {
        return reject(dialog, line, refuse);
    }
    dialog.hangup().await.map_err(|_| DialogError::Transport)
}

pub(super) fn reject(dialog: &InviteDialog, line: &Line, refuse: Refuse) -> Result<(), DialogError> {
    let state = dialog.state();
    if !state.can_cancel() {
        return Err(DialogError::Gone);
    }
    if let (Some(after), Some((sender, endpoint))) = (refuse.retry_after, &line.transaction) {
        // the library's refusal carries no header of ours, so ours goes out first, and its own finds nothing to do
        let request = dialog.initial_request();
        let mut response = endpoint.make_response(&request, wire::status(refuse.code), None);
        let tagged = request.to_header().ok().map(|to| to.clone().with_tag(dialog.id().local_tag.into()));
        tagged.into_iter().for_each(|to| response.headers.unique_push(to.into()));
        response.headers.push(Header::RetryAfter(after.as_secs().to_string().into()));
        sender.send(TransactionEvent::Respond(response)).ok();
    }
    dialog.reject(Some(wire::status(refuse.code)), None).map_err(|_| DialogError::Gone)
}

impl Dialog {
    pub(super) fn new(
        dialog: InviteDialog,
        line: Arc<Line>,
        trace: Arc<Mutex<Trace>>,
        asked: Asked,
        over: Over,
    ) -> Self {
        Self { inner: Arc::new(Inner { dialog, line, trace, asked, over }) }
    }

    /// Sends our answer ahead of the 200, with 183, where the trunk wants that (`early_media`). The 200 has to repeat it.
    ///
    /// The far end plays its own ringing until packets come (RFC 3960 §3.2), and none come before the 200.
    pub fn answer_early(&self, sdp: &str) {
        if self.inner.line.early_media {
            // a dialog that is over has nobody to tell
            self.inner.dialog.ringing(Some(with_sdp()), Some(sdp.as_bytes().to_vec())).ok();
        }
    }

    /// Takes the call: 200 with this SDP, our answer or, on a delayed offer, our offer. [`DialogEvent::Confirmed`] or
    /// [`DialogEvent::NoAck`] follows.
    ///
    /// # Errors
    ///
    /// The caller has gone, or the call was answered already.
    #[expect(clippy::unused_async, reason = "the callers await every step of a dialog alike")]
    pub async fn answer(&self, sdp: &str) -> Result<(), DialogError> {
        let inner = &self.inner;
        if !inner.dialog.state().can_cancel() || inner.dialog.role() != TransactionRole::Server {
            return Err(DialogError::Gone);
        }
        let mut headers = vec![Header::ContentType(wire::SDP.into())];
        if inner.line.is_whatsapp {
            headers.push(Header::Allow(wire::ALLOW_WHATSAPP.into()));
        } else {
            headers.push(Header::Allow(wire::ALLOW.into()));
            headers.push(Header::Supported("timer, replaces".into()));
            headers.extend(inner.line.agree(timer::answer(desk::now(), inner.asked)));
        }
        inner.dialog.accept(Some(headers), Some(sdp.as_bytes().to_vec())).map_err(|_| DialogError::Gone)
    }

    /// Refuses a call that was not answered yet.
    ///
    /// # Errors
    ///
    /// The caller has gone, or the call was answered.
    #[expect(clippy::unused_async, reason = "the callers await every step of a dialog alike")]
    pub async fn refuse(&self, with: Refuse) -> Result<(), DialogError> {
        self.inner.line.ours.store(true, Ordering::Relaxed);
        reject(&self.inner.dialog, &self.inner.line, with)
    }

    /// Hangs up, whatever the state: 480, CANCEL or BYE. Returns when the far end has confirmed it, 10 s at most;
    /// the BYE is repeated in the background until then.
    ///
    /// # Errors
    ///
    /// The far end did not confirm; the dialog is over all the same.
    pub async fn bye(&self) -> Result<(), DialogError> {
        self.inner.line.ours.store(true, Ordering::Relaxed);
        let (dialog, line) = (self.inner.dialog.clone(), Arc::clone(&self.inner.line));
        let ending = tokio::spawn(async move { end(&dialog, &line, Refuse { code: 480, retry_after: None }).await });
        match tokio::time::timeout(ASK_WITHIN, ending).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(DialogError::Gone),
            Err(_) => Err(DialogError::Timeout),
        }
    }

    /// Offers anew within the dialog, which refreshes a session timer too; their answer.
    ///
    /// # Errors
    ///
    /// Towards WhatsApp never; else when it is refused or not answered; with 491 where theirs was under way. The session
    /// goes on as it was.
    pub async fn reinvite(&self, sdp: &str) -> Result<Pii, DialogError> {
        self.not_whatsapp()?;
        let body = Some(sdp.as_bytes().to_vec());
        let mut headers = with_sdp();
        headers.extend(self.inner.line.renewing());
        let response = asked(self.inner.dialog.reinvite(Some(headers), body)).await?;
        self.inner.line.answered(&response);
        Ok(Pii::new(String::from_utf8_lossy(&response.body).into_owned()))
    }

    /// Asks the far end to call `target` instead (RFC 3515). [`DialogEvent::Referred`] tells how that goes.
    ///
    /// # Errors
    ///
    /// It refuses, does not answer, or is WhatsApp.
    pub async fn refer(&self, target: &Pii) -> Result<(), DialogError> {
        self.refer_to(format!("<{}>", target.expose())).await
    }

    /// Asks the far end to take the place of our side in `other` (RFC 3891).
    ///
    /// # Errors
    ///
    /// As [`Dialog::refer`].
    pub async fn refer_attended(&self, target: &Pii, other: &Self) -> Result<(), DialogError> {
        let id = other.inner.dialog.id();
        let escape = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
            text.bytes()
                .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
                .collect::<String>()
        };
        // seen from the far end that gets the INVITE, its own tag is the to-tag
        let replaces = format!("{};to-tag={};from-tag={}", id.call_id, id.remote_tag, id.local_tag);
        self.refer_to(format!("<{}?Replaces={}>", target.expose(), escape(&replaces))).await
    }

    async fn refer_to(&self, to: String) -> Result<(), DialogError> {
        self.not_whatsapp()?;
        self.inner.line.refers.store(true, Ordering::Relaxed);
        asked(self.inner.dialog.refer(to.as_str(), None, None)).await.map(drop)
    }

    /// Sends a key by INFO, for trunks that take none in RTP.
    ///
    /// # Errors
    ///
    /// As [`Dialog::refer`].
    pub async fn info_digit(&self, digit: char) -> Result<(), DialogError> {
        self.not_whatsapp()?;
        let body = format!("Signal={digit}\r\nDuration=160\r\n").into_bytes();
        let headers = vec![Header::ContentType("application/dtmf-relay".into())];
        asked(self.inner.dialog.info(Some(headers), Some(body))).await.map(drop)
    }

    /// What it takes to hang up in it after a crash; changes with each offer within the dialog.
    #[must_use]
    pub fn journal(&self) -> LiveDialog {
        let Inner { dialog, over, .. } = &*self.inner;
        let kept = dialog.snapshot();
        let (from, to) = (kept.from.to_string(), kept.to.to_string());
        let (local, remote) = if kept.role == TransactionRole::Server { (to, from) } else { (from, to) };
        LiveDialog {
            trunk: over.trunk.to_string(),
            transport: over.transport.label().to_owned(),
            call_id: Pii::new(kept.id.call_id),
            local: Pii::new(tagged(local, &kept.id.local_tag)),
            remote: Pii::new(tagged(remote, &kept.id.remote_tag)),
            cseq: kept.local_cseq,
            target: Pii::new(kept.remote_uri.to_string()),
            route: kept.route_set.iter().map(|route| Pii::new(route.value())).collect(),
        }
    }

    /// Its messages, redacted; they can be read when the dialog is gone.
    #[must_use]
    pub fn messages(&self) -> Messages {
        Messages(Arc::clone(&self.inner.trace))
    }

    fn not_whatsapp(&self) -> Result<(), DialogError> {
        if self.inner.line.is_whatsapp { Err(DialogError::Unsupported) } else { Ok(()) }
    }
}

/// A side of a dialog with its tag; the one that came in the INVITE's `To` has none yet.
fn tagged(side: String, tag: &str) -> String {
    let params = side.rsplit('>').next().unwrap_or_default();
    if params.contains(";tag=") || tag.is_empty() { side } else { format!("{side};tag={tag}") }
}

/// The messages of a dialog, redacted and bounded.
#[derive(Debug, Clone)]
pub struct Messages(Arc<Mutex<Trace>>);

impl Messages {
    /// Those so far.
    #[must_use]
    pub fn lines(&self) -> Vec<TraceLine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lines().to_vec()
    }

    /// When our 200 to the INVITE went out, since it came.
    #[must_use]
    pub fn answered(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).answered()
    }

    /// How many there were, those included that were not kept.
    #[must_use]
    pub fn seen(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).seen()
    }
}

/// Waits for the answer to a request within a dialog.
pub(super) async fn asked(
    asking: impl Future<Output = rsipstack::Result<Option<Response>>>,
) -> Result<Response, DialogError> {
    let response = match tokio::time::timeout(ASK_WITHIN, asking).await {
        Ok(Ok(Some(response))) => response,
        Ok(Ok(None)) => return Err(DialogError::Gone),
        Ok(Err(_)) => return Err(DialogError::Transport),
        Err(_) => return Err(DialogError::Timeout),
    };
    match response.status_code.kind() {
        StatusCodeKind::Successful => Ok(response),
        _ if response.status_code == StatusCode::RequestTimeout => Err(DialogError::Timeout),
        _ => Err(DialogError::Refused { code: response.status_code.code(), retry_after: retry_after(&response) }),
    }
}

/// `Retry-After` of a response; its comment and parameters are left out.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let text = read::value(response, "Retry-After")?;
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().map(Duration::from_secs)
}

//! The task beside each dialog: library states to events, session timer, reliable ringing, clearing up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rsipstack::dialog::DialogId;
use rsipstack::dialog::dialog::{
    Dialog as Kept, DialogState, DialogStateReceiver, TerminatedReason, TransactionHandle,
};
use rsipstack::dialog::dialog_layer::DialogLayer;
use rsipstack::dialog::invite_dialog::InviteDialog;
use rsipstack::sip::prelude::HeadersExt;
use rsipstack::sip::{Header, Method, Request, Response, StatusCode};
use rsipstack::transaction::key::TransactionRole;
use sauti_core::pii::Pii;
use sauti_core::sip::timer::{self, Agreed, Due};
use tokio::sync::mpsc;

use super::desk::{self, Desk};
use super::dialog::{Broken, DialogError, DialogEvent, Line, Reply, asked, respond, retry_after};
use super::{read, wire};

/// First and longest wait for a PRACK before the 180 is sent again (RFC 3262 §3), and when that ends.
const PRACK_FIRST: Duration = Duration::from_millis(500);
const PRACK_FOR: Duration = Duration::from_secs(32);

/// Everything that `attend` needs to know about its dialog.
pub(super) struct Attended {
    pub(super) desk: Arc<Desk>,
    pub(super) layer: Arc<DialogLayer>,
    pub(super) dialog: InviteDialog,
    pub(super) line: Arc<Line>,
    pub(super) call_id: String,
    /// Whether the INVITE had no offer: then the ACK carries the answer.
    pub(super) delayed: bool,
}

/// How far a dialog has come.
#[derive(Default)]
struct Course {
    /// The 200 was acknowledged, or theirs came.
    stands: bool,
    /// Whether the far end says that it knows no UPDATE.
    no_update: bool,
    /// The re-INVITE without an offer that is being answered, by its CSeq: its ACK brings the answer to ours.
    without_offer: Option<u32>,
}

impl Attended {
    /// Runs until the dialog is over, then takes it out of every table.
    pub(super) async fn run(self, mut states: DialogStateReceiver, events: mpsc::Sender<DialogEvent>) {
        let mut course = Course::default();
        loop {
            let due = self.line.timer(|timer| timer.as_ref().map(|timer| timer.deadline().0));
            tokio::select! {
                state = states.recv() => match state {
                    Some(DialogState::Terminated(_, reason)) => {
                        self.over(&reason, &events).await;
                        break;
                    }
                    Some(state) => self.state(state, &mut course, &events).await,
                    None => break,
                },
                () = self.line.bell.notified() => {}
                () = self.line.lost.notified() => {
                    tell(&events, DialogEvent::Broken(Broken::Silent)).await;
                    break;
                }
                () = at(due), if course.stands => self.timer_due(&course, &events).await,
            }
        }
        let id = self.dialog.id();
        self.layer.remove_dialog(&id);
        // a dialog that we opened stood under its half id until it was answered
        self.layer.remove_dialog(&DialogId { remote_tag: String::new(), ..id });
        self.desk.leave(&self.call_id);
    }

    async fn state(&self, state: DialogState, course: &mut Course, events: &mpsc::Sender<DialogEvent>) {
        match state {
            DialogState::Early(_, response) if self.dialog.role() == TransactionRole::Client && !course.stands => {
                tell(events, DialogEvent::Ringing { sdp: body(&response.body) }).await;
            }
            DialogState::Confirmed(_, response) if !course.stands => {
                course.stands = true;
                let sdp = if self.dialog.role() == TransactionRole::Client {
                    self.line.answered(&response);
                    course.no_update = read::refuses_update(&response);
                    body(&response.body)
                } else {
                    course.no_update = read::refuses_update(&self.dialog.initial_request());
                    let ack = self.dialog.last_remote_ack().filter(|_| self.delayed);
                    ack.and_then(|ack| body(&ack.body))
                };
                tell(events, DialogEvent::Confirmed { sdp }).await;
            }
            DialogState::Confirmed(..) => self.acknowledged(course, events).await,
            DialogState::Updated(_, request, handle) => {
                if *request.method() == Method::Invite {
                    course.without_offer = sequence(&request).filter(|_| body(&request.body).is_none());
                }
                self.reoffer(&request, handle, events).await;
            }
            DialogState::Info(_, request, handle) => {
                let digit = read::dtmf_of(&request);
                let code = if digit.is_some() || request.body.is_empty() { 200 } else { 415 };
                respond(&handle, code, Vec::new(), None).await;
                if let Some(digit) = digit {
                    // beyond the bound keys are lost, not memory
                    events.try_send(DialogEvent::Dtmf(digit)).ok();
                }
            }
            DialogState::Notify(_, request, handle) => self.notified(&request, &handle, events).await,
            DialogState::Options(_, _, handle) => {
                respond(&handle, 200, vec![Header::Allow(wire::ALLOW.into())], None).await;
            }
            DialogState::Refer(_, _, handle) => respond(&handle, 603, Vec::new(), None).await,
            DialogState::Message(_, _, handle) | DialogState::Publish(_, _, handle) => {
                respond(&handle, 405, vec![Header::Allow(wire::ALLOW.into())], None).await;
            }
            DialogState::Calling(_)
            | DialogState::Trying(_)
            | DialogState::Early(..)
            | DialogState::WaitAck(..)
            | DialogState::Terminated(..) => {}
        }
    }

    /// The library says so after every request within the dialog: news is the ACK that answers an offer of ours.
    async fn acknowledged(&self, course: &mut Course, events: &mpsc::Sender<DialogEvent>) {
        let Some(asked) = course.without_offer else { return };
        let Some(ack) = self.dialog.last_remote_ack().filter(|ack| sequence(ack) == Some(asked)) else { return };
        course.without_offer = None;
        if let Some(sdp) = body(&ack.body) {
            tell(events, DialogEvent::Answered { sdp }).await;
        }
    }

    /// A re-INVITE or an UPDATE: a refresh is answered here, an offer by the call.
    async fn reoffer(&self, request: &Request, handle: TransactionHandle, events: &mpsc::Sender<DialogEvent>) {
        self.follow_contact(request);
        let asked = read::asked(request);
        let sdp = body(&request.body);
        if sdp.is_none() && *request.method() == Method::Update {
            match timer::answer(desk::now(), asked) {
                Agreed::TooSmall => {
                    let least = vec![Header::MinSE(timer::MIN_SE.to_string().into())];
                    respond(&handle, 422, least, None).await;
                }
                agreed => respond(&handle, 200, self.line.agree(agreed), None).await,
            }
            return;
        }
        let reply = Reply::new(handle, Arc::clone(&self.line), asked);
        tell(events, DialogEvent::Reoffer { sdp, reply }).await;
    }

    /// A far end that moves says so in the Contact of a re-INVITE or UPDATE (RFC 3261 §12.2.2).
    fn follow_contact(&self, request: &Request) {
        let contact = request.typed_contact_headers().ok().and_then(|contacts| contacts.into_iter().next());
        if let Some(contact) = contact {
            let kept = Kept::Invite(self.dialog.clone());
            kept.set_remote_target(contact.uri, request.contact_header().ok().cloned());
        }
    }

    async fn notified(&self, request: &Request, handle: &TransactionHandle, events: &mpsc::Sender<DialogEvent>) {
        let status = read::refer_status(request).filter(|_| self.line.refers.load(Ordering::Relaxed));
        let Some((code, terminated)) = status else {
            respond(handle, 481, Vec::new(), None).await;
            return;
        };
        respond(handle, 200, Vec::new(), None).await;
        let is_final = terminated || code >= 200;
        tell(events, DialogEvent::Referred { code, is_final }).await;
    }

    async fn timer_due(&self, course: &Course, events: &mpsc::Sender<DialogEvent>) {
        let Some(due) = self.line.timer(|timer| timer.as_mut()?.due(desk::now())) else { return };
        match due {
            Due::Refresh if course.no_update => tell(events, DialogEvent::RefreshDue).await,
            Due::Refresh => {
                let mut headers = self.line.renewing();
                headers.push(Header::Allow(wire::ALLOW.into()));
                let (dialog, line, events) = (self.dialog.clone(), Arc::clone(&self.line), events.clone());
                // not awaited here: while it is under way, the far end may hang up
                tokio::spawn(async move {
                    match asked(dialog.update(Some(headers), None)).await {
                        Ok(response) => line.answered(&response),
                        Err(DialogError::Refused { code: 405 | 488 | 500 | 501, .. }) => {
                            tell(&events, DialogEvent::RefreshDue).await;
                        }
                        // nobody refreshes: the timer ends the call
                        Err(_) => {}
                    }
                });
            }
            Due::Expired => {
                self.line.timer(|timer| *timer = None);
                self.line.ours.store(true, Ordering::Relaxed);
                tell(events, DialogEvent::Broken(Broken::SessionExpired)).await;
                let dialog = self.dialog.clone();
                tokio::spawn(async move { dialog.bye().await.ok() });
            }
        }
    }

    /// The dialog is over: say so once, unless we ended it ourselves.
    async fn over(&self, reason: &TerminatedReason, events: &mpsc::Sender<DialogEvent>) {
        let server = self.dialog.role() == TransactionRole::Server;
        let event = match reason {
            TerminatedReason::UacCancel if server => Some(DialogEvent::Cancelled),
            TerminatedReason::Timeout if server => Some(DialogEvent::NoAck),
            TerminatedReason::Timeout => Some(DialogEvent::Broken(Broken::Silent)),
            TerminatedReason::UacBye if server => Some(DialogEvent::Bye),
            TerminatedReason::UasBye if !server => Some(DialogEvent::Bye),
            // how a call that we made was refused is told by whoever placed it, with the headers of the response
            _ => None,
        };
        let ours = self.line.ours.load(Ordering::Relaxed);
        if let Some(event) = event.filter(|event| !ours || !matches!(event, DialogEvent::Bye)) {
            tell(events, event).await;
        }
    }
}

/// The refusal of a call that we made, with what its response says.
pub(super) fn refused_by(response: &Response) -> DialogEvent {
    DialogEvent::Refused { code: response.status_code.code(), retry_after: retry_after(response) }
}

/// Waits until a moment; for ever when there is none.
async fn at(moment: Option<std::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Hands an event to the call; one that has let go of its end hears nothing any more.
async fn tell(events: &mpsc::Sender<DialogEvent>, event: DialogEvent) {
    events.send(event).await.ok();
}

fn sequence(request: &Request) -> Option<u32> {
    request.cseq_header().ok()?.seq().ok()
}

fn body(bytes: &[u8]) -> Option<Pii> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.trim().is_empty()).then(|| Pii::new(text))
}

/// Says 180 reliably (RFC 3262): again and again until PRACK comes, as the caller required it.
pub(super) async fn ring_reliably(dialog: InviteDialog, line: Arc<Line>, first: u32) {
    let headers = || vec![Header::Require("100rel".into()), Header::RSeq(first.to_string().into())];
    let (mut wait, mut waited) = (PRACK_FIRST, Duration::ZERO);
    while waited < PRACK_FOR && dialog.state().can_cancel() {
        if dialog.ringing(Some(headers()), None).is_err() {
            return;
        }
        if tokio::time::timeout(wait, line.pracked.notified()).await.is_ok() {
            return;
        }
        waited += wait;
        wait *= 2;
    }
    // RFC 3262 §3: without a PRACK the call is to be refused with 5xx
    if dialog.state().can_cancel() {
        dialog.reject(Some(StatusCode::ServerTimeOut), None).ok();
    }
}

//! Admission, registry and supervision of calls: one task owns the table, everybody else sends it messages.
//!
//! A call that is let in becomes one task of its own; a panic there ends that call only, and what it left open is
//! closed here. It knows no media and no model; what came by which door is a value to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use sauti_core::call::admission::{self, Load, Refusal};
use sauti_core::call::language;
use sauti_core::call::machine::Action;
use sauti_core::call::milestones::Milestone;
use sauti_core::call::outcome::{Fault, Outcome};
use sauti_core::config::Signalling;
use sauti_core::ids::CallId;
use sauti_core::now::Now;
use sauti_core::pii::{CallerAddress, KeyedHash, Pii};
use sauti_core::record::{EndRow, TextId};
use sauti_core::whatsapp::graph_codes::media_code;
use sauti_core::whatsapp::sdp::{connect_age, is_stale, origin_time};
use sauti_core::whatsapp::wacid::wacid_hash;
use sauti_core::whatsapp::webhook::{
    AccountEvent, CallConnect, CallTerminate, Direction, MessageStatus, TerminateStatus, WebhookEvent,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::call_task::{self, Signal};
use crate::door::{FarSide, is_whatsapp, milestone_event};
use crate::house::{House, Setup};
use crate::obs::logging::{EventName, Field, LogValue, SafeName, log_event};
use crate::sip::{DialogEvents, Invite, WaHeaders};

/// Events waiting for the switchboard: one body of Meta may hold a thousand (whatsapp-calling §1.2).
const INBOX: usize = 4096;
/// Signals waiting for a call: it gets one or two in its life.
const SIGNALS: usize = 8;
/// How often a drain says what it waits for.
const DRAIN_WORD: Duration = Duration::from_secs(5);
/// Ids named in that word.
const DRAIN_IDS: usize = 8;

/// An event of Meta that is new to this box.
#[derive(Debug)]
pub struct News {
    /// What happened.
    pub event: WebhookEvent,
    /// When its webhook was read.
    pub received: Now,
}

enum Message {
    News(Box<News>),
    Invite(Box<Invite>),
    /// Take no calls any more; hang up what is left after this long; answer when all are gone.
    Drain(Duration, oneshot::Sender<()>),
}

/// The way to the switchboard.
#[derive(Debug, Clone)]
pub struct Switchboard {
    inbox: mpsc::Sender<Message>,
    live: Arc<AtomicUsize>,
}

impl Switchboard {
    /// Starts the task. Its `House` is handed in through the returned starter, as the two know each other.
    #[must_use]
    pub fn new() -> (Self, Starter) {
        let (inbox, messages) = mpsc::channel(INBOX);
        let live = Arc::new(AtomicUsize::new(0));
        (Self { inbox, live: Arc::clone(&live) }, Starter { messages, live })
    }

    /// Hands on an event; waits while the switchboard is busy.
    pub async fn tell(&self, news: News) {
        // A closed inbox means that the daemon is on its way out; Meta will be told nothing it can use.
        self.inbox.send(Message::News(Box::new(news))).await.ok();
    }

    /// Hands on a call that came by SIP; waits while the switchboard is busy.
    pub async fn invite(&self, invite: Invite) {
        // As above; the dialog refuses when it is dropped.
        self.inbox.send(Message::Invite(Box::new(invite))).await.ok();
    }

    /// Closes admission, waits for running calls at most `patience`, then hangs up; returns when all are gone.
    pub async fn drain(&self, patience: Duration) {
        let (done, answer) = oneshot::channel();
        if self.inbox.send(Message::Drain(patience, done)).await.is_ok() {
            answer.await.ok();
        }
    }

    /// Calls that hold a permit: the size of the table.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// False once the task has ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.inbox.is_closed()
    }
}

/// Starts the switchboard's task once the house stands.
#[derive(Debug)]
pub struct Starter {
    messages: mpsc::Receiver<Message>,
    live: Arc<AtomicUsize>,
}

impl Starter {
    /// Runs until every handle is gone. `clock` tells whether the wall clock may be believed.
    pub async fn run(self, house: Arc<House>, clock: watch::Receiver<bool>) {
        let board = Board {
            house,
            live: self.live,
            clock,
            calls: BTreeMap::new(),
            tasks: JoinSet::new(),
            names: BTreeMap::new(),
            drain: None,
        };
        board.run(self.messages).await;
    }
}

/// One call in the table.
struct Entry {
    setup: Arc<Setup>,
    signals: mpsc::Sender<Signal>,
}

/// A drain under way.
struct Drain {
    done: oneshot::Sender<()>,
    hang_up_at: tokio::time::Instant,
    hung_up: bool,
}

struct Board {
    house: Arc<House>,
    live: Arc<AtomicUsize>,
    clock: watch::Receiver<bool>,
    calls: BTreeMap<KeyedHash, Entry>,
    tasks: JoinSet<()>,
    /// Whose task it is; a task of a refused call has none.
    names: BTreeMap<tokio::task::Id, KeyedHash>,
    drain: Option<Drain>,
}

impl Board {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut word = tokio::time::interval(DRAIN_WORD);
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::News(news)) => self.news(*news),
                    Some(Message::Invite(invite)) => self.invite(*invite),
                    Some(Message::Drain(patience, done)) => self.start_drain(patience, done),
                    None => return,
                },
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                _ = word.tick(), if self.drain.is_some() => self.drain_word(),
                () = hang_up_time(self.drain.as_ref()) => self.hang_up_all(),
            }
            self.live.store(self.calls.len(), Ordering::Relaxed);
            if self.tasks.is_empty()
                && let Some(drain) = self.drain.take()
            {
                drain.done.send(()).ok();
                // Whoever drained is leaving; calls that still come are refused.
                self.drain = Some(Drain { done: oneshot::channel().0, hang_up_at: drain.hang_up_at, hung_up: true });
            }
        }
    }

    fn news(&mut self, news: News) {
        let received = news.received;
        match news.event {
            WebhookEvent::Connect(connect) => self.connect(connect, received),
            WebhookEvent::Terminate(terminate) => self.terminate(&terminate),
            WebhookEvent::MessageStatus(status) => self.message_status(&status),
            WebhookEvent::CallStatus(status) => {
                let call = self.call_of(wacid_hash(&self.house.key, &status.wacid));
                note(call, &[(Field::CallEvent, SafeName::new(status.status.as_str()).into())]);
            }
            WebhookEvent::Account(account) => account_event(&account),
            WebhookEvent::Errors(errors) => {
                let mut values = vec![(Field::Stage, "webhook".into())];
                values.extend(errors.codes.first().map(|code| (Field::Code, (*code).into())));
                log_event(EventName::WaVoiceError, None, &values);
            }
            WebhookEvent::Message(_) | WebhookEvent::Unknown(_) => {}
        }
    }

    fn call_of(&self, wacid: KeyedHash) -> Option<CallId> {
        self.calls.get(&wacid).map(|entry| entry.setup.call_id)
    }

    fn connect(&mut self, connect: CallConnect, received: Now) {
        let house = Arc::clone(&self.house);
        let wa_hash = wacid_hash(&house.key, &connect.wacid);
        // A number set to SIP has its calls there; what webhooks tell of them as well is no other call.
        let by_sip = house.whatsapp.as_ref().is_some_and(|whatsapp| matches!(whatsapp.signalling, Signalling::Sip(_)));
        if connect.direction == Direction::BusinessInitiated || by_sip || self.calls.contains_key(&wa_hash) {
            house.metrics.webhook("connect_ignored");
            return;
        }
        let (Some(offer), Some(graph), Some(whatsapp)) = (connect.offer, &house.graph, &house.whatsapp) else {
            house.metrics.webhook("connect_without_offer");
            return;
        };
        let setup = Arc::new(Setup {
            call_id: house.new_call_id(received.wall),
            far_side: FarSide::Graph { graph: graph.clone(), wacid: connect.wacid },
            key: wa_hash,
            caller_hash: connect.caller.hash(&house.key),
            caller: connect.caller,
            connect_at: origin_time(offer.expose()),
            language: house.language,
            received,
            stale: is_stale(
                connect_age(received.wall, Some(offer.expose()), connect.timestamp),
                whatsapp.stale_after,
                *self.clock.borrow(),
            ),
            offer: Some(offer),
        });
        if setup.stale {
            self.tasks.spawn(not_taken(house, setup, Outcome::Stale, Fault::Whatsapp, None));
            return;
        }
        self.consider(setup, None);
    }

    /// A call of a trunk, or of WhatsApp over SIP.
    fn invite(&mut self, invite: Invite) {
        let house = Arc::clone(&self.house);
        let Some(media) = house.trunks.get(&invite.trunk) else { return };
        if self.calls.contains_key(&invite.key) {
            // The dialog refuses when it is dropped.
            return;
        }
        let by_whatsapp = is_whatsapp(invite.door);
        let address = caller_of(invite.caller.as_ref(), invite.whatsapp.as_ref());
        // Meta's client writes the time into its offer, whatever carries it.
        let connect_at = invite.offer.as_ref().filter(|_| by_whatsapp).and_then(|offer| origin_time(offer.expose()));
        let language = language::of_call(None, &invite.route.languages, &house.agent);
        let setup = Arc::new(Setup {
            call_id: house.new_call_id(invite.received.wall),
            far_side: FarSide::Sip {
                dialog: invite.dialog,
                door: invite.door,
                trunk: invite.trunk,
                media: Arc::clone(media),
            },
            key: invite.key,
            caller_hash: address.hash(&house.key),
            // A text goes to who called by WhatsApp, never to a number of the telephone network.
            caller: if by_whatsapp { address } else { CallerAddress::default() },
            connect_at,
            language: language.map_or(house.language, |(language, _)| language),
            received: invite.received,
            stale: false,
            offer: invite.offer,
        });
        self.consider(setup, Some(invite.events));
    }

    /// Lets a call in, or refuses it in its door's words.
    fn consider(&mut self, setup: Arc<Setup>, events: Option<DialogEvents>) {
        let house = Arc::clone(&self.house);
        let load = Load {
            live: self.calls.len(),
            max_calls: house.limits.max_calls,
            tick_late: house.lanes.late_p99(),
            draining: self.drain.is_some(),
            servable: true,
        };
        match admission::admit(&load) {
            Ok(()) => self.admit(setup, events),
            Err(refusal) => {
                let fault = match refusal {
                    Refusal::Full | Refusal::Overloaded => Fault::Box,
                    Refusal::Draining | Refusal::NotConfigured => Fault::Operator,
                };
                house.metrics.webhook(refusal.label());
                self.tasks.spawn(not_taken(house, setup, Outcome::RefusedCapacity, fault, Some(Action::Reject)));
            }
        }
    }

    fn admit(&mut self, setup: Arc<Setup>, events: Option<DialogEvents>) {
        let (signals, inbox) = mpsc::channel(SIGNALS);
        let house = Arc::clone(&self.house);
        let own = Arc::clone(&setup);
        let task = self.tasks.spawn(async move {
            if house.admit(&own).await {
                call_task::run(house, own, inbox, events).await;
            }
        });
        self.names.insert(task.id(), setup.key);
        self.calls.insert(setup.key, Entry { setup, signals });
    }

    fn terminate(&mut self, terminate: &CallTerminate) {
        let wa_hash = wacid_hash(&self.house.key, &terminate.wacid);
        // Without a call here the ledger holds the tombstone: a connect that comes later finds it.
        let Some(entry) = self.calls.get(&wa_hash) else {
            self.house.metrics.webhook("terminate_without_call");
            return;
        };
        let mut values = vec![(Field::CallEvent, "terminate".into())];
        values.extend(terminate.error_codes.first().map(|code| (Field::Code, (*code).into())));
        let known = terminate.error_codes.iter().find_map(|code| media_code(*code));
        values.extend(known.map(|(_, words)| (Field::Remedy, words.into())));
        note(Some(entry.setup.call_id), &values);
        // A code that says nothing of the media leaves it with Meta.
        let fault = known.map_or(Fault::Whatsapp, |(fault, _)| fault);
        let failure = matches!(terminate.status, TerminateStatus::Failed).then_some(fault);
        entry.signals.try_send(Signal::Terminated { failure }).ok();
    }

    fn message_status(&self, status: &MessageStatus) {
        let Some(text) = status.opaque.as_ref().and_then(|opaque| TextId::parse(opaque.expose())) else { return };
        let (house, delivered) = (Arc::clone(&self.house), status.status.was_sent());
        tokio::spawn(async move {
            if house.store.text_status(text, delivered).await.is_err() {
                house.metrics.text("status_not_written");
            }
        });
    }

    fn ended(&mut self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let (id, panicked) = match ended {
            Ok((id, ())) => (id, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        let Some(key) = self.names.remove(&id) else { return };
        let Some(entry) = self.calls.remove(&key) else { return };
        if panicked {
            // A bug of ours ended that task; the caller is told, and the row is written.
            let house = Arc::clone(&self.house);
            self.tasks.spawn(clear_up(house, entry.setup));
        }
    }

    fn start_drain(&mut self, patience: Duration, done: oneshot::Sender<()>) {
        self.drain = Some(Drain { done, hang_up_at: tokio::time::Instant::now() + patience, hung_up: false });
    }

    fn drain_word(&self) {
        if self.calls.is_empty() {
            return;
        }
        log_event(EventName::ServiceDraining, None, &[(Field::Count, self.calls.len().into())]);
        for entry in self.calls.values().take(DRAIN_IDS) {
            log_event(EventName::ServiceDraining, Some(entry.setup.call_id), &[]);
        }
    }

    fn hang_up_all(&mut self) {
        if let Some(drain) = self.drain.as_mut() {
            drain.hung_up = true;
        }
        for entry in self.calls.values() {
            entry.signals.try_send(Signal::Drain).ok();
        }
    }
}

/// Who calls by SIP. Meta writes the number or, where the person hides it, the business-scoped user id in its place.
fn caller_of(caller: Option<&Pii>, whatsapp: Option<&WaHeaders>) -> CallerAddress {
    let user = caller.map(|caller| caller.expose().trim_start_matches('+'));
    let Some(headers) = whatsapp else { return CallerAddress { number: user.map(Pii::new), bsuid: None } };
    let is_number = |user: &&str| user.bytes().all(|byte| byte.is_ascii_digit());
    CallerAddress {
        number: user.filter(is_number).map(Pii::new),
        bsuid: headers.bsuid.clone().or_else(|| user.filter(|user| !is_number(user)).map(Pii::new)),
    }
}

async fn hang_up_time(drain: Option<&Drain>) {
    match drain {
        Some(drain) if !drain.hung_up => tokio::time::sleep_until(drain.hang_up_at).await,
        _ => std::future::pending().await,
    }
}

fn note(call: Option<CallId>, values: &[(Field, LogValue)]) {
    log_event(EventName::WaVoiceCallEvent, call, values);
}

fn account_event(account: &AccountEvent) {
    let values = [(Field::CallEvent, SafeName::new(account.event.as_str()).into()), (Field::Stage, "account".into())];
    let name = if account.is_alarming() { EventName::WaVoiceError } else { EventName::WaVoiceCallEvent };
    log_event(name, None, &values);
}

/// A call that is not let in: one row, the refusal in Graph's words, a text where one is owed.
async fn not_taken(house: Arc<House>, setup: Arc<Setup>, outcome: Outcome, fault: Fault, action: Option<Action>) {
    let received = milestone_event(setup.door(), Milestone::WebhookReceived);
    log_event(received, Some(setup.call_id), &[]);
    if !house.admit(&setup).await {
        return;
    }
    if let Some(action) = action {
        house.last_word(&setup, action, Some((outcome, fault))).await;
    }
    let text = action.and_then(|_| house.apology(&setup));
    close(&house, &setup, outcome, fault, text).await;
}

/// What a panicking call task left open.
async fn clear_up(house: Arc<House>, setup: Arc<Setup>) {
    house.last_word(&setup, Action::Terminate, None).await;
    let text = house.apology(&setup);
    close(&house, &setup, Outcome::Internal, Fault::Box, text).await;
}

async fn close(
    house: &Arc<House>,
    setup: &Setup,
    outcome: Outcome,
    fault: Fault,
    text: Option<sauti_core::record::NewText>,
) {
    let owes = text.is_some();
    let row = EndRow { outcome, fault, ended_at: Timestamp::now(), talked: None, text };
    let values = [(Field::Outcome, outcome.label().into()), (Field::Fault, fault.label().into())];
    log_event(EventName::CallEnded, Some(setup.call_id), &values);
    house.end_call(setup, row).await;
    if owes {
        house.texts_ring.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_of_meta_is_a_number_or_a_user_id_and_never_one_as_the_other() {
        let headers = |bsuid: Option<&str>| WaHeaders { wacid: Pii::new("w"), bsuid: bsuid.map(Pii::new) };
        let of = |user: &str, bsuid: Option<&str>| {
            let address = caller_of(Some(&Pii::new(user)), Some(&headers(bsuid)));
            [address.number, address.bsuid].map(|part| part.map(|part| part.expose().to_owned()))
        };
        let (number, bsuid) = ("250780000001".to_owned(), "RW.13491208655302741918".to_owned());
        assert_eq!(of("+250780000001", Some(&bsuid)), [Some(number.clone()), Some(bsuid.clone())]);
        assert_eq!(of("+250780000001", None), [Some(number), None]);
        assert_eq!(of(&bsuid, None), [None, Some(bsuid.clone())]);
        assert_eq!(of(&bsuid, Some(&bsuid)), [None, Some(bsuid)]);
        let trunk = caller_of(Some(&Pii::new("alice")), None);
        assert_eq!(trunk.number.map(|user| user.expose().to_owned()).as_deref(), Some("alice"));
        assert!(caller_of(None, Some(&headers(None))).is_unknown());
    }
}

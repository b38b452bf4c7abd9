//! What arrives outside of our own transactions: INVITEs become calls, the rest is answered here.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rsipstack::dialog::dialog::Dialog as Kept;
use rsipstack::dialog::invite_dialog::InviteDialog;
use rsipstack::sip::prelude::HeadersExt;
use rsipstack::sip::{Header, Method, Request, StatusCode};
use rsipstack::transaction::key::TransactionRole;
use rsipstack::transaction::transaction::Transaction;
use sauti_core::call::outcome::Door;
use sauti_core::now::Now;
use sauti_core::sip::route::{Refused, Routed, unsupported};
use sauti_core::sip::timer::{self, Agreed};
use sauti_core::sip::trace::{Trace, Way};
use sauti_core::whatsapp::wacid::wacid_hash;
use tokio::sync::mpsc;

use super::attend::{self, Attended};
use super::challenge::{self, Proof};
use super::desk::{self, Live};
use super::dialog::{Dialog, EVENTS, Line, Over, Refuse, reject};
use super::read::{self, Read};
use super::{Invite, Shared, wire};

/// Transactions at one time, beyond which new calls are refused: about 8 KiB each with their timers.
const TRANSACTIONS: usize = 8_192;

/// A far end that picks up and hangs up at once says BYE before the library has the dialog of our call under its whole
/// name: then it is looked for once more after this.
const NOT_YET: std::time::Duration = std::time::Duration::from_millis(100);

/// Takes transactions until the endpoint ends. Nothing here waits: what does is a task of its own.
pub(super) async fn run(shared: Arc<Shared>, mut incoming: rsipstack::transaction::TransactionReceiver) {
    while let Some(transaction) = incoming.recv().await {
        shared.desk.metrics.sip_request(method_label(transaction.original.method()));
        if read::has_to_tag(&transaction.original) {
            within_dialog(&shared, transaction, true);
        } else if *transaction.original.method() == Method::Invite {
            invite(&shared, transaction);
        } else {
            outside(&shared, transaction);
        }
    }
}

fn method_label(method: &Method) -> &'static str {
    match method {
        Method::Invite => "invite",
        Method::Bye => "bye",
        Method::Options => "options",
        Method::Info => "info",
        Method::Update => "update",
        Method::PRack => "prack",
        Method::Notify => "notify",
        Method::Refer => "refer",
        Method::Register => "register",
        _ => "other",
    }
}

/// Answers a transaction and lets go of it; the library repeats the answer when the request is repeated.
fn answer(mut transaction: Transaction, code: StatusCode, headers: Vec<Header>) {
    tokio::spawn(async move {
        // nobody there any more: then nobody waits for it
        transaction.reply_with(code, headers, None).await.ok();
    });
}

/// A request within a dialog. Its source was compared with the dialog's before it got here.
fn within_dialog(shared: &Arc<Shared>, mut transaction: Transaction, may_wait: bool) {
    // one that has ended, and is not yet taken out of the layer, is no dialog any more for the far end
    let kept = shared.layer.match_dialog(&transaction);
    let of_a_call = || {
        let call_id = transaction.original.call_id_header().ok();
        call_id.is_some_and(|call_id| shared.desk.live(call_id.value()).is_some())
    };
    if may_wait && kept.is_none() && *transaction.original.method() == Method::Bye && of_a_call() {
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            tokio::time::sleep(NOT_YET).await;
            within_dialog(&shared, transaction, false);
        });
        return;
    }
    let Some(Kept::Invite(mut dialog)) = kept.filter(|kept| !kept.state().is_terminated()) else {
        // an ACK is never answered (RFC 3261 §17.1.1.3)
        if *transaction.original.method() != Method::Ack {
            answer(transaction, StatusCode::CallTransactionDoesNotExist, Vec::new());
        }
        return;
    };
    let state = dialog.state();
    let stands = state.is_confirmed();
    let waits = state.can_cancel() && dialog.role() == TransactionRole::Server;
    let retry = || vec![Header::RetryAfter("1".into())];
    match transaction.original.method() {
        Method::Bye if waits => {
            // RFC 3261 §15.1.2: the INVITE that waits gets its 487 as well
            dialog.reject(Some(StatusCode::RequestTerminated), None).ok();
            answer(transaction, StatusCode::OK, Vec::new());
            return;
        }
        Method::Bye => {}
        Method::PRack => {
            let call = transaction.original.call_id_header().ok().and_then(|id| shared.desk.live(id.value()));
            if let Some(live) = call {
                live.line.pracked.notify_one();
            }
        }
        // RFC 3261 §14.2 and RFC 3311 §5.2: not before the first answer was acknowledged
        Method::Invite | Method::Update if !stands => {
            answer(transaction, StatusCode::ServerInternalError, retry());
            return;
        }
        Method::Info if !stands => {
            answer(transaction, StatusCode::OK, Vec::new());
            return;
        }
        Method::Notify | Method::Refer | Method::Message if !stands => {
            answer(transaction, StatusCode::ServerInternalError, retry());
            return;
        }
        _ => {}
    }
    let sequence = transaction.original.cseq_header().ok().and_then(|cseq| cseq.seq().ok());
    if sequence.is_some_and(|sequence| sequence < dialog.snapshot().remote_cseq) {
        // RFC 3261 §12.2.2: out of order
        answer(transaction, StatusCode::ServerInternalError, Vec::new());
        return;
    }
    tokio::spawn(async move {
        // what goes wrong with one request is its own affair; the dialog's end comes as a state
        dialog.handle(&mut transaction).await.ok();
    });
}

/// A request that opens nothing.
fn outside(shared: &Arc<Shared>, transaction: Transaction) {
    if read::sound(&transaction.original).is_err() {
        shared.desk.metrics.sip_refused(Refused::Malformed);
        answer(transaction, StatusCode::BadRequest, Vec::new());
        return;
    }
    let (code, headers) = match transaction.original.method() {
        Method::Options if shared.desk.is_draining() => {
            (StatusCode::ServiceUnavailable, vec![Header::RetryAfter("60".into())])
        }
        Method::Options => {
            let headers = vec![
                Header::Allow(wire::ALLOW.into()),
                Header::Accept(wire::SDP.into()),
                Header::Supported("100rel, timer, replaces".into()),
            ];
            (StatusCode::OK, headers)
        }
        Method::Bye | Method::Info | Method::Update | Method::PRack | Method::Notify => {
            (StatusCode::CallTransactionDoesNotExist, Vec::new())
        }
        _ => (StatusCode::MethodNotAllowed, vec![Header::Allow(wire::ALLOW.into())]),
    };
    answer(transaction, code, headers);
}

/// An INVITE that opens a dialog: judged, and handed on or refused.
fn invite(shared: &Arc<Shared>, transaction: Transaction) {
    let (refused, transaction) = match admit(shared, transaction) {
        Ok(()) => return,
        Err(refused) => *refused,
    };
    let why = match refused {
        Refusal::Challenge(header) => {
            answer(transaction, StatusCode::ProxyAuthenticationRequired, vec![header]);
            return;
        }
        Refusal::For(why) => why,
    };
    shared.desk.metrics.sip_refused(why);
    let Some((code, mut headers)) = wire::refusal(why) else { return };
    if why == Refused::Extension {
        let required = read::value(&transaction.original, "Require").unwrap_or_default();
        let tags: Vec<&str> = unsupported(&required).collect();
        headers.push(Header::Unsupported(tags.join(", ").into()));
    }
    answer(transaction, code, headers);
}

/// Why an INVITE is not a call.
enum Refusal {
    For(Refused),
    Challenge(Header),
}

type Admitted = Result<(), Box<(Refusal, Transaction)>>;

fn admit(shared: &Arc<Shared>, transaction: Transaction) -> Admitted {
    match judge(shared, &transaction) {
        Ok((read, routed)) => open(shared, transaction, read, routed),
        Err(refusal) => Err(Box::new((refusal, transaction))),
    }
}

/// Everything that is decided about an INVITE before anything is kept of it.
fn judge(shared: &Arc<Shared>, transaction: &Transaction) -> Result<(Read, Routed), Refusal> {
    let desk = &shared.desk;
    let request = &transaction.original;
    let connection = transaction.connection.as_ref().ok_or(Refusal::For(Refused::Malformed))?;
    let transport = wire::known(connection.transport()).ok_or(Refusal::For(Refused::WrongTransport))?;
    let far = connection.get_remote_addr().and_then(|far| read::address(&far.addr.host));
    let source = far.ok_or(Refusal::For(Refused::Malformed))?;
    let read = read::read(request, source, transport).map_err(Refusal::For)?;
    let routed = desk.with_peers(|peers| peers.route(&read.facts())).map_err(|(_, why)| Refusal::For(why))?;
    let (door, most, per_second) = desk
        .with_peers(|peers| peers.peer(routed.peer).map(|peer| (peer.door, peer.calls, peer.calls_per_second)))
        .ok_or(Refusal::For(Refused::NoRoute))?;
    if let Some(password) = shared.whatsapp.as_ref().filter(|_| door == Door::WhatsappSip).map(|sip| &sip.password) {
        let called = read.user.as_deref().unwrap_or_default();
        match challenge::judge(&desk.key, Timestamp::now(), request, source, called, password) {
            Proof::Good => desk.guard(|guard| guard.digest_matched(source)),
            Proof::Missing(header) => return Err(Refusal::Challenge(header)),
            Proof::Bad => {
                desk.guard(|guard| guard.digest_failed(desk::now(), source));
                return Err(Refusal::For(Refused::Digest));
            }
        }
    }
    desk.guard(|guard| guard.call(desk::now(), routed.peer, per_second)).map_err(Refusal::For)?;
    // WhatsApp's callers are written to by whoever refuses them, so their calls get as far as the switchboard
    if desk.is_draining() && door == Door::Trunk {
        return Err(Refusal::For(Refused::Draining));
    }
    if desk.live(&read.call_id).is_some() {
        return Err(Refusal::For(Refused::Loop));
    }
    if desk.calls_of(routed.peer) >= most {
        return Err(Refusal::For(Refused::TrunkFull));
    }
    if shared.endpoint.get_stats().running_transactions > TRANSACTIONS {
        return Err(Refusal::For(Refused::Busy));
    }
    if door == Door::Trunk && matches!(timer::answer(desk::now(), read.asked), Agreed::TooSmall) {
        return Err(Refusal::For(Refused::TimerTooSmall));
    }
    Ok((read, routed))
}

/// Opens the dialog, rings, and hands the call on.
fn open(shared: &Arc<Shared>, mut transaction: Transaction, read: Read, routed: Routed) -> Admitted {
    let desk = &shared.desk;
    let is_whatsapp =
        desk.with_peers(|peers| peers.peer(routed.peer).is_some_and(|peer| peer.door == Door::WhatsappSip));
    let (states, states_in) = shared.layer.new_dialog_state_channel();
    let contact = shared.contact(routed.peer, read.source, read.transport);
    let credential = shared.credential(routed.peer);
    let dialog = shared.layer.get_or_create_server_invite(&transaction, states, credential, contact);
    let Ok(dialog) = dialog else {
        return Err(Box::new((Refusal::For(Refused::Malformed), transaction)));
    };
    // A 1xx that has to be acknowledged carries no answer here, and without an offer there is none.
    let early = shared.trunk(routed.peer).is_some_and(|trunk| trunk.early_media)
        && !read.requires_100rel
        && read.offer.is_some();
    let line = Line::new(is_whatsapp, Some((transaction.tu_sender.clone(), Arc::clone(&shared.endpoint))));
    let line = Arc::new(line.with_early_media(early));
    let trace = Arc::new(Mutex::new(Trace::new(desk::now())));
    desk::trace_into(&trace, &transaction.original.clone().into(), Way::In);
    let live = Live { peer: routed.peer, trace: Arc::clone(&trace), line: Arc::clone(&line) };
    if !desk.enter(&read.call_id, live) {
        shared.layer.remove_dialog(&dialog.id());
        return Err(Box::new((Refusal::For(Refused::Loop), transaction)));
    }
    let (events, events_out) = mpsc::channel(EVENTS);
    let attended = Attended {
        desk: Arc::clone(desk),
        layer: Arc::clone(&shared.layer),
        dialog: dialog.clone(),
        line: Arc::clone(&line),
        call_id: read.call_id.clone(),
        delayed: read.offer.is_none(),
    };
    tokio::spawn(attended.run(states_in, events));
    let first = rseq(&transaction.original);
    let (mut handled, lost) = (dialog.clone(), Arc::clone(&line));
    tokio::spawn(async move {
        // ends with the ACK, the CANCEL, or without either after 32 s; each comes as a state
        handled.handle(&mut transaction).await.ok();
        let state = handled.state();
        if !state.is_confirmed() && !state.is_terminated() {
            lost.lost.notify_one();
        }
    });
    ring(&dialog, &line, read.requires_100rel, first);
    let trunk = desk.with_peers(|peers| peers.peer(routed.peer).map(|peer| Arc::clone(&peer.name)));
    let over = Over { trunk: trunk.unwrap_or_default(), transport: read.transport };
    hand_on(
        shared,
        Dialog::new(dialog.clone(), Arc::clone(&line), trace, read.asked, over),
        events_out,
        read,
        &routed,
        &dialog,
        &line,
    );
    Ok(())
}

fn ring(dialog: &InviteDialog, line: &Arc<Line>, reliably: bool, first: u32) {
    if reliably {
        tokio::spawn(attend::ring_reliably(dialog.clone(), Arc::clone(line), first));
    } else {
        // a caller who has gone already needs no ringing
        dialog.ringing(None, None).ok();
    }
}

fn hand_on(
    shared: &Arc<Shared>,
    handle: Dialog,
    events: super::dialog::DialogEvents,
    read: Read,
    routed: &Routed,
    dialog: &InviteDialog,
    line: &Line,
) {
    let Some((trunk, door)) =
        shared.desk.with_peers(|peers| peers.peer(routed.peer).map(|peer| (Arc::clone(&peer.name), peer.door)))
    else {
        return;
    };
    let key = match &read.whatsapp {
        Some(whatsapp) if door == Door::WhatsappSip => wacid_hash(&shared.desk.key, &whatsapp.wacid),
        _ => shared.desk.key.hash("sip-call", &read.call_id),
    };
    let invite = Invite {
        trunk,
        door,
        route: Arc::clone(&routed.route),
        offer: read.offer,
        caller: read.caller,
        called: read.user.map(sauti_core::pii::Pii::new),
        whatsapp: read.whatsapp.filter(|_| door == Door::WhatsappSip),
        key,
        received: Now { mono: desk::now(), wall: Timestamp::now() },
        dialog: handle,
        events,
    };
    if shared.invites.try_send(invite).is_err() {
        shared.desk.metrics.sip_refused(Refused::Busy);
        reject(dialog, line, Refuse::busy()).ok();
    }
}

/// First RSeq of a reliable provisional (RFC 3262 §3: random, below 2^31), from what is random in the request.
fn rseq(request: &Request) -> u32 {
    let text = request.call_id_header().map(|id| id.value().to_owned()).unwrap_or_default();
    text.bytes().fold(1, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)) & 0x3fff_ffff).max(1)
}

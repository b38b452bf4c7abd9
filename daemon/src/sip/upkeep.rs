//! What keeps trunks alive: registrations, OPTIONS, the guard's forgetting. Each is driven by its machine in core.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rsipstack::dialog::authenticate::{AuthRetry, handle_client_authenticate};
use rsipstack::sip::prelude::HeadersExt;
use rsipstack::sip::{Header, Method, Request, Response, SipMessage, StatusCodeKind, Uri};
use rsipstack::transaction::key::{TransactionKey, TransactionRole};
use rsipstack::transaction::transaction::Transaction;
use rsipstack::transaction::{make_tag, make_uuid_v4};
use rsipstack::transport::SipConnection;
use sauti_core::config::{Config, Transport};
use sauti_core::sip::health::{State as Health, Watch};
use sauti_core::sip::register::{Effect, Input, Registration, State};

use super::dialog::retry_after;
use super::{Shared, TrunkStatus, desk, place, read, wire};
use crate::obs::logging::{EventName, Field, SafeName, log_event};

/// Longest wait for the answer to REGISTER or OPTIONS; what needs longer is as good as down.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// How often the guard forgets whom there is nothing against.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// Addresses of a trunk that are asked before it counts as silent.
const ASKED: usize = 3;
/// Between the first requests of one trunk and the next.
const APART: Duration = Duration::from_millis(200);

/// How one trunk stands, as its two tasks last said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    registration: Option<State>,
    options: Health,
    /// Where the registration was made, to take it back there.
    registrar: Option<SocketAddr>,
}

pub(super) fn standings(config: &Config) -> Vec<Standing> {
    let standing = |registers: bool| Standing {
        registration: registers.then_some(State::Trying),
        options: Health::Unknown,
        registrar: None,
    };
    config.trunks.iter().map(|trunk| standing(trunk.registrar.is_some())).collect()
}

pub(super) fn statuses(shared: &Shared) -> Vec<TrunkStatus> {
    let standings = shared.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut statuses: Vec<TrunkStatus> = Vec::new();
    for (peer, (trunk, standing)) in shared.trunks.iter().zip(standings).enumerate() {
        let silent =
            (standing.options == Health::Down).then_some("it does not answer OPTIONS; check network and firewall");
        let registered = standing.registration.filter(|state| *state != State::Registered).map(State::words);
        statuses.push(TrunkStatus {
            name: trunk.name.clone(),
            transport: trunk.transport.label(),
            registration: standing.registration.map(State::label),
            options: standing.options.label(),
            calls: shared.desk.calls_of(peer),
            words: registered.or(silent),
        });
    }
    statuses
}

pub(super) fn registered(shared: &Shared) -> usize {
    let standings = shared.statuses.lock().unwrap_or_else(PoisonError::into_inner);
    standings.iter().filter(|standing| standing.registration == Some(State::Registered)).count()
}

fn note(shared: &Shared, peer: usize, change: impl FnOnce(&mut Standing)) {
    if let Some(standing) = shared.statuses.lock().unwrap_or_else(PoisonError::into_inner).get_mut(peer) {
        change(standing);
    }
}

/// Starts the tasks of every trunk.
pub(super) fn start(shared: &Arc<Shared>) {
    let tidied = Arc::clone(shared);
    shared.spawn(async move {
        let mut interval = tokio::time::interval(TIDY_EVERY);
        loop {
            interval.tick().await;
            tidied.desk.guard(|guard| guard.tidy(desk::now()));
        }
    });
    for peer in 0..shared.trunks.len() {
        let offset = APART * u32::try_from(peer).unwrap_or(0);
        shared.spawn(keep_registered(Arc::clone(shared), peer, offset));
        shared.spawn(keep_watch(Arc::clone(shared), peer, offset));
    }
}

async fn keep_registered(shared: Arc<Shared>, peer: usize, offset: Duration) {
    let Some(trunk) = shared.trunk(peer) else { return };
    let Some(registrar) = trunk.registrar.clone() else { return };
    let route = trunk.outbound_proxy.clone().unwrap_or_else(|| registrar.clone());
    // the seed need only differ between boxes and trunks
    let seed = rand_seed();
    let mut machine = Registration::new(desk::now() + offset, trunk.register_every, seed);
    let mut session = Session { call_id: make_uuid_v4(), sequence: 0 };
    let mut servers: Vec<SocketAddr> = Vec::new();
    loop {
        if let Some((due, _)) = machine.deadline() {
            // one that runs out between two attempts is said to have, and not only after the next one
            if let Some(ends) = machine.ends(desk::now()).filter(|ends| *ends < due) {
                tokio::time::sleep_until(ends.into()).await;
                say(&shared, peer, machine.state(desk::now()));
            }
            tokio::time::sleep_until(due.into()).await;
        }
        let mut effect = machine.due(desk::now());
        while let Some(wanted) = effect {
            let input = match wanted {
                Effect::Resolve => {
                    servers = shared.resolver.servers(&route, trunk.transport).await;
                    if !servers.is_empty() {
                        // an empty answer is DNS failing, not the trunk moving: its calls still come
                        shared.desk.set_resolved(peer, &servers);
                    }
                    let holds = held_at(&shared, peer);
                    let holds_at = holds.and_then(|holds| servers.iter().position(|server| *server == holds));
                    Input::Resolved { servers: servers.len(), holds_at }
                }
                Effect::Register { server, expires } => match servers.get(server) {
                    Some(server) => {
                        let input = register(&shared, peer, *server, expires, &mut session).await;
                        if matches!(input, Input::Registered(_)) {
                            note(&shared, peer, |standing| standing.registrar = Some(*server));
                        }
                        input
                    }
                    None => Input::Unreachable,
                },
            };
            effect = machine.handle(desk::now(), input);
        }
        say(&shared, peer, machine.state(desk::now()));
    }
}

/// Where the registration of a trunk was made last.
fn held_at(shared: &Shared, peer: usize) -> Option<SocketAddr> {
    shared.statuses.lock().unwrap_or_else(PoisonError::into_inner).get(peer)?.registrar
}

/// Logs a change of a registration, and keeps it for `status`.
fn say(shared: &Shared, peer: usize, state: State) {
    let mut before = None;
    note(shared, peer, |standing| before = standing.registration.replace(state));
    let Some(trunk) = shared.trunk(peer) else { return };
    shared.desk.metrics.sip_registered(&trunk.name, state == State::Registered);
    if before != Some(state) {
        let values = [
            (Field::Stage, SafeName::new(&trunk.name).into()),
            (Field::Reason, state.label().into()),
            (Field::Remedy, state.words().into()),
        ];
        log_event(EventName::TrunkChanged, None, &values);
    }
}

pub(super) fn rand_seed() -> u64 {
    let text = make_uuid_v4();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(1)
}

/// One registration's identity: its Call-ID stays for life, so that the registrar sees one device (RFC 3261 §10.2).
struct Session {
    call_id: String,
    sequence: u32,
}

async fn register(
    shared: &Arc<Shared>,
    peer: usize,
    server: SocketAddr,
    expires: Duration,
    session: &mut Session,
) -> Input {
    let Some(trunk) = shared.trunk(peer) else { return Input::Unreachable };
    let (Some(registrar), Some(user)) = (&trunk.registrar, &trunk.username) else { return Input::Unreachable };
    let Some(contact) = shared.contact(peer, server.ip(), trunk.transport) else { return Input::Unreachable };
    let contact_uri = contact.to_string();
    let headers = vec![
        Header::Contact(format!("<{contact_uri}>").into()),
        Header::Expires(expires.as_secs().to_string().into()),
        Header::Allow(wire::ALLOW.into()),
    ];
    let domain = if registrar.host.contains(':') { format!("[{}]", registrar.host) } else { registrar.host.clone() };
    let (target, address) = (format!("sip:{domain}"), format!("sip:{user}@{domain}"));
    let sent = Sent { peer, server, method: Method::Register, target, from: address.clone(), to: address, headers };
    let Some(response) = ask(shared, sent, session).await else { return Input::Unreachable };
    match response.status_code.kind() {
        StatusCodeKind::Successful => Input::Registered(granted(&response, &contact_uri).unwrap_or(expires)),
        _ if response.status_code.code() == 408 => Input::Unreachable,
        _ => Input::Refused {
            code: response.status_code.code(),
            retry_after: retry_after(&response),
            min_expires: read::value(&response, "Min-Expires")
                .and_then(|value| value.trim().parse().ok())
                .map(Duration::from_secs),
        },
    }
}

/// The lifetime granted to our contact (RFC 3261 §10.3 step 8): others may be bound to the same address of record.
fn granted(response: &Response, contact: &str) -> Option<Duration> {
    let own = |uri: &Uri| contact.contains(&uri.host_with_port.to_string());
    let contacts = response.typed_contact_headers().ok()?;
    let ours = contacts.iter().find(|contact| own(&contact.uri)).or_else(|| contacts.first());
    let named = ours.and_then(|contact| contact.expires());
    let general = || read::value(response, "Expires").and_then(|value| value.trim().parse().ok());
    named.or_else(general).map(|seconds| Duration::from_secs(u64::from(seconds)))
}

/// A request outside of dialogs.
struct Sent {
    peer: usize,
    server: SocketAddr,
    method: Method,
    target: String,
    from: String,
    to: String,
    headers: Vec<Header>,
}

/// Sends it and waits for the final answer, digests included; `None` = none came.
async fn ask(shared: &Arc<Shared>, sent: Sent, session: &mut Session) -> Option<Response> {
    let server = sent.server;
    let response = tokio::time::timeout(ANSWER_WITHIN, asked(shared, sent, session)).await.ok().flatten();
    // The library answers 408 itself when nobody else does.
    let answered = response.as_ref().is_some_and(|response| response.status_code.code() != 408);
    shared.resolver.note(server, answered);
    response
}

async fn asked(shared: &Arc<Shared>, sent: Sent, session: &mut Session) -> Option<Response> {
    let (host, transport) = place::target_of(shared, sent.peer)?;
    let stream: Option<SipConnection> = shared.stream(sent.server, &host.host, transport).await.ok()?;
    session.sequence += 1;
    let from = rsipstack::sip::typed::From { display_name: None, uri: uri(&sent.from)?, params: Vec::new() };
    let to = rsipstack::sip::typed::To { display_name: None, uri: uri(&sent.to)?, params: Vec::new() };
    let mut request = shared.endpoint.make_request(
        sent.method,
        uri(&sent.target)?,
        via(shared, transport)?,
        from.with_tag(make_tag()),
        to,
        session.sequence,
        Some(session.call_id.clone().into()),
    );
    sent.headers.into_iter().for_each(|header| request.headers.push(header));
    let to = Towards { peer: sent.peer, server: sent.server, transport, stream };
    exchange(shared, to, request, &mut session.sequence).await
}

/// A Via of ours for requests over `transport`.
pub(super) fn via(shared: &Shared, transport: Transport) -> Option<rsipstack::sip::typed::Via> {
    let listeners = shared.endpoint.transport_layer.get_listen_addrs();
    let by = wire::transport(transport);
    let mut own = listeners.iter().find(|address| address.r#type == Some(by)).or_else(|| listeners.first())?.clone();
    own.r#type = Some(by);
    shared.endpoint.get_via(Some(own), None).ok()
}

/// Where a request goes.
pub(super) struct Towards {
    pub(super) peer: usize,
    pub(super) server: SocketAddr,
    pub(super) transport: Transport,
    pub(super) stream: Option<SipConnection>,
}

/// Sends a request, answers a challenge with its `sequence` counted on, and waits for the final answer.
pub(super) async fn exchange(
    shared: &Arc<Shared>,
    to: Towards,
    request: Request,
    sequence: &mut u32,
) -> Option<Response> {
    let key = TransactionKey::from_request(&request, TransactionRole::Client).ok()?;
    let mut transaction = Transaction::new_client(key, request, Arc::clone(&shared.endpoint), to.stream);
    transaction.destination = Some(wire::sip_addr(to.server, to.transport));
    transaction.send().await.ok()?;
    let mut retry = AuthRetry::new();
    while let Some(message) = transaction.receive().await {
        let SipMessage::Response(response) = message else { continue };
        let challenged = matches!(response.status_code.code(), 401 | 407);
        match shared.credential(to.peer) {
            _ if response.status_code.kind() == StatusCodeKind::Provisional => {}
            Some(credential) if challenged && retry.should_answer(&response) => {
                *sequence += 1;
                transaction = handle_client_authenticate(*sequence, &transaction, response, &credential).await.ok()?;
                transaction.send().await.ok()?;
            }
            _ => return Some(response),
        }
    }
    None
}

fn uri(text: &str) -> Option<Uri> {
    Uri::try_from(text).ok()
}

/// Takes back what is registered: a call to a box that is gone rings for nobody.
pub(super) async fn unregister(shared: &Arc<Shared>) {
    let standings = shared.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (peer, standing) in standings.into_iter().enumerate() {
        if let Some(server) = standing.registrar {
            let mut session = Session { call_id: make_uuid_v4(), sequence: 0 };
            register(shared, peer, server, Duration::ZERO, &mut session).await;
            note(shared, peer, |standing| standing.registration = None);
        }
    }
}

async fn keep_watch(shared: Arc<Shared>, peer: usize, offset: Duration) {
    let Some(trunk) = shared.trunk(peer) else { return };
    let Some((host, transport)) = place::target_of(&shared, peer) else { return };
    let mut watch = Watch::new(desk::now(), trunk.options_every, offset);
    while let Some(due) = watch.deadline() {
        tokio::time::sleep_until(due.into()).await;
        if !watch.due(desk::now()) {
            continue;
        }
        let code = options(&shared, peer, &host, transport).await;
        let changed = watch.answered(desk::now(), code);
        note(&shared, peer, |standing| standing.options = watch.state());
        shared.desk.metrics.sip_trunk_up(&trunk.name, watch.state() == Health::Up);
        if let Some(state) = changed {
            let values = [(Field::Stage, SafeName::new(&trunk.name).into()), (Field::Reason, state.label().into())];
            log_event(EventName::TrunkChanged, None, &values);
        }
    }
}

/// Asks a trunk whether it is there; its status code.
pub(super) async fn options(
    shared: &Arc<Shared>,
    peer: usize,
    host: &sauti_core::config::HostPort,
    transport: Transport,
) -> Option<u16> {
    let servers = shared.resolver.servers(host, transport).await;
    if place::peer_has_names(shared, peer) && !servers.is_empty() {
        shared.desk.set_resolved(peer, &servers);
    }
    let first = servers.iter().copied().find(|server| shared.resolver.first_silent(&[*server]).is_none());
    if let (Some(_), Some(silent)) = (first, shared.resolver.first_silent(&servers)) {
        // whether it is back: the others serve meanwhile
        let (shared, host) = (Arc::clone(shared), host.clone());
        tokio::spawn(async move { options_to(&shared, peer, &host, silent).await });
    }
    for server in servers.into_iter().take(ASKED) {
        let code = options_to(shared, peer, host, server).await;
        if code.is_some_and(|code| code != 408) {
            return code;
        }
    }
    None
}

/// Asks one address of a trunk.
async fn options_to(
    shared: &Arc<Shared>,
    peer: usize,
    host: &sauti_core::config::HostPort,
    server: SocketAddr,
) -> Option<u16> {
    let from = format!("sip:{}", place::own_address(shared, peer, server)?);
    let target = format!("sip:{host}");
    let headers = vec![Header::Accept(wire::SDP.into())];
    let sent = Sent { peer, server, method: Method::Options, target: target.clone(), from, to: target, headers };
    let mut session = Session { call_id: make_uuid_v4(), sequence: 0 };
    ask(shared, sent, &mut session).await.map(|response| response.status_code.code())
}

/// Asks a registrar for the bindings of our address (RFC 3261 §10.2.3): it wants the digest, and changes nothing.
pub(super) async fn bindings(shared: &Arc<Shared>, peer: usize, server: SocketAddr) -> Option<u16> {
    let trunk = shared.trunk(peer)?;
    let domain = trunk.registrar.as_ref()?.host.clone();
    let domain = if domain.contains(':') { format!("[{domain}]") } else { domain };
    let address = format!("sip:{}@{domain}", trunk.username.as_ref()?);
    let (target, from) = (format!("sip:{domain}"), address.clone());
    let sent = Sent { peer, server, method: Method::Register, target, from, to: address, headers: Vec::new() };
    let mut session = Session { call_id: make_uuid_v4(), sequence: 0 };
    ask(shared, sent, &mut session).await.map(|response| response.status_code.code())
}

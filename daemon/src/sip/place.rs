//! Calls that the box makes: to people outside, and the leg to a human.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rsipstack::dialog::invitation::InviteOption;
use rsipstack::sip::{Header, StatusCodeKind, Uri};
use rsipstack::transaction::make_uuid_v4;
use sauti_core::config::{HostPort, Transport};
use sauti_core::pii::Pii;
use sauti_core::sip::timer::Asked;
use sauti_core::sip::trace::Trace;
use tokio::sync::mpsc;

use super::attend::{self, Attended};
use super::desk::{self, Live};
use super::dialog::{Dialog, DialogError, DialogEvents, EVENTS, Line, Over};
use super::{Shared, wire};

/// A call to be made.
#[derive(Debug)]
pub struct Place {
    /// Over which trunk.
    pub trunk: Arc<str>,
    /// Whom: a number, `user@host`, or a whole `sip:` URI. Without a host it is called at the trunk's registrar.
    pub target: Pii,
    /// Our offer.
    pub offer: String,
    /// Who calls, `user@domain`; the trunk's own address of record if `None`.
    pub from: Option<Pii>,
}

/// Where a trunk's requests go, and the domain of its addresses.
pub(super) fn target_of(shared: &Shared, peer: usize) -> Option<(HostPort, Transport)> {
    match shared.trunk(peer) {
        Some(trunk) => {
            let named = trunk.outbound_proxy.clone().or_else(|| trunk.registrar.clone());
            // a trunk that is known by one address alone is reached there
            let single = || {
                trunk
                    .allow
                    .iter()
                    .find_map(|network| network.single())
                    .map(|address| HostPort { host: address.to_string(), port: None })
            };
            named.or_else(single).map(|host| (host, trunk.transport))
        }
        None => shared.whatsapp.as_ref().map(|sip| (sip.host.clone(), Transport::Tls)),
    }
}

/// The address of record of the box at a peer, `user@domain`.
pub(super) fn own_address(shared: &Shared, peer: usize, far: SocketAddr) -> Option<String> {
    let Some(trunk) = shared.trunk(peer) else {
        let sip = shared.whatsapp.as_ref()?;
        return Some(format!("+{}@{}", sip.number.as_ref()?, sip.hostname));
    };
    if let Some(from) = &trunk.from {
        return Some(from.clone());
    }
    let user = trunk.username.as_deref().unwrap_or("sauti");
    match &trunk.registrar {
        Some(registrar) => Some(format!("{user}@{}", bracketed(&registrar.host))),
        None => Some(format!("{user}@{}", bracketed(&shared.desk.advertised(Some(peer), far.ip())?.to_string()))),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

pub(super) async fn place(shared: &Arc<Shared>, call: Place) -> Result<(Dialog, DialogEvents), DialogError> {
    let peer = shared.peer(&call.trunk).ok_or(DialogError::Unsupported)?;
    let (host, transport) = target_of(shared, peer).ok_or(DialogError::Unsupported)?;
    let servers = shared.resolver.servers(&host, transport).await;
    let (server, stream) = connect(shared, &servers, &host.host, transport).await?;
    if peer_has_names(shared, peer) && !servers.is_empty() {
        shared.desk.set_resolved(peer, &servers);
    }
    let from = call.from.map(|from| from.expose().to_owned()).or_else(|| own_address(shared, peer, server));
    let caller = uri(&from.ok_or(DialogError::Unsupported)?)?;
    let callee = callee(call.target.expose(), &host, transport)?;
    let call_id = make_uuid_v4();
    let is_whatsapp = shared.is_whatsapp(peer);
    let line = Arc::new(Line::new(is_whatsapp, None));
    let trace = Arc::new(Mutex::new(Trace::new(desk::now())));
    let live = Live { peer, trace: Arc::clone(&trace), line: Arc::clone(&line) };
    if !shared.desk.enter(&call_id, live) {
        return Err(DialogError::Transport);
    }
    drop(stream);
    let allow = if is_whatsapp { wire::ALLOW_WHATSAPP } else { wire::ALLOW };
    let mut headers = vec![Header::Allow(allow.into())];
    if !is_whatsapp {
        headers.push(Header::Supported("timer, replaces".into()));
    }
    let option = InviteOption {
        caller,
        callee,
        destination: Some(wire::sip_addr(server, transport)),
        content_type: Some(wire::SDP.to_owned()),
        offer: Some(call.offer.into_bytes()),
        contact: shared.contact(peer, server.ip(), transport).ok_or(DialogError::Transport)?,
        credential: shared.credential(peer),
        headers: Some(headers),
        support_prack: !is_whatsapp,
        call_id: Some(call_id.clone()),
        ..InviteOption::default()
    };
    let (states, states_in) = shared.layer.new_dialog_state_channel();
    let Ok((dialog, outcome)) = shared.layer.do_invite_async(option, states) else {
        shared.desk.leave(&call_id);
        return Err(DialogError::Transport);
    };
    let (events, events_out) = mpsc::channel(EVENTS);
    let attended = Attended {
        desk: Arc::clone(&shared.desk),
        layer: Arc::clone(&shared.layer),
        dialog: dialog.clone(),
        line: Arc::clone(&line),
        call_id,
        delayed: false,
    };
    let over = Over { trunk: call.trunk, transport };
    let (refusals, given_up, told) = (events.clone(), Arc::clone(&line), Arc::clone(shared));
    tokio::spawn(async move {
        match outcome.await.ok().and_then(Result::ok).and_then(|(_, response)| response) {
            Some(response) if response.status_code.kind() != StatusCodeKind::Successful => {
                // whoever has let go of the call hears nothing any more
                refusals.send(attend::refused_by(&response)).await.ok();
            }
            Some(_) => {}
            None => {
                // the next call tries another address first
                told.resolver.note(server, false);
                given_up.lost.notify_one();
            }
        }
    });
    tokio::spawn(attended.run(states_in, events));
    Ok((Dialog::new(dialog, line, trace, Asked::default(), over), events_out))
}

/// The whole address of `target` at a trunk.
pub(super) fn address_of(shared: &Shared, trunk: &str, target: &str) -> Option<Pii> {
    let (host, transport) = target_of(shared, shared.peer(trunk)?)?;
    let uri = callee(target, &host, transport).ok()?;
    Some(Pii::new(uri.to_string()))
}

/// Whether the addresses of a peer come from DNS.
pub(super) fn peer_has_names(shared: &Shared, peer: usize) -> bool {
    shared.trunk(peer).is_some_and(|trunk| trunk.registrar.is_some() || trunk.outbound_proxy.is_some())
}

/// The first address that can be reached; over UDP that is the first one.
async fn connect(
    shared: &Shared,
    servers: &[SocketAddr],
    name: &str,
    transport: Transport,
) -> Result<(SocketAddr, Option<rsipstack::transport::SipConnection>), DialogError> {
    for server in servers {
        if let Ok(stream) = shared.stream(*server, name, transport).await {
            return Ok((*server, stream));
        }
        shared.resolver.note(*server, false);
    }
    Err(DialogError::Transport)
}

fn uri(text: &str) -> Result<Uri, DialogError> {
    let whole =
        if text.starts_with("sip:") || text.starts_with("sips:") { text.to_owned() } else { format!("sip:{text}") };
    Uri::try_from(whole.as_str()).map_err(|_| DialogError::Unsupported)
}

/// The Request-URI. Its transport is written as it is in Meta's documents: its servers compare it letter by letter.
fn callee(target: &str, host: &HostPort, transport: Transport) -> Result<Uri, DialogError> {
    let sound = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"' | b' ');
    if target.is_empty() || !target.bytes().all(sound) {
        return Err(DialogError::Unsupported);
    }
    let text =
        if target.contains('@') || target.starts_with("sip") { target.to_owned() } else { format!("{target}@{host}") };
    let with_transport = match transport {
        Transport::Udp => text,
        _ if text.contains(";transport=") => text,
        stream => format!("{text};transport={}", stream.label()),
    };
    // here already, as the digest names it too
    let mut whole = uri(&with_transport)?;
    wire::small_transport(&mut whole);
    Ok(whole)
}

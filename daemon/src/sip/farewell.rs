//! The BYE of a dialog that an earlier run of the daemon left behind.
//!
//! The library knows nothing of that dialog; the request is built from what was sealed of it, by the rules of RFC 3261
//! §12.2.1.1, and sent once, as a transaction like any other. It changes no table of calls.

use std::net::SocketAddr;
use std::sync::Arc;

use rsipstack::sip::headers::untyped::Route;
use rsipstack::sip::prelude::ToTypedHeader as _;
use rsipstack::sip::{Header, Headers, Method, Param, Request, StatusCodeKind, Uri, Version};
use rsipstack::transport::SipConnection;
use sauti_core::config::{HostPort, Transport};
use sauti_core::record::LiveDialog;

use super::{Shared, place, upkeep, wire};

/// How far the BYE's number is ahead of the last one that was written down: keys, refreshes and offers of ours since then
/// are not. A gap is allowed, a number that was used is not (RFC 3261 §12.2.2).
const AHEAD: u32 = 64;

/// What became of such a BYE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// It was confirmed.
    Confirmed,
    /// The far end knows no such dialog: it was over there already.
    Gone,
    /// It was refused with something else.
    Refused,
    /// No answer came.
    Silent,
    /// There is no such trunk any more, or no way to it.
    NotSent,
}

impl Farewell {
    /// Every value, for metrics that start at zero.
    pub const ALL: [Self; 5] = [Self::Confirmed, Self::Gone, Self::Refused, Self::Silent, Self::NotSent];

    /// The word for log and metric.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::NotSent => "not_sent",
        }
    }

    /// True when the far end knows for sure that the call is over.
    #[must_use]
    pub const fn is_done(self) -> bool {
        matches!(self, Self::Confirmed | Self::Gone)
    }
}

/// Sends the BYE and waits for its answer, as long as for that to any request outside of dialogs.
pub(super) async fn bye(shared: &Arc<Shared>, dialog: &LiveDialog) -> Farewell {
    let Some(peer) = shared.peer(&dialog.trunk) else { return Farewell::NotSent };
    let Some(written) = written(dialog) else { return Farewell::NotSent };
    let transport = written.transport;
    // At a fresh start nobody has looked up yet where a trunk with a name is, and strangers are not listened to.
    let mut servers = Vec::new();
    if let Some((host, _)) = place::target_of(shared, peer) {
        servers = shared.resolver.servers(&host, transport).await;
        if place::peer_has_names(shared, peer) && !servers.is_empty() {
            shared.desk.set_resolved(peer, &servers);
        }
    }
    let mut hops = shared.resolver.servers(&written.hop, transport).await;
    // A Contact behind a translator cannot be reached by a new stream; the trunk's own proxy knows the way.
    hops.extend(servers.into_iter().filter(|_| transport != Transport::Udp));
    let Some((server, stream)) = reach(shared, &hops, &written.hop.host, transport).await else {
        return Farewell::NotSent;
    };
    let Some(via) = upkeep::via(shared, transport) else { return Farewell::NotSent };
    let mut sequence = dialog.cseq.saturating_add(AHEAD);
    let mut headers = vec![
        Header::Via(via.into()),
        Header::CallId(dialog.call_id.expose().into()),
        Header::From(dialog.local.expose().into()),
        Header::To(dialog.remote.expose().into()),
        Header::CSeq(format!("{sequence} BYE").into()),
    ];
    headers.extend(written.route.into_iter().map(Header::Route));
    headers.push(Header::MaxForwards(70.into()));
    headers.push(Header::Reason("SIP;cause=500;text=\"restarted\"".into()));
    headers.push(Header::UserAgent(shared.endpoint.user_agent.clone().into()));
    headers.push(Header::ContentLength(0.into()));
    let request = Request {
        method: Method::Bye,
        uri: written.uri,
        headers: Headers::from(headers),
        body: Vec::new(),
        version: Version::V2,
    };
    let to = upkeep::Towards { peer, server, transport, stream };
    let answer = tokio::time::timeout(upkeep::ANSWER_WITHIN, upkeep::exchange(shared, to, request, &mut sequence));
    match answer.await.ok().flatten() {
        None => Farewell::Silent,
        Some(response) if response.status_code.kind() == StatusCodeKind::Successful => Farewell::Confirmed,
        Some(response) => match response.status_code.code() {
            404 | 410 | 481 => Farewell::Gone,
            408 => Farewell::Silent,
            _ => Farewell::Refused,
        },
    }
}

/// Where a request in the dialog goes, and what stands in it.
struct Written {
    uri: Uri,
    route: Vec<Route>,
    hop: HostPort,
    transport: Transport,
}

/// RFC 3261 §12.2.1.1: the remote target, reached over the route set; a first router that is strict gets the request in
/// its own name.
fn written(dialog: &LiveDialog) -> Option<Written> {
    let opened = Transport::parse(&dialog.transport)?;
    let target = Uri::try_from(dialog.target.expose()).ok()?;
    let mut route: Vec<Route> = dialog.route.iter().map(|route| Route::from(route.expose())).collect();
    let first = route.first().and_then(|first| first.clone().typed().ok()).map(|first| first.uri);
    let next = first.clone().unwrap_or_else(|| target.clone());
    let uri = match first {
        Some(first) if !first.params.iter().any(|param| matches!(param, Param::Lr)) => {
            route.remove(0);
            route.push(Route::from(format!("<{target}>")));
            first
        }
        _ => target,
    };
    let named = next.params.iter().find_map(|param| match param {
        Param::Transport(transport) => wire::known(*transport),
        _ => None,
    });
    let host = next.host_with_port.host.to_string();
    let hop = HostPort {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: next.host_with_port.port.map(|port| port.value()),
    };
    Some(Written { uri, route, hop, transport: named.unwrap_or(opened) })
}

/// The first hop that can be reached; over UDP that is the first one.
async fn reach(
    shared: &Shared,
    hops: &[SocketAddr],
    name: &str,
    transport: Transport,
) -> Option<(SocketAddr, Option<SipConnection>)> {
    for hop in hops {
        if let Ok(stream) = shared.stream(*hop, name, transport).await {
            return Some((*hop, stream));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use sauti_core::pii::Pii;

    use super::*;

    fn dialog(target: &str, route: &[&str]) -> LiveDialog {
        LiveDialog {
            trunk: "carrier".to_owned(),
            transport: "udp".to_owned(),
            call_id: Pii::new("call"),
            local: Pii::new("<sip:100@127.0.0.1>;tag=ours"),
            remote: Pii::new("<sip:250780000001@127.0.0.1>;tag=theirs"),
            cseq: 0,
            target: Pii::new(target),
            route: route.iter().map(|route| Pii::new(*route)).collect(),
        }
    }

    #[test]
    fn a_bye_goes_to_the_contact_or_by_the_first_router() {
        let direct = written(&dialog("sip:peer@192.0.2.7:5070;transport=tcp", &[])).unwrap();
        assert_eq!((direct.hop.to_string(), direct.transport), ("192.0.2.7:5070".to_owned(), Transport::Tcp));
        assert!(direct.route.is_empty());

        let loose = written(&dialog("sip:peer@192.0.2.7", &["<sip:edge.example.org;lr>", "<sip:b.example.org;lr>"]));
        let loose = loose.unwrap();
        assert_eq!((loose.uri.to_string(), loose.route.len()), ("sip:peer@192.0.2.7".to_owned(), 2));
        assert_eq!((loose.hop.host.as_str(), loose.hop.port), ("edge.example.org", None));

        let strict = written(&dialog("sip:peer@192.0.2.7", &["<sip:old.example.org>", "<sip:b.example.org;lr>"]));
        let strict = strict.unwrap();
        assert_eq!(
            (strict.uri.to_string(), strict.hop.host.as_str()),
            ("sip:old.example.org".to_owned(), "old.example.org")
        );
        assert_eq!(strict.route.last().map(|route| route.value().to_owned()).as_deref(), Some("<sip:peer@192.0.2.7>"));
    }
}

//! `sauti trunk` and `sauti route`: what is configured, how it stands, what is wrong, which way a call would take.
//!
//! `list` and `route` look at the configuration alone; `status` asks the running daemon's admin listener; `test` asks
//! the trunk itself from a port of its own and changes nothing there.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rsipstack::sip::prelude::{HeadersExt, ToTypedHeader};
use rsipstack::sip::{Method, SipMessage};
use sauti_core::config::{Config, Sip as Listeners, Transport, password_name};
use sauti_core::pii::BoxKey;
use sauti_core::sip::register::State;
use sauti_core::sip::route::{Peers, Refused};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::read::{self, Verdict, judge};
use super::{Setup, Shared, endpoint, place, upkeep, wire};
use crate::check;
use crate::cli::{Exit, RouteArgs, TrunkArgs, TrunkCommand};
use crate::http::tls;
use crate::obs::metrics::Metrics;
use crate::secrets::Secrets;

/// Largest INVITE that is read from a file.
const LONGEST: u64 = 64 * 1024;
/// Longest wait for the daemon's answer.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// `sauti trunk`.
#[must_use]
pub fn trunk(args: &TrunkArgs) -> Exit {
    let what = args.what.as_ref().unwrap_or(&TrunkCommand::List);
    // An operator's shell has no secrets: `status` says to the daemon what the daemon asks for, `test` to one trunk.
    let needs = |name: &str| match what {
        TrunkCommand::List => false,
        TrunkCommand::Status => name == "admin_token",
        TrunkCommand::Test { name: trunk } => name == password_name(trunk),
    };
    let config = match check::load_beside(&args.config.config, &Secrets::of_this_process(), &needs) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let answer = match what {
        TrunkCommand::List => Ok((list(&config), true)),
        TrunkCommand::Status => in_runtime(status(&config)),
        TrunkCommand::Test { name } => in_runtime(test(&config, name)),
    };
    tell("trunk", answer, args.json)
}

/// `sauti route`.
#[must_use]
pub fn route(args: &RouteArgs) -> Exit {
    let config = match check::load_beside(&args.config.config, &Secrets::of_this_process(), &|_| false) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    tell("route", read_file(&args.file).and_then(|bytes| routed(&config, &bytes, args)), args.json)
}

/// What is printed: rows of names and values; and whether the answer is a good one.
type Answer = Result<(Vec<Value>, bool), String>;

fn tell(command: &str, answer: Answer, as_json: bool) -> Exit {
    let (rows, good) = match answer {
        Ok(answer) => answer,
        Err(why) => {
            // nobody is left to tell when standard error is closed
            writeln!(std::io::stderr(), "sauti {command}: {why}").ok();
            return Exit::Failed;
        }
    };
    let text = if as_json { rows.iter().map(|row| format!("{row}\n")).collect() } else { table(&rows) };
    // a closed pipe is the reader's own choice and changes no verdict
    std::io::stdout().lock().write_all(text.as_bytes()).ok();
    if good { Exit::Fine } else { Exit::Failed }
}

/// Each row as `name: value` lines, an empty line between rows.
fn table(rows: &[Value]) -> String {
    let row = |row: &Value| {
        let fields = row.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let line = |(name, value): (&String, &Value)| match value.as_str() {
            Some(text) => format!("{name}: {text}\n"),
            None => format!("{name}: {value}\n"),
        };
        fields.map(line).collect::<String>()
    };
    let rows: Vec<String> = rows.iter().map(row).collect();
    rows.join("\n")
}

fn in_runtime(asking: impl Future<Output = Answer>) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(asking)
}

fn list(config: &Config) -> Vec<Value> {
    let row = |trunk: &sauti_core::config::Trunk| {
        let routes: Vec<String> = trunk
            .routes
            .iter()
            .map(|route| {
                let languages: Vec<&str> = route.languages.iter().map(|language| language.code()).collect();
                format!("{} -> {} ({})", route.called, route.agent, languages.join(" "))
            })
            .collect();
        json!({
            "name": trunk.name,
            "transport": trunk.transport.label(),
            "registrar": trunk.registrar.as_ref().map(ToString::to_string),
            "allow": trunk.allow.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "codecs": trunk.codecs.iter().map(|codec| codec.label()).collect::<Vec<_>>(),
            "srtp": trunk.srtp.label(),
            "calls": trunk.calls,
            "routes": routes,
        })
    };
    config.trunks.iter().map(row).collect()
}

async fn status(config: &Config) -> Answer {
    let address = match config.http.admin.ip() {
        any if any.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, config.http.admin.port())),
        _ => config.http.admin,
    };
    let client =
        reqwest::Client::builder().timeout(ASK_WITHIN).no_proxy().build().map_err(|error| error.to_string())?;
    let mut request = client.get(format!("http://{address}/api/trunks"));
    if let Some(token) = &config.http.admin_token {
        request = request.bearer_auth(token.expose_secret());
    }
    let not_there = |_| format!("no daemon answers on {address}; is it running, with this http.admin?");
    let response = request.send().await.map_err(not_there)?;
    if !response.status().is_success() {
        return Err(format!(
            "the daemon answers {}; is admin_token the one that it was started with?",
            response.status()
        ));
    }
    let rows: Vec<Value> = response.json().await.map_err(|_| "the daemon's answer cannot be read".to_owned())?;
    let good = rows.iter().all(|row| row.get("words").is_none_or(Value::is_null));
    Ok((rows, good))
}

async fn test(config: &Config, name: &str) -> Answer {
    let mut config = config.clone();
    let Some(mut trunk) = config.trunks.iter().find(|trunk| trunk.name == name).cloned() else {
        return Err(format!("no [[trunk]] is named {name:?}; `sauti trunk list` shows them"));
    };
    trunk.options_every = None;
    config.trunks = vec![trunk];
    // the daemon may hold its ports: this asks from one that the system gives
    let udp = config.sip.as_ref().and_then(|sip| sip.udp).map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |udp| udp.ip());
    config.sip = Some(Listeners { udp: Some(SocketAddr::new(udp, 0)), tcp: None, tls: None });
    config.whatsapp = None;
    let roots = tls::roots_pem(&config.http.extra_roots).map_err(|error| error.to_string())?;
    let setup = Setup {
        config: &config,
        roots,
        key: BoxKey::new([0; 32]),
        metrics: Arc::new(Metrics::new()),
        nameservers: Vec::new(),
    };
    let (invites, _calls) = mpsc::channel(1);
    let shared = endpoint::build(setup, invites).await.map_err(|error| error.to_string())?;
    let rows = probe(&shared).await;
    shared.stop.cancel();
    let good = rows.iter().all(|row| row.get("ok") == Some(&Value::Bool(true)));
    Ok((rows, good))
}

fn finding(probe: &str, ok: bool, words: impl Into<String>) -> Value {
    json!({ "probe": probe, "ok": ok, "words": words.into() })
}

/// Asks the one trunk of an endpoint: its addresses, OPTIONS, and its bindings, which takes user and password.
async fn probe(shared: &Arc<Shared>) -> Vec<Value> {
    let Some((host, transport)) = place::target_of(shared, 0) else {
        let words = "it has neither registrar nor outbound_proxy nor a single address in allow: there is nobody to ask";
        return vec![finding("address", false, words)];
    };
    let servers = shared.resolver.servers(&host, transport).await;
    let Some(server) = servers.first() else {
        return vec![finding("address", false, format!("{host} has no address; check the name and the box's DNS"))];
    };
    let mut rows = vec![finding("address", true, format!("{host} is {server}, {} in all", servers.len()))];
    rows.push(match upkeep::options(shared, 0, &host, transport).await {
        Some(code) if code != 408 && code != 503 => finding("options", true, format!("answered with {code}")),
        Some(code) => finding("options", false, format!("answered with {code}: it is there and takes no calls now")),
        None => {
            let word = transport.label();
            finding("options", false, format!("no answer over {word}; check firewall, port, transport and certificate"))
        }
    });
    if shared.trunk(0).is_some_and(|trunk| trunk.registrar.is_some()) {
        rows.push(match upkeep::bindings(shared, 0, *server).await {
            Some(code) if (200..300).contains(&code) => finding("register", true, "user and password are right"),
            Some(code) => finding("register", false, format!("{code}: {}", State::Refused(code).words())),
            None => finding("register", false, State::Unreachable.words()),
        });
    }
    rows
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    file.take(LONGEST).read_to_end(&mut bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(bytes)
}

/// A message as a person keeps it: line ends of any kind.
fn as_on_the_wire(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\n', "\r\n");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| (text.trim_end(), ""));
    // the lengths of a text that was copied about are not to be trusted
    let kept = head.lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default().trim();
        !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("l")
    });
    let head: String = kept.map(|line| format!("{line}\r\n")).collect();
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn routed(config: &Config, bytes: &[u8], args: &RouteArgs) -> Answer {
    let bytes = as_on_the_wire(bytes);
    let Ok(SipMessage::Request(request)) = SipMessage::try_from(bytes.as_slice()) else {
        return Err("the file holds no SIP request; its first line must be INVITE sip:… SIP/2.0".to_owned());
    };
    if *request.method() != Method::Invite {
        return Err("the file holds another request than INVITE".to_owned());
    }
    let via = request.via_header().ok().and_then(|via| via.typed().ok());
    let came = via
        .as_ref()
        .and_then(|via| via.received().and_then(Result::ok).or_else(|| read::address(&via.uri.host_with_port.host)));
    let source =
        args.source.or(came).ok_or("its Via names no address; say where it comes from with --source ADDRESS")?;
    let by = via.and_then(|via| wire::known(via.transport));
    let transport = args.transport.as_deref().and_then(Transport::parse).or(by).unwrap_or(Transport::Udp);
    let peers = Peers::of(config);
    let (verdict, why) = match judge(&bytes, &peers, source, transport) {
        Verdict::Routed(peer) => return Ok((vec![taken(config, &peers, peer, &request)], true)),
        Verdict::Silent(why) => ("dropped", why),
        Verdict::Answer(why) => ("refused", why),
        Verdict::Other => return Err("it belongs to a dialog that stands: it has a To tag".to_owned()),
    };
    let user = read::user_of(request.uri());
    let trunk = peers.peer_of(source, transport, user.as_deref()).ok().and_then(|peer| peers.peer(peer));
    let names = config.trunks.iter().any(|trunk| trunk.registrar.is_some() || trunk.outbound_proxy.is_some());
    let doubt = (why == Refused::UnknownSource && names)
        .then_some("addresses that a registrar's name resolves to are known to the running daemon only");
    let row = json!({
        "verdict": verdict,
        "trunk": trunk.map(|trunk| trunk.name.to_string()),
        "reason": why.label(),
        "code": why.code(),
        "words": why.words(),
        "note": doubt,
    });
    Ok((vec![row], false))
}

fn taken(config: &Config, peers: &Peers, peer: usize, request: &rsipstack::sip::Request) -> Value {
    let name = peers.peer(peer).map(|peer| peer.name.to_string()).unwrap_or_default();
    let user = read::user_of(request.uri()).unwrap_or_default();
    let trunk = config.trunks.iter().find(|trunk| trunk.name == name);
    let route = trunk.and_then(|trunk| trunk.routes.iter().find(|route| route.answers(&user)));
    json!({
        "verdict": "taken",
        "trunk": name,
        "route": route.map(|route| route.called.clone()),
        "agent": route.map(|route| route.agent.clone()),
        "languages": route.map(|route| route.languages.iter().map(|language| language.code()).collect::<Vec<_>>()),
    })
}

#[cfg(test)]
#[path = "tools_tests.rs"]
mod tests;

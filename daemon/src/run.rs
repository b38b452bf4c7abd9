//! `sauti run`: boot, serve, drain.
//!
//! Boot in the order of the house: configuration (all problems, exit 78), ledger (migrate, recover), lanes,
//! listeners, a tone through a lane, then readiness. A dead lane or a dead ledger ends the process with 70, and systemd starts it anew.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use ring::rand::SystemRandom;
use sauti_core::call::language;
use sauti_core::call::machine::Action;
use sauti_core::call::outcome::{Fault, Outcome};
use sauti_core::config::{Codec, Config, Srtp, TlsFiles, Transport, Trunk, WHATSAPP_TRUNK};
use sauti_core::media::floor::BargeIn;
use sauti_core::media::frame::AudioFormat;
use sauti_core::pii::BoxKey;
use sauti_core::record::Unfinished;
use sauti_core::whatsapp::graph::RetryClass;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::ai::providers::Providers;
use crate::ai::warm;
use crate::cli::{Exit, RunArgs};
use crate::clips::Clips;
use crate::door::trouble_event;
use crate::house::{HandOn, House};
use crate::http::serve::Listener;
use crate::http::{Vitals, admin_routes, public_routes, tls, with_fallbacks};
use crate::lanes::{Lanes, RtpLegSettings, SELF_TEST_WITHIN, SrtpPolicy};
use crate::obs::logging::{self, EventName, Field, SafeName, log_event};
use crate::obs::metrics::Metrics;
use crate::secrets::{self, Secrets};
use crate::sip::{self, Farewell, Invite, Sip};
use crate::store::Store;
use crate::switchboard::Switchboard;
use crate::whatsapp::graph::{Graph, graph_error_fields};
use crate::whatsapp::http::Webhooks;
use crate::{check, clock, summary, whatsapp};

/// Longest wait for the listeners to finish running requests at the end.
const FINISH_WITHIN: Duration = Duration::from_secs(2);
/// Longest wait at the end for texts that are owed; the others wait in the ledger for the next start.
const TEXTS_WITHIN: Duration = Duration::from_secs(5);

/// BYEs under way at one time for calls that a crash left: each waits 8 s at most.
const FAREWELLS: usize = 16;
/// How long after the start such a BYE may begin; by then the trunks have noticed that no audio comes.
const FAREWELLS_WITHIN: Duration = Duration::from_secs(60);

/// Why the daemon could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A part could not be set up.
    #[error("{0}")]
    Boot(String),
    /// A thread that the daemon cannot live without ended.
    #[error("{0} ended; the daemon stops, systemd starts it anew")]
    Dead(String),
}

fn boot(error: impl std::fmt::Display) -> RunError {
    RunError::Boot(error.to_string())
}

/// `sauti run`.
#[must_use]
pub fn command(args: &RunArgs) -> Exit {
    logging::install(logging::Output::Detect);
    let secrets = Secrets::of_this_process();
    let config = match check::load_or_report(&args.config.config, &secrets) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let state = config.ledger.path.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let end = match secrets::box_key(&secrets, &state) {
        Ok(key) => daemon(config, key),
        Err(error) => Err(boot(error)),
    };
    match end {
        Ok(()) => Exit::Fine,
        Err(error) => {
            // The one place that tells an error of the daemon; its texts hold paths and settings, no persons.
            writeln!(std::io::stderr(), "sauti run: {error}").ok();
            Exit::Internal
        }
    }
}

/// Runs the daemon with a checked configuration until it is told to stop.
fn daemon(config: Config, key: BoxKey) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.node.workers)
        .thread_name("sauti")
        .enable_all()
        .build()
        .map_err(boot)?;
    let end = runtime.block_on(serve(config, key));
    // What still runs are answers to peers that are gone.
    runtime.shutdown_timeout(FINISH_WITHIN);
    end
}

async fn serve(config: Config, key: BoxKey) -> Result<(), RunError> {
    let (dead_tx, mut dead) = mpsc::channel(1);
    for note in &config.notes {
        // The words may hold what the operator wrote; `sauti check` prints them.
        let values = [(Field::Stage, SafeName::new(&note.path).into()), (Field::Remedy, "see `sauti check`".into())];
        log_event(EventName::ConfigNote, None, &values);
    }
    let config = Arc::new(config);
    let house = build(&config, &key, &dead_tx).await?;
    let sip = start_sip(&config, &key, &house).await?;
    if let Some((sip, _)) = &sip {
        // Set once: there is one SIP in a process.
        house.sip.set(sip.clone()).ok();
    }
    let (switchboard, starter) = Switchboard::new();
    let synchronised = clock::watch_synchronised();
    tokio::spawn(starter.run(Arc::clone(&house), synchronised));
    let vitals = Arc::new(Vitals {
        metrics: Arc::clone(&house.metrics),
        lanes: Arc::clone(&house.lanes),
        providers: Arc::clone(&house.providers),
        store: house.store.clone(),
        switchboard: switchboard.clone(),
        sip: sip.as_ref().map(|(sip, _)| sip.clone()),
        ready: AtomicBool::new(false),
        draining: AtomicBool::new(false),
    });
    recover(&house, sip.as_ref().map(|(sip, _)| sip)).await?;
    let warm = keep_warm(&house);
    let (stop, stopped) = watch::channel(false);
    let certificate = match &config.http.tls {
        Some(files) => Some(watch::channel(tls::acceptor(files).map_err(boot)?)),
        None => None,
    };
    let mut public = public_routes(Arc::clone(&vitals));
    if let Some(whatsapp) = &house.whatsapp {
        let webhooks = Arc::new(Webhooks {
            config: whatsapp.as_ref().clone(),
            key: key.clone(),
            store: house.store.clone(),
            switchboard: switchboard.clone(),
            metrics: Arc::clone(&house.metrics),
        });
        public = public.merge(whatsapp::http::routes(webhooks));
    }
    let public = with_fallbacks(public);
    let admin = admin_routes(Arc::clone(&vitals), config.http.admin_token.as_ref());
    let public_listener = Listener::bind("public", config.http.public).await.map_err(boot)?;
    let admin_listener = Listener::bind("admin", config.http.admin).await.map_err(boot)?;
    let addresses = (public_listener.address().map_err(boot)?, admin_listener.address().map_err(boot)?);
    // Who calls already waits in the backlog: a box that cannot hear itself takes nobody.
    house.lanes.self_test(SELF_TEST_WITHIN).await.map_err(boot)?;
    let acceptor = certificate.as_ref().map(|(_, receiver)| receiver.clone());
    let listeners = [
        tokio::spawn(public_listener.serve(public, acceptor, stopped.clone())),
        tokio::spawn(admin_listener.serve(admin, None, stopped)),
    ];
    let (last_texts, no_more_texts) = watch::channel(false);
    let mut texts = house.graph.clone().map(|graph| {
        tokio::spawn(whatsapp::texts::run(
            house.store.clone(),
            graph,
            Arc::clone(&house.metrics),
            Arc::clone(&house.texts_ring),
            no_more_texts,
        ))
    });
    let summaries = tokio::spawn(summary::run(Arc::clone(&house), last_texts.subscribe()));
    let sip = sip.map(|(sip, invites)| take_invites(sip, invites, switchboard.clone()));
    say_ready(&vitals, addresses);
    let end = wait_for_the_end(&config, certificate.map(|(sender, _)| sender), &vitals, &mut dead).await;
    if let Some(sip) = &sip {
        sip.drain();
    }
    vitals.draining.store(true, Ordering::Relaxed);
    // Who still talks opens a session when it needs one; nobody new will.
    if let Some(warm) = warm {
        warm.close().await;
    }
    if end.is_ok() {
        drain(&config, &switchboard).await;
    }
    if let Some(sip) = sip {
        sip.close().await;
    }
    stop.send(true).ok();
    for listener in listeners {
        tokio::time::timeout(FINISH_WITHIN, listener).await.ok();
    }
    // Who was hung up on is told now, not after the next start.
    last_texts.send(true).ok();
    if let Some(texts) = &mut texts
        && tokio::time::timeout(TEXTS_WITHIN, &mut *texts).await.is_err()
    {
        texts.abort();
    }
    summary::finish().await;
    summaries.abort();
    house.store.close().await;
    log_event(EventName::ServiceStopped, None, &[]);
    end
}

/// Binds the SIP listeners, where there are any.
async fn start_sip(
    config: &Config,
    key: &BoxKey,
    house: &House,
) -> Result<Option<(Sip, mpsc::Receiver<Invite>)>, RunError> {
    if config.sip.is_none() {
        return Ok(None);
    }
    let roots = tls::roots_pem(&config.http.extra_roots).map_err(boot)?;
    let metrics = Arc::clone(&house.metrics);
    let setup = sip::Setup { config, roots, key: key.clone(), metrics, nameservers: Vec::new() };
    Sip::start(setup).await.map(Some).map_err(boot)
}

/// Hands what comes by SIP to the switchboard, from now on.
fn take_invites(sip: Sip, mut invites: mpsc::Receiver<Invite>, switchboard: Switchboard) -> Sip {
    tokio::spawn(async move {
        while let Some(invite) = invites.recv().await {
            switchboard.invite(invite).await;
        }
    });
    sip
}

/// What may be agreed on with each trunk, by its name.
fn media_of_trunks(config: &Config) -> BTreeMap<Arc<str>, Arc<RtpLegSettings>> {
    let settings = |codecs: &[Codec], srtp, bind, advertise| {
        Arc::new(RtpLegSettings { codecs: codecs.to_vec(), srtp, bind, advertise, strict_source: false, frames: None })
    };
    let of_trunk = |trunk: &Trunk| {
        let srtp = if trunk.srtp == Srtp::Sdes { SrtpPolicy::Sdes } else { SrtpPolicy::Off };
        (Arc::from(trunk.name.as_str()), settings(&trunk.codecs, srtp, trunk.bind, trunk.advertise))
    };
    // Meta's media is Opus, protected by keys in the SDP or by DTLS (whatsapp-calling §4).
    let whatsapp = (Arc::from(WHATSAPP_TRUNK), settings(&[Codec::Opus], SrtpPolicy::Sdes, None, None));
    config.trunks.iter().map(of_trunk).chain([whatsapp]).filter(|_| config.sip.is_some()).collect()
}

/// To whom callers are handed.
fn hand_on(config: &Config, trunks: &BTreeMap<Arc<str>, Arc<RtpLegSettings>>) -> Option<HandOn> {
    let to = config.transfer.clone()?;
    let media = Arc::clone(trunks.get(to.trunk.as_str())?);
    let trunk = config.trunks.iter().find(|trunk| trunk.name == to.trunk)?;
    Some(HandOn { public_network: trunk.public_network, media, to })
}

/// Everything that calls share.
async fn build(config: &Arc<Config>, key: &BoxKey, dead: &mpsc::Sender<String>) -> Result<Arc<House>, RunError> {
    let Some(openai) = config.openai.clone() else {
        return Err(boot("nothing to serve: the config needs [openai]"));
    };
    if config.whatsapp.is_none() && config.sip.is_none() {
        return Err(boot("nothing to serve: the config needs [whatsapp], or [sip] and a [[trunk]]"));
    }
    let path = config.ledger.path.clone();
    let sealing = key.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&path, &sealing)).await.map_err(boot)?.map_err(boot)?;
    let Some((language, texts)) = language::of_call(None, &config.node.languages, &config.agent) else {
        return Err(boot("no language of node.languages has texts under [agent]"));
    };
    let agent = config.agent.clone();
    let (clips, findings) = tokio::task::spawn_blocking(move || Clips::load(&agent)).await.map_err(boot)?;
    findings.log();
    let metrics = Arc::new(Metrics::new());
    let barge_in = config.openai.as_ref().map_or(BargeIn::Off, |openai| openai.turn.judged_here());
    // A caller who is handed on has a second leg beside her own.
    let persons = if config.transfer.is_some() { (config.limits.max_calls / 4).max(2) } else { 0 };
    let legs = config.limits.max_calls + persons;
    let lanes = Lanes::start(&config.media, barge_in, legs, dead).map_err(boot)?;
    let tls = tls::client(&config.http.extra_roots).map_err(boot)?;
    let whatsapp = config.whatsapp.clone().map(Arc::new);
    let providers = Arc::new(Providers::new(&openai, &tls, Arc::clone(&metrics)).map_err(boot)?);
    let graph = match &whatsapp {
        Some(whatsapp) => Some(Graph::new(Arc::clone(whatsapp), &tls, Arc::clone(&metrics)).map_err(boot)?),
        None => None,
    };
    let trunks: BTreeMap<_, _> = media_of_trunks(config);
    let clips = if trunks.is_empty() { clips } else { clips.with_narrow() };
    Ok(Arc::new(House {
        limits: config.limits.clone(),
        whatsapp,
        openai,
        agent: config.agent.clone(),
        prices: config.prices.clone(),
        languages: config.node.languages.clone(),
        language,
        texts: texts.clone(),
        clips,
        key: key.clone(),
        store,
        lanes: Arc::new(lanes),
        graph,
        transfer: hand_on(config, &trunks),
        trunks,
        sip: OnceLock::new(),
        providers,
        metrics,
        texts_ring: Arc::new(Notify::new()),
        random: SystemRandom::new(),
    }))
}

/// Keeps `[openai] warm` sessions ready, in the language that a call starts in.
fn keep_warm(house: &Arc<House>) -> Option<warm::Pool> {
    let settings = warm::Settings {
        size: house.openai.warm,
        update: house.session_update(house.language, AudioFormat::Pcm24),
        max_output_tokens: house.openai.max_output_tokens,
    };
    (settings.size > 0).then(|| warm::Pool::start(&house.providers, settings, Arc::clone(&house.metrics)))
}

/// Closes what an earlier run left open: the rows at once, the calls at Graph and on the trunks in the background.
async fn recover(house: &Arc<House>, sip: Option<&Sip>) -> Result<(), RunError> {
    let left = house.store.recover(Timestamp::now()).await.map_err(boot)?;
    for door in left.closed {
        house.metrics.call_ended(door, Outcome::Restart, Fault::Box);
    }
    let farewells = Farewells {
        sip: sip.cloned(),
        turn: Arc::new(Semaphore::new(FAREWELLS)),
        until: tokio::time::Instant::now() + FAREWELLS_WITHIN,
    };
    for call in left.unfinished {
        let values = [(Field::Outcome, "restart".into()), (Field::Fault, "box".into())];
        log_event(EventName::CallRecovered, Some(call.call_id), &values);
        let (house, farewells) = (Arc::clone(house), farewells.clone());
        tokio::spawn(async move { release(&house, &farewells, call).await });
    }
    Ok(())
}

/// The last words to trunks whose calls a crash left open: a few at one time, and not for ever.
#[derive(Clone)]
struct Farewells {
    sip: Option<Sip>,
    turn: Arc<Semaphore>,
    until: tokio::time::Instant,
}

impl Farewells {
    async fn say(&self, call: &Unfinished) {
        for dialog in &call.dialogs {
            // The semaphore is never closed.
            let turn = tokio::time::timeout_at(self.until, self.turn.acquire()).await;
            let said = match (&self.sip, turn) {
                (Some(sip), Ok(_turn)) => sip.farewell(dialog).await,
                (None, _) | (_, Err(_)) => Farewell::NotSent,
            };
            if !said.is_done() {
                let values = [(Field::Stage, "farewell".into()), (Field::Reason, said.label().into())];
                log_event(trouble_event(call.door), Some(call.call_id), &values);
            }
        }
    }
}

async fn release(house: &House, farewells: &Farewells, call: Unfinished) {
    // Once, whatever becomes of it: a trunk that is told days later has long noticed.
    farewells.say(&call).await;
    if let Some(wacid) = call.live.as_ref().and_then(|live| live.wacid.as_ref())
        && let Some(graph) = &house.graph
        && let Err(error) = graph.act(Action::Terminate, wacid, None, None).await
        && !error.is_as_good_as_done()
    {
        log_event(EventName::WaVoiceError, Some(call.call_id), &graph_error_fields(&error));
        if error.class == RetryClass::Retry {
            // It stays sealed and is tried again at the next start; Meta's own media timeout ends it meanwhile.
            return;
        }
    }
    if house.store.release(call.call_id).await.is_err() {
        house.metrics.webhook("recovery_not_written");
    }
}

fn say_ready(vitals: &Vitals, (public, admin): (SocketAddr, SocketAddr)) {
    vitals.ready.store(true, Ordering::Relaxed);
    let sip = [("sip.udp", Transport::Udp), ("sip.tcp", Transport::Tcp), ("sip.tls", Transport::Tls)];
    let sip = sip.into_iter().filter_map(|(name, transport)| Some((name, vitals.sip.as_ref()?.address(transport)?)));
    for (name, address) in [("public", public), ("admin", admin)].into_iter().chain(sip) {
        let values = [(Field::Stage, name.into()), (Field::Address, SafeName::new(&address.to_string()).into())];
        log_event(EventName::ListenerBound, None, &values);
    }
    log_event(EventName::ServiceReady, None, &[(Field::Version, env!("CARGO_PKG_VERSION").into())]);
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status("serving")]);
}

/// Tells systemd; without it there is nobody to tell.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    sd_notify::notify(states).ok();
}

/// Serves signals and heartbeats until the daemon has to stop.
async fn wait_for_the_end(
    config: &Config,
    certificate: Option<watch::Sender<TlsAcceptor>>,
    vitals: &Vitals,
    dead: &mut mpsc::Receiver<String>,
) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(boot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(boot)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(boot)?;
    let period = sd_notify::watchdog_enabled().map_or(Duration::from_secs(10), |period| period / 2);
    let mut heartbeat = tokio::time::interval(period);
    let mut health = Vec::new();
    let mut store_closed = pin!(vitals.store.closed());
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => {
                reload(config.http.tls.as_ref(), certificate.as_ref());
                if let Some(sip) = &vitals.sip {
                    reload_sip(sip).await;
                }
            }
            why = dead.recv() => return Err(RunError::Dead(why.unwrap_or_else(|| "a lane".to_owned()))),
            () = &mut store_closed => return Err(RunError::Dead("the ledger's thread".to_owned())),
            _ = heartbeat.tick() => {
                let conditions = vitals.conditions().into_iter().chain(vitals.remarks()).collect();
                health = say_health(health, conditions);
                if vitals.switchboard.is_alive() {
                    let status = format!("{} calls", vitals.switchboard.live());
                    notify(&[sd_notify::NotifyState::Watchdog, sd_notify::NotifyState::Status(&status)]);
                } else {
                    return Err(RunError::Dead("the switchboard".to_owned()));
                }
            }
        }
    }
}

/// Conditions that came or went since `before`.
fn changes(before: &[&'static str], now: &[&'static str]) -> Vec<(&'static str, &'static str)> {
    let came = now.iter().filter(|name| !before.contains(name)).map(|name| (*name, "came"));
    let went = before.iter().filter(|name| !now.contains(name)).map(|name| (*name, "went"));
    came.chain(went).collect()
}

/// Logs what has changed since `before`; returns what holds now.
fn say_health(before: Vec<&'static str>, now: Vec<&'static str>) -> Vec<&'static str> {
    for (condition, change) in changes(&before, &now) {
        log_event(EventName::HealthChanged, None, &[(Field::Stage, condition.into()), (Field::Reason, change.into())]);
    }
    now
}

/// Rereads the certificate of the SIP listener; a bad one leaves the old one in use.
async fn reload_sip(sip: &Sip) {
    match sip.reload().await {
        Ok(()) => log_event(EventName::ServiceReloaded, None, &[(Field::Stage, "sip.certificate".into())]),
        Err(_) => log_event(EventName::ServiceError, None, &[(Field::Stage, "sip.certificate".into())]),
    }
}

/// Rereads the certificate; a bad one leaves the old one in use.
fn reload(files: Option<&TlsFiles>, certificate: Option<&watch::Sender<TlsAcceptor>>) {
    let (Some(files), Some(certificate)) = (files, certificate) else { return };
    match tls::acceptor(files) {
        Ok(acceptor) => {
            certificate.send_replace(acceptor);
            log_event(EventName::ServiceReloaded, None, &[(Field::Stage, "certificate".into())]);
        }
        Err(_) => {
            let values =
                [(Field::Stage, "certificate".into()), (Field::Reason, "unreadable, the old one stays".into())];
            log_event(EventName::ServiceError, None, &values);
        }
    }
}

async fn drain(config: &Config, switchboard: &Switchboard) {
    notify(&[sd_notify::NotifyState::Stopping]);
    log_event(EventName::ServiceDraining, None, &[(Field::Count, switchboard.live().into())]);
    switchboard.drain(config.limits.drain).await;
}

#[cfg(test)]
mod tests {
    use super::changes;

    #[test]
    fn a_condition_is_told_when_it_comes_and_when_it_goes() {
        assert_eq!(changes(&[], &["ledger"]), [("ledger", "came")]);
        assert_eq!(changes(&["ledger"], &["ledger"]), []);
        assert_eq!(changes(&["ledger"], &["switchboard"]), [("switchboard", "came"), ("ledger", "went")]);
    }
}

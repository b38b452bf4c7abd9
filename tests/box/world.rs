//! A daemon under test and everybody it talks to: the real binary as a child, the emulated far ends in this process.
//!
//! Every daemon's log is parsed as it comes and kept in the folder that the log search looks through. What a world
//! starts ends with it; no other process is ever touched.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sauti::simulate::loopback::Emulators;
use sauti::simulate::loopback::phones::{self, Lived, Manner, Plan};
use sauti::simulate::loopback::realtime::{Choose, Finished};
use sauti::simulate::loopback::tally::Tally;
use sauti::store::read::{CallRow, Reader};
use sauti_core::pii::{BoxKey, Pii};
use sauti_core::whatsapp::graph::Ask;
use sauti_core::whatsapp::signature::{SIGNATURE_HEADER, sign};
use sauti_core::whatsapp::wacid::wacid_hash;
use sauti_media::webrtc::Certificate;
use sauti_media::webrtc_sdp::OfferShape;
use sauti_sim::caller::person::{Person as Speaker, Step};
use sauti_sim::caller::phone::Phone;
use sauti_sim::openai::{ExpectedKey, Latency, RequestFacts, Script, ServerSettings};
use sauti_sim::whatsapp::delivery::{Habits, PostOffice};
use sauti_sim::whatsapp::graph::{Graph, GraphOptions};
use sauti_sim::whatsapp::person::{Business, Person};
use sauti_sim::whatsapp::webhooks::{Change, Generation, Webhooks, body};
use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The number's id at Graph.
pub(crate) const NUMBER: &str = "100000000000002";
const TOKEN: &str = "canary-whatsapp-token";
pub(crate) const APP_SECRET: &str = "canary-app-secret";
pub(crate) const VERIFY_TOKEN: &str = "canary-verify-token";
pub(crate) const SIP_PASSWORD: &str = "canary-trunk-password";
const API_KEY: &str = "canary-openai-key";
/// 32 bytes in hex, worth nothing.
const BOX_KEY: [u8; 32] = [0x2a; 32];
/// Longest wait for anything that should happen at once; a machine under load takes its time.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a world is like, beyond what every world is.
pub(crate) struct Options {
    /// Names the log.
    pub(crate) name: &'static str,
    /// `[node] languages`.
    pub(crate) languages: &'static str,
    /// Lines of `[limits]`.
    pub(crate) limits: &'static str,
    /// Lines of `[media]`, ports aside.
    pub(crate) media: &'static str,
    /// `[openai]` and its tables, from the address of the emulated model.
    pub(crate) openai: fn(&str) -> String,
    /// The model's behaviour, by connection.
    pub(crate) model: Arc<Choose>,
    /// How webhooks arrive.
    pub(crate) habits: Habits,
    /// Ports of media.
    pub(crate) ports: std::ops::RangeInclusive<u16>,
    /// Lines of `[whatsapp]`.
    pub(crate) whatsapp: &'static str,
    /// More of a configuration, at its end; `{folder}` in it is the folder of the ledger.
    pub(crate) more: String,
    /// Puts files there that it names.
    pub(crate) prepare: fn(&Path),
}

impl Options {
    pub(crate) fn named(name: &'static str) -> Self {
        Self {
            name,
            languages: r#"["en"]"#,
            limits: "",
            media: "port_drain = \"1s\"\n",
            openai: |url| format!("url = \"{url}\"\n"),
            model: Arc::new(|facts| model(Script::tones(3, Duration::from_secs(2)), facts)),
            habits: Habits::prompt(),
            ports: MEDIA_PORTS,
            whatsapp: "",
            more: String::new(),
            prepare: |_| {},
        }
    }
}

/// A model that answers at once, with this script.
pub(crate) fn model(script: Script, facts: &RequestFacts) -> ServerSettings {
    let mut settings = ServerSettings::new(ExpectedKey::new(API_KEY), script);
    settings.latency = Latency::ZERO;
    settings.owned_sessions = true;
    settings.seed = settings.seed.wrapping_add(facts.connection);
    settings.opened_at = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
    settings
}

/// A running daemon.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<Vec<Value>>>,
    reader: JoinHandle<()>,
}

impl Daemon {
    async fn start(name: &str, config: &Path) -> Self {
        let mut child = run_command(config).spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (kept, mut file) = (Arc::clone(&log), log_file(name));
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                writeln!(file, "{line}").expect("the log folder has room");
                let entry = serde_json::from_str(&line).unwrap_or(Value::String(line));
                kept.lock().expect("no test panics while it reads the log").push(entry);
            }
        });
        let nowhere = (Ipv4Addr::UNSPECIFIED, 0).into();
        let mut daemon = Self { child, public: nowhere, admin: nowhere, log, reader };
        until("the daemon serves", || !daemon.entries("SERVICE_READY").is_empty()).await;
        daemon.public = daemon.bound("public");
        daemon.admin = daemon.bound("admin");
        daemon
    }

    pub(crate) fn bound(&self, which: &str) -> SocketAddr {
        let bound = self.entries("LISTENER_BOUND");
        let entry = bound.iter().find(|entry| entry["STAGE"] == which).expect("every listener is logged");
        entry["ADDRESS"].as_str().and_then(|text| text.parse().ok()).expect("an address")
    }

    /// Everything that it logged.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.log.lock().expect("no test panics while it reads the log").clone()
    }

    /// What it logged under this name.
    pub(crate) fn entries(&self, event: &str) -> Vec<Value> {
        self.log().into_iter().filter(|entry| entry["EVENT"] == event).collect()
    }

    /// The names of a call's events, in order.
    pub(crate) fn events_of(&self, call_id: &str) -> Vec<String> {
        let log = self.log();
        let own = log.iter().filter(|entry| entry["CALL_ID"] == call_id);
        own.filter_map(|entry| entry["EVENT"].as_str().map(str::to_owned)).collect()
    }

    /// Its UDP sockets in a range of ports.
    pub(crate) fn udp_ports(&self, within: &std::ops::RangeInclusive<u16>) -> Vec<u16> {
        udp_ports(self.pid(), within)
    }

    /// What it holds of this machine.
    pub(crate) fn footprint(&self) -> Footprint {
        Footprint::of(self.pid())
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("the daemon runs")
    }

    /// Sends a signal to this daemon and nobody else.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("the daemon is there");
    }

    /// Waits for its end and for the last line of its log.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let status = tokio::time::timeout(SOON, self.child.wait()).await.expect("the daemon ends in time");
        (&mut self.reader).await.expect("the log is read to its end");
        status.expect("a child has a status")
    }
}

/// Ports that a world gives to media.
pub(crate) const MEDIA_PORTS: std::ops::RangeInclusive<u16> = 45_000..=48_999;

/// What a process holds of this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Footprint {
    pub(crate) descriptors: usize,
    /// UDP sockets on ports of media.
    pub(crate) media_sockets: usize,
    pub(crate) rss_kib: u64,
    pub(crate) threads: u64,
}

impl Footprint {
    fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("proc(5) has it");
            line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
        };
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon runs");
        Self {
            descriptors: files.count(),
            media_sockets: udp_ports(pid, &MEDIA_PORTS).len(),
            rss_kib: field("VmRSS:"),
            threads: field("Threads:"),
        }
    }
}

/// The ports in a range that UDP sockets of a process are bound to.
fn udp_ports(pid: u32, within: &std::ops::RangeInclusive<u16>) -> Vec<u16> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon runs");
    // One that was closed since has no name any more.
    let names: Vec<_> = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()).collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/udp")).expect("proc(5) has it");
    let port = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let port = u16::from_str_radix(columns.get(1)?.split_once(':')?.1, 16).ok()?;
        let name = format!("socket:[{}]", columns.get(9)?);
        let owned = names.iter().any(|found| found.as_os_str() == name.as_str());
        (owned && within.contains(&port)).then_some(port)
    };
    table.lines().skip(1).filter_map(port).collect()
}

/// `sauti run` with every secret that it needs.
fn run_command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sauti"));
    command
        .arg("run")
        .arg("--config")
        .arg(config)
        .env_clear()
        .envs([
            ("SAUTI_WHATSAPP_ACCESS_TOKEN", TOKEN.to_owned()),
            ("SAUTI_WHATSAPP_APP_SECRET", APP_SECRET.to_owned()),
            ("SAUTI_WHATSAPP_VERIFY_TOKEN", VERIFY_TOKEN.to_owned()),
            ("SAUTI_WHATSAPP_SIP_PASSWORD", SIP_PASSWORD.to_owned()),
            ("SAUTI_OPENAI_API_KEY", API_KEY.to_owned()),
            ("SAUTI_BOX_KEY", hex::encode(BOX_KEY)),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The log folder that `.ci/grep-logs` looks through.
fn log_file(name: &str) -> File {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let beside_build = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("test-logs");
    let folder = std::env::var_os("SAUTI_TEST_LOGS").map_or_else(beside_build, PathBuf::from);
    std::fs::create_dir_all(&folder).expect("the log folder can be made");
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("box-{name}-{}-{number}.log", std::process::id()));
    OpenOptions::new().create(true).append(true).open(path).expect("the log can be written")
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    until_async(what, async || holds()).await;
}

/// Waits until something holds that has to be asked for.
pub(crate) async fn until_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited {SOON:?} in vain: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A daemon, Meta, the model, and a folder for the ledger.
pub(crate) struct World {
    name: &'static str,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) daemon: Daemon,
    pub(crate) far: Emulators,
    pub(crate) business: Business,
    pub(crate) tally: Arc<Tally>,
    /// Of the phones, for DTLS.
    pub(crate) certificate: Arc<Certificate>,
    pub(crate) http: reqwest::Client,
}

impl World {
    pub(crate) async fn start(options: Options) -> Self {
        // A second world of one process finds it installed.
        rustls::crypto::ring::default_provider().install_default().ok();
        let folder = tempfile::tempdir().expect("a folder");
        let business = Business::test(NUMBER);
        let graph = Graph::new(GraphOptions::prompt(NUMBER, SecretString::from(TOKEN)), 7);
        let post = PostOffice::new(business.clone(), SecretString::from(APP_SECRET), options.habits, 7);
        let webhooks = Webhooks { business: business.clone(), generation: Generation::Of2026 };
        let (target, told) = oneshot::channel();
        let far = Emulators::start(graph, post, webhooks, told, options.model.clone()).await.expect("free ports");
        (options.prepare)(folder.path());
        let config = folder.path().join("config.toml");
        std::fs::write(&config, configuration(&options, &far, folder.path())).expect("the folder can be written");
        let daemon = Daemon::start(options.name, &config).await;
        target.send(webhook_address(daemon.public)).expect("Meta waits for the address");
        Self {
            name: options.name,
            folder,
            daemon,
            far,
            business,
            tally: Arc::new(Tally::default()),
            certificate: Arc::new(Certificate::generate().expect("a certificate")),
            http: reqwest::Client::builder().no_proxy().timeout(SOON).build().expect("a client"),
        }
    }

    /// Starts the daemon anew, on the same ledger; the former one must have ended.
    pub(crate) async fn restart(&mut self) {
        self.daemon = Daemon::start(self.name, &self.folder.path().join("config.toml")).await;
        self.far.meta.retarget(webhook_address(self.daemon.public)).await;
    }

    /// Starts the daemon with `before` in its configuration written as `after`, which must keep it from becoming ready;
    /// the former one must have ended. Returns its exit code, and everything that it said.
    pub(crate) async fn does_not_start(&self, before: &str, after: &str) -> (Option<i32>, String) {
        let text = std::fs::read_to_string(self.folder.path().join("config.toml")).expect("the configuration");
        assert!(text.contains(before), "{text}");
        let config = self.folder.path().join("changed.toml");
        std::fs::write(&config, text.replace(before, after)).expect("the folder can be written");
        let output = tokio::time::timeout(SOON, run_command(&config).output()).await.expect("it ends in time");
        let output = output.expect("the binary starts");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        write!(log_file(self.name), "{said}").expect("the log folder has room");
        (output.status.code(), said)
    }

    /// Somebody calls, on a phone as it should be.
    pub(crate) fn call(&self, who: u32, script: Vec<Step>) -> JoinHandle<Lived> {
        self.call_as(who, script, Manner::default())
    }

    /// Somebody calls on a phone with peculiarities; the call lasts a minute at most.
    pub(crate) fn call_as(&self, who: u32, script: Vec<Step>, manner: Manner) -> JoinHandle<Lived> {
        let plan = Plan {
            number: usize::try_from(who).expect("a small number"),
            identity: Person::numbered(who),
            script,
            length: Duration::from_secs(60),
            dial_after: Duration::ZERO,
        };
        let (certificate, tally) = (Arc::clone(&self.certificate), Arc::clone(&self.tally));
        tokio::spawn(phones::call_as(plan, manner, certificate, self.far.meta.clone(), tally))
    }

    /// An offer that a phone could have made, of a call that began at this time.
    pub(crate) fn offer(&self, began: Timestamp) -> Pii {
        let shape = OfferShape {
            created_ms: u64::try_from(began.as_millisecond()).expect("a time of this century"),
            ..OfferShape::default()
        };
        // Nobody answers there: these calls are not to get that far.
        let local = (Ipv4Addr::LOCALHOST, 9).into();
        let phone = Phone::dial(Instant::now(), local, &self.certificate, &shape, Speaker::new(Vec::new()));
        Pii::new(phone.expect("an offer").1)
    }

    /// Writes webhooks as Meta does.
    pub(crate) fn webhooks(&self) -> Webhooks {
        Webhooks { business: self.business.clone(), generation: Generation::Of2026 }
    }

    /// Posts changes, signed; returns the status.
    pub(crate) async fn post(&self, changes: &[Change]) -> u16 {
        self.post_signed(body(&self.business, changes)).await
    }

    /// Posts bytes, signed; returns the status.
    pub(crate) async fn post_signed(&self, bytes: Vec<u8>) -> u16 {
        let signature = sign(&SecretString::from(APP_SECRET), &bytes);
        self.post_raw(bytes, Some(signature)).await
    }

    /// Posts bytes under whatever signature.
    pub(crate) async fn post_raw(&self, bytes: Vec<u8>, signature: Option<String>) -> u16 {
        let mut request = self.http.post(webhook_address(self.daemon.public)).body(bytes);
        if let Some(signature) = signature {
            request = request.header(SIGNATURE_HEADER, signature);
        }
        request.send().await.expect("the daemon answers").status().as_u16()
    }

    /// Asks a listener of the daemon: status and body.
    pub(crate) async fn get(&self, listener: SocketAddr, path: &str) -> (u16, String) {
        let answer = self.http.get(format!("http://{listener}{path}")).send().await.expect("the daemon answers");
        let status = answer.status().as_u16();
        (status, answer.text().await.expect("a text"))
    }

    /// Every metric by its name with labels.
    pub(crate) async fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, text) = self.get(self.daemon.admin, "/metrics").await;
        assert_eq!(status, 200, "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// One metric; 0 when it is not there.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        self.metrics().await.get(name).copied().unwrap_or(0.0)
    }

    /// The gauges of the internal tables.
    pub(crate) async fn tables(&self) -> BTreeMap<String, f64> {
        let mut tables = self.metrics().await;
        tables.retain(|name, _| name.starts_with("sauti_table_"));
        assert!(tables.len() >= 7, "{tables:?}");
        tables
    }

    /// Waits until the last caller's permit is back: then nobody is refused for want of it, and no lane is late for her.
    pub(crate) async fn until_nobody_calls(&self) {
        until_async("permit and slot are back", async || {
            let tables = self.tables().await;
            tables["sauti_table_calls"] == 0.0 && tables["sauti_table_slots"] == 0.0
        })
        .await;
    }

    /// Waits until every table is empty again.
    pub(crate) async fn until_tables_are_empty(&self) {
        self.until_tables_are_empty_within(SOON).await;
    }

    /// The same with another patience.
    pub(crate) async fn until_tables_are_empty_within(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let tables = self.tables().await;
            if tables.values().all(|size| *size == 0.0) {
                return;
            }
            assert!(Instant::now() < deadline, "tables that do not empty: {tables:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How often Graph was asked for something.
    pub(crate) async fn asked(&self, ask: Ask) -> usize {
        self.far.meta.seen().await.iter().filter(|seen| seen.ask == Some(ask)).count()
    }

    /// The ledger's file.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.folder.path().join("ledger.db")
    }

    /// The ledger's calls, in their order.
    pub(crate) fn rows(&self) -> Vec<CallRow> {
        let reader = Reader::open(&self.ledger()).expect("a ledger");
        reader.latest(100_000).expect("it can be read")
    }

    /// The rows of one call of Meta; there should never be more than one.
    pub(crate) fn rows_of(&self, wacid: &Pii) -> Vec<CallRow> {
        let hash = wacid_hash(&BoxKey::new(BOX_KEY), wacid).to_string();
        self.rows().into_iter().filter(|row| row.wa_call_id_hash.as_deref() == Some(&hash)).collect()
    }

    /// Waits until the one row of a call has its outcome, and returns it.
    pub(crate) async fn ended(&self, wacid: &Pii) -> CallRow {
        let mut rows = Vec::new();
        until("the call has an outcome", || {
            rows = self.rows_of(wacid);
            rows.first().is_some_and(|row| row.outcome.is_some())
        })
        .await;
        assert_eq!(rows.len(), 1, "one call, one row: {rows:?}");
        rows.remove(0)
    }

    /// What stands for a caller in ledger, log and headers.
    pub(crate) fn hash_of(&self, caller: &sauti_core::pii::CallerAddress) -> String {
        caller.hash(&BoxKey::new(BOX_KEY)).expect("somebody").to_string()
    }

    /// What all ended sessions with the model left behind; waits until those that run have ended.
    pub(crate) async fn sessions(&self) -> Vec<Finished> {
        until("the sessions with the model are closed", || self.far.sessions.open() == 0).await;
        self.far.sessions.take_finished()
    }

    /// Runs `sauti calls` on this ledger.
    pub(crate) async fn calls(&self, arguments: &[&str]) -> Output {
        let config = self.folder.path().join("config.toml");
        let output = Command::new(env!("CARGO_BIN_EXE_sauti"))
            .arg("calls")
            .args(arguments)
            .arg("--config")
            .arg(config)
            .env_clear()
            .output()
            .await
            .expect("the binary starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The SIP messages of a call in the ledger, `<- INVITE` and `-> 180`, without those that are repeated or only say
    /// that something is being tried.
    pub(crate) async fn messages(&self, call_id: &str) -> Vec<String> {
        self.messages_of(call_id, 0).await
    }

    /// The same of one leg: 0 is the caller's, 1 that of whom she was handed to.
    pub(crate) async fn messages_of(&self, call_id: &str, leg: u8) -> Vec<String> {
        let call: Value =
            serde_json::from_str(&printed(&self.calls(&["show", call_id, "--json"]).await)).expect("JSON");
        let lines = call["sip"].as_array().expect("an array").iter().filter(|line| line["leg"] == leg);
        let mut messages: Vec<String> = lines
            .map(|line| {
                let way = if line["way"] == "in" { "<-" } else { "->" };
                let first = line["first"].as_str().and_then(|first| first.split(' ').next()).expect("a first line");
                format!("{way} {first}")
            })
            .filter(|line| line != "-> 100")
            .collect();
        messages.dedup();
        messages
    }

    /// Stops the daemon as systemd does.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.daemon.signal(Signal::SIGTERM);
        self.daemon.ended().await
    }
}

fn webhook_address(public: SocketAddr) -> String {
    format!("http://{public}/webhooks/whatsapp")
}

fn configuration(options: &Options, far: &Emulators, folder: &Path) -> String {
    format!(
        r#"[node]
id = "under-test"
languages = {languages}
[http]
public = "127.0.0.1:0"
admin = "127.0.0.1:0"
[media]
bind = "127.0.0.1"
ports = "{first}-{last}"
{media}
[limits]
{limits}
[whatsapp]
phone_number_id = "{NUMBER}"
graph_url = "http://{graph}"
{whatsapp}
[openai]
{openai}
[ledger]
path = "{ledger}"
{more}"#,
        first = options.ports.start(),
        last = options.ports.end(),
        whatsapp = options.whatsapp,
        more = options.more.replace("{folder}", &folder.display().to_string()),
        languages = options.languages,
        media = options.media,
        limits = options.limits,
        graph = far.graph,
        openai = (options.openai)(&format!("http://{}/v1", far.realtime)),
        ledger = folder.join("ledger.db").display(),
    )
}

/// An id as Meta makes them, for calls that Graph need not know.
pub(crate) fn wacid(number: u32) -> Pii {
    Pii::new(format!("wacid.HBgMMjUwNzgwMDAwMDAxFQIAEhgg{number:020}"))
}

/// The lines of a script that listens to the greeting, pauses and hangs up.
pub(crate) fn listen_and_leave() -> Vec<Step> {
    vec![Step::Listen, Step::HangUp]
}

/// The script of somebody who stays until hung up on.
pub(crate) fn stay() -> Vec<Step> {
    vec![Step::Pause(Duration::from_secs(60))]
}

/// What a program printed.
pub(crate) fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

//! The daemon as it is installed, between the product's own emulated far ends, for callers from outside.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sauti::simulate::loopback::Emulators;
use sauti::simulate::loopback::realtime::Finished;
use sauti::store::read::{CallRow, Reader};
use sauti_sim::openai::{ExpectedKey, RequestFacts, Script, ServerSettings};
use sauti_sim::whatsapp::delivery::{Habits, PostOffice};
use sauti_sim::whatsapp::graph::{Graph, GraphOptions};
use sauti_sim::whatsapp::person::Business;
use sauti_sim::whatsapp::webhooks::{Generation, Webhooks};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::outside;

const PHONE_NUMBER_ID: &str = "100000000000002";
const ACCESS_TOKEN: &str = "canary-whatsapp-token";
const APP_SECRET: &str = "canary-app-secret";
const VERIFY_TOKEN: &str = "canary-verify-token";
pub(crate) const API_KEY: &str = "canary-openai-key";
/// Of a trunk that is called `carrier`.
const TRUNK_PASSWORD: &str = "canary-trunk-password";
const READY_WITHIN: Duration = Duration::from_secs(30);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// A daemon between its far ends.
pub(crate) struct Stage {
    pub(crate) emulators: Emulators,
    pub(crate) folder: TempDir,
    /// Where the daemon listens, by the names that its log gives.
    pub(crate) listeners: BTreeMap<String, SocketAddr>,
    child: Child,
    log: JoinHandle<Vec<String>>,
}

/// What a stage leaves behind.
pub(crate) struct Left {
    pub(crate) rows: Vec<CallRow>,
    pub(crate) sessions: Vec<Finished>,
    pub(crate) log: Vec<String>,
    pub(crate) folder: TempDir,
}

/// The emulated model with a script, and nothing else: for clients of others.
pub(crate) fn model(script: Script) -> ServerSettings {
    let mut settings = ServerSettings::new(ExpectedKey::new(API_KEY), script);
    settings.opened_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    settings
}

/// The far ends; webhooks go where `target` will say.
pub(crate) async fn far_ends(settings: ServerSettings, target: oneshot::Receiver<String>) -> Emulators {
    // The webhooks' own client asks for a provider of TLS, though it only speaks to this machine.
    rustls::crypto::ring::default_provider().install_default().ok();
    let business = Business::test(PHONE_NUMBER_ID);
    let graph = Graph::new(GraphOptions::real(PHONE_NUMBER_ID, SecretString::from(ACCESS_TOKEN)), 1);
    let post = PostOffice::new(business.clone(), SecretString::from(APP_SECRET), Habits::prompt(), 1);
    let webhooks = Webhooks { business, generation: Generation::Of2026 };
    let choose = move |_: &RequestFacts| settings.clone();
    Emulators::start(graph, post, webhooks, target, Arc::new(choose)).await.expect("the far ends listen")
}

impl Stage {
    /// Starts everything in the network that this thread is in; media is bound to `media`. `name` names the log.
    pub(crate) async fn open(name: &str, script: Script, media: Ipv4Addr) -> Self {
        Self::open_with(name, model(script), media, "").await
    }

    /// The same with a model of other settings, and more of a configuration at its end.
    pub(crate) async fn open_with(name: &str, model: ServerSettings, media: Ipv4Addr, more: &str) -> Self {
        let (target, told) = oneshot::channel();
        let emulators = far_ends(model, told).await;
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("config.toml");
        let text = configuration(&emulators, media, &folder.path().join("ledger.db")) + more;
        std::fs::write(&config, text).expect("the configuration can be written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_sauti"))
            .args(["run", "--config"])
            .arg(&config)
            .env("SAUTI_WHATSAPP_ACCESS_TOKEN", ACCESS_TOKEN)
            .env("SAUTI_WHATSAPP_APP_SECRET", APP_SECRET)
            .env("SAUTI_WHATSAPP_VERIFY_TOKEN", VERIFY_TOKEN)
            .env("SAUTI_OPENAI_API_KEY", API_KEY)
            .env("SAUTI_TRUNK_CARRIER_PASSWORD", TRUNK_PASSWORD)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the daemon starts");
        let stderr = child.stderr.take().expect("it has a standard error");
        let path = outside::log_folder().join(format!("interop-{name}.log"));
        let file = OpenOptions::new().create(true).append(true).open(path).expect("its log can be kept");
        let (ready_tx, ready) = oneshot::channel();
        let log = tokio::spawn(follow(stderr, ready_tx, file));
        let Ok(Ok(listeners)) = tokio::time::timeout(READY_WITHIN, ready).await else {
            child.start_kill().ok();
            panic!("the daemon did not start; it said:\n{}", log.await.unwrap_or_default().join("\n"));
        };
        let public = listeners.get("public").expect("it listens for webhooks");
        target.send(format!("http://{public}/webhooks/whatsapp")).expect("the far ends wait for it");
        Self { emulators, folder, listeners, child, log }
    }

    /// Waits for the model's side of the calls, stops the daemon as systemd would, and reads its ledger.
    pub(crate) async fn close(mut self) -> Left {
        let patience = tokio::time::Instant::now() + CLOSE_WITHIN;
        while self.emulators.sessions.open() > 0 && tokio::time::Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let sessions = self.emulators.sessions.take_finished();
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("the daemon still runs");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it can be told to stop");
        let status = tokio::time::timeout(STOP_WITHIN, self.child.wait()).await;
        let log = self.log.await.unwrap_or_default();
        let status = status.expect("it stops when told to").expect("it has a status");
        assert!(status.success(), "the daemon ended with {status}; it said:\n{}", log.join("\n"));
        let reader = Reader::open(&self.folder.path().join("ledger.db")).expect("the ledger can be read");
        let rows = reader.latest(1_000).expect("the ledger has its calls");
        Left { rows, sessions, log, folder: self.folder }
    }
}

impl Left {
    /// The one call that there was: answered, ended by the caller, without fault on any side. Returns what the model
    /// received, 24 kHz.
    pub(crate) fn one_good_call(&self) -> &[i16] {
        let log = || self.log.join("\n");
        let [row] = &*self.rows else { panic!("{} calls in the ledger:\n{}", self.rows.len(), log()) };
        assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("completed"), Some("none")), "{}", log());
        assert!(row.accepted_at.is_some() && row.media_up_at.is_some(), "{}", log());
        let [session] = &*self.sessions else { panic!("{} sessions with the model", self.sessions.len()) };
        assert_eq!(session.record.client_faults, Vec::new(), "{}", log());
        &session.record.appended
    }

    /// Path of a file in the folder of this stage.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}

fn configuration(emulators: &Emulators, media: Ipv4Addr, ledger: &Path) -> String {
    format!(
        r#"[node]
id = "interop"
languages = ["en"]
[http]
public = "127.0.0.1:0"
admin = "127.0.0.1:0"
[media]
bind = "{media}"
ports = "45000-45999"
[limits]
drain = "10s"
[whatsapp]
phone_number_id = "{PHONE_NUMBER_ID}"
graph_url = "http://{graph}"
[openai]
url = "http://{realtime}/v1"
[agent.en]
greeting = "Hello! How can I help you today?"
[ledger]
path = "{ledger}"
"#,
        graph = emulators.graph,
        realtime = emulators.realtime,
        ledger = ledger.display(),
    )
}

/// Keeps the daemon's log, and says where it listens once it serves.
async fn follow(
    stderr: tokio::process::ChildStderr,
    ready: oneshot::Sender<BTreeMap<String, SocketAddr>>,
    mut file: std::fs::File,
) -> Vec<String> {
    let mut lines = BufReader::new(stderr).lines();
    let (mut kept, mut listeners, mut ready) = (Vec::new(), BTreeMap::new(), Some(ready));
    while let Ok(Some(line)) = lines.next_line().await {
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if entry["EVENT"] == "LISTENER_BOUND"
            && let (Some(name), Some(address)) = (entry["STAGE"].as_str(), entry["ADDRESS"].as_str())
        {
            listeners.insert(name.to_owned(), address.parse().expect("an address"));
        }
        if entry["EVENT"] == "SERVICE_READY"
            && let Some(ready) = ready.take()
        {
            ready.send(std::mem::take(&mut listeners)).ok();
        }
        writeln!(file, "{line}").expect("the log can be kept");
        kept.push(line);
    }
    kept
}

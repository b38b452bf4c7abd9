//! The daemon under test: `sauti run` as a child, with a configuration and a ledger in a folder of its own.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::spec::{Door, HOSTNAME, Spec};
use crate::store::read::{CallRow, Reader};

/// Longest wait for the daemon to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for the daemon's end after it was told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for its metrics.
const METRICS_WITHIN: Duration = Duration::from_secs(1);
/// Where tests want the daemon's log; without it the log ends with the folder.
const LOG_FOLDER: &str = "SAUTI_TEST_LOGS";
/// Files in its folder.
const LEDGER: &str = "ledger.db";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// A running daemon.
pub(super) struct Daemon {
    child: Child,
    public: SocketAddr,
    admin: SocketAddr,
    sip: Option<SocketAddr>,
    certificate: Option<String>,
    folder: Folder,
    log: JoinHandle<Vec<String>>,
}

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

impl Daemon {
    /// Starts it and waits until it serves.
    pub(super) async fn start(spec: &Spec, graph: SocketAddr, realtime: SocketAddr) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("sauti-simulate-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let folder = Folder(folder);
        let certificate = match spec.door {
            Door::WhatsappSip => Some(certificate(&folder.0)?),
            Door::Whatsapp | Door::Trunk => None,
        };
        let config = folder.0.join("config.toml");
        std::fs::write(&config, configuration(spec, graph, realtime, &folder.0))
            .map_err(|error| format!("{}: {error}", config.display()))?;
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .env("SAUTI_WHATSAPP_ACCESS_TOKEN", &spec.access_token)
            .env("SAUTI_WHATSAPP_APP_SECRET", &spec.app_secret)
            .env("SAUTI_WHATSAPP_VERIFY_TOKEN", &spec.app_secret)
            .env("SAUTI_WHATSAPP_SIP_PASSWORD", &spec.sip_password)
            .env("SAUTI_OPENAI_API_KEY", &spec.api_key)
            .env("SAUTI_BOX_KEY", &spec.box_key)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        let stderr = child.stderr.take().ok_or("the daemon has no stderr")?;
        let (ready_tx, ready) = tokio::sync::oneshot::channel();
        let log = tokio::spawn(follow(stderr, ready_tx, log_file()));
        let Ok(Ok((public, admin, sip))) = tokio::time::timeout(READY_WITHIN, ready).await else {
            child.start_kill().ok();
            let said = log.await.unwrap_or_default().join("\n");
            return Err(format!("the daemon did not start; it said:\n{said}"));
        };
        Ok(Self { child, public, admin, sip, certificate, folder, log })
    }

    /// Its metrics as they stand, by name with labels; none where it does not answer at once.
    pub(super) async fn metrics(&self) -> Vec<(String, f64)> {
        let asking = async {
            let mut stream = tokio::net::TcpStream::connect(self.admin).await?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.map(|_| text)
        };
        let text = tokio::time::timeout(METRICS_WITHIN, asking).await;
        let text = text.ok().and_then(Result::ok).unwrap_or_default();
        let line =
            |line: &str| line.rsplit_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        text.lines().filter(|text| text.starts_with("sauti_")).filter_map(line).collect()
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Its public listener.
    pub(super) const fn public(&self) -> SocketAddr {
        self.public
    }

    /// Where it listens for SIP, if it does.
    pub(super) const fn sip(&self) -> Option<SocketAddr> {
        self.sip
    }

    /// The certificate of that listener, PEM.
    pub(super) fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// Stops it as systemd would, and reads what it wrote into its ledger.
    pub(super) async fn stop(mut self) -> Result<Vec<CallRow>, String> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|errno| errno.to_string())?;
        }
        let status = tokio::time::timeout(STOP_WITHIN, self.child.wait()).await;
        let status = status.map_err(|_| "the daemon did not stop when told to")?.map_err(|error| error.to_string())?;
        if !status.success() {
            let said = self.log.await.unwrap_or_default();
            let last = said.iter().rev().take(5).rev().cloned().collect::<Vec<_>>().join("\n");
            return Err(format!("the daemon ended with {status}; its last words:\n{last}"));
        }
        let reader = Reader::open(&self.folder.0.join(LEDGER)).map_err(|error| error.to_string())?;
        reader.latest(100_000).map_err(|error| error.to_string())
    }
}

fn configuration(spec: &Spec, graph: SocketAddr, realtime: SocketAddr, folder: &Path) -> String {
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    let door = match spec.door {
        Door::Whatsapp => String::new(),
        Door::WhatsappSip => format!(
            r#"[whatsapp.sip]
hostname = "{HOSTNAME}"
allow = ["127.0.0.0/8"]
[sip]
tls = "127.0.0.1:0"
certificate = "{}"
key = "{}"
"#,
            certificate.display(),
            key.display()
        ),
        Door::Trunk => r#"[sip]
udp = "127.0.0.1:0"
[[trunk]]
name = "simulation"
allow = ["127.0.0.0/8"]
calls_per_second = 1000
options_every = "0s"
[[trunk.route]]
called = "*"
"#
        .to_owned(),
    };
    format!(
        r#"[node]
id = "simulation"
languages = ["en", "fr", "sw"]
[http]
public = "127.0.0.1:0"
admin = "127.0.0.1:0"
[media]
bind = "127.0.0.1"
ports = "40000-44999"
[limits]
max_calls = {calls}
drain = "10s"
[whatsapp]
phone_number_id = "{number}"
graph_url = "http://{graph}"
signalling = "{signalling}"
[openai]
url = "http://{realtime}/v1"
[openai.turn]
interrupt_response = {server_judges}
[agent]
clips = ""
[agent.en]
greeting = "Hello! How can I help you today?"
[ledger]
path = "{ledger}"
{door}"#,
        signalling = if spec.door == Door::WhatsappSip { "sip" } else { "graph" },
        server_judges = !spec.box_judges,
        calls = spec.calls + 1,
        number = spec.phone_number_id,
        ledger = folder.join(LEDGER).display(),
    )
}

/// Makes a certificate for the name that Meta knows; returns it, PEM.
fn certificate(folder: &Path) -> Result<String, String> {
    let made = rcgen::generate_simple_self_signed(vec![HOSTNAME.to_owned()]).map_err(|error| error.to_string())?;
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).map_err(|error| error.to_string());
    let certificate = made.cert.pem();
    write(CERTIFICATE, &certificate)?;
    write(KEY, &made.signing_key.serialize_pem())?;
    Ok(certificate)
}

fn log_file() -> Option<std::fs::File> {
    let folder = PathBuf::from(std::env::var_os(LOG_FOLDER)?);
    std::fs::create_dir_all(&folder).ok()?;
    let path = folder.join(format!("simulate-{}.log", std::process::id()));
    OpenOptions::new().create(true).append(true).open(path).ok()
}

/// Reads the daemon's log: keeps it, and says where it listens once it serves.
async fn follow(
    stderr: tokio::process::ChildStderr,
    ready: tokio::sync::oneshot::Sender<(SocketAddr, SocketAddr, Option<SocketAddr>)>,
    mut file: Option<std::fs::File>,
) -> Vec<String> {
    let mut lines = BufReader::new(stderr).lines();
    let (mut kept, mut ready) = (Vec::new(), Some(ready));
    let (mut public, mut admin, mut sip) = (None, None, None);
    while let Ok(Some(line)) = lines.next_line().await {
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if entry["EVENT"] == "LISTENER_BOUND" {
            let address = entry["ADDRESS"].as_str().and_then(|address| address.parse().ok());
            match entry["STAGE"].as_str() {
                Some("public") => public = address,
                Some("admin") => admin = address,
                Some("sip.udp" | "sip.tls") => sip = address,
                _ => {}
            }
        }
        if entry["EVENT"] == "SERVICE_READY"
            && let (Some(ready), Some(public), Some(admin)) = (ready.take(), public, admin)
        {
            ready.send((public, admin, sip)).ok();
        }
        if let Some(file) = &mut file {
            writeln!(file, "{line}").ok();
        }
        kept.push(line);
    }
    kept
}

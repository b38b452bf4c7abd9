//! Asterisk, the exchange behind most small carriers: registers us, calls us, takes our calls and our REFER.
//!
//! Debian has it in no release that we support, so it runs from a root of a newer one, which `tests/interop/asterisk.sh`
//! makes; that is a matter of minutes and of what is in Debian that day, and no part of CI. Everything is in its dialplan: one
//! side plays a file and records, as does whoever is at the desk.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sauti_core::media::frame::SAMPLE_RATE;
use tokio::process::{Child, Command};

use crate::ears::{self, Words};
use crate::handover;
use crate::outside;
use crate::proxy;
use crate::stage::{self, Stage};

/// Where the root of the newer Debian is.
const ROOT: &str = "SAUTI_ASTERISK_ROOT";
/// Debian's modules of it, by architecture.
const MODULES: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/asterisk/modules", "/usr/lib/aarch64-linux-gnu/asterisk/modules"];
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// Files that it wants to see, and finds its defaults in when they are empty.
const EMPTY: [&str; 4] = ["features.conf", "cdr.conf", "cel.conf", "acl.conf"];

/// Who is at the desk answers, says her word and listens. The caller plays her file to the box and hangs up at its end. Each
/// is a channel of its own that is joined to the one of the box: only such a call can be referred.
const DIALPLAN: &str = r"
[desk]
exten => desk,1,Dial(Local/person@person/n)
[person]
exten => person,1,Answer()
 same => n,MixMonitor(,r(FOLDER/person-heard.wav16))
 same => n,Playback(FOLDER/person)
 same => n,Hangup()
[dial]
exten => box,1,MixMonitor(,t(FOLDER/caller-heard.wav16))
 same => n,Dial(PJSIP/kigali-edge)
[caller]
exten => caller,1,Playback(FOLDER/caller)
 same => n,Hangup()
";

/// The root, where `tests/interop/asterisk.sh` runs this; else a skip.
fn root() -> Option<PathBuf> {
    let root = std::env::var_os(ROOT).map(PathBuf::from);
    if root.is_none() {
        outside::skip("a call through Asterisk", "only tests/interop/asterisk.sh has one");
    }
    root
}

/// Asterisk in `root`, with the configuration in `folder` of it.
fn program(root: &Path, folder: &str) -> Command {
    let mut command = outside::command(Path::new("chroot"));
    command.arg(root).args(["/usr/sbin/asterisk", "-C"]).arg(format!("{folder}/asterisk.conf"));
    command
}

struct Asterisk {
    child: Child,
    root: PathBuf,
    /// In the root.
    folder: String,
    port: u16,
}

impl Asterisk {
    /// Starts one that speaks `codec` with the box and wants digests of `algorithm`.
    async fn start(root: PathBuf, name: &str, codec: &str, algorithm: &str) -> Self {
        let modules = MODULES.into_iter().find(|modules| root.join(&modules[1..]).exists());
        let modules = modules.expect("tests/interop/asterisk.sh makes the root");
        let probe = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = probe.expect("a free port").port();
        let folder = format!("/var/lib/sauti-{name}");
        std::fs::remove_dir_all(root.join(&folder[1..])).ok();
        std::fs::create_dir_all(root.join(&folder[1..])).expect("its folder");
        let directories = ["astetcdir", "astdbdir", "astkeydir", "astagidir", "astspooldir", "astrundir", "astlogdir"];
        let directories = directories.map(|name| format!("{name} => {folder}\n")).concat();
        let config = format!(
            "[directories]\n{directories}astmoddir => {modules}\nastvarlibdir => /var/lib/asterisk\n\
             astdatadir => /usr/share/asterisk\n"
        );
        let pjsip = format!(
            "[udp]\ntype=transport\nprotocol=udp\nbind=127.0.0.1:{port}\n\
             [kigali-edge]\ntype=endpoint\ncontext=desk\ndisallow=all\nallow={codec}\nauth=kigali-edge\n\
             aors=kigali-edge\ndirect_media=no\ncallerid=<250780000001>\n\
             [kigali-edge]\ntype=auth\nauth_type=digest\nusername=kigali-edge\npassword=canary-trunk-password\n\
             supported_algorithms_uas={algorithm}\n\
             [kigali-edge]\ntype=aor\nmax_contacts=1\n"
        );
        let files = [
            ("asterisk.conf", config.as_str()),
            ("modules.conf", "[modules]\nautoload=yes\n"),
            ("logger.conf", "[logfiles]\nfull => notice,warning,error,verbose\n"),
            ("pjsip.conf", pjsip.as_str()),
            ("extensions.conf", &DIALPLAN.replace("FOLDER", &folder)),
        ];
        for (name, text) in files.into_iter().chain(EMPTY.map(|name| (name, ""))) {
            std::fs::write(root.join(&folder[1..]).join(name), text).expect("its files can be written");
        }
        let mut command = program(&root, &folder);
        let child = command.arg("-f").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("chroot needs root");
        let exchange = Self { child, root, folder, port };
        let deadline = tokio::time::Instant::now() + STARTS_WITHIN;
        while !exchange.asked("core show uptime").await.contains("System uptime") {
            assert!(tokio::time::Instant::now() < deadline, "it does not start: {}", exchange.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        exchange
    }

    /// A file of its folder, as this side of the root names it.
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(&self.folder[1..]).join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("full")).unwrap_or_default()
    }

    /// What it says to a line of its console.
    async fn asked(&self, line: &str) -> String {
        let mut command = program(&self.root, &self.folder);
        let (_, said, _) = outside::attempt(command.args(["-rx", line]), Duration::from_secs(10)).await;
        said.stdout
    }

    /// Somebody calls the box and says what is in her file, and whoever is at the desk what is in the other.
    async fn calls(&self) {
        self.asked("channel originate Local/box@dial/n extension caller@caller").await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
        tokio::time::sleep(Duration::from_secs(1)).await;
        while !self.asked("core show channels count").await.contains("0 active channels") {
            assert!(tokio::time::Instant::now() < deadline, "the call does not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn end(mut self) {
        self.asked("core stop now").await;
        tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await.expect("it ends").ok();
        std::fs::remove_dir_all(self.path("")).ok();
    }
}

/// `codec` as it names it, `ours` as `[[trunk]]` does.
async fn a_call(name: &str, [codec, ours]: [&str; 2], algorithm: &str) {
    let _alone = outside::alone();
    let (Some(root), Some(python)) = (root(), outside::python("pystoi, soundfile")) else { return };
    let exchange = Asterisk::start(root, name, codec, algorithm).await;
    let words = Words::load();
    let more = proxy::trunk(exchange.port, "udp");
    let more = more.replacen("options_every", &format!("codecs = [\"{ours}\"]\noptions_every"), 1);
    let stage = Stage::open_with(name, stage::model(words.script()), Ipv4Addr::LOCALHOST, &more).await;
    proxy::until_registered(&stage).await;
    ears::whole_call(&python, &exchange.path("caller.al"), &words).await;
    exchange.calls().await;
    let left = stage.close().await;
    ears::write_wav(&left.path("model.wav"), SAMPLE_RATE, left.one_good_call());
    ears::both_understand(&python, &exchange.path("caller-heard.wav16"), &left.path("model.wav")).await;
    exchange.end().await;
}

/// A call is handed to the desk; `heard` is what the caller has to have understood.
async fn hands_over(way: &str, stages: &[&str], heard: &str) {
    let _alone = outside::alone();
    let (Some(root), Some(python)) = (root(), outside::python("pystoi, soundfile")) else { return };
    let name = format!("asterisk-{way}");
    let exchange = Asterisk::start(root, &name, "alaw", "SHA-256").await;
    let words = Words::load();
    let more = proxy::trunk(exchange.port, "udp") + &handover::transfer(exchange.port, way);
    let model = stage::model(handover::script(&words));
    let stage = Stage::open_with(&name, model, Ipv4Addr::LOCALHOST, &more).await;
    proxy::until_registered(&stage).await;
    handover::both_sides(&python, &exchange.path("caller.al"), &exchange.path("person.al")).await;
    exchange.calls().await;
    let left = stage.close().await;
    assert_eq!(handover::stages(&left), stages, "{}", left.log.join("\n"));
    assert_eq!((left.rows.len(), left.rows[0].outcome.as_deref()), (1, Some("completed")));
    let (at_caller, at_person) = (exchange.path("caller-heard.wav16"), exchange.path("person-heard.wav16"));
    let heard: [(&Path, &[&str]); 2] = [(&at_caller, &[heard]), (&at_person, &handover::CALLER[1..])];
    ears::understood(&python, heard).await;
    exchange.end().await;
}

#[tokio::test]
async fn calls_with_a_law() {
    a_call("asterisk-a-law", ["alaw", "pcma"], "MD5").await;
}

#[tokio::test]
async fn calls_with_g722() {
    a_call("asterisk-g722", ["g722", "g722"], "SHA-256").await;
}

#[tokio::test]
async fn calls_with_opus() {
    a_call("asterisk-opus", ["opus", "opus"], "SHA-256").await;
}

#[tokio::test]
async fn takes_our_call_to_a_person_and_both_understand_each_other() {
    hands_over("bridge", &["begun", "called", "joined"], handover::PERSON).await;
}

#[tokio::test]
async fn joins_a_caller_with_a_person_when_it_is_referred() {
    // What the person says then is between her and Asterisk, whose recorder is silent on a channel that was transferred.
    hands_over("refer", &["begun", "done"], handover::GREETING).await;
}

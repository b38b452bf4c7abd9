//! baresip, a SIP telephone from Debian, calls over a trunk: every codec, with and without SDES, over UDP, TCP and TLS; and
//! its keys.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sauti_core::media::frame::SAMPLE_RATE;
use sauti_sim::openai::{Line, Script};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::ears::{self, Words};
use crate::outside;
use crate::stage::{self, Stage};

/// Who calls, and the service that is called.
const CALLER: &str = "250780000001";
const CALLED: &str = "100";
/// Longest wait for a telephone that has said everything.
const CALL_WITHIN: Duration = Duration::from_secs(60);

/// How a telephone is set up.
struct Manner {
    name: &'static str,
    transport: &'static str,
    /// As baresip names it.
    codec: &'static str,
    /// As `[[trunk]]` does.
    ours: &'static str,
    sdes: bool,
}

/// A telephone: whose it is, where it listens, what it plays, whom it calls.
pub(crate) struct Telephone<'t> {
    /// A line of baresip's `accounts`.
    pub(crate) account: String,
    /// UDP and TCP of 127.0.0.1; 0 is any.
    pub(crate) port: u16,
    pub(crate) speech: &'t Path,
    /// Certificates that it believes.
    pub(crate) authority: Option<&'t Path>,
    /// TCP port of 127.0.0.1 where it takes orders.
    pub(crate) control: Option<u16>,
    /// A SIP URI; `None` for one that waits to be called.
    pub(crate) calls: Option<String>,
}

pub(crate) fn baresip() -> Option<PathBuf> {
    let program = PathBuf::from("/usr/bin/baresip");
    if program.exists() {
        return Some(program);
    }
    outside::missing("a telephone's call", "/usr/bin/baresip is not there");
    None
}

/// A certificate for this machine's own address and its key, PEM files in `folder`.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]);
    let made = made.expect("a certificate");
    let (certificate, key) = (folder.join("sip.pem"), folder.join("sip.key"));
    std::fs::write(&certificate, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    (certificate, key)
}

/// What the trunk is like, for the end of the daemon's configuration.
fn trunk(manner: &Manner, files: &(PathBuf, PathBuf)) -> String {
    let (certificate, key) = (files.0.display(), files.1.display());
    let transport = if manner.transport == "tls" { "tls" } else { "tcp" };
    let srtp = if manner.sdes { "sdes" } else { "off" };
    format!(
        r#"[sip]
udp = "127.0.0.1:0"
tcp = "127.0.0.1:0"
tls = "127.0.0.1:0"
certificate = "{certificate}"
key = "{key}"
[[trunk]]
name = "phones"
allow = ["127.0.0.0/8"]
transport = "{transport}"
codecs = ["{codec}"]
srtp = "{srtp}"
options_every = "0s"
[[trunk.route]]
called = "{CALLED}"
"#,
        codec = manner.ours,
    )
}

impl Telephone<'_> {
    /// Writes its configuration: it plays its speech and keeps what it hears in `folder`.
    fn set_up(&self, folder: &Path) {
        let mut config = String::new();
        let control = self.control.map_or_else(String::new, |port| format!("ctrl_tcp_listen 127.0.0.1:{port}"));
        // Accounts name codecs and encryption, which must be there before them.
        let modules = ["g711", "g722", "opus", "aufile", "aubridge", "sndfile", "srtp", "account", "contact", "menu"];
        let lines = [
            "module_path /usr/lib/baresip/modules".to_owned(),
            format!("sip_listen 127.0.0.1:{}", self.port),
            self.authority.map_or_else(String::new, |authority| format!("sip_cafile {}", authority.display())),
            control,
            "call_local_timeout 30".to_owned(),
            // Its own, and one that it is asked for by REFER.
            "call_max_calls 2".to_owned(),
            format!("audio_source aufile,{}", self.speech.display()),
            "audio_player aubridge,ear".to_owned(),
            "audio_alert aubridge,bell".to_owned(),
            "ausrc_srate 48000".to_owned(),
            "ausrc_channels 1".to_owned(),
            "ausrc_format s16".to_owned(),
            "auplay_format s16".to_owned(),
            "audio_buffer 20-160".to_owned(),
            "jitter_buffer_delay 1-10".to_owned(),
            "rtp_stats yes".to_owned(),
            format!("snd_path {}", folder.display()),
        ];
        let modules = modules.into_iter().chain(self.control.map(|_| "ctrl_tcp"));
        for line in lines.into_iter().chain(modules.map(|module| format!("module {module}.so"))) {
            writeln!(config, "{line}").expect("a string can be written to");
        }
        for (name, text) in [("config", config.as_str()), ("accounts", self.account.as_str()), ("contacts", "")] {
            std::fs::write(folder.join(name), text).expect("the telephone can be set up");
        }
    }

    /// Calls, for so many seconds; the recording of what it heard is in `folder`.
    pub(crate) async fn call(&self, baresip: &Path, folder: &Path, seconds: f64) -> PathBuf {
        let mut recordings = self.live(baresip, folder, seconds).await;
        assert_eq!(recordings.len(), 1, "one recording: {recordings:?}");
        recordings.remove(0)
    }

    /// Is there for so many seconds, and calls if it is to; what it heard in each of its calls, the first one first.
    pub(crate) async fn live(&self, baresip: &Path, folder: &Path, seconds: f64) -> Vec<PathBuf> {
        self.set_up(folder);
        let mut phone = outside::command(baresip);
        phone.arg("-f").arg(folder);
        if let Some(calls) = &self.calls {
            phone.args(["-e", &format!("/dial {calls}")]);
        }
        phone.args(["-t", &format!("{seconds:.0}")]);
        let said = outside::run(&mut phone, CALL_WITHIN).await;
        assert!(!said.stdout.contains("failed"), "{}", said.stdout);
        let files = std::fs::read_dir(folder).expect("its folder");
        let mut dumps: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
        dumps.retain(|path| path.to_string_lossy().ends_with("-dec.wav"));
        // Their names begin with the time.
        dumps.sort();
        assert!(!dumps.is_empty(), "no recording:\n{}", said.stdout);
        dumps
    }
}

async fn calls(manner: Manner) {
    let _alone = outside::alone();
    let (Some(baresip), Some(python)) = (baresip(), outside::python("pystoi, soundfile")) else { return };
    let words = Words::load();
    let files = tempfile::tempdir().expect("a folder");
    let pem = certificate(files.path());
    let name = format!("baresip-{}", manner.name);
    let stage = Stage::open_with(&name, stage::model(words.script()), Ipv4Addr::LOCALHOST, &trunk(&manner, &pem)).await;
    let speech = stage.folder.path().join("call.wav");
    ears::whole_call(&python, &speech, &words).await;
    let home = tempfile::tempdir().expect("a folder");
    let (transport, box_) = (manner.transport, stage.listeners[&format!("sip.{}", manner.transport)]);
    let sdes = if manner.sdes { ";mediaenc=srtp-mand" } else { "" };
    let telephone = Telephone {
        account: format!(
            "<sip:{CALLER}@127.0.0.1;transport={transport}>;regint=0;audio_codecs={codec}{sdes};ptime=20\n",
            codec = manner.codec,
        ),
        speech: &speech,
        authority: Some(&pem.0),
        control: None,
        port: 0,
        calls: Some(format!("sip:{CALLED}@{box_};transport={transport}")),
    };
    let heard = telephone.call(&baresip, home.path(), words.seconds() + 4.0).await;
    let left = stage.close().await;
    let appended = left.one_good_call();
    ears::write_wav(&left.path("model.wav"), SAMPLE_RATE, appended);
    let row = &left.rows[0];
    assert_eq!(row.door, "trunk", "{}", left.log.join("\n"));
    ears::both_understand(&python, &heard, &left.path("model.wav")).await;
}

#[tokio::test]
async fn a_telephone_with_a_law_over_udp_and_the_model_understand_each_other() {
    calls(Manner { name: "pcma", transport: "udp", codec: "PCMA/8000/1", ours: "pcma", sdes: false }).await;
}

#[tokio::test]
async fn a_telephone_with_g722_over_tcp_and_the_model_understand_each_other() {
    calls(Manner { name: "g722", transport: "tcp", codec: "G722/16000/1", ours: "g722", sdes: false }).await;
}

#[tokio::test]
async fn a_telephone_with_opus_and_sdes_over_tls_and_the_model_understand_each_other() {
    calls(Manner { name: "opus", transport: "tls", codec: "opus/48000/2", ours: "opus", sdes: true }).await;
}

#[tokio::test]
async fn a_telephone_with_mu_law_and_sdes_over_tls_and_the_model_understand_each_other() {
    calls(Manner { name: "pcmu", transport: "tls", codec: "PCMU/8000/1", ours: "pcmu", sdes: true }).await;
}

/// The keys that are pressed, `#` last.
const KEYS: [&str; 3] = ["5", "7", "#"];

/// The next netstring (a length, `:`, that many bytes, `,`) that a telephone says on its control port.
async fn netstring(control: &mut BufReader<TcpStream>) -> String {
    let mut length = Vec::new();
    control.read_until(b':', &mut length).await.expect("it goes on talking");
    let length = std::str::from_utf8(&length).ok().and_then(|text| text.strip_suffix(':')?.parse::<usize>().ok());
    let mut said = vec![0; length.expect("a length before its ':'") + 1];
    control.read_exact(&mut said).await.expect("as many bytes as it named");
    assert_eq!(said.pop(), Some(b','), "a netstring ends with ','");
    String::from_utf8(said).expect("JSON is UTF-8")
}

/// The next thing that it says and `wanted` says yes to. It tells of events as they come, between its answers too.
async fn told(control: &mut BufReader<TcpStream>, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let said: Value = serde_json::from_str(&netstring(control).await).expect("a netstring of JSON");
        if wanted(&said) {
            return said;
        }
    }
}

/// Presses the keys of a telephone that takes orders at `port`, so long after its call was answered.
async fn press(port: u16, after: Duration) {
    let begun = Instant::now();
    let control = loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Ok(control) => break control,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "the telephone takes orders: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut control = BufReader::new(control);
    told(&mut control, |said| said["type"] == "CALL_ESTABLISHED").await;
    tokio::time::sleep(after).await;
    for key in KEYS {
        let order = serde_json::json!({"command": "sndcode", "params": key}).to_string();
        control.write_all(format!("{}:{order},", order.len()).as_bytes()).await.expect("it listens");
        let answer = told(&mut control, |said| said["response"] == true).await;
        assert_eq!(answer["ok"], true, "{answer}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn keys_of_a_telephone_are_answered_by_the_model() {
    let _alone = outside::alone();
    let (Some(baresip), Some(python)) = (baresip(), outside::python("pystoi, soundfile")) else { return };
    let words = Words::load();
    let [greeting, answer, unsaid] = ears::AGENT;
    let script = Script {
        greeting: Line::clip(words.clip(greeting)),
        on_keyword: vec![("pressed 57 ".to_owned(), Line::clip(words.clip(answer)))],
        ..Script::default()
    };
    let manner = Manner { name: "keys", transport: "udp", codec: "PCMA/8000/1", ours: "pcma", sdes: false };
    let files = tempfile::tempdir().expect("a folder");
    let more = "[agent]\nstill_there_after = \"0s\"\n".to_owned() + &trunk(&manner, &certificate(files.path()));
    let stage = Stage::open_with("baresip-keys", stage::model(script), Ipv4Addr::LOCALHOST, &more).await;
    // She says nothing, for longer than the call lasts.
    let speech = stage.folder.path().join("call.wav");
    ears::write_wav(&speech, 48_000, &vec![0; 48_000 * 30]);
    let control = outside::free_ports(1);
    let home = tempfile::tempdir().expect("a folder");
    let telephone = Telephone {
        account: format!("<sip:{CALLER}@127.0.0.1>;regint=0;audio_codecs=PCMA/8000/1;ptime=20\n"),
        speech: &speech,
        authority: None,
        control: Some(control),
        port: 0,
        calls: Some(format!("sip:{CALLED}@{}", stage.listeners["sip.udp"])),
    };
    // The greeting is over by then.
    let greeted = Duration::from_secs_f64(words.line(greeting).samples.len() as f64 / f64::from(SAMPLE_RATE) + 1.5);
    let (heard, ()) = tokio::join!(telephone.call(&baresip, home.path(), 15.0), press(control, greeted));
    let left = stage.close().await;
    left.one_good_call();
    ears::hears(&python, &heard, &[greeting, answer], unsaid).await;
}

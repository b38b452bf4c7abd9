//! SIPp (Debian's `sip-tester`) calls the box over a trunk, a scenario file for each story in `tests/interop/sipp`.
//!
//! SIPp judges the messages and plays speech; what it was sent is captured by dumpcap, read by tshark, decoded by
//! libsndfile (`heard.py`) and scored by STOI.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sauti_core::media::frame::SAMPLE_RATE;
use sauti_sim::openai::Latency;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::ears::{self, CALLER, SPEAK_AFTER, Words};
use crate::outside;
use crate::stage::{self, Left, Stage};

const CALLED: &str = "100";
const TRUNK: &str = r#"[agent]
still_there_after = "0s"
[sip]
udp = "127.0.0.1:0"
tcp = "127.0.0.1:0"
[[trunk]]
name = "carrier"
allow = ["127.0.0.0/8"]
codecs = ["pcma", "pcmu"]
options_every = "0s"
[[trunk.route]]
called = "100"
"#;
/// Longest wait for a story, and for a program to say that it is ready.
const STORY_WITHIN: Duration = Duration::from_secs(90);
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How far the mean of what passes between two packets may be from the packet time that was agreed on.
const MEAN_WITHIN_MS: f64 = 0.5;
/// By how much the first packet of a stream, or the last, may be late on a busy machine: in a short one its mean shows that.
const LATE_MS: f64 = 300.0;
/// What the caller says while the call is held, and nobody hears.
const ASIDE: &str = "caller-en-1";

/// SIPp, tshark and the Python that judges.
struct Tools {
    python: PathBuf,
}

impl Tools {
    fn find() -> Option<Self> {
        for tool in ["/usr/bin/sipp", "/usr/bin/dumpcap", "/usr/bin/tshark"] {
            if !Path::new(tool).exists() {
                outside::missing("a call of SIPp", &format!("{tool} is not there"));
                return None;
            }
        }
        let python = outside::python("pystoi, soundfile")?;
        Some(Self { python })
    }

    /// Lines of speech as bare A-law in `folder`.
    async fn speech(&self, folder: &Path, name: &str, lines: &[&str], [lead, tail]: [f64; 2]) {
        let mut make = outside::command(&self.python);
        make.arg("make_wav.py").arg(folder.join(name)).args(lines).args(["--gap", "0.3"]);
        make.args(["--lead", &lead.to_string(), "--tail", &tail.to_string()]);
        outside::run(&mut make, READY_WITHIN).await;
    }
}

/// Four even ports for the caller's media, with the odd ones behind them.
fn free_ports() -> [u16; 4] {
    let first = outside::free_ports(8);
    [first, first + 2, first + 4, first + 6]
}

/// dumpcap, writing what goes to the caller's ports.
struct Capture {
    child: Child,
    file: PathBuf,
    ports: [u16; 4],
}

impl Capture {
    async fn start(folder: &Path, ports: [u16; 4]) -> Self {
        let file = folder.join("heard.pcapng");
        let [first, .., last] = ports;
        let mut dumpcap = Command::new("/usr/bin/dumpcap");
        dumpcap.args(["-q", "-i", "lo", "-f", &format!("udp dst portrange {first}-{}", last + 1), "-w"]).arg(&file);
        dumpcap.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = dumpcap.spawn().expect("dumpcap starts");
        let stderr = child.stderr.take().expect("it has a standard error");
        let mut lines = BufReader::new(stderr).lines();
        let ready = async {
            // It names the file once it captures.
            while let Some(line) = lines.next_line().await.expect("it writes text") {
                if line.starts_with("File:") {
                    return;
                }
            }
            panic!("dumpcap captures nothing; it needs the right to");
        };
        tokio::time::timeout(READY_WITHIN, ready).await.expect("dumpcap begins");
        Self { child, file, ports }
    }

    /// Ends it, and has what was sent to the caller written as `wav`; the figures of its streams.
    async fn end(mut self, tools: &Tools, wav: &Path) -> Value {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("dumpcap runs");
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("it can be told to stop");
        tokio::time::timeout(READY_WITHIN, self.child.wait()).await.expect("it stops").expect("it has a status");
        let ports = self.ports.map(|port| port.to_string()).join(",");
        let mut heard = outside::command(&tools.python);
        heard.arg("heard.py").arg(&self.file).arg(ports).arg(wav);
        outside::run(&mut heard, STORY_WITHIN).await.json()
    }
}

/// How SIPp calls.
struct Manner {
    scenario: &'static str,
    /// `u1` or `t1`.
    transport: &'static str,
    packet_ms: u32,
    /// What `<pause/>` of the scenario is.
    length: Duration,
    ports: [u16; 4],
}

impl Manner {
    /// Whether the call is on hold for a while: that pause is in the mean of its stream.
    fn holds(&self) -> bool {
        matches!(self.scenario, "hold" | "resume")
    }
}

/// One call of SIPp to its end, which must be the one that the scenario has.
async fn sipp(stage: &Stage, manner: &Manner) {
    let listener = if manner.transport == "u1" { "sip.udp" } else { "sip.tcp" };
    let own = outside::free_ports(1);
    let [media, second, third, _] = manner.ports.map(|port| port.to_string());
    let mut sipp = outside::command(Path::new("/usr/bin/sipp"));
    sipp.arg("-sf").arg(outside::scripts().join(format!("sipp/{}.xml", manner.scenario)));
    sipp.args(["-s", CALLED, "-i", "127.0.0.1", "-mi", "127.0.0.1", "-p", &own.to_string(), "-mp", &media]);
    sipp.args(["-key", "second", &second, "-key", "third", &third, "-key", "ptime", &manner.packet_ms.to_string()]);
    sipp.args(["-d", &manner.length.as_millis().to_string(), "-m", "1", "-nostdin", "-trace_err", "-t"]);
    sipp.args([manner.transport, &stage.listeners[listener].to_string()]);
    sipp.current_dir(stage.folder.path());
    let (good, said, complaints) = outside::attempt(&mut sipp, STORY_WITHIN).await;
    let files = std::fs::read_dir(stage.folder.path()).expect("its folder");
    let errors =
        files.filter_map(|file| Some(file.ok()?.path())).filter(|path| path.extension() == Some("log".as_ref()));
    let errors: String = errors.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    assert!(good, "{}: {complaints}\n{}\n{errors}", manner.scenario, said.stdout);
}

/// The seconds that the caller's lines take, with the pause between them.
fn spoken(words: &Words) -> Duration {
    let millis: u64 = CALLER.iter().map(|name| words.line(name).millis()).sum();
    Duration::from_millis(millis + 300)
}

/// What a story of speech leaves: what the stage did, and the figures of what the caller was sent.
struct Heard {
    left: Left,
    figures: Value,
}

/// A call in which both speak: each understands the other, and the box's stream is clean.
async fn a_conversation(tools: &Tools, manner: Manner, prepare: impl AsyncFnOnce(&Path, &Words)) -> Heard {
    let words = Words::load();
    let name = format!("sipp-{}-{}", manner.scenario, manner.transport);
    let trunk = match manner.scenario {
        "early" => TRUNK.replacen("allow = ", "early_media = true\nallow = ", 1),
        _ => TRUNK.to_owned(),
    };
    let mut model = stage::model(words.script());
    if manner.scenario == "reliable" {
        // It rings until the PRACK is answered: our 200 may overtake that answer, as the 180 holds no SDP.
        model.latency = Latency { session_updated: Duration::from_secs(1), ..Latency::ZERO };
    }
    let stage = Stage::open_with(&name, model, Ipv4Addr::LOCALHOST, &trunk).await;
    prepare(stage.folder.path(), &words).await;
    let capture = Capture::start(stage.folder.path(), manner.ports).await;
    sipp(&stage, &manner).await;
    let recording = stage.folder.path().join("caller.wav");
    let figures = capture.end(tools, &recording).await;
    let left = stage.close().await;
    let appended = left.one_good_call();
    ears::write_wav(&left.path("model.wav"), SAMPLE_RATE, appended);
    assert_eq!(left.rows[0].door, "trunk");
    let sources = figures["sources"].as_object().expect("sources");
    assert_eq!(sources.len(), 1, "one source of media for the whole call: {figures}");
    let streams = figures["streams"].as_array().expect("streams");
    assert!(!streams.is_empty(), "{figures}");
    for stream in streams {
        let mean = stream["mean_delta_ms"].as_f64().expect("a figure");
        assert_eq!(stream["lost"], 0, "{figures}");
        let gaps = (stream["packets"].as_f64().expect("a figure") - 1.0).max(1.0);
        let within = MEAN_WITHIN_MS.max(LATE_MS / gaps);
        let apart = (mean - f64::from(manner.packet_ms)).abs();
        assert!(apart <= within || manner.holds(), "{figures}");
    }
    let lengths = sources.values().map(|source| source["lengths_ms"].clone()).collect::<Vec<_>>();
    assert_eq!(lengths, [serde_json::json!([manner.packet_ms])], "as agreed on: {figures}");
    ears::both_understand(&tools.python, &recording, &left.path("model.wav")).await;
    Heard { left, figures }
}

async fn plain(scenario: &'static str, transport: &'static str, packet_ms: u32) {
    let _alone = outside::alone();
    let Some(tools) = Tools::find() else { return };
    let length = Duration::from_secs_f64(Words::load().seconds());
    let manner = Manner { scenario, transport, packet_ms, length, ports: free_ports() };
    a_conversation(&tools, manner, async |folder, _: &Words| {
        // Silence follows what is said, for longer than any story lasts: a caller who sends nothing is hung up on.
        tools.speech(folder, "call.al", &CALLER, [SPEAK_AFTER.as_secs_f64(), 60.0]).await;
    })
    .await;
}

#[tokio::test]
async fn a_plain_call_over_udp_is_heard_both_ways_in_packets_of_20_ms() {
    plain("plain", "u1", 20).await;
}

#[tokio::test]
async fn a_plain_call_over_tcp_is_heard_both_ways_in_packets_of_40_ms() {
    plain("plain", "t1", 40).await;
}

#[tokio::test]
async fn a_call_that_leaves_the_offer_to_us_is_heard_both_ways() {
    plain("delayed", "u1", 20).await;
}

#[tokio::test]
async fn an_answer_that_comes_ahead_of_the_200_is_heard_both_ways_after_it() {
    plain("early", "u1", 20).await;
}

#[tokio::test]
async fn ringing_is_acknowledged_and_the_session_is_renewed_in_time() {
    plain("reliable", "u1", 20).await;
}

#[tokio::test]
async fn a_call_on_hold_is_silent_both_ways_and_goes_on_afterwards() {
    held("hold").await;
}

#[tokio::test]
async fn a_call_that_is_taken_off_hold_by_our_offer_goes_on() {
    held("resume").await;
}

async fn held(scenario: &'static str) {
    let _alone = outside::alone();
    let Some(tools) = Tools::find() else { return };
    let length = Duration::from_secs_f64(Words::load().seconds()) - SPEAK_AFTER;
    let manner = Manner { scenario, transport: "u1", packet_ms: 20, length, ports: free_ports() };
    let heard = a_conversation(&tools, manner, async |folder, words| {
        tools.speech(folder, "hold.al", &[ASIDE], [0.3, 0.0]).await;
        let tail = words.seconds() - SPEAK_AFTER.as_secs_f64() - spoken(words).as_secs_f64() + 1.0;
        tools.speech(folder, "call.al", &CALLER, [0.3, tail]).await;
    })
    .await;
    let pauses = heard.figures["sources"].as_object().expect("sources").values();
    let pauses: Vec<_> = pauses.map(|source| source["longest_pause_ms"].as_u64().unwrap_or(0)).collect();
    assert!((5_500..7_000).contains(&pauses[0]), "nothing was sent in a hold of 6 s: {pauses:?}");
    // What was said aside did not reach the model.
    let mut aside = outside::command(&tools.python);
    aside.arg("stoi.py").arg("--pair").arg(heard.left.path("model.wav")).arg(outside::speech(ASIDE));
    let (reached, said, _) = outside::attempt(&mut aside, READY_WITHIN).await;
    assert!(!reached && said.json()["pass"] == false, "{}", said.stdout);
}

#[tokio::test]
async fn media_that_moves_to_another_port_and_to_another_codec_is_heard_on() {
    let _alone = outside::alone();
    let Some(tools) = Tools::find() else { return };
    let length = SPEAK_AFTER + spoken(&Words::load());
    let ports = free_ports();
    let manner = Manner { scenario: "move", transport: "u1", packet_ms: 20, length, ports };
    let heard = a_conversation(&tools, manner, async |folder, _: &Words| {
        tools.speech(folder, "call.al", &CALLER, [SPEAK_AFTER.as_secs_f64(), 0.0]).await;
    })
    .await;
    let source = heard.figures["sources"].as_object().and_then(|sources| sources.values().next()).expect("a source");
    assert_eq!(source["ports"], serde_json::json!(ports[..3]), "{source}");
    assert_eq!(source["types"], serde_json::json!([8, 0]), "A-law, then µ-law: {source}");
}

/// A call that is given up before the answer: the ledger says so, and no session is left.
async fn given_up(scenario: &'static str) {
    let _alone = outside::alone();
    if Tools::find().is_none() {
        return;
    }
    let mut model = stage::model(Words::load().script());
    // It rings for as long as it takes to give up.
    model.latency = Latency { session_updated: Duration::from_secs(2), ..Latency::ZERO };
    let stage = Stage::open_with(&format!("sipp-{scenario}"), model, Ipv4Addr::LOCALHOST, TRUNK).await;
    let length = Duration::ZERO;
    let manner = Manner { scenario, transport: "u1", packet_ms: 20, length, ports: free_ports() };
    sipp(&stage, &manner).await;
    let left = stage.close().await;
    let [row] = &*left.rows else { panic!("{} calls in the ledger:\n{}", left.rows.len(), left.log.join("\n")) };
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("caller_left_early"), Some("caller")));
    assert_eq!((row.accepted_at, row.first_audio_at), (None, None));
}

#[tokio::test]
async fn a_caller_who_cancels_while_it_rings_left_early() {
    given_up("cancel").await;
}

#[tokio::test]
async fn a_bye_before_the_answer_ends_the_call_too() {
    given_up("early_bye").await;
}

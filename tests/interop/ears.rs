//! What was said and what was heard: the lines of a call, recordings, and their scores by STOI.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sauti_sim::audio::speech::{Line, Speech};
use sauti_sim::openai::{Clip, Line as Spoken, Say, Script};

use crate::outside;

/// What the caller says, as one turn: the pause between the lines is shorter than the one that ends a turn.
pub(crate) const CALLER: [&str; 2] = ["caller-en-3", "caller-en-4"];
/// What the model says: its greeting, and the answer to the caller's turn.
pub(crate) const AGENT: [&str; 3] = ["agent-en-1", "agent-en-3", "agent-en-4"];
/// Seconds between two of the caller's lines.
const PAUSE: &str = "0.3";
/// When the caller begins, after connection: by then the greeting is over.
pub(crate) const SPEAK_AFTER: Duration = Duration::from_millis(3_300);
/// What passes between the caller's last word and the end of the recording, beside the answer itself.
const REST: Duration = Duration::from_millis(2_500);

/// The lines of both sides.
pub(crate) struct Words {
    speech: Speech,
}

impl Words {
    pub(crate) fn load() -> Self {
        Self { speech: Speech::load().expect("the committed speech can be read") }
    }

    pub(crate) fn line(&self, name: &str) -> Line {
        let lines = if name.starts_with("agent") { self.speech.agent() } else { self.speech.caller("en") };
        lines.iter().find(|line| line.name == name).expect("a committed line").clone()
    }

    pub(crate) fn clip(&self, name: &str) -> Clip {
        let line = self.line(name);
        Clip::new(line.text, line.samples)
    }

    /// What the emulated model says.
    pub(crate) fn script(&self) -> Script {
        let [greeting, answer @ ..] = AGENT;
        Script {
            greeting: Spoken::clip(self.clip(greeting)),
            turns: vec![Spoken {
                items: answer.iter().map(|name| Say::Clip(self.clip(name))).collect(),
                after_tools: Vec::new(),
            }],
            caller_lines: CALLER.iter().map(|name| self.line(name).text.to_owned()).collect(),
            ..Script::default()
        }
    }

    /// How long a call lasts from connection on, so that both sides have said everything.
    pub(crate) fn seconds(&self) -> f64 {
        let [_, answer @ ..] = AGENT;
        let millis: u64 = CALLER.iter().chain(&answer).map(|name| self.line(name).millis()).sum();
        (SPEAK_AFTER + Duration::from_millis(millis) + REST).as_secs_f64()
    }
}

/// The caller's turn as a file that any program can play; made by a decoder that is not ours.
pub(crate) async fn microphone(python: &Path, folder: &Path) -> PathBuf {
    microphone_of(python, folder, &CALLER, PAUSE).await
}

/// Some lines with so many seconds between them, as such a file.
pub(crate) async fn microphone_of(python: &Path, folder: &Path, lines: &[&str], gap: &str) -> PathBuf {
    let file = folder.join("caller.wav");
    let mut command = outside::command(python);
    command.arg("make_wav.py").arg(&file).args(lines).args(["--gap", gap]);
    outside::run(&mut command, Duration::from_secs(60)).await;
    file
}

/// The same, into `file`, for a phone that begins to play when it is answered and hangs up at the end of the file.
pub(crate) async fn whole_call(python: &Path, file: &Path, words: &Words) {
    let mut command = outside::command(python);
    command.arg("make_wav.py").arg(file).args(CALLER).args(["--gap", PAUSE]);
    let spoken: u64 = CALLER.iter().map(|name| words.line(name).millis()).sum();
    let tail = words.seconds() - SPEAK_AFTER.as_secs_f64() - Duration::from_millis(spoken).as_secs_f64();
    command.args(["--lead", &SPEAK_AFTER.as_secs_f64().to_string(), "--tail", &tail.to_string()]);
    outside::run(&mut command, Duration::from_secs(60)).await;
}

/// Lines as a file for a phone that begins to play when it is answered: `lead` seconds before, `gap` between, `tail` after.
pub(crate) async fn timed(python: &Path, file: &Path, lines: &[&str], [lead, gap, tail]: [&str; 3]) {
    let mut command = outside::command(python);
    command.arg("make_wav.py").arg(file).args(lines).args(["--lead", lead, "--gap", gap, "--tail", tail]);
    outside::run(&mut command, Duration::from_secs(60)).await;
}

/// Writes a recording, 16-bit mono.
pub(crate) fn write_wav(path: &Path, rate: u32, samples: &[i16]) {
    let length = u32::try_from(samples.len() * 2).expect("a short recording");
    let mut bytes = Vec::with_capacity(44 + samples.len() * 2);
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&(36 + length).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt ");
    bytes.extend_from_slice(&16_u32.to_le_bytes());
    for field in [1_u16, 1] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    for field in [rate, rate * 2] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    for field in [2_u16, 16] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(b"data");
    bytes.extend_from_slice(&length.to_le_bytes());
    for sample in samples {
        bytes.extend_from_slice(&sample.to_le_bytes());
    }
    std::fs::write(path, bytes).expect("a recording can be written");
}

/// The samples of a recording that a script of ours wrote: 16-bit mono, the data from byte 44 on.
pub(crate) fn read_wav(path: &Path) -> Vec<i16> {
    let bytes = std::fs::read(path).expect("a recording can be read");
    let (samples, _) = bytes.get(44..).expect("a whole header").as_chunks();
    samples.iter().map(|sample| i16::from_le_bytes(*sample)).collect()
}

fn all(names: &[&str]) -> String {
    names.iter().map(|name| outside::speech(name)).collect::<Vec<_>>().join(",")
}

/// What was heard at the caller's side and at the model's is intelligible, see [`understood`].
pub(crate) async fn both_understand(python: &Path, at_caller: &Path, at_model: &Path) {
    understood(python, [(at_caller, &AGENT), (at_model, &CALLER)]).await;
}

/// The recording is intelligible as these lines, and not as one that nobody said.
pub(crate) async fn hears(python: &Path, heard: &Path, lines: &[&str], unsaid: &str) {
    let score = |lines: &[&str]| {
        let mut command = outside::command(python);
        command.arg("stoi.py").arg("--pair").arg(heard).arg(all(lines));
        command
    };
    let within = Duration::from_secs(60);
    let said = outside::run(&mut score(lines), within).await;
    assert_eq!(said.json()["pass"], true, "{}", said.stdout);
    let (good, said, _) = outside::attempt(&mut score(&[unsaid]), within).await;
    assert!(!good && said.json()["pass"] == false, "what nobody said passes: {}", said.stdout);
}

/// Each recording is intelligible (STOI 0.85) as what was said, and the check can fail: with the two recordings swapped
/// it does.
pub(crate) async fn understood(python: &Path, [first, second]: [(&Path, &[&str]); 2]) {
    let pairs = |one: &Path, other: &Path, more: &[&str]| {
        let mut command = outside::command(python);
        command.arg("stoi.py").args(more);
        command.arg("--pair").arg(one).arg(all(first.1));
        command.arg("--pair").arg(other).arg(all(second.1));
        command
    };
    let within = Duration::from_secs(60);
    let said = outside::run(&mut pairs(first.0, second.0, &["--swapped"]), within).await;
    assert_eq!(said.json()["pass"], true, "{}", said.stdout);
    let (good, said, _) = outside::attempt(&mut pairs(second.0, first.0, &[]), within).await;
    assert!(!good && said.json()["pass"] == false, "swapped recordings pass: {}", said.stdout);
}

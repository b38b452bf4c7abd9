//! `sauti simulate`: the daemon in a process of its own, real loopback sockets, emulated far ends, a judge.
//!
//! Three processes: this one leads and reports; a child is `sauti run` as it is installed; another holds the far
//! ends, so that what they cost is not counted as the daemon's. Needs no configuration, account or network.
//! `--scenario` is another matter: one call in virtual time, within this process ([`story`]).

mod daemon;
pub(crate) mod far_ends;
pub mod loopback;
mod measure;
mod process;
mod report;
mod spec;
mod story;

use std::io::{IsTerminal, Write};
use std::process::Stdio;

use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use sauti_media::opus::{Encoder, EncoderSettings, MAX_ENCODED_BYTES};
use sauti_sim::audio::speech::Speech;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::cli::{Exit, SimulateArgs};
use daemon::Daemon;
use report::{Consumption, Machine, Pace, Report};
use spec::{Door, Go, Said, Spec};

/// Longest silence of the far ends: they say something twice a second while calls run, and judge for a while.
const SILENCE: Duration = Duration::from_secs(180);

/// `sauti simulate`.
#[must_use]
pub fn command(args: &SimulateArgs) -> Exit {
    if let Some(file) = &args.scenario {
        return story::command(file, args.seed, args.json);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let end = match runtime {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(error) => Err(error.to_string()),
    };
    match end {
        Ok(report) => show(args, &report),
        Err(why) => {
            writeln!(std::io::stderr(), "sauti simulate: {why}").ok();
            Exit::Failed
        }
    }
}

/// The far ends' side of the same command; not for people.
#[must_use]
pub fn far_ends_command() -> Exit {
    far_ends::command()
}

fn show(args: &SimulateArgs, report: &Report) -> Exit {
    let text = if args.json { serde_json::to_string_pretty(report).unwrap_or_default() + "\n" } else { report.table() };
    std::io::stdout().lock().write_all(text.as_bytes()).ok();
    if report.is_good() { Exit::Fine } else { Exit::Failed }
}

fn secret(random: &SystemRandom) -> Result<String, String> {
    let mut bytes = [0; 32];
    random.fill(&mut bytes).map_err(|_| "the kernel has no randomness".to_owned())?;
    Ok(hex::encode(bytes))
}

async fn run(args: &SimulateArgs) -> Result<Report, String> {
    let random = SystemRandom::new();
    let spec = Spec {
        calls: args.calls,
        seconds: args.seconds,
        seed: args.seed,
        load: args.load,
        door: Door::named(&args.door),
        lag_ms: args.lag,
        way: report::Way { loss: args.loss, jitter_ms: args.jitter, outage_s: args.outage },
        model_rtt_ms: args.model_rtt,
        box_judges: args.judge == "box",
        phone_number_id: "100000000000002".to_owned(),
        access_token: secret(&random)?,
        app_secret: secret(&random)?,
        sip_password: secret(&random)?,
        api_key: secret(&random)?,
        box_key: secret(&random)?,
        record_frames: args.frames.is_some(),
    };
    let mut far = FarEnds::start(&spec).await?;
    let Said::Listening { graph, realtime } = far.next().await? else {
        return Err("the far ends did not start".to_owned());
    };
    let daemon = Daemon::start(&spec, graph, realtime).await?;
    let before = process::usage(daemon.pid());
    let webhook = format!("http://{}/webhooks/whatsapp", daemon.public());
    far.tell(&Go { webhook, sip: daemon.sip(), certificate: daemon.certificate().map(str::to_owned) }).await?;
    let mut report = Report {
        seed: args.seed,
        way: spec.way,
        model_rtt_ms: spec.model_rtt_ms,
        judge: args.judge.clone(),
        ..Report::default()
    };
    let (mut up, mut late) = (None, Vec::new());
    let mut progress = Progress::new(!args.json);
    loop {
        match far.next().await? {
            Said::Progress { ringing, talking, over } => {
                progress.show(ringing, talking, over);
                if up.is_some() {
                    late.extend(report::tick_late_ms(&daemon.metrics().await));
                }
            }
            Said::AllUp => up = Some((Instant::now(), process::usage(daemon.pid()))),
            Said::WindowOver => {
                if let Some((since, at_start)) = up.take() {
                    report.consumption = consumption(since, at_start, before, daemon.pid(), args.calls + 1);
                }
            }
            Said::Report { calls, frames } => {
                report.calls = calls;
                report.pace = Pace::new(&late, &daemon.metrics().await);
                if let Some(path) = &args.frames {
                    let text: String = frames.iter().flat_map(|frame| [frame.as_str(), "\n"]).collect();
                    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
                }
                break;
            }
            Said::Failed { why } => return Err(format!("far ends: {why}")),
            Said::Listening { .. } => {}
        }
    }
    progress.clear();
    far.end().await;
    let rows = daemon.stop().await?;
    for call in &mut report.calls {
        if let Some(row) = rows.iter().find(|row| row.caller_hash.as_deref() == Some(&call.caller)) {
            call.outcome.clone_from(&row.outcome);
            call.fault.clone_from(&row.fault);
            call.cost_micro_usd = row.cost_micro_usd;
        }
    }
    if rows.len() != report.calls.len() {
        report.failures.push(format!("{} rows in the ledger for {} calls", rows.len(), report.calls.len()));
    }
    report.machine = machine()?;
    report.finish();
    Ok(report)
}

fn consumption(since: Instant, start: process::Usage, before: process::Usage, pid: u32, calls: u32) -> Consumption {
    let (seconds, now) = (since.elapsed().as_secs_f64(), process::usage(pid));
    let cpu_seconds = now.cpu_seconds - start.cpu_seconds;
    let count = f64::from(calls);
    let rss_up = now.rss_mib.max(start.rss_mib);
    Consumption {
        seconds,
        cpu_seconds,
        calls: usize::try_from(calls).unwrap_or_default(),
        cpu_percent_per_call: if seconds > 0.0 { cpu_seconds / (seconds * count) * 100.0 } else { 0.0 },
        rss_before_mib: before.rss_mib,
        rss_up_mib: rss_up,
        mib_per_call: (rss_up - before.rss_mib) / count,
    }
}

/// The machine's figures, with one Opus encode as the daemon does it, for comparison with other machines.
fn machine() -> Result<Machine, String> {
    let speech = Speech::load().map_err(|error| error.to_string())?;
    let mut encoder = Encoder::new(EncoderSettings::default()).map_err(|error| error.to_string())?;
    let mut packet = [0; MAX_ENCODED_BYTES];
    let lines = speech.caller("en");
    let (began, mut frames) = (Instant::now(), 0_u32);
    for frame in lines.iter().flat_map(|line| line.samples.as_chunks().0) {
        encoder.encode(frame, &mut packet).map_err(|error| error.to_string())?;
        frames += 1;
    }
    Ok(Machine {
        cpu: process::cpu_model(),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        load: process::load(),
        opus_encode_us: began.elapsed().as_secs_f64() * 1e6 / f64::from(frames.max(1)),
    })
}

/// The child with the far ends.
struct FarEnds {
    child: Child,
    stdin: ChildStdin,
    lines: tokio::io::Lines<BufReader<ChildStdout>>,
}

impl FarEnds {
    async fn start(spec: &Spec) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .arg("simulate-far-ends")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the far ends have no pipes".to_owned());
        };
        let mut far = Self { child, stdin, lines: BufReader::new(stdout).lines() };
        far.tell(spec).await?;
        Ok(far)
    }

    async fn tell(&mut self, what: &impl serde::Serialize) -> Result<(), String> {
        let mut line = serde_json::to_string(what).map_err(|error| error.to_string())?;
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).await.map_err(|error| format!("far ends: {error}"))
    }

    async fn next(&mut self) -> Result<Said, String> {
        let line = tokio::time::timeout(SILENCE, self.lines.next_line()).await;
        let line = line.map_err(|_| "the far ends fell silent".to_owned())?.map_err(|error| error.to_string())?;
        let line = line.ok_or("the far ends ended early")?;
        serde_json::from_str(&line).map_err(|error| format!("far ends said something odd: {error}"))
    }

    async fn end(mut self) {
        drop(self.stdin);
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            self.child.kill().await.ok();
        }
    }
}

/// The line that is shown while it runs; on a terminal it is one line, else one for each change.
struct Progress {
    shown: bool,
    terminal: bool,
    last: (usize, usize, usize),
}

impl Progress {
    fn new(shown: bool) -> Self {
        Self { shown, terminal: std::io::stderr().is_terminal(), last: (0, 0, 0) }
    }

    fn show(&mut self, ringing: usize, talking: usize, over: usize) {
        if !self.shown || self.last == (ringing, talking, over) {
            return;
        }
        self.last = (ringing, talking, over);
        let text = format!("ringing {ringing} · talking {talking} · over {over}");
        let mut err = std::io::stderr().lock();
        let written = if self.terminal { write!(err, "\r\x1b[K{text}") } else { writeln!(err, "{text}") };
        written.and_then(|()| err.flush()).ok();
    }

    fn clear(&self) {
        if self.shown && self.terminal {
            write!(std::io::stderr(), "\r\x1b[K").ok();
        }
    }
}

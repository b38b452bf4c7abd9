//! `sauti calls`: the ledger as people and scripts read it, also while the daemon runs.
//!
//! It reads only, needs neither secrets nor a sound configuration, and prints no colours. Words of a conversation are
//! shown by `show` alone. Called by `main`; what it prints goes to a writer, so that tests can read it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sauti_core::call::cost::{self, Cost};
use sauti_core::ids::CallId;

use crate::cli::{CallsArgs, CallsCommand, DEFAULT_CONFIG, Exit};
use crate::store::StoreError;
use crate::store::read::{CallDetail, CallRow, QualityLine, Reader, SipLine, Time, TurnLine};

/// Where the ledger lies unless the configuration says otherwise.
const DEFAULT_LEDGER: &str = "/var/lib/sauti/ledger.db";
/// How many calls `list` shows unless told.
const LATEST: u32 = 50;
/// How often `--follow` looks; one look is a few index reads.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Why nothing, or not all, was printed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("could not write the answer: {0}; give it a terminal, a pipe or a file with room")]
    Output(#[from] io::Error),
    #[error("{path}: {reason}; mend it, or name another one with --config")]
    Config { path: String, reason: String },
    #[error("call {0:?} is not in the ledger; `sauti calls list` prints the ids")]
    Unknown(String),
    #[error("a call's row could not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Runs `sauti calls`: exit 0 when it printed what was asked for, else 1 with the reason on standard error.
#[must_use]
pub fn command(args: &CallsArgs) -> Exit {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut wait = || {
        std::thread::sleep(LOOK_EVERY);
        true
    };
    let printed = ledger_path(&args.config.config)
        .and_then(|path| Ok(Reader::open(&path)?))
        .and_then(|reader| print(&reader, args, &mut out, &mut wait))
        .and_then(|()| Ok(out.flush()?));
    match printed {
        Ok(()) => Exit::Fine,
        // Whoever read along has enough.
        Err(Trouble::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Fine,
        Err(trouble) => {
            // Nobody is left to tell when standard error is closed too.
            writeln!(io::stderr(), "sauti calls: {trouble}").ok();
            Exit::Failed
        }
    }
}

/// Reads `[ledger] path` out of the configuration and nothing else: a ledger can be read beside a broken one.
fn ledger_path(config: &Path) -> Result<PathBuf, Trouble> {
    let refused = |reason: String| Trouble::Config { path: config.display().to_string(), reason };
    let text = match std::fs::read_to_string(config) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && config == Path::new(DEFAULT_CONFIG) => String::new(),
        Err(error) => return Err(refused(error.to_string())),
    };
    // The parser's own words would repeat the line, and who knows what stands in it.
    let table: toml::Table = text.parse().map_err(|_| refused("is not TOML".to_owned()))?;
    match table.get("ledger").and_then(|ledger| ledger.get("path")) {
        None => Ok(PathBuf::from(DEFAULT_LEDGER)),
        Some(toml::Value::String(path)) => Ok(PathBuf::from(path)),
        Some(_) => Err(refused("[ledger] path is not a text in quotes".to_owned())),
    }
}

/// Prints what was asked for; `wait` lets time pass between two looks of `--follow`, and ends it with false.
fn print(
    reader: &Reader,
    args: &CallsArgs,
    out: &mut dyn Write,
    wait: &mut dyn FnMut() -> bool,
) -> Result<(), Trouble> {
    match &args.what {
        None => list(reader, LATEST, args.json, out).map(drop),
        Some(CallsCommand::List { follow: false, last }) => list(reader, *last, args.json, out).map(drop),
        Some(CallsCommand::List { follow: true, last }) => {
            let shown = list(reader, *last, args.json, out)?;
            follow(reader, shown, args.json, out, wait)
        }
        Some(CallsCommand::Show { id }) => show(reader, id, args.json, out),
        Some(CallsCommand::Export) => export(reader, out),
    }
}

/// The calls of a list that still ran, and the last row it saw.
struct Shown {
    last: i64,
    open: Vec<CallId>,
}

impl Shown {
    fn note(&mut self, call: &CallRow) {
        self.last = self.last.max(call.rowid);
        if call.outcome.is_none() {
            self.open.extend(CallId::parse(&call.call_id));
        }
    }
}

fn list(reader: &Reader, last: u32, json: bool, out: &mut dyn Write) -> Result<Shown, Trouble> {
    let mut shown = Shown { last: 0, open: Vec::new() };
    if !json {
        writeln!(out, "{}", line(HEADINGS))?;
    }
    for call in reader.latest(last)? {
        shown.note(&call);
        print_line(&call, json, out)?;
    }
    Ok(shown)
}

/// Prints each call once when it begins and once when it has ended.
fn follow(
    reader: &Reader,
    mut shown: Shown,
    json: bool,
    out: &mut dyn Write,
    wait: &mut dyn FnMut() -> bool,
) -> Result<(), Trouble> {
    loop {
        out.flush()?;
        if !wait() {
            return Ok(());
        }
        for id in std::mem::take(&mut shown.open) {
            let Some(call) = reader.call(id)? else { continue };
            if call.outcome.is_some() {
                print_line(&call, json, out)?;
            } else {
                shown.open.push(id);
            }
        }
        for call in reader.after(shown.last)? {
            shown.note(&call);
            print_line(&call, json, out)?;
        }
    }
}

fn export(reader: &Reader, out: &mut dyn Write) -> Result<(), Trouble> {
    let mut last = 0;
    loop {
        let calls = reader.after(last)?;
        let Some(newest) = calls.last() else { return Ok(()) };
        last = newest.rowid;
        for call in calls {
            print_json(&reader.detail(call, false)?, out)?;
        }
    }
}

fn show(reader: &Reader, id: &str, json: bool, out: &mut dyn Write) -> Result<(), Trouble> {
    let unknown = || Trouble::Unknown(id.to_owned());
    let call = reader.call(CallId::parse(id).ok_or_else(unknown)?)?.ok_or_else(unknown)?;
    let detail = reader.detail(call, true)?;
    if json { print_json(&detail, out) } else { page(&detail, out) }
}

fn print_json(value: &impl serde::Serialize, out: &mut dyn Write) -> Result<(), Trouble> {
    serde_json::to_writer(&mut *out, value)?;
    Ok(writeln!(out)?)
}

/// The columns of a list; widths are fixed, so that lines which come later stand under those before.
const HEADINGS: [&str; 10] =
    ["OFFERED", "CALL", "DOOR", "CALLER", "LANG", "OUTCOME", "FAULT", "SECONDS", "AUDIO MS", "COST USD"];
const WIDTHS: [usize; 10] = [24, 36, 12, 8, 4, 17, 8, 8, 8, 9];
/// From here on columns hold numbers, which stand to the right.
const NUMBERS: usize = 7;

fn line(cells: [&str; 10]) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in cells.into_iter().zip(WIDTHS).enumerate() {
        let cell = plain(cell);
        line += &if column < NUMBERS { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
    }
    line.trim_end().to_owned()
}

fn print_line(call: &CallRow, json: bool, out: &mut dyn Write) -> Result<(), Trouble> {
    if json {
        return print_json(call, out);
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let seconds = call.seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
    let audio = call.first_audio_at.map(|at| at.millis_after(call.offered_at).to_string());
    let line = line([
        &call.offered_at.to_string(),
        &call.call_id,
        &call.door,
        &call.caller_hash.as_deref().map_or_else(|| "-".to_owned(), |hash| hash.chars().take(8).collect()),
        &text(&call.language),
        call.outcome.as_deref().unwrap_or("live"),
        &text(&call.fault),
        &seconds,
        &text(&audio),
        &price(call),
    ]);
    Ok(writeln!(out, "{line}")?)
}

/// What an ended call cost; `?` = not known. A running one has no sum yet.
fn price(call: &CallRow) -> String {
    if call.outcome.is_none() { "-".to_owned() } else { dollars(call.cost_micro_usd) }
}

fn dollars(micros: Option<i64>) -> String {
    cost::shown(micros.and_then(|micros| u64::try_from(micros).ok()).map(Cost::from_micro_usd))
}

/// One call as a page for people.
fn page(detail: &CallDetail, out: &mut dyn Write) -> Result<(), Trouble> {
    let call = &detail.call;
    let outcome = match (&call.outcome, &call.fault) {
        (Some(outcome), Some(fault)) => format!("{outcome}, fault: {fault}"),
        _ => "live".to_owned(),
    };
    let seconds = call.seconds.map_or_else(|| "not known".to_owned(), |seconds| format!("{seconds:.1}"));
    let mut facts = vec![
        ("call", call.call_id.clone()),
        ("door", format!("{}, {}", call.door, call.direction)),
        ("outcome", outcome),
        ("seconds", seconds),
        ("cost USD", price(call)),
    ];
    let further = [
        ("caller", &call.caller_hash),
        ("language", &call.language),
        ("whatsapp", &call.wa_call_id_hash),
        ("carrier", &call.mtn_call_sid),
        ("text", &call.text_state),
    ];
    facts.extend(further.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    for (name, value) in facts {
        writeln!(out, "{name:<12}{}", plain(&value))?;
    }
    writeln!(out, "\nstages")?;
    let stages = [
        ("connect", call.connect_at),
        ("offered", Some(call.offered_at)),
        ("pre-accepted", call.pre_accepted_at),
        ("media up", call.media_up_at),
        ("model up", call.model_up_at),
        ("accepted", call.accepted_at),
        ("first audio", call.first_audio_at),
        ("ended", call.ended_at),
    ];
    for (name, at) in stages {
        let Some(at) = at else { continue };
        writeln!(out, "  {:>10}  {at}  {name}", since(call.offered_at, at))?;
    }
    sessions(detail, out)?;
    if let Some(line) = &detail.quality {
        quality(line, out)?;
    }
    if !detail.events.is_empty() {
        writeln!(out, "\nevents")?;
    }
    for event in &detail.events {
        let fields = event.fields.as_object().filter(|fields| !fields.is_empty());
        let fields = fields.map_or_else(String::new, |fields| {
            fields.iter().map(|(name, value)| format!("  {name}={value}")).collect()
        });
        writeln!(out, "  {:>10}  {}{}", since(call.offered_at, event.at), plain(&event.event), plain(&fields))?;
    }
    sip(&detail.sip, out)?;
    if let Some(summary) = &detail.summary {
        writeln!(out, "\nsummary: {}", plain(&summary.intent))?;
        writeln!(out, "  {}", plain(&summary.summary_text))?;
        if let Some(follow_up) = &summary.follow_up {
            writeln!(out, "  to do: {}", plain(follow_up))?;
        }
    }
    let turns = detail.transcript.as_deref().unwrap_or_default();
    if !turns.is_empty() {
        writeln!(out, "\ntranscript, as heard")?;
    }
    for turn in turns {
        writeln!(
            out,
            "  {:>10}  {:<7}{}{}",
            since(call.offered_at, turn.began_at),
            turn.speaker,
            plain(&turn.text),
            cut(turn)
        )?;
    }
    Ok(())
}

/// What an operator asks first when somebody complains: who heard whom badly, and was it the network.
fn quality(line: &QualityLine, out: &mut dyn Write) -> Result<(), Trouble> {
    let known =
        |value: Option<f64>, unit: &str| value.map_or_else(|| "?".to_owned(), |value| format!("{value:.1}{unit}"));
    writeln!(out, "\nquality (estimate, 1 to 4.5), loss, delay")?;
    writeln!(
        out,
        "  heard   {}  lost {:.1} %, in runs {:.1} times as long as by chance  jitter {:.0} ms, buffer {:.0} ms",
        known(line.heard_mos, ""),
        line.heard_loss,
        line.burst_ratio,
        line.jitter_ms,
        line.buffer_ms,
    )?;
    writeln!(
        out,
        "  spoken  {}  lost {}  there and back {}  frames missing {}",
        known(line.spoken_mos, ""),
        known(line.spoken_loss, " %"),
        known(line.round_trip_ms, " ms"),
        line.underruns,
    )?;
    Ok(())
}

fn sessions(detail: &CallDetail, out: &mut dyn Write) -> Result<(), Trouble> {
    if !detail.sessions.is_empty() {
        writeln!(out, "\nsessions, tokens in (of them cached) and out")?;
    }
    for session in &detail.sessions {
        write!(
            out,
            "  {}  {}  text {} ({}) {}  audio {} ({}) {}",
            session.ordinal,
            plain(&session.model),
            session.text_in,
            session.text_cached,
            session.text_out,
            session.audio_in,
            session.audio_cached,
            session.audio_out,
        )?;
        if session.metered_ms > 0 {
            write!(out, "  {} ms", session.metered_ms)?;
        }
        writeln!(out, "  {} USD", dollars(session.cost_micro_usd))?;
    }
    Ok(())
}

/// The messages as a carrier's engineer asks for them: when, which way, what, with which number, why it ended.
fn sip(lines: &[SipLine], out: &mut dyn Write) -> Result<(), Trouble> {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nSIP messages (<- from the far end, -> to it; user parts left out)")?;
    let (mut leg, mut next) = (0, 0);
    for line in lines {
        if line.leg != leg {
            writeln!(out, "  with whom the call was handed to, from its own first message on")?;
            (leg, next) = (line.leg, 0);
        }
        if line.number > next {
            writeln!(out, "              {} more, left out", line.number - next)?;
        }
        next = line.number.saturating_add(1);
        let offset = format!("+{}.{:03} s", line.at_ms / 1000, line.at_ms % 1000);
        let arrow = if line.way == "in" { "<-" } else { "->" };
        let reason = line.reason.as_ref().map_or_else(String::new, |reason| format!("  {}", plain(reason)));
        writeln!(out, "  {offset:>10}  {arrow} {:<48}  {}{reason}", plain(&line.first), plain(&line.cseq))?;
    }
    Ok(())
}

fn cut(turn: &TurnLine) -> String {
    match turn.heard_ms {
        Some(heard) if turn.interrupted => format!("  [cut off after {heard} ms]"),
        _ if turn.interrupted => "  [cut off]".to_owned(),
        _ => String::new(),
    }
}

/// `+1.250 s`, or `-0.400 s` for what came before.
fn since(start: Time, at: Time) -> String {
    let millis = at.millis_after(start);
    let sign = if millis < 0 { '-' } else { '+' };
    let millis = millis.unsigned_abs();
    format!("{sign}{}.{:03} s", millis / 1000, millis % 1000)
}

/// Words from outside must not steer the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sauti_core::call::outcome::Outcome;
    use sauti_core::media::quality::LineQuality;
    use sauti_core::pii::Pii;
    use sauti_core::record::{EndRow, EventRow, NewCall, Speaker, Stage, Turn};
    use sauti_core::sip::trace::{Trace, Way};

    use super::*;
    use crate::cli::ConfigArg;
    use crate::store::tests::{Fixture, at, call_id, dollars, ended, live, new_call, session};

    impl Fixture {
        fn answers(&self, what: Option<CallsCommand>, json: bool) -> Result<String, Trouble> {
            self.followed(what, json, &mut || false)
        }

        fn followed(
            &self,
            what: Option<CallsCommand>,
            json: bool,
            wait: &mut dyn FnMut() -> bool,
        ) -> Result<String, Trouble> {
            let args = CallsArgs { config: ConfigArg { config: PathBuf::new() }, json, what };
            let mut out = Vec::new();
            print(&Reader::open(self.store.path())?, &args, &mut out, wait)?;
            Ok(String::from_utf8_lossy(&out).into_owned())
        }

        /// A call with all that belongs to one, ended.
        async fn with_whole_call() -> Self {
            let it = Self::with_call(1).await;
            let id = call_id(1);
            it.store.stage(id, Stage::FirstAudio, at(5));
            let fields = BTreeMap::from([("ms".to_owned(), serde_json::json!(412))]);
            let event = EventRow { at: at(4), event: "WA_CALL_ACCEPTED".to_owned(), fields };
            it.store.event(id, event);
            it.store.session(id, session(0, dollars(2_600)));
            for (item, speaker, second, words) in
                [("b", Speaker::Caller, 8, "two teas \u{1b}[2Jplease"), ("a", Speaker::Agent, 5, "Hello! How can I")]
            {
                let turn = Turn {
                    item: item.to_owned(),
                    speaker,
                    began_at: at(second),
                    heard: (speaker == Speaker::Agent).then(|| Duration::from_millis(900)),
                    interrupted: speaker == Speaker::Agent,
                    text: Pii::new(words),
                };
                it.store.turn(id, turn);
            }
            let quality = LineQuality {
                heard_mos: Some(4.12),
                spoken_mos: None,
                heard_loss: 2.5,
                spoken_loss: None,
                burst_ratio: 1.4,
                jitter_ms: 8.2,
                buffer_ms: 41.0,
                round_trip_ms: None,
                underruns: 3,
            };
            it.store.quality(id, LineQuality { underruns: 0, ..quality });
            it.store.quality(id, quality);
            it.store.end(id, ended(Outcome::Completed)).await.unwrap();
            it
        }
    }

    #[tokio::test]
    async fn a_list_is_a_table_with_aligned_columns_while_the_daemon_writes() {
        let it = Fixture::with_whole_call().await;
        it.store.admit(new_call(2), Some(live())).await.unwrap();
        it.store.admit(NewCall { language: None, ..new_call(3) }, None).await.unwrap();
        it.store.session(call_id(3), session(0, None));
        it.store.end(call_id(3), EndRow { talked: None, ..ended(Outcome::ModelFailed) }).await.unwrap();
        let text = it.answers(None, false).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        let column = |line: &str, heading: &str| {
            let start = lines[0].find(heading).unwrap();
            line[start..].split("  ").next().unwrap().trim().to_owned()
        };
        for (line, outcome, language) in [(1, "completed", "fr"), (2, "live", "fr"), (3, "model_failed", "-")] {
            assert_eq!(column(lines[line], "OUTCOME"), outcome);
            assert_eq!(column(lines[line], "LANG"), language);
            assert!(lines[line].starts_with("2025-10-17T06:11:48.000Z"), "{text}");
        }
        assert!(lines[1].ends_with("27.5      3000   0.002600"), "{text}");
        assert!(lines[2].ends_with("-         -          -"), "{text}");
        assert!(lines[3].ends_with("-         -          ?"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains("teas"));
    }

    #[tokio::test]
    async fn a_list_as_json_is_one_object_a_line_with_an_unknown_cost_as_null() {
        let it = Fixture::with_whole_call().await;
        it.store.admit(new_call(2), None).await.unwrap();
        let text = it.answers(Some(CallsCommand::List { follow: false, last: 1 }), true).unwrap();
        let call: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(call["call_id"], call_id(2).to_string());
        assert_eq!(call["offered_at"], "2025-10-17T06:11:48.000Z");
        assert!(call["cost_micro_usd"].is_null() && call.get("rowid").is_none());
    }

    #[tokio::test]
    async fn show_has_stages_sessions_events_and_the_words_in_the_order_they_were_said() {
        let it = Fixture::with_whole_call().await;
        let text = it.answers(Some(CallsCommand::Show { id: call_id(1).to_string() }), false).unwrap();
        for part in [
            "outcome     completed, fault: none",
            "cost USD    0.002600",
            "   -2.000 s  2025-10-17T06:11:46.000Z  connect",
            "   +3.000 s  2025-10-17T06:11:51.000Z  first audio",
            "0  gpt-realtime-2.1  text 0 (0) 0  audio 10 (0) 0  70 ms  0.002600 USD",
            "WA_CALL_ACCEPTED  ms=412",
            "heard   4.1  lost 2.5 %, in runs 1.4 times as long as by chance  jitter 8 ms, buffer 41 ms",
            "spoken  ?  lost ?  there and back ?  frames missing 3",
            "agent  Hello! How can I  [cut off after 900 ms]",
            "caller two teas \u{fffd}[2Jplease",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(text.find("Hello!") < text.find("two teas"));
        let json = it.answers(Some(CallsCommand::Show { id: call_id(1).to_string() }), true).unwrap();
        let call: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(call["transcript"][1]["speaker"], "caller");
        assert_eq!(call["events"][0]["fields"]["ms"], 412);
    }

    #[tokio::test]
    async fn show_has_the_sip_messages_with_what_was_left_out_and_an_export_has_them_too() {
        let it = Fixture::with_call(1).await;
        let start = std::time::Instant::now();
        let mut trace = Trace::new(start);
        let mut said = |ms: u64, way, first: &str, cseq: &str, reason: Option<&str>| {
            trace.add(start + Duration::from_millis(ms), way, first, cseq, reason);
        };
        said(0, Way::In, "INVITE sip:+250780000001@edge.example.org SIP/2.0", "1 INVITE", None);
        said(3, Way::Out, "SIP/2.0 180 Ringing", "1 INVITE", None);
        (0..70).for_each(|_| said(900, Way::In, "INFO sip:sauti@edge.example.org SIP/2.0", "2 INFO", None));
        said(61_250, Way::In, "BYE sip:sauti@edge.example.org SIP/2.0", "73 BYE", Some("Q.850;cause=16;text=\"x\""));
        it.store.sip_messages(call_id(1), 0, Vec::new());
        it.store.sip_messages(call_id(1), 0, trace.lines().to_vec());
        it.store.sip_messages(call_id(1), 1, trace.lines()[..1].to_vec());
        it.store.end(call_id(1), ended(Outcome::Completed)).await.unwrap();
        let show = || Some(CallsCommand::Show { id: call_id(1).to_string() });
        let text = it.answers(show(), false).unwrap();
        let page: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("SIP messages")).skip(1).collect();
        assert_eq!(page.len(), 64 + 3, "{text}");
        assert_eq!(page[0], format!("    +0.000 s  <- {:<48}  1 INVITE", "INVITE sip:…@edge.example.org SIP/2.0"));
        assert_eq!(page[1], format!("    +0.003 s  -> {:<48}  1 INVITE", "180 Ringing"));
        assert_eq!(page[40].trim(), "9 more, left out");
        assert!(page[64].starts_with("   +61.250 s  <- BYE") && page[64].ends_with("73 BYE  Q.850;cause=16"), "{text}");
        assert!(page[65].contains("handed to") && page[66].ends_with("1 INVITE"), "{text}");
        for json in [it.answers(show(), true).unwrap(), it.answers(Some(CallsCommand::Export), false).unwrap()] {
            let call: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!((&call["sip"][1]["way"], &call["sip"][1]["at_ms"]), (&"out".into(), &3.into()));
            assert_eq!(call["sip"].as_array().map(Vec::len), Some(65));
        }
    }

    #[tokio::test]
    async fn an_unknown_id_is_said_to_be_unknown() {
        let it = Fixture::with_whole_call().await;
        for id in ["17", &call_id(9).to_string()] {
            let error = it.answers(Some(CallsCommand::Show { id: id.to_owned() }), false).unwrap_err().to_string();
            assert!(error.contains(id) && error.contains("calls list"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_export_has_every_call_once_and_no_words() {
        let it = Fixture::with_whole_call().await;
        for n in 2..=250 {
            it.store.admit(new_call(n), None).await.unwrap();
        }
        let text = it.answers(Some(CallsCommand::Export), false).unwrap();
        let ids: std::collections::BTreeSet<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|call| call["call_id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!((text.lines().count(), ids.len()), (250, 250));
        assert!(text.contains("WA_CALL_ACCEPTED") && !text.contains("teas") && !text.contains("transcript"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn follow_prints_each_call_when_it_begins_and_when_it_has_ended() {
        let it = Fixture::with_call(1).await;
        let mut looks = 0;
        let store = it.store.clone();
        let mut wait = || {
            looks += 1;
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    match looks {
                        1 => drop(store.admit(new_call(2), None).await.unwrap()),
                        2 => drop(store.end(call_id(1), ended(Outcome::Limit)).await.unwrap()),
                        3 => drop(store.end(call_id(2), ended(Outcome::Completed)).await.unwrap()),
                        _ => {}
                    }
                });
            });
            looks < 6
        };
        let text = it.followed(Some(CallsCommand::List { follow: true, last: 10 }), true, &mut wait).unwrap();
        let seen: Vec<(String, serde_json::Value)> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|call| (call["call_id"].as_str().unwrap().to_owned(), call["outcome"].clone()))
            .collect();
        let (one, two) = (call_id(1).to_string(), call_id(2).to_string());
        let expected = [(&one, None), (&two, None), (&one, Some("limit")), (&two, Some("completed"))];
        assert_eq!(seen, expected.map(|(id, outcome)| (id.clone(), serde_json::json!(outcome))));
    }

    #[tokio::test]
    async fn a_closed_ledger_is_read_and_stays_as_it_is() {
        let it = Fixture::with_whole_call().await;
        it.store.close().await;
        let before = std::fs::read(it.store.path()).unwrap();
        assert!(it.answers(None, false).unwrap().contains("completed"));
        assert_eq!(std::fs::read(it.store.path()).unwrap(), before);
    }

    #[test]
    fn a_missing_ledger_says_where_it_was_looked_for() {
        let error = Trouble::from(Reader::open(Path::new("/nowhere/ledger.db")).err().unwrap()).to_string();
        assert!(error.contains("/nowhere/ledger.db") && error.contains("--config"), "{error}");
    }

    #[test]
    fn the_ledgers_place_is_read_beside_a_configuration_that_is_wrong_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let place = |text: &str| {
            std::fs::write(&config, text).unwrap();
            ledger_path(&config).map_err(|trouble| trouble.to_string())
        };
        let wrong = "[whatsapp]\nphone_number = 7\n[ledger]\npath = \"/srv/ledger.db\"\n";
        assert_eq!(place(wrong).unwrap(), Path::new("/srv/ledger.db"));
        assert_eq!(place("[node]\n").unwrap(), Path::new(DEFAULT_LEDGER));
        assert!(place("[ledger]\npath = 7\n").unwrap_err().contains("text in quotes"));
        let broken = place("token = canary-whatsapp-token\n").unwrap_err();
        assert!(broken.contains("is not TOML") && !broken.contains("canary"), "{broken}");
        assert!(ledger_path(&dir.path().join("none.toml")).is_err());
    }
}

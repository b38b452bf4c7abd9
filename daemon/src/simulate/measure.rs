//! From what phones, Meta and the model kept to the figures of a call (contract §7). It judges nothing.

use std::time::{Duration, Instant};

use sauti_core::media::frame::SAMPLE_RATE;
use sauti_sim::audio::chirp::ChirpDetector;
use sauti_sim::audio::judge::{Judge, Utterance};
use sauti_sim::caller::person::Said;
use sauti_sim::openai::Record;
use sauti_sim::whatsapp::calls::CallRecord;

use super::loopback::phones::Lived;
use super::report::{CallReport, ConnectTimes};

/// What may lie between a delta that leaves the model and its sound at the caller's ear, when she hangs up meanwhile:
/// the 200 ms that a lane is given ahead, and the two links.
const ON_THE_WAY: Duration = Duration::from_millis(250);

/// What a report is made of.
pub(super) struct Evidence<'a> {
    pub(super) lived: &'a Lived,
    pub(super) graph: Option<&'a CallRecord>,
    pub(super) model: Option<&'a Record>,
    pub(super) language: &'a str,
    pub(super) caller: String,
    pub(super) probe: bool,
    /// Delay that the echoing model adds by itself.
    pub(super) echo_delay: Duration,
    /// Samples by which what a packet holds comes late out of its decoder.
    pub(super) codec_delay: u64,
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Makes the report of one call.
pub(super) fn report(judge: &mut Judge, evidence: &Evidence<'_>) -> CallReport {
    let lived = evidence.lived;
    let since = |at: Option<Instant>| Some(ms(at?.saturating_duration_since(lived.posted?)));
    let person = &lived.person;
    let connect = ConnectTimes {
        pre_accepted: since(evidence.graph.and_then(|record| record.pre_accepted_at)),
        media_up: since(lived.connected),
        accepted: since(lived.accepted),
        first_packet: since(lived.ear.first_packet),
        first_audible: since(person.first_heard()),
    };
    let mut report = CallReport {
        number: lived.number,
        kind: if evidence.probe { "probe" } else { "conversation" }.to_owned(),
        language: evidence.language.to_owned(),
        caller: evidence.caller.clone(),
        connect,
        from_offer_ms: person.first_heard().and_then(|at| Some(ms(at.saturating_duration_since(lived.dialled?)))),
        lines: person.said.len(),
        ai_share: person.share_heard(),
        break_ins: person.said.iter().filter(|said| said.broke_in).count(),
        lost_frames: lived.ear.missing_frames,
        lost_up: lived.ways.map_or(0, |(up, _)| up.lost + up.cut_off + up.overflowed),
        longest_gap_ms: longest_gap(&lived.ear.arrivals),
        early_packets: lived.ear.early,
        sources: lived.ear.sources.len(),
        ended: lived.over.map_or_else(|| "not at all".to_owned(), |cause| format!("{cause:?}")),
        ..CallReport::default()
    };
    report.objections.extend(lived.trouble.iter().cloned());
    if lived.ear.odd > 0 {
        report.objections.push(format!("{} packets were no Opus of ours", lived.ear.odd));
    }
    let Some(model) = evidence.model else {
        report.objections.push("the model never met this caller".to_owned());
        return report;
    };
    report.items = model.spoken.len();
    report
        .objections
        .extend(model.client_faults.iter().map(|fault| format!("model: {:?} {}", fault.kind, fault.detail)));
    if evidence.probe {
        chirps(&mut report, lived, model, evidence);
    } else {
        content(judge, &mut report, lived, model);
    }
    report
}

fn content(judge: &mut Judge, report: &mut CallReport, lived: &Lived, model: &Record) {
    let said: Vec<Utterance> = lived.person.said.iter().map(Said::utterance).collect();
    let up = judge.heard(&said, &model.appended);
    (report.heard_up, report.windows_up) = (up.percent(), up.sent_windows);
    // Her own phone's standstills are excused, and nobody can be judged by what is left where they are many.
    if up.excused_windows * 4 > up.sent_windows {
        report
            .objections
            .push(format!("her phone stood still in {} of {} windows", up.excused_windows, up.sent_windows));
    }
    let spoken = owed(model, lived.person.hung_up_at());
    let down = judge.heard(&spoken, &lived.person.heard);
    (report.heard_down, report.windows_down) = (down.percent(), down.sent_windows);
    let started: Vec<Instant> = model.instants_of("input_audio_buffer.speech_started").collect();
    for said in lived.person.said.iter().filter(|said| said.broke_in) {
        // The event that answers this interruption, and the speech that was cut by it.
        let Some(noticed) = started.iter().copied().find(|at| *at >= said.at) else { continue };
        let cut = lived.person.speech.iter().find(|heard| heard.from <= said.at && heard.to >= said.at);
        if let Some(cut) = cut {
            report.barge_in_ms.push(ms(cut.to.saturating_duration_since(noticed)));
            report.voice_to_silence_ms.extend(lived.person.silence_after(said).map(ms));
        }
    }
}

/// What the caller should have heard: what the model sent and did not take back, as far as it can be spoken until she
/// hangs up. A model that sends ahead of time has often sent more than that.
fn owed(model: &Record, hung_up: Option<Instant>) -> Vec<Utterance> {
    let samples = |length: Duration| usize::try_from(length.as_millis() * u128::from(SAMPLE_RATE) / 1_000);
    let mut free: Option<Instant> = None;
    let mut owed = Vec::new();
    for item in model.spoken.iter().filter(|item| item.samples_sent > 0 && !item.deleted) {
        let sent = item.samples.get(..item.samples_sent.min(item.samples.len())).unwrap_or_default();
        let mut utterance = Utterance::new(sent);
        let cut = item.truncated_at_ms.map(Duration::from_millis);
        let first = item.deltas.first().map(|(at, _)| *at);
        let begins = first.zip(free).map(|(first, free)| first.max(free)).or(first);
        let heard = begins.zip(hung_up).map(|(begins, end)| end.saturating_duration_since(begins + ON_THE_WAY));
        let at_most = cut.into_iter().chain(heard).min();
        utterance.truncated_at = at_most.and_then(|length| samples(length).ok());
        let spoken = sent.len().min(cut.and_then(|cut| samples(cut).ok()).unwrap_or(usize::MAX));
        let length = Duration::from_millis(spoken as u64 * 1_000 / u64::from(SAMPLE_RATE));
        free = begins.map(|begins| begins + length);
        owed.push(utterance);
    }
    owed
}

/// Where chirps begin in a recording; `early` samples are taken off each.
fn places(samples: &[i16], early: u64) -> Vec<usize> {
    let mut detector = ChirpDetector::new();
    let mut found = Vec::new();
    detector.push(samples, |detection| {
        found.push(usize::try_from(detection.sample.saturating_sub(early)).unwrap_or(usize::MAX));
    });
    found
}

fn chirps(report: &mut CallReport, lived: &Lived, model: &Record, evidence: &Evidence<'_>) {
    let heard = places(&lived.person.heard, evidence.codec_delay);
    let mut deltas: Vec<Instant> = model.spoken.iter().flat_map(|item| item.deltas.iter().map(|(at, _)| *at)).collect();
    deltas.sort_unstable();
    let mut chirps = lived.person.said.iter().peekable();
    for place in places(&model.appended, 0) {
        let holds = |append: &&sauti_sim::openai::Append| {
            let from = usize::try_from(append.from).unwrap_or(usize::MAX);
            (from..from.saturating_add(append.samples)).contains(&place)
        };
        let Some(append) = model.appends.iter().find(holds) else { continue };
        // The chirp that this is: the last one sent before it arrived.
        let mut sent = None;
        while let Some(said) = chirps.next_if(|said| said.at <= append.at) {
            sent = Some(said.at);
        }
        let Some(sent) = sent else { continue };
        report.up_ms.push(ms(append.at.saturating_duration_since(sent)));
        let echoed =
            deltas.iter().copied().find(|at| *at + Duration::from_millis(5) >= append.at + evidence.echo_delay);
        let Some(echoed) = echoed else { continue };
        let arrived = heard.iter().filter_map(|place| arrival(lived, *place)).find(|at| *at >= echoed);
        if let Some(arrived) = arrived {
            report.down_ms.push(ms(arrived.saturating_duration_since(echoed)));
        }
    }
}

/// When the packet came that holds this sample of what was heard.
fn arrival(lived: &Lived, sample: usize) -> Option<Instant> {
    lived.ear.arrivals.iter().rev().find(|(_, from)| *from <= sample).map(|(at, _)| *at)
}

fn longest_gap(arrivals: &[(Instant, usize)]) -> f64 {
    let gap =
        arrivals.iter().zip(arrivals.iter().skip(1)).map(|((a, _), (b, _))| b.saturating_duration_since(*a)).max();
    ms(gap.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use sauti_sim::openai::SpokenItem;

    use super::*;

    const SECOND: usize = SAMPLE_RATE as usize;

    /// Three seconds that left the model all at once.
    fn item(at: Instant, truncated_at_ms: Option<u64>) -> SpokenItem {
        SpokenItem {
            response_id: String::new(),
            item_id: String::new(),
            samples: vec![0; 3 * SECOND].into(),
            bytes_sent: 6 * SECOND,
            samples_sent: 3 * SECOND,
            deltas: vec![(at, 6 * SECOND)],
            transcript: String::new(),
            truncated_at_ms,
            deleted: false,
            cancelled: false,
        }
    }

    fn lengths(items: Vec<SpokenItem>, hung_up: Option<Instant>) -> Vec<usize> {
        let owed = owed(&Record { spoken: items, ..Record::default() }, hung_up);
        owed.iter().map(|one| one.truncated_at.unwrap_or(usize::MAX).min(one.samples.len())).collect()
    }

    #[test]
    fn what_is_sent_ahead_is_owed_as_far_as_it_can_be_spoken_before_she_hangs_up() {
        let start = Instant::now();
        let after = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(lengths(vec![item(start, None)], None), [3 * SECOND], "a call that was ended by us");
        assert_eq!(lengths(vec![item(start, None)], Some(after(9_000))), [3 * SECOND]);
        assert_eq!(lengths(vec![item(start, None)], Some(after(1_250))), [SECOND]);
        assert_eq!(lengths(vec![item(start, Some(500))], Some(after(1_250))), [SECOND / 2], "cut before");
        // The second is spoken when the first is over, cut short or not.
        let two = || vec![item(start, None), item(after(100), None)];
        assert_eq!(lengths(two(), Some(after(4_250))), [3 * SECOND, SECOND]);
        let cut = vec![item(start, Some(1_000)), item(after(1_100), None)];
        assert_eq!(lengths(cut, Some(after(3_350))), [SECOND, 2 * SECOND]);
        // Who hangs up before it could begin owes us nothing.
        assert_eq!(lengths(vec![item(after(1_000), None)], Some(after(1_100))), [0]);
    }
}

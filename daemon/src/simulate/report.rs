//! What a simulation found, and whether that is what was expected: figures as the contract defines them (§7).

use sauti_sim::network::Percent;
use serde::{Deserialize, Serialize};

/// Content that has to arrive, in percent of what was sent; CI gates on content, not on time.
const HEARD_AT_LEAST: f64 = 98.0;

/// Packets that a window of 100 ms may touch.
const PACKETS_OF_WINDOW: i32 = 6;
/// What chance may take beyond the expected share on a bad network, in points.
const CHANCE: f64 = 12.0;
/// Windows of 100 ms in a second.
const WINDOWS_PER_SECOND: f64 = 10.0;

/// The network between phones and box, as it was asked for; alike in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Way {
    /// Packets lost, in percent.
    pub(crate) loss: Percent,
    /// Standard deviation that half a normal distribution is drawn with, ms.
    pub(crate) jitter_ms: u32,
    /// Nothing passes for so long, seconds.
    pub(crate) outage_s: u32,
}

impl Way {
    fn is_perfect(&self) -> bool {
        *self == Self::default()
    }

    /// What has to arrive of so many voiced windows, in percent, if the box mended nothing: a window is spoilt by each
    /// packet of it that is lost, an outage takes its seconds, and chance something on top.
    ///
    /// Towards the caller that is what there is (the emulated phone mends nothing); towards the model the box's
    /// concealment may only make it better.
    fn heard_at_least(&self, windows: u32) -> f64 {
        if self.is_perfect() {
            return HEARD_AT_LEAST;
        }
        let outage = f64::from(self.outage_s) * WINDOWS_PER_SECOND / f64::from(windows.max(1));
        let whole = (1.0 - self.loss.share()).powi(PACKETS_OF_WINDOW);
        (HEARD_AT_LEAST * whole * (1.0 - outage.min(1.0)) - CHANCE).max(0.0)
    }
}

/// One call as its far ends saw it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CallReport {
    /// Its number, from 1; the latency probe is the last.
    pub(crate) number: usize,
    /// `conversation` or `probe`.
    pub(crate) kind: String,
    /// Language of the caller's lines.
    pub(crate) language: String,
    /// What stands for the caller in the ledger.
    pub(crate) caller: String,
    /// Times since the webhook was posted, ms.
    pub(crate) connect: ConnectTimes,
    /// The offer was made (`o=`) → first audible frame, ms.
    pub(crate) from_offer_ms: Option<f64>,
    /// Voiced windows that the caller's words arrived in at the model, percent.
    pub(crate) heard_up: Option<f64>,
    /// Voiced windows that the model's words arrived in at the caller, percent.
    pub(crate) heard_down: Option<f64>,
    /// Lines that the caller spoke.
    pub(crate) lines: usize,
    /// Items that the model spoke.
    pub(crate) items: usize,
    /// Share of the time in which the AI was audible.
    pub(crate) ai_share: f64,
    /// `speech_started` written by the model → last audible packet at the caller, ms, for each interruption.
    pub(crate) barge_in_ms: Vec<f64>,
    /// The caller's first voiced frame → last audible packet at the caller, ms, for each interruption.
    pub(crate) voice_to_silence_ms: Vec<f64>,
    /// Interruptions that were planned and happened.
    pub(crate) break_ins: usize,
    /// Delay towards the model, ms, for each chirp (echo mode only).
    pub(crate) up_ms: Vec<f64>,
    /// Delay towards the caller, ms, for each chirp (echo mode only).
    pub(crate) down_ms: Vec<f64>,
    /// Frames that never reached the caller.
    pub(crate) lost_frames: u64,
    /// Datagrams that the network lost on their way to the box.
    pub(crate) lost_up: u64,
    /// Voiced windows that the caller's lines have.
    pub(crate) windows_up: u32,
    /// Voiced windows that the model's lines have.
    pub(crate) windows_down: u32,
    /// Longest pause between two packets at the caller, ms.
    pub(crate) longest_gap_ms: f64,
    /// Media before the accept.
    pub(crate) early_packets: u64,
    /// Sources of media; one is right.
    pub(crate) sources: usize,
    /// How Meta saw the end.
    pub(crate) ended: String,
    /// What the emulators had to object to.
    pub(crate) objections: Vec<String>,
    /// From the ledger: outcome and fault.
    pub(crate) outcome: Option<String>,
    /// From the ledger.
    pub(crate) fault: Option<String>,
    /// From the ledger, micro-USD.
    pub(crate) cost_micro_usd: Option<i64>,
    /// What was expected and is not so.
    pub(crate) failures: Vec<String>,
}

/// Stages of the way to the first word, ms since the webhook was posted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ConnectTimes {
    /// Graph took the pre-accept.
    pub(crate) pre_accepted: Option<f64>,
    /// ICE and DTLS up.
    pub(crate) media_up: Option<f64>,
    /// Graph took the accept.
    pub(crate) accepted: Option<f64>,
    /// First RTP packet.
    pub(crate) first_packet: Option<f64>,
    /// First audible frame.
    pub(crate) first_audible: Option<f64>,
}

/// The daemon's own consumption.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Consumption {
    /// Seconds that were measured.
    pub(crate) seconds: f64,
    /// User and system time of the daemon, seconds.
    pub(crate) cpu_seconds: f64,
    /// Calls that were up.
    pub(crate) calls: usize,
    /// Percent of one core for each call.
    pub(crate) cpu_percent_per_call: f64,
    /// RSS before the first call, MiB.
    pub(crate) rss_before_mib: f64,
    /// RSS with all calls up, MiB.
    pub(crate) rss_up_mib: f64,
    /// Difference for each call, MiB.
    pub(crate) mib_per_call: f64,
}

/// How well the daemon kept time, by its own metrics.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Pace {
    /// p99 of how late ticks were, with all calls up: median of its seconds, ms, as upper edges of classes.
    pub(crate) tick_p99_ms: Option<f64>,
    /// The same of the worst second.
    pub(crate) tick_p99_worst_ms: Option<f64>,
    /// Calls by SIP that were answered with 200.
    pub(crate) answers: u64,
    /// p95 of INVITE → 200, less the wait for the model, ms, as the upper edge of a bucket.
    pub(crate) answer_p95_ms: Option<f64>,
}

/// The lateness of ticks that a look at the metrics shows, ms.
pub(crate) fn tick_late_ms(metrics: &[(String, f64)]) -> Option<f64> {
    metrics.iter().find(|(name, _)| name == "sauti_tick_late_seconds").map(|(_, seconds)| seconds * 1e3)
}

impl Pace {
    /// From looks at the lateness while all calls were up, and the metrics at the end.
    pub(crate) fn new(late_ms: &[f64], metrics: &[(String, f64)]) -> Self {
        let of = |name: &'static str| {
            metrics.iter().filter_map(move |(found, count)| Some((found.strip_prefix(name)?, *count)))
        };
        let answers = of("sauti_sip_answer_seconds_count").map(|(_, count)| count).next().unwrap_or_default();
        let edge = |labels: &str| labels.strip_prefix("{le=\"")?.strip_suffix("\"}")?.parse::<f64>().ok();
        let p95 = of("sauti_sip_answer_seconds_bucket").find(|(_, count)| answers > 0.0 && *count >= answers * 0.95);
        Self {
            tick_p99_ms: median(late_ms.iter().copied()),
            tick_p99_worst_ms: late_ms.iter().copied().max_by(f64::total_cmp),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of calls")]
            answers: answers as u64,
            // Beyond the last edge there is no figure.
            answer_p95_ms: p95
                .and_then(|(labels, _)| edge(labels))
                .filter(|edge| edge.is_finite())
                .map(|edge| edge * 1e3),
        }
    }
}

/// The machine, for whoever reads the figures later.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Model of the CPU.
    pub(crate) cpu: String,
    /// Cores.
    pub(crate) cores: usize,
    /// Load average of one minute at the end.
    pub(crate) load: f64,
    /// One Opus encode in this run, µs for each 20 ms frame.
    pub(crate) opus_encode_us: f64,
}

/// Everything that a run found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The seed of the far ends.
    pub(crate) seed: u64,
    /// The network between phones and box.
    pub(crate) way: Way,
    /// How far the model was, there and back, ms.
    pub(crate) model_rtt_ms: u32,
    /// Who judged interruptions: `box` or `server`.
    pub(crate) judge: String,
    /// Medians and shares over all calls.
    pub(crate) summary: Summary,
    /// The daemon.
    pub(crate) consumption: Consumption,
    /// How it kept time.
    pub(crate) pace: Pace,
    /// The machine.
    pub(crate) machine: Machine,
    /// Each call.
    pub(crate) calls: Vec<CallReport>,
    /// Texts that the daemon sent.
    pub(crate) failures: Vec<String>,
}

/// Medians over all calls.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Calls, and those that failed an expectation.
    pub(crate) calls: usize,
    /// Calls that failed an expectation.
    pub(crate) failed: usize,
    /// Connect time by stage, median, ms.
    pub(crate) connect: ConnectTimes,
    /// 95th percentile of offer → first audible frame, ms.
    pub(crate) from_offer_p95_ms: Option<f64>,
    /// Median, ms.
    pub(crate) up_ms: Option<f64>,
    /// Median, ms.
    pub(crate) down_ms: Option<f64>,
    /// Median, ms.
    pub(crate) barge_in_ms: Option<f64>,
    /// Median, ms.
    pub(crate) voice_to_silence_ms: Option<f64>,
    /// Lowest of all calls, percent.
    pub(crate) heard_up_lowest: Option<f64>,
    /// Lowest of all calls, percent.
    pub(crate) heard_down_lowest: Option<f64>,
    /// Mean over the calls, percent.
    pub(crate) heard_up: Option<f64>,
    /// Mean over the calls, percent.
    pub(crate) heard_down: Option<f64>,
    /// Mean share of the time in which the AI spoke.
    pub(crate) ai_share: f64,
    /// Frames that never reached a caller.
    pub(crate) lost_frames: u64,
    /// Datagrams that the network lost on their way to the box.
    pub(crate) lost_up: u64,
    /// Sum, micro-USD; `None` when one is unknown.
    pub(crate) cost_micro_usd: Option<i64>,
}

/// The median of some figures.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    percentile(figures, 50)
}

/// The nearest-rank percentile of some figures.
pub(crate) fn percentile(figures: impl IntoIterator<Item = f64>, rank: usize) -> Option<f64> {
    let mut sorted: Vec<f64> = figures.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() * rank).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied()
}

#[expect(clippy::cast_precision_loss, reason = "a mean of some calls")]
fn mean(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    let all: Vec<f64> = figures.into_iter().collect();
    if all.is_empty() { None } else { Some(all.iter().sum::<f64>() / all.len() as f64) }
}

impl CallReport {
    fn is_probe(&self) -> bool {
        self.kind == "probe"
    }

    /// Notes what was expected of a call over such a network and is not so.
    pub(crate) fn judge(&mut self, way: &Way) {
        let mut failures = Vec::new();
        let mut expect = |holds: bool, what: String| {
            if !holds {
                failures.push(what);
            }
        };
        let heard = |side: &str, percent: Option<f64>| (percent.unwrap_or(0.0), format!("{side}: heard {percent:?} %"));
        expect(self.connect.first_audible.is_some(), "nothing audible reached the caller".to_owned());
        expect(self.outcome.as_deref() == Some("completed"), format!("outcome {:?}", self.outcome));
        expect(self.early_packets == 0, format!("{} packets before the accept", self.early_packets));
        expect(self.sources <= 1, format!("{} sources of media", self.sources));
        if self.is_probe() {
            expect(!self.up_ms.is_empty() && !self.down_ms.is_empty(), "no chirp came through".to_owned());
        } else {
            let (up, down) = (heard("up", self.heard_up), heard("down", self.heard_down));
            for ((percent, what), windows) in [(up, self.windows_up), (down, self.windows_down)] {
                let least = way.heard_at_least(windows);
                expect(percent >= least, format!("{what} of at least {least:.0} %"));
            }
            // What is said in an outage is said to nobody.
            let noticed = self.barge_in_ms.len() >= self.break_ins || way.outage_s > 0;
            expect(noticed, "an interruption was not noticed".to_owned());
        }
        for objection in &self.objections {
            expect(false, objection.clone());
        }
        self.failures = failures;
    }
}

impl Report {
    /// Judges each call and adds the figures up.
    pub(crate) fn finish(&mut self) {
        let way = self.way;
        self.calls.iter_mut().for_each(|call| call.judge(&way));
        let talks = || self.calls.iter().filter(|call| !call.is_probe());
        let stage = |of: fn(&ConnectTimes) -> Option<f64>| median(talks().filter_map(|call| of(&call.connect)));
        let costs: Option<Vec<i64>> = talks().map(|call| call.cost_micro_usd).collect();
        let lowest = |of: fn(&CallReport) -> Option<f64>| talks().filter_map(of).min_by(f64::total_cmp);
        self.summary = Summary {
            calls: self.calls.len(),
            failed: self.calls.iter().filter(|call| !call.failures.is_empty()).count(),
            connect: ConnectTimes {
                pre_accepted: stage(|times| times.pre_accepted),
                media_up: stage(|times| times.media_up),
                accepted: stage(|times| times.accepted),
                first_packet: stage(|times| times.first_packet),
                first_audible: stage(|times| times.first_audible),
            },
            from_offer_p95_ms: percentile(talks().filter_map(|call| call.from_offer_ms), 95),
            up_ms: median(self.calls.iter().flat_map(|call| call.up_ms.iter().copied())),
            down_ms: median(self.calls.iter().flat_map(|call| call.down_ms.iter().copied())),
            barge_in_ms: median(self.calls.iter().flat_map(|call| call.barge_in_ms.iter().copied())),
            voice_to_silence_ms: median(self.calls.iter().flat_map(|call| call.voice_to_silence_ms.iter().copied())),
            heard_up_lowest: lowest(|call| call.heard_up),
            heard_down_lowest: lowest(|call| call.heard_down),
            heard_up: mean(talks().filter_map(|call| call.heard_up)),
            heard_down: mean(talks().filter_map(|call| call.heard_down)),
            ai_share: mean(talks().map(|call| call.ai_share)).unwrap_or_default(),
            lost_frames: talks().map(|call| call.lost_frames).sum(),
            lost_up: talks().map(|call| call.lost_up).sum(),
            cost_micro_usd: costs.map(|costs| costs.iter().sum()),
        };
    }

    /// True when every call met its expectations.
    pub(crate) fn is_good(&self) -> bool {
        self.summary.failed == 0 && self.failures.is_empty() && !self.calls.is_empty()
    }

    /// The table that people see.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let summary = &self.summary;
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0} ms"));
        let percent = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} %"));
        let mut line = |text: String| {
            out.push_str(text.trim_end());
            out.push('\n');
        };
        line(format!(
            "{:>4}  {:<12} {:<4} {:>9} {:>9} {:>9} {:>9} {:>5} {:>10}  {}",
            "call", "kind", "lang", "connect", "barge-in", "heard up", "heard dn", "lost", "cost", "outcome"
        ));
        for call in &self.calls {
            line(format!(
                "{:>4}  {:<12} {:<4} {:>9} {:>9} {:>9} {:>9} {:>5} {:>10}  {}",
                call.number,
                call.kind,
                call.language,
                ms(call.connect.first_audible),
                ms(median(
                    if self.judge == "box" { &call.voice_to_silence_ms } else { &call.barge_in_ms }.iter().copied()
                )),
                percent(call.heard_up),
                percent(call.heard_down),
                call.lost_frames,
                dollars(call.cost_micro_usd),
                call.outcome.as_deref().unwrap_or("-"),
            ));
        }
        line(String::new());
        let connect = &summary.connect;
        line(format!(
            "connect     pre-accept {} · media up {} · accept {} · first packet {} · first word {}",
            ms(connect.pre_accepted),
            ms(connect.media_up),
            ms(connect.accepted),
            ms(connect.first_packet),
            ms(connect.first_audible)
        ));
        line(format!(
            "added       up {} · down {}, the model {} ms away and back",
            ms(summary.up_ms),
            ms(summary.down_ms),
            self.model_rtt_ms
        ));
        line(format!(
            "barge-in    judged by the {}: silence {} after her first voiced frame · {} after the model's speech_started",
            self.judge,
            ms(summary.voice_to_silence_ms),
            ms(summary.barge_in_ms)
        ));
        line(format!(
            "heard       up {} · down {} (lowest {} · {}) · lost frames {} · AI spoke {:.0} % of the time",
            percent(summary.heard_up),
            percent(summary.heard_down),
            percent(summary.heard_up_lowest),
            percent(summary.heard_down_lowest),
            summary.lost_frames,
            summary.ai_share * 100.0
        ));
        if !self.way.is_perfect() {
            line(format!(
                "network     loss {} % · jitter {} ms · outage {} s, each way · datagrams lost on the way up {}",
                f64::from(self.way.loss),
                self.way.jitter_ms,
                self.way.outage_s,
                summary.lost_up
            ));
        }
        let used = &self.consumption;
        line(format!(
            "daemon      CPU {:.2} % of a core a call · memory {:.2} MiB a call over {:.0} MiB · {} calls for {:.0} s",
            used.cpu_percent_per_call, used.mib_per_call, used.rss_before_mib, used.calls, used.seconds
        ));
        let pace = &self.pace;
        let exact = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value} ms"));
        line(format!(
            "pace        tick p99 {} late (worst second {}) · INVITE to 200 less the model, p95 {} of {}",
            exact(pace.tick_p99_ms),
            exact(pace.tick_p99_worst_ms),
            exact(pace.answer_p95_ms),
            pace.answers
        ));
        line(format!("cost        {} for all calls, by the built-in prices", dollars(summary.cost_micro_usd)));
        let machine = &self.machine;
        line(format!(
            "machine     {} · {} cores · load {:.1} · one Opus encode {:.0} µs",
            machine.cpu, machine.cores, machine.load, machine.opus_encode_us
        ));
        for call in &self.calls {
            for failure in &call.failures {
                line(format!("FAILED      call {}: {failure}", call.number));
            }
        }
        for failure in &self.failures {
            line(format!("FAILED      {failure}"));
        }
        let verdict = if self.is_good() { "every call met its expectations" } else { "expectations were not met" };
        line(format!("\n{} calls, {} failed: {verdict}", summary.calls, summary.failed));
        out
    }
}

fn dollars(micro_usd: Option<i64>) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with four decimals")]
    micro_usd.map_or_else(|| "?".to_owned(), |micro| format!("${:.4}", micro as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> CallReport {
        CallReport {
            kind: "conversation".to_owned(),
            connect: ConnectTimes { first_audible: Some(80.0), ..ConnectTimes::default() },
            heard_up: Some(100.0),
            heard_down: Some(99.8),
            sources: 1,
            outcome: Some("completed".to_owned()),
            ..CallReport::default()
        }
    }

    #[test]
    fn a_call_that_is_not_heard_fails_the_run() {
        let mut report = Report { calls: vec![good(), good()], ..Report::default() };
        report.finish();
        assert!(report.is_good(), "{}", report.table());
        report.calls[1].heard_down = Some(97.0);
        report.finish();
        assert!(!report.is_good());
        assert!(report.table().contains("FAILED      call 0: down"), "{}", report.table());
    }

    #[test]
    fn what_has_to_be_heard_follows_from_the_network() {
        let way = |loss, outage_s| Way { loss: Percent::new(loss).unwrap_or_default(), jitter_ms: 0, outage_s };
        let least = |way: Way, windows| way.heard_at_least(windows).round();
        assert_eq!([least(way(0.0, 0), 200), least(way(5.0, 0), 200), least(way(0.0, 5), 200)], [98.0, 60.0, 62.0]);
        assert_eq!(least(way(0.0, 30), 200), 0.0, "longer than all that was said");
        let mut report = Report { calls: vec![good()], way: way(5.0, 0), ..Report::default() };
        report.calls[0].heard_down = Some(75.0);
        report.finish();
        assert!(report.is_good() && report.table().contains("loss 5 %"), "{}", report.table());
        report.calls[0].heard_down = Some(50.0);
        report.finish();
        assert!(!report.is_good());
    }

    #[test]
    fn the_pace_is_read_out_of_the_daemons_metrics() {
        let metrics: Vec<(String, f64)> = [
            ("sauti_tick_late_seconds", 0.002),
            ("sauti_sip_answer_seconds_count", 40.0),
            ("sauti_sip_answer_seconds_bucket{le=\"0.003\"}", 30.0),
            ("sauti_sip_answer_seconds_bucket{le=\"0.0075\"}", 38.0),
            ("sauti_sip_answer_seconds_bucket{le=\"0.01\"}", 39.0),
            ("sauti_sip_answer_seconds_bucket{le=\"+Inf\"}", 40.0),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        assert_eq!(tick_late_ms(&metrics), Some(2.0));
        let pace = Pace::new(&[2.0, 1.0, 5.0], &metrics);
        assert_eq!((pace.tick_p99_ms, pace.tick_p99_worst_ms), (Some(2.0), Some(5.0)));
        assert_eq!((pace.answers, pace.answer_p95_ms), (40, Some(7.5)));
        let slow = [("sauti_sip_answer_seconds_count".to_owned(), 1.0)];
        assert_eq!(Pace::new(&[], &slow).answer_p95_ms, None);
    }

    #[test]
    fn a_run_without_calls_is_not_good() {
        let mut report = Report::default();
        report.finish();
        assert!(!report.is_good());
    }

    #[test]
    fn percentiles_take_the_nearest_rank() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(percentile((1..=100).map(f64::from), 95), Some(95.0));
        assert_eq!(median([]), None);
    }
}

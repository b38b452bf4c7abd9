//! Every metric of the daemon, in one place; names start with `sauti_`, labels come from fixed sets.
//!
//! Nothing here is touched per packet: lanes publish once a second, the rest is per call or per request.
//! Values that live elsewhere (tables, lanes) are read at scrape time by whoever serves `/metrics`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use sauti_core::ai::ladder::State;
use sauti_core::call::outcome::{Door, Fault, Outcome};
use sauti_core::media::quality::LineQuality;
use sauti_core::sip::route::Refused;

use crate::sip::Farewell;

/// Labels of a finished call.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    door: &'static str,
    outcome: &'static str,
    fault: &'static str,
}

/// One label.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Two labels: what was done and how it went.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Done {
    action: &'static str,
    result: &'static str,
}

/// What became of a session, and where.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Session {
    kind: &'static str,
    provider: &'static str,
}

/// One of the configured providers, by its place and never by its address.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Provider {
    provider: &'static str,
}

/// A trunk, by the name that the operator gave it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Trunk {
    trunk: String,
}

type Latency = Family<Kind, Histogram>;

/// Counters, gauges and histograms of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ended: Family<Ended, Counter>,
    live: Gauge,
    stages: Latency,
    webhooks: Family<Kind, Counter>,
    graph: Family<Done, Counter>,
    graph_seconds: Latency,
    model_sessions: Family<Session, Counter>,
    model_breaker: Family<Provider, Gauge>,
    model_round_trip: Latency,
    model_handshake: Latency,
    model_oddities: Family<Kind, Counter>,
    tokens: Family<Kind, Counter>,
    cost: Counter<f64, AtomicU64>,
    interruptions: Counter,
    truncations: Counter,
    waits_filled: Counter,
    transfers: Family<Kind, Counter>,
    overflows: Counter,
    underruns: Counter,
    mos: Latency,
    round_trip: Histogram,
    answer_delay: Histogram,
    packets: Family<Kind, Counter>,
    jitter_depth: Histogram,
    reservoir_depth: Histogram,
    ring_depth: Latency,
    texts: Family<Kind, Counter>,
    texts_unknown: Gauge,
    summaries: Family<Kind, Counter>,
    summaries_owed: Gauge,
    tick_late: Gauge<f64, AtomicU64>,
    ledger_commits: Gauge,
    ledger_lost: Gauge,
    sip_requests: Family<Kind, Counter>,
    sip_refused: Family<Kind, Counter>,
    sip_answer: Histogram,
    sip_farewells: Family<Kind, Counter>,
    sip_registered: Family<Trunk, Gauge>,
    sip_trunk_up: Family<Trunk, Gauge>,
    table_names: [(&'static str, Gauge); TABLES.len()],
}

/// The internal tables that have to return to zero on an idle box.
pub const TABLES: [&str; 12] = [
    "calls",
    "legs",
    "slots",
    "drains",
    "live_calls",
    "owed_texts",
    "store_queue",
    "warm",
    "sip_dialogs",
    "sip_transactions",
    "sip_registrations",
    "sip_sources",
];

fn latency_family(buckets: &'static [f64]) -> Latency {
    // A constructor that is shared by all label values of the family.
    Family::new_with_constructor(match buckets.len() {
        6 => || Histogram::new(DEPTH_FRAMES.iter().copied()),
        8 => || Histogram::new(MOS.iter().copied()),
        _ => || Histogram::new(SECONDS.iter().copied()),
    })
}

/// What the box itself takes for an answer: a few milliseconds.
const WORK_SECONDS: [f64; 11] = [0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 0.5];
const SECONDS: [f64; 12] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0];
const DEPTH_FRAMES: [f64; 6] = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0];
const DEPTH_MS: [f64; 8] = [0.0, 20.0, 40.0, 60.0, 80.0, 120.0, 200.0, 400.0];
/// Opinion scores: below 3.1 many are dissatisfied, below 3.6 some (G.107 annex B).
const MOS: [f64; 8] = [1.5, 2.0, 2.6, 3.1, 3.6, 4.0, 4.3, 4.5];
const RESERVOIR_SECONDS: [f64; 8] = [0.0, 0.2, 1.0, 2.0, 5.0, 10.0, 20.0, 51.2];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything; outcomes start at zero, so that a rate over them is right from the first call.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "the list of metrics is read in one piece")]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sauti");
        let ended = Family::<Ended, Counter>::default();
        for outcome in Outcome::ALL {
            let label = Ended { door: Door::Whatsapp.label(), outcome: outcome.label(), fault: Fault::None.label() };
            drop(ended.get_or_create(&label));
        }
        registry.register("calls", "Calls that ended, by door, outcome and whose fault it was", ended.clone());
        let live = Gauge::default();
        registry.register("calls_live", "Calls that hold a permit", live.clone());
        let stages = latency_family(&SECONDS);
        registry.register_with_unit(
            "stage",
            "Time from the webhook to each stage of a call",
            Unit::Seconds,
            stages.clone(),
        );
        let webhooks = Family::<Kind, Counter>::default();
        registry.register(
            "webhooks",
            "Webhook requests and the events in them, by what became of them",
            webhooks.clone(),
        );
        let graph = Family::<Done, Counter>::default();
        registry.register("graph_requests", "Requests to Graph, by action and result", graph.clone());
        let graph_seconds = latency_family(&SECONDS);
        registry.register_with_unit(
            "graph",
            "Time that Graph took to answer, by action",
            Unit::Seconds,
            graph_seconds.clone(),
        );
        let model_sessions = Family::<Session, Counter>::default();
        registry.register(
            "model_sessions",
            "Sessions with the model, by how they went and at which provider",
            model_sessions.clone(),
        );
        let model_breaker = Family::<Provider, Gauge>::default();
        registry.register(
            "model_breaker",
            "Circuit breaker of a provider: 0 closed, 1 half open, 2 open",
            model_breaker.clone(),
        );
        let model_round_trip = latency_family(&SECONDS);
        registry.register_with_unit(
            "model_round_trip",
            "Round trip to a provider's region, by provider, taken from TCP's handshake",
            Unit::Seconds,
            model_round_trip.clone(),
        );
        let model_handshake = latency_family(&SECONDS);
        registry.register_with_unit(
            "model_handshake",
            "Time to an open WebSocket, by provider",
            Unit::Seconds,
            model_handshake.clone(),
        );
        let model_oddities = Family::<Kind, Counter>::default();
        registry.register(
            "model_oddities",
            "Events of the model that were ignored or refused, by reason",
            model_oddities.clone(),
        );
        let tokens = Family::<Kind, Counter>::default();
        registry.register("tokens", "Tokens billed by the model, by class", tokens.clone());
        let cost = Counter::<f64, AtomicU64>::default();
        registry.register("cost_usd", "Cost of the model in US dollars, by the price table", cost.clone());
        let interruptions = Counter::default();
        registry.register("interruptions", "Times a caller spoke over the AI", interruptions.clone());
        let waits_filled = Counter::default();
        registry.register("waits_filled", "Words of patience played to callers who waited", waits_filled.clone());
        let transfers = Family::<Kind, Counter>::default();
        registry.register("transfers", "Callers handed to a person, and attempts at it, by result", transfers.clone());
        let truncations = Counter::default();
        registry.register("truncations", "Items cut to what was heard", truncations.clone());
        let overflows = Counter::default();
        registry.register("reservoir_overflows", "Responses longer than max_output_tokens allows", overflows.clone());
        let underruns = Counter::default();
        registry.register("underruns", "Frames that were due in mid-sentence and not there", underruns.clone());
        let mos = latency_family(&MOS);
        registry.register("mos", "Estimated opinion score of a call, when it has ended, by direction", mos.clone());
        let round_trip = Histogram::new(SECONDS);
        registry.register_with_unit(
            "media_round_trip",
            "Mean time to the far end of a call's media and back, when it has ended",
            Unit::Seconds,
            round_trip.clone(),
        );
        let answer_delay = Histogram::new(SECONDS);
        registry.register_with_unit(
            "answer_delay",
            "End of a caller's voice to the first frame of the answer on the wire, where the box listens",
            Unit::Seconds,
            answer_delay.clone(),
        );
        let packets = Family::<Kind, Counter>::default();
        registry.register("packets", "Media packets, by what became of them", packets.clone());
        let jitter_depth = Histogram::new(DEPTH_MS);
        registry.register(
            "jitter_depth_ms",
            "Depth of the jitter buffers, once a second and call",
            jitter_depth.clone(),
        );
        let reservoir_depth = Histogram::new(RESERVOIR_SECONDS);
        registry.register_with_unit(
            "reservoir",
            "Speech that the model sent ahead, once a second and call",
            Unit::Seconds,
            reservoir_depth.clone(),
        );
        let ring_depth = latency_family(&DEPTH_FRAMES);
        registry.register(
            "ring_frames",
            "Frames in the rings between lane and call, once a second",
            ring_depth.clone(),
        );
        let texts = Family::<Kind, Counter>::default();
        registry.register("texts", "Text messages owed to callers, by what became of them", texts.clone());
        let texts_unknown = Gauge::default();
        registry.register(
            "texts_unknown",
            "Text messages of which nobody knows whether they were sent",
            texts_unknown.clone(),
        );
        let summaries = Family::<Kind, Counter>::default();
        registry.register("summaries", "Summaries of calls, by what became of each try", summaries.clone());
        let summaries_owed = Gauge::default();
        registry.register("summaries_owed", "Calls whose summary is still to be asked for", summaries_owed.clone());
        let tick_late = Gauge::<f64, AtomicU64>::default();
        registry.register_with_unit(
            "tick_late",
            "99th percentile of the tick lateness in the last second, worst lane",
            Unit::Seconds,
            tick_late.clone(),
        );
        let ledger_commits = Gauge::default();
        registry.register("ledger_commits", "Transactions of the ledger since the start", ledger_commits.clone());
        let ledger_lost = Gauge::default();
        registry.register("ledger_lost", "Rows that the ledger could not take since the start", ledger_lost.clone());
        let sip_requests = Family::<Kind, Counter>::default();
        registry.register("sip_requests", "SIP requests of known sources, by method", sip_requests.clone());
        let sip_refused = Family::<Kind, Counter>::default();
        registry.register("sip_refused", "SIP messages that were refused or dropped, by reason", sip_refused.clone());
        let sip_farewells = Family::<Kind, Counter>::default();
        Farewell::ALL.iter().for_each(|kind| drop(sip_farewells.get_or_create(&Kind { kind: kind.label() })));
        registry.register("sip_farewells", "BYEs for dialogs that a crash left, by result", sip_farewells.clone());
        let sip_answer = Histogram::new(WORK_SECONDS);
        registry.register_with_unit(
            "sip_answer",
            "Time from an INVITE to its 200, less the wait for the model",
            Unit::Seconds,
            sip_answer.clone(),
        );
        let sip_registered = Family::<Trunk, Gauge>::default();
        registry.register("sip_registered", "1 while a trunk's registration holds", sip_registered.clone());
        let sip_trunk_up = Family::<Trunk, Gauge>::default();
        registry.register("sip_trunk_up", "1 while a trunk answers OPTIONS", sip_trunk_up.clone());
        let table_names = TABLES.map(|name| (name, Gauge::default()));
        for (name, gauge) in &table_names {
            registry.register(
                format!("table_{name}"),
                "Entries of an internal table; zero on an idle box",
                gauge.clone(),
            );
        }
        Self {
            registry,
            ended,
            live,
            stages,
            webhooks,
            graph,
            graph_seconds,
            model_sessions,
            model_breaker,
            model_round_trip,
            model_handshake,
            model_oddities,
            tokens,
            cost,
            interruptions,
            truncations,
            waits_filled,
            transfers,
            overflows,
            underruns,
            mos,
            round_trip,
            answer_delay,
            packets,
            jitter_depth,
            reservoir_depth,
            ring_depth,
            texts,
            texts_unknown,
            summaries,
            summaries_owed,
            tick_late,
            ledger_commits,
            ledger_lost,
            sip_requests,
            sip_refused,
            sip_farewells,
            sip_answer,
            sip_registered,
            sip_trunk_up,
            table_names,
        }
    }

    /// The Prometheus text of all of them.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        if text::encode(&mut out, &self.registry).is_err() {
            // Writing into a String does not fail; if it ever does, a scrape must see it.
            return "# the metrics could not be encoded\n".to_owned();
        }
        out
    }

    /// A call ended.
    pub fn call_ended(&self, door: Door, outcome: Outcome, fault: Fault) {
        self.ended.get_or_create(&Ended { door: door.label(), outcome: outcome.label(), fault: fault.label() }).inc();
    }

    /// Calls that hold a permit now.
    pub fn set_live(&self, calls: usize) {
        self.live.set(i64::try_from(calls).unwrap_or(i64::MAX));
    }

    /// A call reached `stage`, so long after its webhook.
    pub fn stage(&self, stage: &'static str, after: Duration) {
        self.stages.get_or_create(&Kind { kind: stage }).observe(after.as_secs_f64());
    }

    /// Something became of a webhook or of an event in it.
    pub fn webhook(&self, kind: &'static str) {
        self.webhooks.get_or_create(&Kind { kind }).inc();
    }

    /// Graph answered, or did not.
    pub fn graph(&self, action: &'static str, result: &'static str, took: Duration) {
        self.graph.get_or_create(&Done { action, result }).inc();
        self.graph_seconds.get_or_create(&Kind { kind: action }).observe(took.as_secs_f64());
    }

    /// A session with the model opened, was refused, broke or closed.
    pub fn model_session(&self, kind: &'static str, provider: &'static str) {
        self.model_sessions.get_or_create(&Session { kind, provider }).inc();
    }

    /// A provider's socket opened; `round_trip` is TCP's part.
    pub fn model_handshake(&self, provider: &'static str, round_trip: Duration, whole: Duration) {
        self.model_round_trip.get_or_create(&Kind { kind: provider }).observe(round_trip.as_secs_f64());
        self.model_handshake.get_or_create(&Kind { kind: provider }).observe(whole.as_secs_f64());
    }

    /// Where a provider's breaker stands.
    pub fn set_breaker(&self, provider: &'static str, state: State) {
        self.model_breaker.get_or_create(&Provider { provider }).set(match state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        });
    }

    /// An event of the model was ignored or refused.
    pub fn model_oddity(&self, kind: &'static str) {
        self.model_oddities.get_or_create(&Kind { kind }).inc();
    }

    /// Tokens were billed.
    pub fn tokens(&self, class: &'static str, count: u64) {
        self.tokens.get_or_create(&Kind { kind: class }).inc_by(count);
    }

    /// Money was spent.
    pub fn cost(&self, dollars: f64) {
        self.cost.inc_by(dollars);
    }

    /// The caller spoke over the AI.
    pub fn interruption(&self) {
        self.interruptions.inc();
    }

    /// A caller who waited was told so.
    pub fn wait_filled(&self) {
        self.waits_filled.inc();
    }

    /// A caller was to be handed to a person: it began, or this came of it.
    pub fn transfer(&self, kind: &'static str) {
        self.transfers.get_or_create(&Kind { kind }).inc();
    }

    /// An item was cut to what was heard.
    pub fn truncation(&self) {
        self.truncations.inc();
    }

    /// A response was longer than the reservoir.
    pub fn overflow(&self) {
        self.overflows.inc();
    }

    /// Frames were missing in mid-sentence.
    pub fn underruns(&self, frames: u64) {
        self.underruns.inc_by(frames);
    }

    /// How a call sounded.
    pub fn quality(&self, summary: &LineQuality) {
        for (kind, mos) in [("heard", summary.heard_mos), ("spoken", summary.spoken_mos)] {
            if let Some(mos) = mos {
                self.mos.get_or_create(&Kind { kind }).observe(mos);
            }
        }
        if let Some(ms) = summary.round_trip_ms {
            self.round_trip.observe(ms / 1_000.0);
        }
    }

    /// A caller waited so long for an answer, from the end of her voice on.
    pub fn answer_delay(&self, delay: Duration) {
        self.answer_delay.observe(delay.as_secs_f64());
    }

    /// Packets had this fate.
    pub fn packets(&self, fate: &'static str, count: u64) {
        if count > 0 {
            self.packets.get_or_create(&Kind { kind: fate }).inc_by(count);
        }
    }

    /// Depths of one call, once a second.
    pub fn depths(&self, jitter_ms: f64, reservoir: Duration, up_frames: f64, down_frames: f64) {
        self.jitter_depth.observe(jitter_ms);
        self.reservoir_depth.observe(reservoir.as_secs_f64());
        self.ring_depth.get_or_create(&Kind { kind: "up" }).observe(up_frames);
        self.ring_depth.get_or_create(&Kind { kind: "down" }).observe(down_frames);
    }

    /// Something became of a text message that was owed.
    pub fn text(&self, kind: &'static str) {
        self.texts.get_or_create(&Kind { kind }).inc();
    }

    /// A try to summarise a call ended.
    pub fn summary(&self, kind: &'static str) {
        self.summaries.get_or_create(&Kind { kind }).inc();
    }

    /// Texts that a crash or a broken answer left in doubt; they are not sent again.
    pub fn set_texts_unknown(&self, texts: u64) {
        self.texts_unknown.set(i64::try_from(texts).unwrap_or(i64::MAX));
    }

    /// Calls whose summary is still to be asked for.
    pub fn set_summaries_owed(&self, calls: u64) {
        self.summaries_owed.set(i64::try_from(calls).unwrap_or(i64::MAX));
    }

    /// Lateness of the worst lane.
    pub fn set_tick_late(&self, late: Duration) {
        self.tick_late.set(late.as_secs_f64());
    }

    /// Transactions of the ledger since the start, and rows it lost.
    pub fn set_ledger(&self, commits: u64, lost: u64) {
        self.ledger_commits.set(i64::try_from(commits).unwrap_or(i64::MAX));
        self.ledger_lost.set(i64::try_from(lost).unwrap_or(i64::MAX));
    }

    /// A SIP request of a known source.
    pub fn sip_request(&self, method: &'static str) {
        self.sip_requests.get_or_create(&Kind { kind: method }).inc();
    }

    /// A SIP message that was refused, or dropped without a word.
    pub fn sip_refused(&self, why: Refused) {
        self.sip_refused.get_or_create(&Kind { kind: why.label() }).inc();
    }

    /// A dialog that a crash left was told that it is over, or could not be.
    pub fn sip_farewell(&self, farewell: Farewell) {
        self.sip_farewells.get_or_create(&Kind { kind: farewell.label() }).inc();
    }

    /// An INVITE was answered with 200 after so long, less the wait for the model.
    pub fn sip_answer(&self, work: Duration) {
        self.sip_answer.observe(work.as_secs_f64());
    }

    /// Whether a trunk's registration holds.
    pub fn sip_registered(&self, trunk: &str, holds: bool) {
        self.sip_registered.get_or_create(&Trunk { trunk: trunk.to_owned() }).set(i64::from(holds));
    }

    /// Whether a trunk answers OPTIONS.
    pub fn sip_trunk_up(&self, trunk: &str, up: bool) {
        self.sip_trunk_up.get_or_create(&Trunk { trunk: trunk.to_owned() }).set(i64::from(up));
    }

    /// Size of an internal table; names are those of [`TABLES`].
    pub fn set_table(&self, name: &'static str, size: u64) {
        if let Some((_, gauge)) = self.table_names.iter().find(|(known, _)| *known == name) {
            gauge.set(i64::try_from(size).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_start_at_zero_and_tables_have_a_gauge_each() {
        let metrics = Metrics::new();
        metrics.set_table("legs", 3);
        metrics.call_ended(Door::Whatsapp, Outcome::Completed, Fault::None);
        let text = metrics.render();
        assert!(text.contains("sauti_table_legs 3"), "{text}");
        assert!(text.contains(r#"sauti_calls_total{door="whatsapp",outcome="completed",fault="none"} 1"#), "{text}");
        assert!(text.contains(r#"outcome="graph_failed",fault="none"} 0"#), "{text}");
        for name in TABLES {
            assert!(text.contains(&format!("sauti_table_{name} ")), "{name} is missing");
        }
    }
}

//! The far ends of a simulation, in a process of their own: Meta, the model, and everybody who calls.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sauti_core::pii::{BoxKey, CallerAddress};
use sauti_media::webrtc::Certificate;
use sauti_sim::audio::chirp::{OPUS_DELAY_SAMPLES, chirp};
use sauti_sim::audio::g711::Law;
use sauti_sim::audio::judge::Judge;
use sauti_sim::audio::speech::Speech;
use sauti_sim::caller::person::Step;
use sauti_sim::openai::{Clip, ExpectedKey, Latency, Line, Mode, RequestFacts, Script, ServerSettings};
use sauti_sim::trunk::caller::{Refers, Transport};
use sauti_sim::whatsapp::delivery::{Habits, PostOffice};
use sauti_sim::whatsapp::graph::{Graph, GraphOptions};
use sauti_sim::whatsapp::person::{Business, Person as Identity};
use sauti_sim::whatsapp::webhooks::{Generation, Webhooks};
use sauti_sim::whatsapp_sip::Account;
use secrecy::SecretString;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::loopback::Emulators;
use super::loopback::phones::{self, Lived, Plan};
use super::loopback::realtime::Finished;
use super::loopback::tally::Tally;
use super::loopback::trunk::{self, Carrier};
use super::loopback::whatsapp_sip::{self, Edge, Keys, SipLived, SipManner};
use super::measure::{self, Evidence};
use super::report::CallReport;
use super::spec::{Door, Go, HOSTNAME, Said, Spec};
use crate::cli::Exit;

/// How long the AI speaks in one go in a load run: longer than two lines of a caller and the pauses around them, so
/// that it gets back what an interruption took from it.
const LOAD_LINE: Duration = Duration::from_secs(10);
/// What passes between the end of a caller's line and the AI's first word: detection, model, network.
const REACTION: Duration = Duration::from_millis(850);
/// The echo of the probe (contract §7).
const ECHO: Duration = Duration::from_millis(200);
/// A chirp goes out this often (contract §7).
const CHIRP_EVERY: Duration = Duration::from_secs(2);
/// Calls are dialled this far apart, so that a load run measures conversations and not one burst of handshakes.
const DIAL_APART: Duration = Duration::from_millis(40);
/// Over a trunk, where no handshake is: 30 a second, the rate that the box has to answer at.
const TRUNK_DIAL_APART: Duration = Duration::from_nanos(33_333_333);
/// Longest wait for the model's side of ended calls.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// Languages of the callers, in turn.
const LANGUAGES: [&str; 3] = ["en", "fr", "sw"];

/// `sauti simulate`'s child: reads its task from stdin, says what it sees on stdout.
pub(crate) fn command() -> Exit {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let end = match runtime {
        Ok(runtime) => runtime.block_on(run()),
        Err(error) => Err(error.to_string()),
    };
    match end {
        Ok(()) => Exit::Fine,
        Err(why) => {
            say(&Said::Failed { why });
            Exit::Failed
        }
    }
}

/// Says one line; a parent that is gone ends this process by its closed stdin.
fn say(said: &Said) {
    if let Ok(line) = serde_json::to_string(said) {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).ok();
    }
}

/// The next line that the parent says.
async fn hear<T: serde::de::DeserializeOwned + Send + 'static>() -> Result<T, String> {
    let heard = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(|error| error.to_string())?;
        serde_json::from_str(&line).map_err(|error| error.to_string())
    });
    heard.await.map_err(|error| error.to_string())?
}

async fn run() -> Result<(), String> {
    let spec: Spec = hear().await?;
    let speech = Speech::load().map_err(|error| error.to_string())?;
    let (target, told) = oneshot::channel();
    let world = World::build(spec, &speech, told).await?;
    let go: Go = hear().await?;
    target.send(go.webhook.clone()).ok();
    world.run(&speech, &go).await
}

/// Everything that stands before the first call.
struct World {
    spec: Spec,
    key: BoxKey,
    emulators: Emulators,
    tally: Arc<Tally>,
    certificate: Arc<Certificate>,
    identities: Vec<Identity>,
}

impl World {
    async fn build(spec: Spec, speech: &Speech, target: oneshot::Receiver<String>) -> Result<Self, String> {
        let mut key = [0; 32];
        hex::decode_to_slice(&spec.box_key, &mut key).map_err(|error| error.to_string())?;
        let key = BoxKey::new(key);
        let business = Business::test(&spec.phone_number_id);
        let lag = Duration::from_millis(u64::from(spec.lag_ms));
        let habits = Habits { lag: (lag, lag), ..Habits::prompt() };
        let token = SecretString::from(spec.access_token.clone());
        let graph = Graph::new(GraphOptions::prompt(&spec.phone_number_id, token), spec.seed);
        let secret = SecretString::from(spec.app_secret.clone());
        let post = PostOffice::new(business.clone(), secret, habits, spec.seed);
        let webhooks = Webhooks { business, generation: Generation::Of2026 };
        // The last caller is the latency probe.
        let identities: Vec<Identity> = (0..=spec.calls).map(Identity::numbered).collect();
        let probe = identities.last().and_then(|probe| hash(&key, spec.door, probe)).unwrap_or_default();
        let settings = model(&spec, speech);
        let choose = move |facts: &RequestFacts| {
            let mut settings = settings.clone();
            if facts.header("openai-safety-identifier").any(|identifier| identifier == probe) {
                settings.mode = Mode::Echo { delay: ECHO };
            }
            settings.seed = settings.seed.wrapping_add(facts.connection);
            settings
        };
        let emulators = Emulators::start(graph, post, webhooks, target, Arc::new(choose)).await;
        let emulators = emulators.map_err(|error| error.to_string())?;
        say(&Said::Listening { graph: emulators.graph, realtime: emulators.realtime });
        let certificate = Certificate::generate().map_err(|error| error.to_string())?;
        Ok(Self {
            spec,
            key,
            emulators,
            tally: Arc::new(Tally::default()),
            certificate: Arc::new(certificate),
            identities,
        })
    }

    /// Meta's SIP, where the daemon listens for it.
    fn edge(&self, go: &Go) -> Result<Edge, String> {
        let (Some(target), Some(certificate)) = (go.sip, &go.certificate) else {
            return Err("the daemon does not listen for SIP over TLS".to_owned());
        };
        let business = Business::test(&self.spec.phone_number_id);
        let password = SecretString::from(self.spec.sip_password.clone());
        let webhooks = Webhooks { business: business.clone(), generation: Generation::Of2026 };
        Ok(Edge {
            target,
            account: Account::new(&business.number, HOSTNAME, password),
            certificate: certificate.as_str().into(),
            meta: self.emulators.meta.clone(),
            webhooks,
        })
    }

    async fn run(self, speech: &Speech, go: &Go) -> Result<(), String> {
        let mut calls = JoinSet::new();
        let carrier =
            go.sip.map(|target| Carrier { target, transport: Transport::Udp, law: Law::A, refers: Refers::No });
        let edge = if self.spec.door == Door::WhatsappSip { Some(self.edge(go)?) } else { None };
        for (number, identity) in self.identities.iter().enumerate() {
            let plan = self.plan(number, identity, speech);
            if self.spec.door == Door::Trunk {
                let carrier = carrier.ok_or("the daemon does not listen for SIP")?;
                calls.spawn(trunk::call(plan, carrier, Arc::clone(&self.tally)));
                continue;
            }
            let network = self.network(number);
            let manner = phones::Manner { network, ..phones::Manner::default() };
            if let Some(edge) = edge.clone() {
                let manner = SipManner { phone: manner, ..SipManner::default() };
                let (certificate, tally) = (Arc::clone(&self.certificate), Arc::clone(&self.tally));
                calls.spawn(by_sip(plan, Keys::numbered(number), manner, edge, certificate, tally));
                continue;
            }
            calls.spawn(phones::call_as(
                plan,
                manner,
                Arc::clone(&self.certificate),
                self.emulators.meta.clone(),
                Arc::clone(&self.tally),
            ));
        }
        let watcher = tokio::spawn(watch_calls(Arc::clone(&self.tally), self.identities.len()));
        let mut lived: Vec<Lived> = Vec::new();
        while let Some(one) = calls.join_next().await {
            lived.push(one.map_err(|error| error.to_string())?);
        }
        watcher.abort();
        lived.sort_by_key(|lived| lived.number);
        let models = self.models().await;
        let mut reports = Vec::with_capacity(lived.len());
        let mut records = BTreeMap::new();
        for one in &lived {
            if let Some(wacid) = &one.wacid {
                records.insert(one.number, self.emulators.meta.record(wacid).await);
            }
        }
        let frames = if self.spec.record_frames { frames(&models) } else { Vec::new() };
        // Judging is minutes of audio through correlations: not on a worker of the runtime.
        let (key, probes, door) = (self.key.clone(), self.identities.len(), self.spec.door);
        let judged = tokio::task::spawn_blocking(move || {
            let mut judge = Judge::new();
            for one in &lived {
                let caller = hash(&key, door, &one.identity).unwrap_or_default();
                let evidence = Evidence {
                    lived: one,
                    graph: records.get(&one.number).and_then(|record| record.as_deref()),
                    model: models.get(&caller).map(|finished| &*finished.record),
                    language: language(one.number.saturating_sub(1)),
                    caller: caller.clone(),
                    probe: one.number == probes,
                    echo_delay: ECHO,
                    codec_delay: match door {
                        // The encoder's look-ahead (RFC 7845 §4.2).
                        Door::Whatsapp | Door::WhatsappSip => OPUS_DELAY_SAMPLES,
                        // G.711 has none; of the three samples that one code stands for, the last is it.
                        Door::Trunk => 0,
                    },
                };
                reports.push(measure::report(&mut judge, &evidence));
            }
            reports
        });
        let calls: Vec<CallReport> = judged.await.map_err(|error| error.to_string())?;
        say(&Said::Report { calls, frames });
        Ok(())
    }

    /// The network between a phone and the box; `None` where nothing is wrong with it.
    fn network(&self, number: usize) -> Option<phones::Network> {
        let settings = Some(self.spec.network()).filter(|network| !network.is_perfect())?;
        let seed = self.spec.seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
        Some(phones::Network { settings, seed })
    }

    /// What the sessions with the model left behind, by caller.
    async fn models(&self) -> BTreeMap<String, Finished> {
        let patience = tokio::time::Instant::now() + CLOSE_WITHIN;
        while self.emulators.sessions.open() > 0 && tokio::time::Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let finished = self.emulators.sessions.take_finished();
        finished.into_iter().map(|finished| (finished.identifier.clone(), finished)).collect()
    }

    fn plan(&self, number: usize, identity: &Identity, speech: &Speech) -> Plan {
        let probe = number + 1 == self.identities.len();
        let script = if probe {
            probe_script(self.spec.probe_length())
        } else if self.spec.load {
            load_script(speech, number, self.spec.length())
        } else {
            conversation(speech, number)
        };
        let length = if probe { self.spec.probe_length() } else { self.spec.length() };
        Plan {
            number: number + 1,
            identity: identity.clone(),
            script,
            length,
            dial_after: if self.spec.door == Door::Trunk { TRUNK_DIAL_APART } else { DIAL_APART }
                * u32::try_from(number).unwrap_or(0),
        }
    }
}

/// A call that Meta brings by SIP; what it has to object to is the call's trouble.
async fn by_sip(
    plan: Plan,
    keys: Keys,
    manner: SipManner,
    edge: Edge,
    certificate: Arc<Certificate>,
    tally: Arc<Tally>,
) -> Lived {
    let SipLived { mut lived, refused, faults, .. } =
        whatsapp_sip::call(plan, keys, manner, edge, certificate, tally).await;
    let refused = refused.map(|(status, _)| format!("refused with {status}"));
    let objections: Vec<String> = lived.trouble.take().into_iter().chain(refused).chain(faults).collect();
    lived.trouble = Some(objections.join("; ")).filter(|objections| !objections.is_empty());
    lived
}

/// What the daemon sends instead of a caller: a trunk knows numbers alone.
fn hash(key: &BoxKey, door: Door, identity: &Identity) -> Option<String> {
    let address = match door {
        Door::Whatsapp | Door::WhatsappSip => identity.address(),
        Door::Trunk => CallerAddress { number: Some(identity.number.clone()), bsuid: None },
    };
    address.hash(key).map(|hash| hash.to_string())
}

fn language(number: usize) -> &'static str {
    LANGUAGES[number % LANGUAGES.len()]
}

/// The model: the greeting first, then its lines in turn.
fn model(spec: &Spec, speech: &Speech) -> ServerSettings {
    let clips: Vec<Clip> = speech.agent().iter().map(|line| Clip::new(line.text, Arc::clone(&line.samples))).collect();
    let turns = if spec.load { load_lines(&clips) } else { clips.iter().skip(1).cloned().collect() };
    let script = Script {
        greeting: clips.first().cloned().map(Line::clip).unwrap_or_default(),
        turns: turns.into_iter().map(Line::clip).collect(),
        caller_lines: speech.caller("en").iter().map(|line| line.text.to_owned()).collect(),
        ..Script::default()
    };
    let mut settings = ServerSettings::new(ExpectedKey::new(spec.api_key.clone()), script);
    settings.seed = spec.seed;
    settings.recording.client_frames = spec.record_frames;
    // Far ends that answer at once: what is measured is the box.
    settings.latency = Latency::ZERO;
    settings.one_way = Duration::from_millis(u64::from(spec.model_rtt_ms)) / 2;
    settings.owned_sessions = true;
    settings.opened_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    settings
}

/// What the AI says in its turns of a load run: each line begins with another clip and goes on with the ones behind it. A
/// clip repeated would sound the same at several places, and nobody could say which of them was heard.
fn load_lines(clips: &[Clip]) -> Vec<Clip> {
    let begins = 1..clips.len();
    begins.map(|first| Clip::joined(clips.iter().cycle().skip(first).take(clips.len())).lasting(LOAD_LINE)).collect()
}

/// A conversation of some turns, with one interruption.
fn conversation(speech: &Speech, number: usize) -> Vec<Step> {
    let lines = speech.caller(language(number));
    let mut script = vec![Step::Listen];
    for (place, line) in lines.iter().take(4).enumerate() {
        if place == 2 {
            script.push(Step::BreakIn { after: Duration::from_millis(1_200), line: Arc::clone(&line.samples) });
        } else {
            script.push(Step::Say(Arc::clone(&line.samples)));
        }
        if place != 1 {
            script.push(Step::Listen);
        }
    }
    script.push(Step::Pause(Duration::from_millis(300)));
    script.push(Step::HangUp);
    script
}

/// The standard script for load: turn by turn, the AI speaking half of the time, now and then an interruption.
fn load_script(speech: &Speech, number: usize, length: Duration) -> Vec<Step> {
    let lines = speech.caller(language(number));
    let mut script = vec![Step::Listen];
    let mut planned = Duration::ZERO;
    for (turn, line) in lines.iter().cycle().enumerate() {
        // More than fits, as interruptions shorten a turn: her time ends the script.
        if planned >= length * 3 || lines.is_empty() {
            break;
        }
        planned += LOAD_LINE;
        let samples = Arc::clone(&line.samples);
        if turn % 3 == 2 {
            script.push(Step::BreakIn { after: Duration::from_millis(1_500), line: samples });
        } else {
            script.push(Step::Balance { ahead: Duration::from_millis(line.millis()) + REACTION });
            script.push(Step::Say(samples));
        }
        if turn % 3 != 1 {
            script.push(Step::Listen);
        }
    }
    script
}

/// A chirp every two seconds.
fn probe_script(length: Duration) -> Vec<Step> {
    let chirp: Arc<[i16]> = chirp().into();
    let count = length.as_secs().max(8) / CHIRP_EVERY.as_secs();
    let mut script = vec![Step::Pause(Duration::from_millis(1_500))];
    for _ in 0..count {
        script.push(Step::Say(Arc::clone(&chirp)));
        script.push(Step::Pause(CHIRP_EVERY - Duration::from_millis(40)));
    }
    script.push(Step::HangUp);
    script
}

/// Frames of all sessions, as an outside checker reads them.
fn frames(models: &BTreeMap<String, Finished>) -> Vec<String> {
    models.values().flat_map(|finished| finished.record.client_log.iter().map(|(_, frame)| frame.clone())).collect()
}

/// Says how far the calls are, twice a second, and when the window of measurement opens and closes.
async fn watch_calls(tally: Arc<Tally>, calls: usize) {
    let window = async {
        tally.all_up(calls).await;
        say(&Said::AllUp);
        tally.somebody_leaves().await;
        say(&Said::WindowOver);
        std::future::pending::<()>().await;
    };
    let progress = async {
        let mut beat = tokio::time::interval(Duration::from_millis(500));
        loop {
            beat.tick().await;
            let (ringing, talking, over) = tally.now();
            say(&Said::Progress { ringing, talking, over });
        }
    };
    tokio::select! {
        () = window => {},
        () = progress => {},
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use sauti_core::media::frame::FRAME;
    use sauti_core::media::level::Tone;
    use sauti_sim::audio::judge::{Judge, Utterance};
    use sauti_sim::caller::person::Person;

    use super::*;

    /// A model without a network: it greets, answers each line of the caller after `reaction`, and stops within 100 ms
    /// when she breaks in. Returns its share of the time, and how long the call took.
    fn share(script: Vec<Step>, length: Duration, reaction: Duration) -> (f64, Duration) {
        let began = Instant::now();
        let mut person = Person::new(script);
        person.pick_up(began, length);
        let mut tone = Tone::new(440.0, 0.3);
        let (mut now, mut until, mut answer_at, mut was_speaking) =
            (began, began + Duration::from_secs(2), None, false);
        while !person.is_over() {
            assert!(now < began + length * 3, "she never hangs up");
            if answer_at.is_some_and(|at| now >= at) {
                (until, answer_at) = (now + LOAD_LINE, None);
            }
            person.hear(now, (now < until).then(|| tone.frame()).as_ref());
            let speaking = person.speak(now).is_some();
            if speaking {
                until = until.min(now + Duration::from_millis(100));
            } else if was_speaking {
                answer_at = Some(now + reaction);
            }
            was_speaking = speaking;
            now += FRAME;
        }
        (person.share_heard(), now - began)
    }

    #[test]
    fn a_line_of_a_load_run_is_found_where_it_was_said_and_nowhere_else() {
        let speech = Speech::load().unwrap();
        let clips: Vec<Clip> =
            speech.agent().iter().map(|line| Clip::new(line.text, Arc::clone(&line.samples))).collect();
        for line in load_lines(&clips) {
            assert_eq!(u128::from(line.millis()), LOAD_LINE.as_millis());
            // The caller hears 6.5 s of silence, the line, and hangs up.
            let silence = 156_000;
            let recording = [&vec![0; silence][..], &line.samples].concat();
            let heard = Judge::new().heard(&[Utterance::new(Arc::clone(&line.samples))], &recording);
            assert_eq!(heard.utterances[0].offset, i64::try_from(silence).ok(), "{}", line.transcript);
            assert_eq!(heard.percent(), Some(100.0));
        }
    }

    #[test]
    fn in_the_load_script_the_ai_speaks_half_of_the_time() {
        let speech = Speech::load().unwrap();
        for (number, seconds) in (0..3).flat_map(|number| [20, 30, 60].map(|seconds| (number, seconds))) {
            for reaction in [600, 850, 1_100].map(Duration::from_millis) {
                let length = Duration::from_secs(seconds);
                let (share, took) = share(load_script(&speech, number, length), length, reaction);
                let what =
                    format!("{} for {seconds} s, reaction {reaction:?}: {share:.3} in {took:?}", language(number));
                assert!((0.48..=0.52).contains(&share), "{what}");
                assert!(took >= length, "{what}");
            }
        }
    }
}

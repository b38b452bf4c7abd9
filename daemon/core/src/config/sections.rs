//! The sections of the file, one function each: which keys there are, their ranges and their defaults.
//!
//! Names and defaults are the outward contract; `config.example.toml` shows them all and a test holds the two
//! together. What depends on several sections is judged in `cross`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::check::Context;
use super::file::{Complaint, Given, Section};
use super::{
    Agent, Config, Detection, Http, Language, Ledger, Limits, Media, Network, Node, OpenAi, SECRETS, Texts, TlsFiles,
    Turn, Upstream, fallback, texts, trunk, values, whatsapp,
};
use crate::call::cost::{ModelPrices, Price, PriceTable};
use crate::media::floor::BargeIn;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Reads the whole file. What could not be used has left a complaint in the book, and a stand-in here.
pub(super) fn read(context: &Context<'_, '_>, root: Section<'_, '_>) -> Config {
    let node = node(context, root.section("node"));
    let http = http(context, root.section("http"));
    let media = media(context, root.section("media"));
    let limits = limits(root.section("limits"));
    let whatsapp = whatsapp::read(context, root.section("whatsapp"));
    let openai = openai(context, root.section("openai"));
    let prices = prices(context, root.sections("price"));
    let agent = agent(context, root.section("agent"));
    let ledger = ledger(root.section("ledger"));
    let upstream = upstream(root.section("upstream"));
    let sip = trunk::sip(context, root.section("sip"));
    let trunks = trunk::read(context, root.sections("trunk"), &node.languages, limits.max_calls);
    let transfer = trunk::transfer(context, root.section("transfer"), &trunks);
    root.finish();
    let mut secrets: BTreeMap<String, bool> =
        SECRETS.iter().map(|name| ((*name).to_owned(), context.secrets.is_set(name))).collect();
    secrets.extend(trunks.iter().map(|trunk| {
        let name = trunk.password_name();
        let is_set = context.secrets.is_set(&name);
        (name, is_set)
    }));
    for name in openai.iter().flat_map(|openai| &openai.fallback).filter_map(|fallback| fallback.key.as_ref()) {
        secrets.insert(name.clone(), context.secrets.is_set(name));
    }
    Config {
        node,
        http,
        media,
        limits,
        whatsapp,
        openai,
        prices,
        agent,
        ledger,
        upstream,
        sip,
        trunks,
        transfer,
        secrets,
        notes: Vec::new(),
    }
}

fn node(context: &Context<'_, '_>, section: Section<'_, '_>) -> Node {
    let host_name = context.environment.host_name.trim();
    let id = section.read("id", values::plain_name).map_or_else(
        || {
            if !section.has("id") && !values::is_plain_name(host_name) {
                section.complain("id", "is missing, and the host name cannot stand in for it", "write id = \"a-name\"");
            }
            host_name.to_owned()
        },
        |given| given.value,
    );
    let workers = section.read_or("workers", |value| values::whole(value, 1..=64), || 2);
    let country = section.read_or("country", |value| values::one_of(value, &["RW", "MT"]), || "RW");
    let languages =
        section.read_or("languages", languages, || vec![Language::Rw, Language::En, Language::Fr, Language::Sw]);
    section.finish();
    Node { id, workers: to_usize(workers.value), country: country.value.to_owned(), languages: languages.value }
}

/// A list of languages, each once.
pub(super) fn languages(value: &toml::de::DeValue<'_>) -> Result<Vec<Language>, Complaint> {
    let languages = values::list(value, |item| values::one_of(item, &["en", "fr", "rw", "sw"]))?;
    let mut unique: Vec<Language> = Vec::new();
    for language in languages.into_iter().filter_map(Language::parse) {
        if unique.contains(&language) {
            return Err(Complaint::new("names a language twice", "name each language once"));
        }
        unique.push(language);
    }
    if unique.is_empty() {
        return Err(Complaint::new("is empty", "name at least one language, like [\"en\"]"));
    }
    Ok(unique)
}

fn http(context: &Context<'_, '_>, section: Section<'_, '_>) -> Http {
    let public = section.read_or("public", values::socket, || SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)));
    let admin = section.read_or("admin", values::socket, || SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)));
    let certificate = section.read("certificate", file_path);
    let key = section.read("key", file_path);
    let both = section.has("certificate") == section.has("key");
    if !both {
        let (there, missing) = if section.has("key") { ("key", "certificate") } else { ("certificate", "key") };
        let reason = format!("stands without {missing}; TLS needs both");
        section.complain(there, reason, format!("write {missing} as well, or take {there} out"));
    }
    let tls =
        certificate.zip(key).map(|(certificate, key)| TlsFiles { certificate: certificate.value, key: key.value });
    let extra_roots = section.read_or("extra_roots", |value| values::list(value, file_path), Vec::new);
    let trusted_proxies =
        section.read_or("trusted_proxies", |value| values::list(value, values::network), Vec::<Network>::new);
    let public_url = section.read("public_url", |value| values::url(value, &["https"]));
    let admin_token = context.secrets.optional("admin_token");
    if context.book.is_sound(&["http.public", "http.admin"]) && same_listener(public.value, admin.value) {
        let reason = format!("{} is already used by http.public {}", admin.value, public.value);
        section.complain("admin", reason, "give each listener a port of its own");
    }
    if !admin.value.ip().is_loopback() && admin_token.is_none() && !context.secrets.is_set("admin_token") {
        let reason = format!("{} can be reached from other machines, and no admin_token guards it", admin.value);
        let fix = "bind it to 127.0.0.1, or give the secret admin_token (SAUTI_ADMIN_TOKEN)";
        section.complain("admin", reason, fix);
    }
    section.finish();
    Http {
        public: public.value,
        admin: admin.value,
        tls,
        extra_roots: extra_roots.value,
        trusted_proxies: trusted_proxies.value,
        public_url: public_url.map(|given| given.value),
        admin_token,
    }
}

/// True when two listeners would claim the same address; port 0 never does, the system finds a free one.
pub(super) fn same_listener(one: SocketAddr, other: SocketAddr) -> bool {
    let wildcard = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (wildcard || one.ip() == other.ip())
}

fn media(context: &Context<'_, '_>, section: Section<'_, '_>) -> Media {
    let bind = section.read_or("bind", values::ip, || IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let advertise = section.read_or(
        "advertise",
        |value| {
            let addresses = values::list(value, values::ip)?;
            if addresses.iter().any(IpAddr::is_unspecified) {
                let fix = "write the addresses that callers can reach, or [] for those of the interfaces";
                return Err(Complaint::new("has an address that nobody can send to", fix));
            }
            Ok(addresses)
        },
        Vec::new,
    );
    let ports = section.read_or("ports", values::ports, || (40_000, 40_999));
    let threads = section.read_or("threads", |value| values::whole(value, 0..=256), || 0);
    let opus_bitrate = section.read_or("opus_bitrate", |value| values::whole(value, 6_000..=128_000), || 24_000);
    let opus_complexity = section.read_or("opus_complexity", |value| values::whole(value, 0..=10), || 3);
    let drain = Duration::ZERO..=Duration::from_secs(30);
    let port_drain = section.read_or("port_drain", |value| values::duration(value, drain), || 5 * SECOND);
    section.finish();
    let threads = to_usize(threads.value);
    let lanes = if threads == 0 { context.environment.cores.saturating_sub(1).max(1) } else { threads };
    Media {
        bind: bind.value,
        advertise: advertise.value,
        ports: ports.value,
        threads,
        lanes,
        opus_bitrate: opus_bitrate.value,
        opus_complexity: u8::try_from(opus_complexity.value).unwrap_or(10),
        port_drain: port_drain.value,
    }
}

fn limits(section: Section<'_, '_>) -> Limits {
    let max_calls = section.read_or("max_calls", |value| values::whole(value, 1..=5_000), || 100);
    // a session with the model ends by itself after 60 minutes, and one may be opened minutes ahead of its call
    let max_call = section.read_or("max_call", |value| values::duration(value, SECOND..=240 * MINUTE), || 15 * MINUTE);
    let connect = Duration::from_millis(100)..=20 * SECOND;
    let connect_within = section.read_or("connect_within", |value| values::duration(value, connect), || 3 * SECOND);
    let no_media = section.read_or("no_media", |value| values::duration(value, SECOND..=MINUTE), || 20 * SECOND);
    let model_silence =
        section.read_or("model_silence", |value| values::duration(value, SECOND..=MINUTE), || 10 * SECOND);
    let drain = section.read_or("drain", |value| values::duration(value, Duration::ZERO..=HOUR), || 5 * MINUTE);
    if section.is_sound(&["max_call", "connect_within"]) && max_call.value <= connect_within.value {
        let reason = format!(
            "{} leaves no time to talk after connect_within, {}",
            values::written(max_call.value),
            values::written(connect_within.value)
        );
        section.complain("max_call", reason, "make max_call longer or connect_within shorter");
    }
    section.finish();
    Limits {
        max_calls: to_usize(max_calls.value),
        max_call: max_call.value,
        connect_within: connect_within.value,
        no_media: no_media.value,
        model_silence: model_silence.value,
        drain: drain.value,
    }
}

fn openai(context: &Context<'_, '_>, section: Section<'_, '_>) -> Option<OpenAi> {
    let url = section.read_or(
        "url",
        |value| values::url(value, &["https", "wss"]),
        || "https://api.openai.com/v1".to_owned(),
    );
    let model = section.read_or("model", values::name, || "gpt-realtime-2.1".to_owned());
    let voice = section.read_or("voice", values::name, || "marin".to_owned());
    let max_output_tokens = section.read_or("max_output_tokens", |value| values::whole(value, 1..=4_096), || 1_024);
    let transcription = section.read_or(
        "transcription",
        |value| if value.as_str() == Some("") { Ok(None) } else { values::name(value).map(Some) },
        || Some("gpt-transcribe".to_owned()),
    );
    let noise_reduction = section.read("noise_reduction", |value| values::one_of(value, &["near_field", "far_field"]));
    let idle = 5 * SECOND..=30 * SECOND;
    let idle_timeout = section.read("idle_timeout", |value| values::duration(value, idle));
    let reasoning = section.read("reasoning", values::name);
    let organization = section.read("organization", values::name);
    let project = section.read("project", values::name);
    let warm = section.read_or("warm", |value| values::whole(value, 0..=8), || 0);
    let turn = turn(section.section("turn"));
    let fallback = section.sections("fallback");
    if turn.detection == Detection::SemanticVad && section.has("idle_timeout") {
        let reason = "belongs to server_vad, and openai.turn.detection is semantic_vad";
        section.complain("idle_timeout", reason, "take it out, or use detection = \"server_vad\"");
    }
    if !section.is_present() {
        return None;
    }
    section.finish();
    let api_key = context.secrets.required("openai_api_key", "[openai]");
    let fallback = fallback::read(context, fallback, &url.value, &model.value, &api_key);
    Some(OpenAi {
        url: url.value,
        model: model.value,
        voice: voice.value,
        max_output_tokens: u16::try_from(max_output_tokens.value).unwrap_or(4_096),
        transcription: transcription.value,
        noise_reduction: noise_reduction.map(|given| given.value.to_owned()),
        idle_timeout: idle_timeout.map(|given| given.value),
        reasoning: reasoning.map(|given| given.value),
        organization: organization.map(|given| given.value),
        project: project.map(|given| given.value),
        turn,
        warm: to_usize(warm.value),
        fallback,
        api_key,
    })
}

fn turn(section: Section<'_, '_>) -> Turn {
    let detection =
        section.read_or("detection", |value| values::one_of(value, &["server_vad", "semantic_vad"]), || "server_vad");
    let threshold = section.read_or("threshold", values::fraction, || 0.5);
    let span = Duration::ZERO..=10 * SECOND;
    let prefix =
        section.read_or("prefix", |value| values::duration(value, span.clone()), || Duration::from_millis(300));
    let silence =
        section.read_or("silence", |value| values::duration(value, span.clone()), || Duration::from_millis(500));
    let create_response = section.read_or("create_response", values::flag, || true);
    let interrupt_response = section.read_or("interrupt_response", values::flag, || false);
    let words: Vec<&'static str> = BargeIn::ALL.iter().map(|word| word.label()).collect();
    let barge_in = section.read_or("barge_in", |value| values::one_of(value, &words), || BargeIn::Normal.label());
    let semantic = detection.value == "semantic_vad";
    for key in ["threshold", "prefix", "silence"] {
        if semantic && section.has(key) {
            let reason = "belongs to server_vad, and detection is semantic_vad";
            section.complain(key, reason, "take it out, or use detection = \"server_vad\"");
        }
    }
    section.finish();
    let detection = if semantic {
        Detection::SemanticVad
    } else {
        Detection::ServerVad { threshold: threshold.value, prefix: prefix.value, silence: silence.value }
    };
    Turn {
        detection,
        create_response: create_response.value,
        interrupt_response: interrupt_response.value,
        barge_in: BargeIn::parse(barge_in.value).unwrap_or(BargeIn::Normal),
    }
}

fn prices(context: &Context<'_, '_>, sections: Vec<Section<'_, '_>>) -> PriceTable {
    let mut table = PriceTable::built_in();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for section in sections {
        let path = section.path().to_owned();
        let model = section.read("model", values::name);
        let as_of = section.read("as_of", date);
        let known = model.as_ref().and_then(|model| table.model(&model.value)).cloned();
        let mut prices = known.clone().unwrap_or_default();
        for (key, slot) in [
            ("text_in", &mut prices.text_in),
            ("text_cached", &mut prices.text_cached),
            ("text_out", &mut prices.text_out),
            ("audio_in", &mut prices.audio_in),
            ("audio_cached", &mut prices.audio_cached),
            ("audio_out", &mut prices.audio_out),
            ("minute", &mut prices.minute),
        ] {
            if let Some(price) = section.read(key, price) {
                *slot = Some(price.value);
            }
        }
        if context.whole && !section.has("model") {
            section.complain("model", "is missing; a price belongs to a model", "write model = \"…\"");
        }
        if context.whole && !section.has("as_of") {
            let reason = "is missing; prices change, so each says when it held";
            section.complain("as_of", reason, "write as_of = \"YYYY-MM-DD\"");
        }
        if known.is_none() && prices == ModelPrices::default() && model.is_some() {
            let fix = "write text_in, text_cached, text_out, audio_in, audio_cached, audio_out, or minute";
            context.book.problem(&path, section.line(), "has no price, and none is built in for this model", fix);
        }
        if let Some(model) = model {
            if let Some(first) = seen.insert(model.value.clone(), path.clone()) {
                let reason = format!("names {:?}, which {first} has priced already", model.value);
                context.book.problem(&model.path, model.line, reason, "keep one [[price]] for each model");
            }
            prices.as_of = as_of.map_or_else(String::new, |given| given.value);
            table.set(&model.value, prices);
        }
        section.finish();
    }
    table
}

fn price(value: &toml::de::DeValue<'_>) -> Result<Price, Complaint> {
    use toml::de::DeValue;
    const FIX: &str = "write USD per million tokens (for minute: per minute) with at most six decimals, like 0.40";
    let text = match value {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        _ => return Err(Complaint::new(super::file::wrong_kind(value, "a price"), FIX)),
    };
    Price::parse(text).ok_or_else(|| Complaint::new("is no price that can be used", FIX))
}

fn date(value: &toml::de::DeValue<'_>) -> Result<String, Complaint> {
    let complaint = || Complaint::new("is no day of the calendar", "write it as \"YYYY-MM-DD\"");
    let text = match value {
        toml::de::DeValue::Datetime(date) => date.to_string(),
        _ => values::text(value)?,
    };
    let date: jiff::civil::Date = text.parse().map_err(|_| complaint())?;
    if date.to_string() == text { Ok(text) } else { Err(complaint()) }
}

fn agent(context: &Context<'_, '_>, section: Section<'_, '_>) -> Agent {
    const LONGEST: usize = 32_000;
    let written = section.read("instructions", |value| values::words(value, LONGEST));
    let file = section.read("instructions_file", |value| {
        let path = file_path(value)?;
        let fix = "give the path of a text file that the daemon's user may read";
        let text = (context.environment.read_file)(&path)
            .map_err(|why| Complaint::new(format!("cannot be read: {why}"), fix))?;
        let text = text.trim();
        if text.is_empty() {
            return Err(Complaint::new("is an empty file", fix));
        }
        if text.chars().count() > LONGEST {
            return Err(Complaint::new(format!("holds more than {LONGEST} characters"), "shorten the file"));
        }
        Ok(text.to_owned())
    });
    if section.has("instructions") && section.has("instructions_file") {
        context.book.note("agent.instructions", "is not used: instructions_file stands over it");
    }
    let clips = section.read_or(
        "clips",
        |value| if value.as_str() == Some("") { Ok(None) } else { file_path(value).map(Some) },
        || Some(PathBuf::from("/etc/sauti/clips")),
    );
    let silence = Duration::ZERO..=600 * SECOND;
    let still_there_after =
        section.read_or("still_there_after", |value| values::duration(value, silence), || 15 * SECOND);
    let summary = section.read_or("summary", values::flag, || true);
    let summary_pii = section.read_or("summary_pii", |value| values::one_of(value, &["replace", "keep"]), || "replace");
    let mut tables = BTreeMap::new();
    for language in Language::ALL {
        let table = section.section(language.code());
        let present = table.is_present();
        let built_in = texts::of(language);
        let say = |key, built_in: String| table.read_or(key, |value| values::words(value, 1_000), || built_in).value;
        let texts = Texts {
            notice: table.read_or("notice", |value| values::words(value, 1_000).map(Some), || built_in.notice).value,
            greeting: say("greeting", built_in.greeting),
            one_moment: say("one_moment", built_in.one_moment),
            still_there: say("still_there", built_in.still_there),
            nobody_there: say("nobody_there", built_in.nobody_there),
            apology: say("apology", built_in.apology),
            nobody_free: say("nobody_free", built_in.nobody_free),
            goodbye: say("goodbye", built_in.goodbye),
        };
        table.finish();
        if present {
            tables.insert(language, texts);
        }
    }
    section.finish();
    let instructions = file.or(written).map_or_else(|| texts::INSTRUCTIONS.to_owned(), |Given { value, .. }| value);
    Agent {
        instructions,
        clips: clips.value,
        still_there_after: Some(still_there_after.value).filter(|after| !after.is_zero()),
        summary: summary.value,
        summary_keeps_pii: summary_pii.value == "keep",
        texts: if tables.is_empty() { texts::all() } else { tables },
    }
}

fn ledger(section: Section<'_, '_>) -> Ledger {
    let path = section.read_or("path", file_path, || PathBuf::from("/var/lib/sauti/ledger.db"));
    section.finish();
    Ledger { path: path.value }
}

fn upstream(section: Section<'_, '_>) -> Option<Upstream> {
    const KINDS: [&str; 7] = ["calls", "events", "sessions", "summaries", "transcripts", "memories", "tool_calls"];
    let send = section.read_or(
        "send",
        |value| values::list(value, |item| values::one_of(item, &KINDS)),
        || vec!["calls", "events", "sessions", "summaries"],
    );
    let schema = section.read_or("schema", values::plain_name, || "public".to_owned());
    let present = section.is_present();
    section.finish();
    let send = send.value.into_iter().map(str::to_owned).collect();
    present.then_some(Upstream { send, schema: schema.value })
}

pub(super) fn file_path(value: &toml::de::DeValue<'_>) -> Result<PathBuf, Complaint> {
    values::words(value, 4_096).map(PathBuf::from)
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

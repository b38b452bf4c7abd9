//! The configuration written back as TOML, defaults filled in: what `sauti check` prints.
//!
//! Secrets appear by name with `set` or `missing`, as comments; reading the text again gives the same
//! configuration, except that `instructions_file` has become its content.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use super::values::written;
use super::{Config, Detection, Language, Signalling, Trunk};

impl Config {
    /// The effective configuration, without any secret.
    #[must_use]
    pub fn effective_toml(&self) -> String {
        let mut page = Page::default();
        self.write_box(&mut page);
        self.write_doors(&mut page);
        self.write_rest(&mut page);
        page.heading("secrets, by name");
        for (name, given) in &self.secrets {
            page.line(&format!("# {name}: {}", if *given { "set" } else { "missing" }));
        }
        page.text
    }

    fn write_box(&self, page: &mut Page) {
        page.table("[node]");
        page.text("id", &self.node.id);
        page.value("workers", self.node.workers);
        page.text("country", &self.node.country);
        page.list("languages", self.node.languages.iter().map(|language| language.code()));
        page.table("[http]");
        page.text("public", self.http.public);
        page.text("admin", self.http.admin);
        if let Some(tls) = &self.http.tls {
            page.text("certificate", tls.certificate.display());
            page.text("key", tls.key.display());
        }
        page.list("extra_roots", self.http.extra_roots.iter().map(|path| path.display()));
        page.list("trusted_proxies", &self.http.trusted_proxies);
        page.optional("public_url", self.http.public_url.as_ref());
        page.table("[media]");
        page.text("bind", self.media.bind);
        page.list("advertise", &self.media.advertise);
        page.text("ports", format!("{}-{}", self.media.ports.0, self.media.ports.1));
        page.line(&format!("threads = {}    # lanes: {}", self.media.threads, self.media.lanes));
        page.value("opus_bitrate", self.media.opus_bitrate);
        page.value("opus_complexity", self.media.opus_complexity);
        page.duration("port_drain", self.media.port_drain);
        page.table("[limits]");
        page.value("max_calls", self.limits.max_calls);
        page.duration("max_call", self.limits.max_call);
        page.duration("connect_within", self.limits.connect_within);
        page.duration("no_media", self.limits.no_media);
        page.duration("model_silence", self.limits.model_silence);
        page.duration("drain", self.limits.drain);
    }

    fn write_doors(&self, page: &mut Page) {
        if let Some(whatsapp) = &self.whatsapp {
            page.table("[whatsapp]");
            page.text("phone_number_id", &whatsapp.phone_number_id);
            page.optional("app_id", whatsapp.app_id.as_ref());
            page.optional("waba_id", whatsapp.waba_id.as_ref());
            page.text("graph_url", &whatsapp.graph_url);
            page.text("graph_version", &whatsapp.graph_version);
            page.duration("stale_after", whatsapp.stale_after);
            match &whatsapp.signalling {
                Signalling::Graph => page.text("signalling", "graph"),
                Signalling::Sip(sip) => {
                    page.text("signalling", "sip");
                    page.table("[whatsapp.sip]");
                    page.text("hostname", &sip.hostname);
                    page.text("host", &sip.host);
                    page.list("allow", &sip.allow);
                    page.optional("number", sip.number.as_ref());
                }
            }
        }
        let Some(openai) = &self.openai else { return };
        page.table("[openai]");
        page.text("url", &openai.url);
        page.text("model", &openai.model);
        page.text("voice", &openai.voice);
        page.value("max_output_tokens", openai.max_output_tokens);
        page.text("transcription", openai.transcription.as_deref().unwrap_or_default());
        page.optional("noise_reduction", openai.noise_reduction.as_ref());
        if let Some(idle_timeout) = openai.idle_timeout {
            page.duration("idle_timeout", idle_timeout);
        }
        page.optional("reasoning", openai.reasoning.as_ref());
        page.optional("organization", openai.organization.as_ref());
        page.optional("project", openai.project.as_ref());
        page.value("warm", openai.warm);
        page.table("[openai.turn]");
        match openai.turn.detection {
            Detection::ServerVad { threshold, prefix, silence } => {
                page.text("detection", "server_vad");
                page.line(&format!("threshold = {threshold:?}"));
                page.duration("prefix", prefix);
                page.duration("silence", silence);
            }
            Detection::SemanticVad => page.text("detection", "semantic_vad"),
        }
        page.value("create_response", openai.turn.create_response);
        page.value("interrupt_response", openai.turn.interrupt_response);
        page.text("barge_in", openai.turn.barge_in.label());
        for fallback in &openai.fallback {
            page.table("[[openai.fallback]]");
            page.text("url", &fallback.url);
            page.text("model", &fallback.model);
            page.optional("key", fallback.key.as_ref());
        }
    }

    fn write_rest(&self, page: &mut Page) {
        for (model, prices) in self.prices.iter() {
            page.table("[[price]]");
            page.text("model", model);
            page.text("as_of", &prices.as_of);
            for (key, price) in [
                ("text_in", prices.text_in),
                ("text_cached", prices.text_cached),
                ("text_out", prices.text_out),
                ("audio_in", prices.audio_in),
                ("audio_cached", prices.audio_cached),
                ("audio_out", prices.audio_out),
                ("minute", prices.minute),
            ] {
                if let Some(price) = price {
                    page.value(key, price);
                }
            }
        }
        page.table("[agent]");
        page.text("instructions", &self.agent.instructions);
        page.text("clips", self.agent.clips.as_deref().unwrap_or_else(|| Path::new("")).display());
        page.duration("still_there_after", self.agent.still_there_after.unwrap_or_default());
        page.value("summary", self.agent.summary);
        page.text("summary_pii", if self.agent.summary_keeps_pii { "keep" } else { "replace" });
        for (language, texts) in &self.agent.texts {
            page.table(&format!("[agent.{}]", Language::code(*language)));
            page.optional("notice", texts.notice.as_ref());
            page.text("greeting", &texts.greeting);
            page.text("one_moment", &texts.one_moment);
            page.text("still_there", &texts.still_there);
            page.text("nobody_there", &texts.nobody_there);
            page.text("apology", &texts.apology);
            page.text("nobody_free", &texts.nobody_free);
            page.text("goodbye", &texts.goodbye);
        }
        page.table("[ledger]");
        page.text("path", self.ledger.path.display());
        if let Some(upstream) = &self.upstream {
            page.table("[upstream]");
            page.list("send", &upstream.send);
            page.text("schema", &upstream.schema);
        }
        if let Some(sip) = &self.sip {
            page.table("[sip]");
            page.optional("udp", sip.udp.as_ref());
            page.optional("tcp", sip.tcp.as_ref());
            if let Some((address, files)) = &sip.tls {
                page.text("tls", address);
                page.text("certificate", files.certificate.display());
                page.text("key", files.key.display());
            }
        }
        self.trunks.iter().for_each(|trunk| write_trunk(page, trunk));
        if let Some(transfer) = &self.transfer {
            page.table("[transfer]");
            page.text("trunk", &transfer.trunk);
            page.text("target", &transfer.target);
            page.text("way", transfer.way.label());
            page.duration("answer_within", transfer.answer_within);
        }
    }
}

fn write_trunk(page: &mut Page, trunk: &Trunk) {
    page.table("[[trunk]]");
    page.text("name", &trunk.name);
    page.optional("registrar", trunk.registrar.as_ref());
    page.optional("username", trunk.username.as_ref());
    page.text("transport", trunk.transport.label());
    page.list("codecs", trunk.codecs.iter().map(|codec| codec.label()));
    page.text("srtp", trunk.srtp.label());
    page.list("allow", &trunk.allow);
    page.optional("advertise", trunk.advertise.as_ref());
    page.optional("bind", trunk.bind.as_ref());
    page.optional("from", trunk.from.as_ref());
    page.optional("outbound_proxy", trunk.outbound_proxy.as_ref());
    page.duration("options_every", trunk.options_every.unwrap_or_default());
    page.value("calls", trunk.calls);
    page.value("calls_per_second", trunk.calls_per_second);
    page.duration("register_every", trunk.register_every);
    page.value("early_media", trunk.early_media);
    page.value("public_network", trunk.public_network);
    for route in &trunk.routes {
        page.table("[[trunk.route]]");
        page.text("called", &route.called);
        page.text("agent", &route.agent);
        page.list("languages", route.languages.iter().map(|language| language.code()));
    }
}

/// TOML being written, line by line.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn table(&mut self, name: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.line(name);
    }

    fn heading(&mut self, words: &str) {
        self.table(&format!("# {words}"));
    }

    fn value(&mut self, key: &str, value: impl Display) {
        self.line(&format!("{key} = {value}"));
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.value(key, quoted(&value.to_string()));
    }

    fn optional(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn duration(&mut self, key: &str, value: Duration) {
        self.text(key, written(value));
    }

    fn list(&mut self, key: &str, items: impl IntoIterator<Item = impl Display>) {
        let items: Vec<_> = items.into_iter().map(|item| quoted(&item.to_string())).collect();
        self.value(key, format!("[{}]", items.join(", ")));
    }
}

/// A basic string of TOML, on one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            control if control.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(control))),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

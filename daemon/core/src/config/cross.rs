//! What only shows when sections are seen together: contradictions are problems, doubts are notes.
//!
//! A key that has a problem of its own is not compared with others: a stand-in would be judged.

use super::file::Book;
use super::{Config, values};
use crate::media::floor::BargeIn;

/// Judges a configuration after its single values.
pub(super) fn judge(config: &Config, book: &Book<'_>) {
    ports(config, book);
    languages(config, book);
    doors(config, book);
    model(config, book);
    not_yet(config, book);
}

fn ports(config: &Config, book: &Book<'_>) {
    let (first, last) = config.media.ports;
    let count = usize::from(last - first) + 1;
    if count < config.limits.max_calls && book.is_sound(&["media.ports", "limits.max_calls"]) {
        let reason = format!(
            "\"{first}-{last}\" has {count} ports for limits.max_calls = {}; each call needs one",
            config.limits.max_calls
        );
        book.problem("media.ports", book.place("media.ports"), reason, "widen the range or lower max_calls");
    }
}

fn languages(config: &Config, book: &Book<'_>) {
    let sound = book.is_sound(&["node.languages", "agent"]);
    if !sound || config.node.languages.iter().any(|language| config.agent.texts.contains_key(language)) {
        return;
    }
    let served: Vec<_> = config.node.languages.iter().map(|language| language.code()).collect();
    let tables: Vec<_> = config.agent.texts.keys().map(|language| language.code()).collect();
    let reason = format!("has texts for {}, and node.languages are {}", tables.join(", "), served.join(", "));
    let fix = format!("write a table for one of them: [agent.{}]", served.first().copied().unwrap_or("en"));
    book.problem("agent", book.place("agent"), reason, fix);
}

fn doors(config: &Config, book: &Book<'_>) {
    match (&config.whatsapp, &config.openai) {
        (Some(_), None) if book.is_sound(&["openai"]) => {
            book.problem("openai", None, "is missing; [whatsapp] has nobody to answer with", "add the line [openai]");
        }
        (None, _) => book.note("whatsapp", "is not configured, so no call will reach this box"),
        (Some(_), _) => {}
    }
}

fn model(config: &Config, book: &Book<'_>) {
    let Some(openai) = &config.openai else { return };
    let mut models = vec![("openai.model".to_owned(), openai.model.as_str())];
    let fallbacks = openai.fallback.iter().enumerate();
    models.extend(fallbacks.map(|(index, rung)| (format!("openai.fallback[{index}].model"), rung.model.as_str())));
    models.iter().for_each(|(key, model)| retired(key, model, book));
    models.extend(openai.transcription.iter().map(|model| ("openai.transcription".to_owned(), model.as_str())));
    let mut unpriced: Vec<&str> = Vec::new();
    for (key, model) in &models {
        if config.prices.model(model).is_none() && !unpriced.contains(model) {
            unpriced.push(model);
            let text = format!("no price is known for {model}: costs show as ? until a [[price]] names it");
            book.note(key, text);
        }
    }
    if !openai.turn.create_response {
        book.note("openai.turn.create_response", "is false: the model will not answer what callers say");
    }
    if !openai.turn.interrupt_response && openai.turn.barge_in == BargeIn::Off {
        book.note("openai.turn.barge_in", "is off: callers cannot interrupt");
    }
    if config.limits.max_call > std::time::Duration::from_secs(30 * 60) {
        let text = format!(
            "{} is long; every answer is billed with the whole talk before it",
            values::written(config.limits.max_call)
        );
        book.note("limits.max_call", text);
    }
}

fn retired(key: &str, model: &str, book: &Book<'_>) {
    let names = ["gpt-realtime", "gpt-realtime-2025-08-28", "gpt-realtime-mini", "gpt-realtime-mini-2025-12-15"];
    if names.contains(&model) {
        book.note(key, format!("{model} is announced to shut down on 2027-01-20"));
    } else if model.starts_with("gpt-4o-realtime-preview") || model == "gpt-5-realtime" {
        book.note(key, format!("{model} is not served any more, or never was"));
    }
}

/// Sections whose names are fixed but which this version does not act on: said aloud, never silently ignored.
fn not_yet(config: &Config, book: &Book<'_>) {
    let unused = "is read but not used by this version:";
    if !config.http.trusted_proxies.is_empty() {
        book.note("http.trusted_proxies", format!("{unused} nothing depends on a client's address"));
    }
    if config.http.public_url.is_some() {
        book.note("http.public_url", format!("{unused} webhooks are registered by hand"));
    }
    if let Some(whatsapp) = &config.whatsapp {
        for (key, value) in [("whatsapp.app_id", &whatsapp.app_id), ("whatsapp.waba_id", &whatsapp.waba_id)] {
            if value.is_some() {
                book.note(key, format!("{unused} webhooks are registered by hand"));
            }
        }
    }
    if config.upstream.is_some() {
        book.note("upstream", "is read but not acted on: this version keeps the ledger on the box");
    }
    if !config.trunks.is_empty() {
        book.note("trunk", "is read but not acted on: this version has no SIP trunks");
    }
}

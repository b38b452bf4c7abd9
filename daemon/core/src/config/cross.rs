//! What only shows when sections are seen together: contradictions are problems, doubts are notes.
//!
//! A key that has a problem of its own is not compared with others: a stand-in would be judged.

use std::net::SocketAddr;

use super::file::Book;
use super::{Config, Signalling, Transport, Trunk, sections, values};
use crate::media::floor::BargeIn;

/// Judges a configuration after its single values.
pub(super) fn judge(config: &Config, book: &Book<'_>) {
    ports(config, book);
    sip(config, book);
    languages(config, book);
    doors(config, book);
    model(config, book);
    not_yet(config, book);
}

fn ports(config: &Config, book: &Book<'_>) {
    if !book.is_sound(&["media.ports", "limits.max_calls"]) {
        return;
    }
    let (first, last) = config.media.ports;
    let count = usize::from(last - first) + 1;
    // a call over RTP whose far end does not multiplex RTCP takes two (RFC 3550 §11)
    let each = if config.trunks.is_empty() { 1 } else { 2 };
    let needed = config.limits.max_calls.saturating_mul(each);
    if count < needed {
        let reason = format!(
            "\"{first}-{last}\" has {count} ports for limits.max_calls = {}; each call needs {}",
            config.limits.max_calls,
            if each == 1 { "one" } else { "two" }
        );
        book.problem("media.ports", book.place("media.ports"), reason, "widen the range or lower max_calls");
        return;
    }
    let rate: u32 = config.trunks.iter().map(|trunk| trunk.calls_per_second).sum();
    let draining = u128::from(rate) * config.media.port_drain.as_millis() / 1_000;
    let draining = usize::try_from(draining).unwrap_or(usize::MAX).saturating_mul(each);
    if count < needed.saturating_add(draining) {
        let text = format!(
            "{count} ports are few: with every call up and {rate} a second coming and going, {draining} more wait out \
             media.port_drain; calls that find none are refused with 503"
        );
        book.note("media.ports", text);
    }
}

/// Listeners and trunks beside each other.
fn sip(config: &Config, book: &Book<'_>) {
    let by_sip = matches!(config.whatsapp.as_ref().map(|door| &door.signalling), Some(Signalling::Sip(_)));
    if by_sip && config.sip.as_ref().is_none_or(|sip| sip.tls.is_none()) && book.is_sound(&["sip.tls", "sip"]) {
        let reason = "is \"sip\", and Meta calls over TLS only, for which nothing listens";
        let fix = "write tls, certificate and key under [sip]";
        book.problem("whatsapp.signalling", book.place("whatsapp.signalling"), reason, fix);
    }
    match &config.sip {
        None if !config.trunks.is_empty() => {
            let fix = "write [sip] with udp = \"0.0.0.0:5060\", or what the trunk uses";
            book.problem("sip", None, "is missing; a [[trunk]] needs a listener", fix);
        }
        Some(_) if config.trunks.is_empty() && !by_sip => {
            book.note("sip", "listens, and no [[trunk]] says to whom: nobody will be answered");
        }
        _ => {}
    }
    listeners(config, book);
    if let Some(transfer) = &config.transfer
        && config.whatsapp.is_some()
        && config.trunks.iter().any(|trunk| trunk.name == transfer.trunk && trunk.public_network)
    {
        let text = "leads into the public telephone network: callers of WhatsApp are not handed on there, as its terms \
                    forbid it; where it does not, say so with public_network = false of that trunk";
        book.note("transfer.trunk", text);
    }
    for (index, trunk) in config.trunks.iter().enumerate() {
        listener_of(config, trunk, index, book);
        overlap(config, trunk, index, book);
    }
}

fn listeners(config: &Config, book: &Book<'_>) {
    let Some(sip) = &config.sip else { return };
    let tls = sip.tls.as_ref().map(|(address, _)| *address);
    let tcp: Vec<(&str, SocketAddr)> = [("sip.tcp", sip.tcp), ("sip.tls", tls)]
        .into_iter()
        .filter_map(|(key, address)| Some((key, address?)))
        .chain([("http.public", config.http.public), ("http.admin", config.http.admin)])
        .collect();
    for (place, (key, address)) in tcp.iter().enumerate().filter(|(_, (key, _))| key.starts_with("sip")) {
        let claimed = tcp.iter().skip(place + 1).find(|(_, other)| sections::same_listener(*address, *other));
        if let Some((other, taken)) = claimed {
            let reason = format!("{address} is already used by {other} {taken}");
            book.problem(key, book.place(key), reason, "give each listener a port of its own");
        }
    }
}

fn listener_of(config: &Config, trunk: &Trunk, index: usize, book: &Book<'_>) {
    let Some(sip) = &config.sip else { return };
    let listens = match trunk.transport {
        Transport::Udp => sip.udp.is_some(),
        Transport::Tcp => sip.tcp.is_some(),
        Transport::Tls => sip.tls.is_some(),
    };
    // over a stream that the box opened to register, calls come back without a listener (RFC 5626 §3)
    let comes_back = trunk.registrar.is_some() && trunk.transport != Transport::Udp;
    let (word, path) = (trunk.transport.label(), format!("trunk[{index}].transport"));
    if !listens && !comes_back && book.is_sound(&[&path, &format!("sip.{word}")]) {
        let reason = format!("is \"{word}\", and [sip] has no {word} listener");
        book.problem(&path, book.place(&path), reason, format!("write {word} under [sip], or another transport"));
    }
}

/// One source address must mean one trunk, unless the number that is called tells them apart.
fn overlap(config: &Config, trunk: &Trunk, index: usize, book: &Book<'_>) {
    for (earlier, other) in config.trunks.iter().enumerate().take(index) {
        let apart = trunk.username.is_some() && other.username.is_some() && trunk.username != other.username;
        let both = trunk.allow.iter().find_map(|network| {
            let found = other.allow.iter().find(|one| one.overlaps(*network))?;
            Some((network, found))
        });
        if let Some((network, found)) = both.filter(|_| !apart) {
            let path = format!("trunk[{index}].allow");
            let reason = format!("{network} overlaps {found} of trunk[{earlier}]; whose call is one from there?");
            let fix = "give each trunk networks of its own, or a username each, which their calls then name";
            book.problem(&path, book.place(&path), reason, fix);
        }
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
        (None, None) if !config.trunks.is_empty() && book.is_sound(&["openai"]) => {
            book.problem("openai", None, "is missing; [[trunk]] has nobody to answer with", "add the line [openai]");
        }
        (None, _) if config.trunks.is_empty() => {
            book.note("whatsapp", "is not configured, so no call will reach this box");
        }
        (None, _) => {}
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
}

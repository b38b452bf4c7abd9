//! `[[openai.fallback]]`: where sessions are had when the first provider has none.
//!
//! Each table names what is different there; what it leaves out is as in `[openai]`.

use secrecy::SecretString;

use super::check::Context;
use super::file::{Complaint, Section};
use super::{OpenAi, values};
use crate::ai::ladder::MAX_RUNGS;

/// How the name of a further key begins; `[openai]` itself has `openai_api_key`.
const KEY_BEGINS: &str = "openai_api_key_";

/// One `[[openai.fallback]]`.
#[derive(Debug, Clone)]
pub struct Fallback {
    /// Base address, without a trailing slash.
    pub url: String,
    /// Model name.
    pub model: String,
    /// The secret that holds its key; `None` = `openai_api_key`.
    pub key: Option<String>,
    /// The key itself.
    pub api_key: SecretString,
}

impl OpenAi {
    /// `[openai]` as it is at a fallback.
    #[must_use]
    pub fn at(&self, fallback: &Fallback) -> Self {
        Self {
            url: fallback.url.clone(),
            model: fallback.model.clone(),
            api_key: fallback.api_key.clone(),
            fallback: Vec::new(),
            ..self.clone()
        }
    }
}

/// Reads the tables. `url` and `model` are those of `[openai]`.
pub(super) fn read(
    context: &Context<'_, '_>,
    sections: Vec<Section<'_, '_>>,
    url: &str,
    model: &str,
    first_key: &SecretString,
) -> Vec<Fallback> {
    let mut rungs: Vec<Fallback> = Vec::new();
    for (index, section) in sections.into_iter().enumerate() {
        let own_url = section.read("url", |value| values::url(value, &["https", "wss"]));
        let own_model = section.read("model", values::name);
        let key = section.read("key", key_name).map(|given| given.value);
        let sound = section.is_sound(&["url", "model", "key"]);
        let api_key = match &key {
            Some(name) => context.secrets.required(name, &format!("[[{}]]", without_index(section.path()))),
            None => first_key.clone(),
        };
        let rung = Fallback {
            url: own_url.map_or_else(|| url.to_owned(), |given| given.value),
            model: own_model.map_or_else(|| model.to_owned(), |given| given.value),
            key,
            api_key,
        };
        let is = |other: &Fallback| (&other.url, &other.model, &other.key) == (&rung.url, &rung.model, &rung.key);
        let as_first = rung.url == url && rung.model == model && rung.key.is_none();
        let twin = rungs.iter().position(is).map(|twin| format!("openai.fallback[{twin}]"));
        if index + 1 >= MAX_RUNGS {
            let reason = format!("is one too many: there may be {}", MAX_RUNGS - 1);
            let fix = "take it out; a caller does not wait for so many attempts";
            context.book.problem(section.path(), section.line(), reason, fix);
        } else if let Some(twin) = twin.or_else(|| as_first.then(|| "[openai]".to_owned()))
            && sound
            && context.book.is_sound(&["openai.url", "openai.model"])
        {
            let reason = format!("is the same as {twin}, so it would fail with it");
            let fix = "give it another url, model or key, or take it out";
            context.book.problem(section.path(), section.line(), reason, fix);
        }
        section.finish();
        rungs.push(rung);
    }
    rungs
}

fn without_index(path: &str) -> &str {
    path.split_once('[').map_or(path, |(name, _)| name)
}

/// The name of a secret, never the secret.
fn key_name(value: &toml::de::DeValue<'_>) -> Result<String, Complaint> {
    let fix = format!("write the name of a secret that begins with {KEY_BEGINS}, like \"{KEY_BEGINS}2\"");
    let name = values::text(value).map_err(Complaint::hidden)?;
    let end = name.strip_prefix(KEY_BEGINS).unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if end.is_empty() || name.len() > 64 || !end.bytes().all(plain) {
        return Err(Complaint::new("is no name of a secret (its value is not shown)", fix).hidden());
    }
    Ok(name)
}

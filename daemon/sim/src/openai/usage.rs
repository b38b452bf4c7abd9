//! Tokens, caching and allowance: what `response.done` and `rate_limits.updated` report.

use std::time::Instant;

use serde_json::{Value, json};

use super::settings::RateLimits;

/// Tokens of the two kinds that a voice session has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tokens {
    pub(super) text: u64,
    pub(super) audio: u64,
}

impl Tokens {
    /// A text of so many bytes.
    pub(super) fn of_text(bytes: usize) -> Self {
        Self { text: (bytes as u64).div_ceil(4), audio: 0 }
    }

    /// Milliseconds of a caller's speech.
    pub(super) fn of_caller(ms: u64) -> Self {
        Self { text: 0, audio: ms.div_ceil(100) }
    }

    /// Milliseconds of the model's speech.
    pub(super) fn of_model(ms: u64) -> Self {
        Self { text: 0, audio: ms.div_ceil(50) }
    }

    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self { text: self.text + other.text, audio: self.audio + other.audio }
    }

    /// Of either kind.
    pub(super) fn total(self) -> u64 {
        self.text + self.audio
    }
}

/// What a response read: its context and how much of that was still in the cache.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Context {
    pub(super) input: Tokens,
    pub(super) cached: Tokens,
}

impl Context {
    /// The `usage` object of a response that produced `output`.
    pub(super) fn usage(self, output: Tokens) -> Value {
        let cached = self.cached.total();
        json!({
            "total_tokens": self.input.total() + output.total(),
            "input_tokens": self.input.total(),
            "output_tokens": output.total(),
            "input_token_details": {
                "text_tokens": self.input.text, "audio_tokens": self.input.audio, "image_tokens": 0,
                "cached_tokens": cached,
                "cached_tokens_details": {
                    "text_tokens": self.cached.text, "audio_tokens": self.cached.audio, "image_tokens": 0,
                },
            },
            "output_token_details": {"text_tokens": output.text, "audio_tokens": output.audio},
        })
    }
}

/// Remembers the last context, for caching, and the account's allowance.
#[derive(Debug)]
pub(super) struct Meter {
    last: Vec<(String, Tokens)>,
    limits: RateLimits,
    spent_tokens: u64,
    spent_requests: u64,
    since: Instant,
}

impl Meter {
    /// A full allowance from `now`.
    pub(super) fn new(limits: RateLimits, now: Instant) -> Self {
        Self { last: Vec::new(), limits, spent_tokens: 0, spent_requests: 0, since: now }
    }

    /// Reads a context, entry by entry with a key that changes when the entry does. What equals the beginning of the
    /// previous context is cached, in steps of 64 tokens.
    pub(super) fn read(&mut self, entries: Vec<(String, Tokens)>) -> Context {
        let same = entries.iter().zip(&self.last).take_while(|(new, old)| new == old);
        let prefix = same.map(|(new, _)| new.1).fold(Tokens::default(), Tokens::plus);
        let input = entries.iter().map(|entry| entry.1).fold(Tokens::default(), Tokens::plus);
        self.last = entries;
        Context { input, cached: Tokens { text: prefix.text / 64 * 64, audio: prefix.audio / 64 * 64 } }
    }

    /// Books a request; says whether the allowance covers it.
    pub(super) fn book(&mut self, tokens: u64, now: Instant) -> bool {
        if now.saturating_duration_since(self.since).as_secs() >= 60 {
            (self.since, self.spent_tokens, self.spent_requests) = (now, 0, 0);
        }
        let fits = self.spent_tokens + tokens <= u64::from(self.limits.tokens)
            && self.spent_requests < u64::from(self.limits.requests);
        self.spent_tokens += tokens;
        self.spent_requests += 1;
        fits || !self.limits.enforced
    }

    /// The list that `rate_limits.updated` carries.
    pub(super) fn limits(&self, now: Instant) -> Value {
        let passed = u32::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(60_000);
        let reset = f64::from(60_000_u32.saturating_sub(passed)) / 1_000.0;
        let left = |limit: u32, spent: u64| u64::from(limit).saturating_sub(spent);
        json!([
            {"name": "requests", "limit": self.limits.requests, "reset_seconds": reset,
             "remaining": left(self.limits.requests, self.spent_requests)},
            {"name": "tokens", "limit": self.limits.tokens, "reset_seconds": reset,
             "remaining": left(self.limits.tokens, self.spent_tokens)},
        ])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(key: &str, text: u64) -> (String, Tokens) {
        (key.into(), Tokens { text, audio: 0 })
    }

    fn meter(limits: RateLimits) -> (Meter, Instant) {
        let start = crate::openai::tests::start();
        (Meter::new(limits, start), start)
    }

    #[test]
    fn an_unchanged_beginning_is_cached_in_steps_of_64() {
        let (mut meter, _) = meter(RateLimits::default());
        assert_eq!(meter.read(vec![entry("a", 100), entry("b", 50)]).cached.total(), 0);
        let grown = meter.read(vec![entry("a", 100), entry("b", 50), entry("c", 10)]);
        assert_eq!((grown.cached.text, grown.input.text), (128, 160));
        assert_eq!(meter.read(vec![entry("x", 100), entry("b", 50)]).cached.total(), 0, "a new front busts the cache");
    }

    #[test]
    fn an_enforced_allowance_runs_out_and_returns_after_a_minute() {
        let limits = RateLimits { tokens: 100, enforced: true, ..RateLimits::default() };
        let (mut meter, start) = meter(limits);
        assert!(meter.book(80, start));
        assert!(!meter.book(80, start + Duration::from_secs(1)));
        assert!(meter.book(80, start + Duration::from_secs(61)));
        assert_eq!(meter.limits(start + Duration::from_secs(61))[1]["remaining"], 20);
    }

    #[test]
    fn usage_adds_up() {
        let context = Context { input: Tokens { text: 10, audio: 5 }, cached: Tokens::default() };
        let usage = context.usage(Tokens { text: 3, audio: 20 });
        assert_eq!((&usage["total_tokens"], &usage["output_tokens"]), (&json!(38), &json!(23)));
    }
}

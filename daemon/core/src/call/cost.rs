//! What a call costs at the model: usage as the model reports it, times a dated price table.
//!
//! All sums are whole numbers of a trillionth of a dollar, so adding a thousand responses rounds nothing; a
//! [`Cost`] is rounded once, where it is shown or stored. A model without a price has no cost (`None`, shown as
//! `?`, stored as NULL), never zero. The driver adds up the usage of a call and prices it when it ends, and
//! while it runs for the live figure.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, AddAssign};
use std::time::Duration;

/// The day on which the built-in prices were read from the provider's model pages.
pub const BUILT_IN_AS_OF: &str = "2026-11-20";

/// Pico-dollars (10⁻¹² USD) in one micro-dollar.
const PICO_PER_MICRO: u128 = 1_000_000;

/// An amount of USD, exact to 10⁻¹² USD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Cost {
    pico: u128,
}

impl Cost {
    /// Nothing spent.
    pub const ZERO: Self = Self { pico: 0 };

    /// An amount as the ledger stores it.
    #[must_use]
    pub fn from_micro_usd(micros: u64) -> Self {
        Self { pico: u128::from(micros) * PICO_PER_MICRO }
    }

    /// Micro-dollars, rounded half up; what the ledger stores. Saturates at `i64::MAX`.
    #[must_use]
    pub fn micro_usd(self) -> i64 {
        let rounded = self.pico.saturating_add(PICO_PER_MICRO / 2) / PICO_PER_MICRO;
        i64::try_from(rounded).unwrap_or(i64::MAX)
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { pico: self.pico.saturating_add(other.pico) }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for Cost {
    /// Dollars with six decimals: `0.012345`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.micro_usd();
        write!(f, "{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

/// Writes a cost as people see it: dollars with six decimals, `?` when a price was missing.
#[must_use]
pub fn shown(cost: Option<Cost>) -> String {
    cost.map_or_else(|| "?".to_owned(), |cost| cost.to_string())
}

/// A price: pico-dollars per token, which is the number of micro-dollars per million tokens.
///
/// So a price in USD per million tokens with up to six decimals is held exactly; for a price per minute the
/// same type counts micro-dollars per minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Price(u64);

impl Price {
    /// Highest price that is believed, in dollars; more is taken for a slip of the pen.
    pub const MAX_USD: u64 = 100_000;

    /// From micro-dollars per million tokens, or per minute.
    #[must_use]
    pub const fn from_micro_usd(micros: u64) -> Self {
        Self(micros)
    }

    /// Reads a decimal number of dollars: `4`, `0.40`, `.4`. At most six decimals, no sign, no exponent.
    ///
    /// Returns `None` for anything else and beyond [`Price::MAX_USD`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 6 || (whole.is_empty() && decimals.is_empty()) {
            return None;
        }
        let dollars: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let micros: u64 = format!("{decimals:0<6}").parse().ok()?;
        if dollars > Self::MAX_USD {
            return None;
        }
        Some(Self(dollars * 1_000_000 + micros))
    }
}

impl fmt::Display for Price {
    /// Dollars with as many decimals as are needed: `4`, `0.4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        if micros == 0 {
            return write!(f, "{dollars}");
        }
        write!(f, "{dollars}.{}", format!("{micros:06}").trim_end_matches('0'))
    }
}

/// What one model charges; a class without a price makes every cost that needs it unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelPrices {
    /// The day on which these prices held, `YYYY-MM-DD`.
    pub as_of: String,
    /// Text input that was not cached, USD per million tokens.
    pub text_in: Option<Price>,
    /// Cached text input.
    pub text_cached: Option<Price>,
    /// Text output.
    pub text_out: Option<Price>,
    /// Audio input that was not cached.
    pub audio_in: Option<Price>,
    /// Cached audio input.
    pub audio_cached: Option<Price>,
    /// Audio output.
    pub audio_out: Option<Price>,
    /// USD per minute of audio, for models that charge by time.
    pub minute: Option<Price>,
}

/// Prices of all known models, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceTable {
    models: BTreeMap<String, ModelPrices>,
}

impl Default for PriceTable {
    fn default() -> Self {
        Self::built_in()
    }
}

impl PriceTable {
    /// A table that knows no model.
    #[must_use]
    pub const fn empty() -> Self {
        Self { models: BTreeMap::new() }
    }

    /// The prices of [`BUILT_IN_AS_OF`].
    #[must_use]
    pub fn built_in() -> Self {
        let tokens = |prices: [u64; 6]| {
            let [text_in, text_cached, text_out, audio_in, audio_cached, audio_out] =
                prices.map(|micros| Some(Price::from_micro_usd(micros)));
            let as_of = BUILT_IN_AS_OF.to_owned();
            ModelPrices { as_of, text_in, text_cached, text_out, audio_in, audio_cached, audio_out, minute: None }
        };
        let minute = |micros| ModelPrices {
            as_of: BUILT_IN_AS_OF.to_owned(),
            minute: Some(Price::from_micro_usd(micros)),
            ..ModelPrices::default()
        };
        let large = [4_000_000, 400_000, 24_000_000, 32_000_000, 400_000, 64_000_000];
        let older = [4_000_000, 400_000, 16_000_000, 32_000_000, 400_000, 64_000_000];
        let mini = [600_000, 60_000, 2_400_000, 10_000_000, 300_000, 20_000_000];
        let models = [
            ("gpt-realtime-2.1", tokens(large)),
            ("gpt-realtime-2", tokens(large)),
            ("gpt-realtime-1.5", tokens(older)),
            ("gpt-realtime-2.1-mini", tokens(mini)),
            ("gpt-transcribe", minute(4_500)),
            ("gpt-live-transcribe", minute(17_000)),
            ("gpt-realtime-whisper", minute(17_000)),
        ];
        Self { models: models.into_iter().map(|(name, prices)| (name.to_owned(), prices)).collect() }
    }

    /// The prices of one model.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&ModelPrices> {
        self.models.get(name)
    }

    /// Sets the prices of one model, over those known before.
    pub fn set(&mut self, name: &str, prices: ModelPrices) {
        self.models.insert(name.to_owned(), prices);
    }

    /// All models with their prices, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ModelPrices)> {
        self.models.iter().map(|(name, prices)| (name.as_str(), prices))
    }

    /// What `usage` costs at `model`.
    ///
    /// `None` when the model is not in the table or lacks a price for a class that was used; the six classes and
    /// the duration are judged one by one, so an unused class needs no price. No usage costs zero at any model:
    /// nothing was bought.
    #[must_use]
    pub fn cost(&self, model: &str, usage: &Usage) -> Option<Cost> {
        if usage.is_empty() {
            return Some(Cost::ZERO);
        }
        let prices = self.model(model)?;
        let classes = [
            (usage.text_in.saturating_sub(usage.text_cached), prices.text_in),
            (usage.text_cached, prices.text_cached),
            (usage.text_out, prices.text_out),
            (usage.audio_in.saturating_sub(usage.audio_cached), prices.audio_in),
            (usage.audio_cached, prices.audio_cached),
            (usage.audio_out, prices.audio_out),
        ];
        let mut total = Cost::ZERO;
        for (tokens, price) in classes {
            if tokens > 0 {
                total += Cost { pico: u128::from(tokens) * u128::from(price?.0) };
            }
        }
        if !usage.duration.is_zero() {
            // micro-dollars per minute × nanoseconds ÷ 60 000 = pico-dollars
            let nanos = usage.duration.as_nanos().saturating_mul(u128::from(prices.minute?.0));
            total += Cost { pico: nanos.saturating_add(30_000) / 60_000 };
        }
        Some(total)
    }
}

/// What was used at one model: tokens by class as in `response.done`, and time for models that charge by it.
///
/// The cached counts are parts of the input counts, as on the wire. Sums saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Text input tokens, cached ones included.
    pub text_in: u64,
    /// Of these, the cached ones.
    pub text_cached: u64,
    /// Text output tokens.
    pub text_out: u64,
    /// Audio input tokens, cached ones included.
    pub audio_in: u64,
    /// Of these, the cached ones.
    pub audio_cached: u64,
    /// Audio output tokens.
    pub audio_out: u64,
    /// Audio that a model charging by time has taken in (`usage.type` = `duration`).
    pub duration: Duration,
}

impl Usage {
    /// True when nothing was used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Input tokens of both kinds, cached ones included.
    #[must_use]
    pub const fn tokens_in(&self) -> u64 {
        self.text_in.saturating_add(self.audio_in)
    }

    /// Output tokens of both kinds.
    #[must_use]
    pub const fn tokens_out(&self) -> u64 {
        self.text_out.saturating_add(self.audio_out)
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.text_in = self.text_in.saturating_add(other.text_in);
        self.text_cached = self.text_cached.saturating_add(other.text_cached);
        self.text_out = self.text_out.saturating_add(other.text_out);
        self.audio_in = self.audio_in.saturating_add(other.audio_in);
        self.audio_cached = self.audio_cached.saturating_add(other.audio_cached);
        self.audio_out = self.audio_out.saturating_add(other.audio_out);
        self.duration = self.duration.saturating_add(other.duration);
    }
}

/// The usage of one call, by model: the session's own and that of the transcription beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    models: BTreeMap<String, Usage>,
}

impl Tally {
    /// Adds what one response or one transcription used.
    pub fn add(&mut self, model: &str, usage: Usage) {
        if let Some(known) = self.models.get_mut(model) {
            *known += usage;
        } else {
            self.models.insert(model.to_owned(), usage);
        }
    }

    /// The usage per model, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Usage)> {
        self.models.iter().map(|(name, usage)| (name.as_str(), usage))
    }

    /// What the call has cost so far; `None` as soon as one of its parts is unknown.
    #[must_use]
    pub fn cost(&self, prices: &PriceTable) -> Option<Cost> {
        self.iter().try_fold(Cost::ZERO, |sum, (model, usage)| Some(sum + prices.cost(model, usage)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The usage that the protocol paper quotes from one `response.done`.
    const ONE_RESPONSE: Usage = Usage {
        text_in: 119,
        text_cached: 64,
        text_out: 30,
        audio_in: 13,
        audio_cached: 0,
        audio_out: 91,
        duration: Duration::ZERO,
    };

    #[test]
    fn a_response_costs_what_a_pocket_calculator_says() {
        // large model: 55×4 + 64×0.4 + 13×32 + 30×24 + 91×64 = 220 + 25.6 + 416 + 720 + 5824 = 7205.6 µUSD
        let table = PriceTable::built_in();
        let cost = table.cost("gpt-realtime-2.1", &ONE_RESPONSE).unwrap();
        assert_eq!(cost, Cost { pico: 7_205_600_000 });
        assert_eq!(cost.micro_usd(), 7_206);
        assert_eq!(cost.to_string(), "0.007206");
        // mini: 55×0.6 + 64×0.06 + 13×10 + 30×2.4 + 91×20 = 33 + 3.84 + 130 + 72 + 1820 = 2058.84 µUSD
        assert_eq!(table.cost("gpt-realtime-2.1-mini", &ONE_RESPONSE), Some(Cost { pico: 2_058_840_000 }));
        // 1.5 differs in text output alone: 7205.6 − 30×8 = 6965.6 µUSD
        assert_eq!(table.cost("gpt-realtime-1.5", &ONE_RESPONSE), Some(Cost { pico: 6_965_600_000 }));
    }

    #[test]
    fn cached_audio_is_cheaper_by_exactly_its_share() {
        let fresh = Usage { audio_in: 1_000_000, ..Usage::default() };
        let cached = Usage { audio_cached: 1_000_000, ..fresh };
        let table = PriceTable::built_in();
        assert_eq!(table.cost("gpt-realtime-2", &fresh).unwrap().to_string(), "32.000000");
        assert_eq!(table.cost("gpt-realtime-2", &cached).unwrap().to_string(), "0.400000");
    }

    #[test]
    fn a_minute_of_transcription_costs_its_price_and_a_second_a_sixtieth() {
        let table = PriceTable::built_in();
        let of = |seconds| Usage { duration: Duration::from_secs(seconds), ..Usage::default() };
        assert_eq!(table.cost("gpt-live-transcribe", &of(60)).unwrap().micro_usd(), 17_000);
        assert_eq!(table.cost("gpt-transcribe", &of(60)).unwrap().micro_usd(), 4_500);
        assert_eq!(table.cost("gpt-transcribe", &of(1)).unwrap(), Cost { pico: 75_000_000 });
        let tick = Usage { duration: Duration::from_millis(1), ..Usage::default() };
        assert_eq!(table.cost("gpt-live-transcribe", &tick).unwrap(), Cost { pico: 283_333 });
    }

    #[test]
    fn an_unknown_model_has_no_cost_rather_than_none_to_pay() {
        let table = PriceTable::built_in();
        assert_eq!(table.cost("my-own-server", &ONE_RESPONSE), None);
        assert_eq!(shown(None), "?");
        assert_eq!(table.cost("my-own-server", &Usage::default()), Some(Cost::ZERO), "nothing was bought");
    }

    #[test]
    fn a_class_without_a_price_makes_the_cost_unknown_only_when_it_was_used() {
        let mut table = PriceTable::empty();
        table.set("m", ModelPrices { text_in: Price::parse("1"), ..ModelPrices::default() });
        assert_eq!(table.cost("m", &Usage { text_in: 5, ..Usage::default() }), Some(Cost { pico: 5_000_000 }));
        assert_eq!(table.cost("m", &Usage { text_in: 5, audio_out: 1, ..Usage::default() }), None);
        assert_eq!(table.cost("m", &Usage { duration: Duration::from_secs(1), ..Usage::default() }), None);
    }

    #[test]
    fn a_call_adds_up_exactly_over_its_responses_and_models() {
        let (table, mut tally) = (PriceTable::built_in(), Tally::default());
        for _ in 0..1000 {
            tally.add("gpt-realtime-2.1", ONE_RESPONSE);
        }
        assert_eq!(tally.cost(&table).unwrap().micro_usd(), 7_205_600, "1000 × 7205.6 µUSD, nothing lost to rounding");
        tally.add("gpt-transcribe", Usage { duration: Duration::from_secs(120), ..Usage::default() });
        assert_eq!(tally.cost(&table).unwrap().micro_usd(), 7_205_600 + 9_000);
        tally.add("unheard-of", ONE_RESPONSE);
        assert_eq!(tally.cost(&table), None);
        assert_eq!(tally.iter().count(), 3);
    }

    #[test]
    fn cached_above_input_and_huge_counts_do_not_overflow() {
        let odd = Usage { text_cached: 10, ..Usage::default() };
        assert_eq!(PriceTable::built_in().cost("gpt-realtime-2", &odd).unwrap(), Cost { pico: 4_000_000 });
        let huge = Usage { audio_out: u64::MAX, duration: Duration::MAX, ..Usage::default() };
        let mut table = PriceTable::built_in();
        let dear = Price::from_micro_usd(u64::MAX);
        table.set("dear", ModelPrices { audio_out: Some(dear), minute: Some(dear), ..ModelPrices::default() });
        assert_eq!(table.cost("dear", &huge).unwrap().micro_usd(), i64::MAX);
        let mut sum = huge;
        sum += huge;
        assert_eq!(sum.audio_out, u64::MAX);
    }

    #[test]
    fn prices_read_back_as_they_were_written() {
        for text in ["4", "0.4", "0.06", "32", "0.000001", "100000"] {
            assert_eq!(Price::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Price::parse(".40"), Price::parse("0.4"));
        for text in ["", ".", "-1", "1e3", "0.0000001", "100001", "1,5", "99999999999999999999", "+1"] {
            assert_eq!(Price::parse(text), None, "{text}");
        }
    }
}

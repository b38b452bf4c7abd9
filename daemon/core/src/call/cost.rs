//! What a call costs at the model, from its usage and a dated price table.

/// Prices of all known models, in USD per million tokens.
#[derive(Debug, Clone, Default)]
pub struct PriceTable {}

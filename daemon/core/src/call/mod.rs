//! One conversation: its machine, its outcome, who may come in, what it costs.

pub mod admission;
pub mod answer_delay;
pub mod clip;
pub mod cost;
pub mod language;
pub mod machine;
pub mod milestones;
pub mod outcome;
pub mod redact;
pub mod summary;
pub mod transfer;

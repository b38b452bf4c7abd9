//! Whole calls in virtual time: every file of `tests/scenarios`, and a sweep over seeds.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "scenarios/files.rs"]
mod files;
#[path = "scenarios/interruptions.rs"]
mod interruptions;
#[path = "scenarios/soak.rs"]
mod soak;
#[path = "scenarios/sweep.rs"]
mod sweep;

//! The real binary, started as its users start it.

#[path = "box/check.rs"]
mod check;

//! The way to the model: its WebSocket. What is said on it is decided in `sauti_core::ai`.

pub mod dialer;
pub mod link;
pub mod providers;
pub mod warm;

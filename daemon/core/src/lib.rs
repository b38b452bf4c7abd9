//! Pure decisions of `sauti`: what to do, never how.
//!
//! No tokio, no socket, no clock, no file: whoever drives a machine passes a [`now::Now`], seeds and inputs,
//! and performs the effects that come out. The shell is the root package; the codecs are `sauti-media`.

pub mod ai;
pub mod call;
pub mod config;
pub mod ids;
pub mod media;
pub mod now;
pub mod pii;
pub mod record;
pub mod sip;
pub mod whatsapp;

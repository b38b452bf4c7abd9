//! WhatsApp as the box sees it, without its media: the Graph API, the webhooks and their delivery.
//!
//! Everything is a value machine: time and seed come in, replies, effects and deliveries go out. Sockets, HTTP and
//! the caller's media belong to whoever drives it. Strict where Meta is strict, so that a mistake of ours shows here.

pub mod answer;
pub mod calls;
pub mod delivery;
pub mod dice;
pub mod graph;
pub mod offer;
pub mod person;
mod replies;
mod settings;
pub mod wacid;
pub mod webhooks;

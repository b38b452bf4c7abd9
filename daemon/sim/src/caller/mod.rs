//! The emulated WhatsApp caller: a person, her phone's media, and nothing of the daemon's own decisions.

pub mod person;
pub mod phone;

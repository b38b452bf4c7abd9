//! The conversation with the model, as decisions: OpenAI Realtime events and the session that they make.

pub mod events;
pub mod session;

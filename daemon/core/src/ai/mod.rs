//! The conversation with the model, as decisions: OpenAI Realtime events and the session that they make.
//!
//! [`events`] reads what the server says, [`client`] writes what we say, [`verdict`] sorts errors, [`session`]
//! decides, [`ladder`] says where the next one is had. The socket is the shell's.

pub mod client;
pub mod events;
pub mod ladder;
pub mod session;
pub mod verdict;

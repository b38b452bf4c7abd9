//! The far ends that `sauti` is tried against, sans-IO: WhatsApp (Graph and caller), a SIP trunk, OpenAI Realtime, people, networks, judges.
//!
//! They are product: `sauti simulate` runs them on loopback sockets, the tests in virtual time or on sockets.

pub mod audio;
pub mod caller;
pub mod network;
pub mod openai;
pub mod trunk;
pub mod whatsapp;
pub mod whatsapp_sip;
pub mod world;

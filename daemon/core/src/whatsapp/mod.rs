//! WhatsApp calling on paper: webhooks, Graph requests and their errors, SDP facts.

pub mod event;
pub mod graph;
pub mod graph_codes;
pub mod label;
pub mod sdp;
pub mod signature;
pub mod wacid;
pub mod webhook;

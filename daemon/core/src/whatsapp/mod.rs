//! WhatsApp calling on paper: webhooks, Graph requests and their errors, SDP facts.

pub mod graph;
pub mod sdp;
pub mod signature;
pub mod webhook;

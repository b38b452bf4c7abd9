//! The WhatsApp door's shell: webhooks in, Graph out, texts owed.

pub mod graph;
pub mod http;
pub mod texts;

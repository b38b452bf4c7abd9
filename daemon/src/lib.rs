//! The shell of `sauti`: threads, sockets, files and systemd around the pure crates.

pub mod ai;
pub mod call_task;
pub mod calls;
pub mod check;
pub mod cli;
pub mod clips;
pub mod clock;
pub mod door;
pub mod house;
pub mod http;
pub mod lanes;
mod ledger_session;
pub mod obs;
pub mod run;
pub mod secrets;
pub mod simulate;
pub mod sip;
pub mod store;
mod summary;
pub mod switchboard;
pub mod whatsapp;

//! The shell of `sauti`: threads, sockets, files and systemd around the pure crates.

pub mod ai;
pub mod calls;
pub mod check;
pub mod cli;
pub mod obs;
pub mod secrets;
pub mod store;

//! A carrier's SIP trunk as the box meets it, sans-IO: who calls over it ([`caller`]), whom the box calls
//! ([`callee`]), and their telephone ([`phone`]).
//!
//! It reads and writes SIP with a few lines of its own ([`message`]), on purpose: a far end that used the daemon's stack
//! would forgive what both get wrong. Sockets belong to whoever drives it.

pub mod callee;
pub mod caller;
pub mod message;
pub mod phone;

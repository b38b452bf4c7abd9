//! Decisions about SIP: whom to trust, which route, when to register, refresh and give up.
//!
//! No message is parsed or written here and no socket exists: the shell's adapter (`daemon/src/sip`) reads messages
//! with a library, hands facts in and performs what comes out.

pub mod guard;
pub mod health;
pub mod nonce;
pub mod register;
pub mod route;
pub mod srv;
pub mod timer;
pub mod trace;

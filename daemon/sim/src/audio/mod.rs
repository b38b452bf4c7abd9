//! Sound for the far ends: what they say, and whether what they hear is what was said.
//!
//! Numbers in, numbers out: no codec on the way, no clock, no socket. The emulated caller and the emulated model
//! record what they send and receive; whoever runs a scenario asks here afterwards.

pub mod chirp;
pub mod judge;
pub mod speech;

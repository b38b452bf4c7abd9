//! Sound for the far ends: what they say, and whether what they hear is what was said.
//!
//! Numbers in, numbers out: no clock, no socket, and no codec but the far ends' own G.711. The emulated caller and the emulated model
//! record what they send and receive; whoever runs a scenario asks here afterwards.

pub mod chirp;
pub mod g711;
pub mod judge;
pub mod speech;

//! A bad network as a value: what becomes of packets on their way, in one direction, sans-IO and repeatable.
//!
//! [`PathSettings`] say what the way is like, [`Path`] is one way with packets on it: [`Path::send`] puts one in,
//! [`Path::receive`] takes out what has arrived. It knows packets only as values, reads no clock and draws its chance
//! from a seed: the same settings, seed and times give the same deliveries. Tests drive it in virtual time, `sauti
//! simulate` between two sockets. It is no model of bandwidth: packets of a call are small and sent evenly.

mod path;
mod settings;

pub use path::{Counts, Path};
pub use settings::{Clock, JitterShape, PathSettings, Percent, Window};

#[cfg(test)]
mod tests;

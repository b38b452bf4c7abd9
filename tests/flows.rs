//! One story a file, in virtual time: the daemon's machines against the emulated far ends, no socket, no sleep.

#[path = "flows/conversation.rs"]
mod conversation;
#[path = "flows/line.rs"]
mod line;

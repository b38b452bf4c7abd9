//! The real binary, started as its users start it, on loopback sockets with emulated far ends.

#[path = "box/carrier.rs"]
mod carrier;
#[path = "box/certificate.rs"]
mod certificate;
#[path = "box/check.rs"]
mod check;
#[path = "box/conversations.rs"]
mod conversations;
#[path = "box/door.rs"]
mod door;
#[path = "box/endings.rs"]
mod endings;
#[path = "box/interruptions.rs"]
mod interruptions;
#[path = "box/keys.rs"]
mod keys;
#[path = "box/leaks.rs"]
mod leaks;
#[path = "box/left.rs"]
mod left;
#[path = "box/order.rs"]
mod order;
#[path = "box/peer.rs"]
mod peer;
#[path = "box/providers.rs"]
mod providers;
#[path = "box/refusals.rs"]
mod refusals;
#[path = "box/sessions.rs"]
mod sessions;
#[path = "box/summaries.rs"]
mod summaries;
#[path = "box/transfer.rs"]
mod transfer;
#[path = "box/trunk.rs"]
mod trunk;
#[path = "box/trunk_bad_input.rs"]
mod trunk_bad_input;
#[path = "box/trunk_endings.rs"]
mod trunk_endings;
#[path = "box/whatsapp_sip.rs"]
mod whatsapp_sip;
#[path = "box/world.rs"]
mod world;

//! SIP as far ends see it: the endpoint of the daemon on loopback sockets, before programs that nobody here wrote
//! (SIPp, kamailio) and before a peer that writes each message by hand.

#![expect(clippy::unwrap_used, reason = "the whole binary is tests, their helpers included")]

#[path = "sip/bench.rs"]
mod bench;
#[path = "sip/calls.rs"]
mod calls;
#[path = "sip/carrier.rs"]
mod carrier;
#[path = "sip/dns.rs"]
mod dns;
#[path = "sip/endings.rs"]
mod endings;
#[path = "sip/kamailio.rs"]
mod kamailio;
#[path = "sip/out.rs"]
mod out;
#[path = "sip/sipp.rs"]
mod sipp;
#[path = "sip/strangers.rs"]
mod strangers;
#[path = "sip/tls.rs"]
mod tls;
#[path = "sip/torture.rs"]
mod torture;
#[path = "sip/whatsapp.rs"]
mod whatsapp;

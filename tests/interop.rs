//! The real daemon between far ends that nobody here wrote: a browser, aiortc, the `webrtc` crate, baresip, SIPp,
//! kamailio, OpenAI's packages.
//! And its ears alone, in virtual time, before a judge that nobody here wrote (`concealment`).
//!
//! The outside programs are the scripts in `tests/interop`; `.ci/setup tests` installs what they need.

#[path = "interop/aiortc.rs"]
mod aiortc;
#[path = "interop/asterisk.rs"]
mod asterisk;
#[path = "interop/baresip.rs"]
mod baresip;
#[path = "interop/browser.rs"]
mod browser;
#[path = "sip/carrier.rs"]
mod carrier;
#[path = "interop/concealment.rs"]
mod concealment;
#[path = "interop/desk.rs"]
mod desk;
#[path = "interop/ears.rs"]
mod ears;
#[path = "interop/handover.rs"]
mod handover;
#[path = "interop/handset.rs"]
mod handset;
#[path = "interop/namespace.rs"]
mod namespace;
#[path = "interop/outside.rs"]
mod outside;
#[path = "interop/packets.rs"]
mod packets;
#[path = "interop/phone.rs"]
mod phone;
#[path = "interop/proxy.rs"]
mod proxy;
#[path = "interop/sdk.rs"]
mod sdk;
#[path = "interop/sipp.rs"]
mod sipp;
#[path = "interop/stage.rs"]
mod stage;
#[path = "interop/webrtc_crate.rs"]
mod webrtc_crate;

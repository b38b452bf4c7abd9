//! The far ends on loopback sockets: skins around the sans-IO machines of `sauti-sim`.
//!
//! `sauti simulate` and the tests that need real sockets start them the same way: [`Emulators::start`] makes the
//! listeners, [`phones::call`] lives through one call. What the far ends are like is in the values that they are given.

pub mod meta;
pub mod phones;
pub mod realtime;
pub mod tally;
pub mod trunk;
pub mod whatsapp_sip;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use sauti_sim::whatsapp::delivery::PostOffice;
use sauti_sim::whatsapp::graph::Graph;
use sauti_sim::whatsapp::webhooks::Webhooks;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::http::serve::Listener;
use meta::{Meta, MetaLink};
use realtime::{Choose, Sessions};

/// Meta and the model, listening on free loopback ports until this is dropped.
#[derive(Debug)]
pub struct Emulators {
    /// Where Graph listens.
    pub graph: SocketAddr,
    /// Where the model listens; its path is `/v1/realtime`.
    pub realtime: SocketAddr,
    /// The way to Meta.
    pub meta: MetaLink,
    /// What the sessions with the model left behind.
    pub sessions: Sessions,
    stop: watch::Sender<bool>,
}

impl Emulators {
    /// Starts both. Webhooks wait until `target` names the daemon's address; `choose` sets each session up.
    ///
    /// # Errors
    /// No loopback port can be had.
    pub async fn start(
        graph: Graph,
        post: PostOffice,
        webhooks: Webhooks,
        target: oneshot::Receiver<String>,
        choose: Arc<Choose>,
    ) -> std::io::Result<Self> {
        let (meta, routes) = Meta::start(graph, post, webhooks, target);
        let listener = Listener::bind("graph", (Ipv4Addr::LOCALHOST, 0).into()).await.map_err(std::io::Error::other)?;
        let graph = listener.address()?;
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(listener.serve(routes, None, stopped));
        let sockets = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let realtime = sockets.local_addr()?;
        let sessions = Sessions::default();
        let mut stopped = stop.subscribe();
        let served = realtime::serve(sockets, choose, sessions.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = served => {},
                _ = stopped.wait_for(|stop| *stop) => {},
            }
        });
        Ok(Self { graph, realtime, meta, sessions, stop })
    }
}

impl Drop for Emulators {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

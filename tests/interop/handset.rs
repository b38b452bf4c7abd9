//! Drives an emulated phone over a socket that the test made, wherever that socket lives.

use std::time::{Duration, Instant};

use sauti_core::media::frame::FRAME;
use sauti_sim::caller::phone::Phone;
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval_at};

/// Largest datagram.
const DATAGRAM: usize = 2048;

/// A phone and its socket.
pub(crate) struct Handset {
    pub(crate) phone: Phone,
    socket: UdpSocket,
}

impl Handset {
    /// The socket may have been made in another network than this one.
    pub(crate) fn new(phone: Phone, socket: std::net::UdpSocket) -> Self {
        socket.set_nonblocking(true).expect("a socket that does not block");
        Self { phone, socket: UdpSocket::from_std(socket).expect("a socket for this runtime") }
    }

    /// Lives until `over` says so; it is asked every 20 ms.
    pub(crate) async fn live(&mut self, within: Duration, mut over: impl FnMut(&Phone) -> bool) {
        let until = Instant::now() + within;
        let mut ticks = interval_at(tokio::time::Instant::now() + FRAME, FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut buffer = [0; DATAGRAM];
        loop {
            let due = self.phone.deadline().unwrap_or_else(|| Instant::now() + FRAME);
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => if let Ok((length, from)) = received {
                    self.phone.receive(Instant::now(), from, &buffer[..length]);
                },
                _ = ticks.tick() => {
                    self.phone.tick(Instant::now());
                    if over(&self.phone) {
                        return;
                    }
                    assert!(Instant::now() < until, "the phone waited {within:?}: {:?}", self.phone);
                },
                () = tokio::time::sleep_until(due.into()) => self.phone.handle_timeout(Instant::now()),
            }
            self.transmit().await;
        }
    }

    /// Hangs up.
    pub(crate) async fn hang_up(&mut self) {
        self.phone.hang_up(Instant::now());
        self.transmit().await;
    }

    async fn transmit(&mut self) {
        while let Some((to, datagram)) = self.phone.poll_transmit() {
            // What does not go is lost like on any network.
            self.socket.send_to(datagram.as_ref(), to).await.ok();
        }
    }
}

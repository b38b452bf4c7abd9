//! Wake-ups between a lane and the async world: an eventfd into the lane, a pipe out of it.
//!
//! The lane writes one byte a tick and never touches the runtime, whose wake-ups from foreign threads take a lock;
//! one small task a lane reads it and wakes the calls that the lane has marked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::net::unix::pipe;

use super::slots::Pool;

/// Tells a lane that commands are waiting.
#[derive(Debug)]
pub(super) struct Bell(EventFd);

impl Bell {
    pub(super) fn new() -> nix::Result<Self> {
        EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map(Self)
    }

    /// Rings; a full counter means that it is ringing already.
    pub(super) fn ring(&self) {
        self.0.write(1).ok();
    }

    /// Stops the ringing.
    pub(super) fn quiet(&self) {
        self.0.read().ok();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The lane's end of the way out.
#[derive(Debug)]
pub(super) struct TickSender(OwnedFd);

impl TickSender {
    /// Says that a tick was done; a full pipe says so already.
    pub(super) fn ticked(&self) {
        nix::unistd::write(&self.0, &[1]).ok();
    }
}

/// The runtime's end of the way out.
#[derive(Debug)]
pub(super) struct TickReceiver(pipe::Receiver);

/// A way out of a lane; must be made inside the runtime.
pub(super) fn ticks() -> io::Result<(TickSender, TickReceiver)> {
    let (sender, receiver) = pipe::pipe()?;
    Ok((TickSender(sender.into_nonblocking_fd()?), TickReceiver(receiver)))
}

/// Wakes the call tasks that the lane has marked, until the lane is gone.
pub(super) async fn run(ticks: TickReceiver, pool: Arc<Pool>) {
    // All ticks that came while this task was busy are answered in one round.
    let mut buffer = [0; 256];
    while ticks.0.readable().await.is_ok() {
        match ticks.0.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => pool.shared().iter().for_each(|shared| shared.wake()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

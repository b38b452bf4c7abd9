//! Sessions that are ready before their calls: connected, configured, and silent.
//!
//! One task keeps `[openai] warm` of them at the rung where the next call would go, one being opened at a time. It
//! reads their sockets, so that pings are answered and the end of one is seen; it replaces what ends or grows old. It
//! never sends audio and asks for no response: that is for the call which takes a session over, and which tells it
//! its own language first. What is said while one is opened is decided by [`Session`], as for a call.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use sauti_core::ai::client::SessionUpdate;
use sauti_core::ai::events::{self, ServerEvent};
use sauti_core::ai::ladder::Climb;
use sauti_core::ai::session::{self, Effect, Session};
use sauti_core::ai::verdict::{Code, Failure};
use sauti_core::media::playout::Playout;
use sauti_core::now::Now;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::link::{Heartbeat, Link, LinkEvent};
use super::providers::{Claim, Providers};
use crate::obs::metrics::Metrics;

/// Greatest age of a session that still waits. A call replaces its session after 45 to 52 minutes of its own: on top of
/// this it ends well before the 60 minutes that one may live.
const OLDEST: Duration = Duration::from_secs(5 * 60);
/// By how much less than that one may live, at random: sessions opened together are not replaced together.
const SPREAD_MS: u64 = 60_000;
/// Longest time from the first packet to a configured session.
const READY_WITHIN: Duration = Duration::from_secs(8);
/// Pause after a failure; doubled by each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A session that ends sooner than this is as bad as one that did not open.
const YOUNG: Duration = Duration::from_secs(10);
/// How often an open breaker is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Longest wait for the far end's side of a close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Questions of calls that wait; they are answered at once, so more than a burst of calls never stands here.
const REQUESTS: usize = 64;
/// A waiting socket is asked twice as often as one in use: what is handed out was alive a few seconds ago.
const HEARTBEAT: Heartbeat = Heartbeat { every: Duration::from_secs(5), within: Duration::from_secs(3) };

/// A call asks for a session at this rung.
#[derive(Debug)]
struct Request {
    rung: usize,
    answer: oneshot::Sender<(Link, Claim)>,
}

/// The way of calls to the pool.
#[derive(Debug, Clone)]
pub struct Waiting(mpsc::Sender<Request>);

impl Waiting {
    /// A session at this rung, if one is ready; the answer comes at once.
    pub async fn take(&self, rung: usize) -> Option<(Link, Claim)> {
        let (answer, answered) = oneshot::channel();
        // A pool that is full of questions, or closed, is no reason to wait.
        self.0.try_send(Request { rung, answer }).ok()?;
        answered.await.ok()
    }
}

/// What a pool is made of.
#[derive(Debug)]
pub struct Settings {
    /// Sessions that are to be ready.
    pub size: usize,
    /// What each is told first.
    pub update: SessionUpdate,
    /// `[openai] max_output_tokens`.
    pub max_output_tokens: u16,
}

/// A running pool.
#[derive(Debug)]
pub struct Pool {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Pool {
    /// Starts keeping sessions ready at `providers`, which is told where to ask for them.
    #[must_use]
    pub fn start(providers: &Arc<Providers>, settings: Settings, metrics: Arc<Metrics>) -> Self {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let (stop, stopped) = watch::channel(false);
        let keeper = Keeper {
            providers: Arc::clone(providers),
            settings: Arc::new(settings),
            metrics,
            ready: VecDeque::new(),
            failures: 0,
            refill: Instant::now(),
        };
        providers.warm_from(Waiting(sender));
        Self { stop, task: tokio::spawn(keeper.run(requests, stopped)) }
    }

    /// Closes what waits, in order, and ends.
    pub async fn close(self) {
        self.stop.send_replace(true);
        // A task that panicked has dropped its sockets already.
        self.task.await.ok();
    }
}

/// A session that waits for its call.
struct Ready {
    link: Link,
    claim: Claim,
    since: Instant,
    until: Instant,
}

type Opening = Pin<Box<dyn Future<Output = Result<Ready, ()>> + Send>>;

struct Keeper {
    providers: Arc<Providers>,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    /// The oldest first: it is handed out first.
    ready: VecDeque<Ready>,
    /// Failures in a row; only a session that lasts ends the row.
    failures: u32,
    /// The next session is not opened before.
    refill: Instant,
}

impl Keeper {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, mut stopped: watch::Receiver<bool>) {
        let mut opening: Option<Opening> = None;
        loop {
            self.metrics.set_table("warm", self.ready.len() as u64);
            let oldest = self.ready.iter().map(|ready| ready.until).min();
            let lacks = opening.is_none() && self.ready.len() < self.settings.size;
            let refill = lacks.then_some(self.refill);
            tokio::select! {
                // Also when the daemon forgot about us.
                _ = stopped.wait_for(|stop| *stop) => break,
                Some(request) = requests.recv() => self.hand_out(request),
                (place, event) = first_news(&mut self.ready) => self.heard(place, &event),
                opened = finished(&mut opening) => {
                    opening = None;
                    self.opened(opened);
                }
                () = at(refill) => opening = self.open(),
                () = at(oldest) => self.retire(),
            }
        }
        drop(opening);
        let closing = self.ready.drain(..).map(|ready| ready.link.close(CLOSE_WITHIN));
        join_all(closing).await;
        self.metrics.set_table("warm", 0);
    }

    fn hand_out(&mut self, request: Request) {
        let Some(place) = self.ready.iter().position(|ready| ready.claim.rung() == request.rung) else { return };
        let Some(ready) = self.ready.remove(place) else { return };
        let Ready { mut link, claim, since, until } = ready;
        link.set_heartbeat(Heartbeat::default());
        self.failures = 0;
        if let Err((mut link, claim)) = request.answer.send((link, claim)) {
            // The call ended while it asked: nothing was said, so the next one may have it.
            link.set_heartbeat(HEARTBEAT);
            self.ready.insert(place.min(self.ready.len()), Ready { link, claim, since, until });
        }
    }

    /// Something came on a socket that should be silent.
    fn heard(&mut self, place: usize, event: &LinkEvent) {
        let over = match event {
            // Only an error matters: it comes before the close that it announces.
            LinkEvent::Text(text) => matches!(events::read(text), Ok(ServerEvent::Error { .. })),
            LinkEvent::Alive => false,
            LinkEvent::Closed { .. } | LinkEvent::Lost(_) => true,
        };
        if over && let Some(ready) = self.ready.remove(place) {
            self.metrics.model_oddity("warm_lost");
            if ready.since.elapsed() < YOUNG {
                self.failed();
            } else {
                self.failures = 0;
            }
        }
    }

    fn opened(&mut self, opened: Result<Ready, ()>) {
        match opened {
            Ok(ready) => self.ready.push_back(ready),
            Err(()) => self.failed(),
        }
    }

    fn failed(&mut self) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures += 1;
        self.refill = Instant::now() + pause;
    }

    /// Begins to open one, unless the breaker says that the place is not well: then no session is made to wait there.
    fn open(&mut self) -> Option<Opening> {
        let Some(claim) = self.providers.spare() else {
            self.refill = Instant::now() + LOOK_AGAIN;
            return None;
        };
        // Sessions at a rung to which calls do not go any more are of no use.
        let rung = claim.rung();
        for stale in extract(&mut self.ready, |ready| ready.claim.rung() != rung) {
            tokio::spawn(stale.link.close(CLOSE_WITHIN));
        }
        Some(Box::pin(open(claim, Arc::clone(&self.providers), Arc::clone(&self.settings))))
    }

    fn retire(&mut self) {
        let now = Instant::now();
        self.failures = 0;
        for old in extract(&mut self.ready, |ready| ready.until <= now) {
            tokio::spawn(old.link.close(CLOSE_WITHIN));
        }
    }
}

/// Takes those out of `ready` for which `goes` holds.
fn extract(ready: &mut VecDeque<Ready>, goes: impl Fn(&Ready) -> bool) -> Vec<Ready> {
    let (gone, stay) = std::mem::take(ready).into_iter().partition(goes);
    *ready = stay;
    gone.into()
}

/// Waits for the first socket on which something comes.
async fn first_news(ready: &mut VecDeque<Ready>) -> (usize, LinkEvent) {
    if ready.is_empty() {
        return std::future::pending().await;
    }
    let waiting =
        ready.iter_mut().enumerate().map(|(place, ready)| Box::pin(async move { (place, ready.link.next().await) }));
    select_all(waiting).await.0
}

async fn finished(opening: &mut Option<Opening>) -> Result<Ready, ()> {
    match opening {
        Some(opening) => opening.await,
        None => std::future::pending().await,
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Connects and configures one. A failure is told to the ladder: better that we pay for it than a caller.
async fn open(claim: Claim, providers: Arc<Providers>, settings: Arc<Settings>) -> Result<Ready, ()> {
    let mut nobody = Climb::default();
    let mut link = match providers.open_ahead(&claim).await {
        Ok(link) => link,
        Err(failure) => {
            claim.failed(&failure, false, &mut nobody);
            return Err(());
        }
    };
    link.set_heartbeat(HEARTBEAT);
    let deadline = Instant::now() + READY_WITHIN;
    let configured = timeout_at(deadline, configure(&mut link, &settings)).await;
    match configured.unwrap_or_else(|_| Err(Failure::broken(Code::known("not_configured")))) {
        Ok(()) => {
            let since = Instant::now();
            Ok(Ready { link, claim, since, until: since + OLDEST - spread() })
        }
        Err(failure) => {
            claim.failed(&failure, true, &mut nobody);
            Err(())
        }
    }
}

/// Lets the session's machine do what it does for a call, up to the point where it is ready.
async fn configure(link: &mut Link, settings: &Settings) -> Result<(), Failure> {
    let mut session = Session::new(settings.update.clone());
    let mut playout = Playout::new(settings.max_output_tokens);
    let (mut news, mut line) = (Vec::new(), String::new());
    session.handle(now(), session::Input::Opened, &mut playout, &mut news);
    loop {
        for effect in std::mem::take(&mut news) {
            match effect {
                Effect::Send(event) => {
                    event.write_json(&mut line);
                    link.send_text(&line);
                }
                Effect::Ready => return Ok(()),
                Effect::Failed(failure) => return Err(failure),
                _ => {}
            }
        }
        let due = session.deadline().map(|(due, _)| due.into());
        tokio::select! {
            event = link.next() => session.handle(now(), event.input(), &mut playout, &mut news),
            () = at(due) => session.handle(now(), session::Input::Timer, &mut playout, &mut news),
        }
    }
}

fn now() -> Now {
    Now { mono: std::time::Instant::now(), wall: Timestamp::now() }
}

fn spread() -> Duration {
    let mut bytes = [0; 8];
    // Without randomness they grow old together, which only costs a burst of handshakes.
    SystemRandom::new().fill(&mut bytes).ok();
    Duration::from_millis(u64::from_le_bytes(bytes) % SPREAD_MS)
}

#[cfg(test)]
mod tests;

//! One media thread: it owns the sockets and legs of its calls and drives them by packet and by tick.
//!
//! It waits on epoll alone (sockets, a timerfd, an eventfd for commands). After a call was added, our code here
//! allocates nothing per packet, takes no lock and writes no log; figures leave as fixed structs once a second.
//! It decides nothing about a call: it says what happened and does what the call task told it.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use sauti_core::media::floor::Overlap;
use sauti_core::media::frame::FRAME;
use sauti_media::pipeline::CallerAudio;
use sauti_media::rtp_sdp::RtpTerms;
use tokio::sync::mpsc::Sender;

use super::bridge::{Bell, TickSender};
use super::leg::{Leg, LegReport};
use super::slots::{LaneEnd, Pool};
use super::stats::{LaneReport, Lateness};

/// The frame is cut into this many phases; each call has one, so that not all calls of a lane tick at once.
const PHASES: u32 = 4;
/// How often the timer fires.
const PHASE: Duration = Duration::from_millis(5);
/// Largest datagram that a call may get; Opus at its widest is 1,275 bytes (RFC 6716 §3.2.1), 120 ms of G.711 are 960.
const DATAGRAM: usize = 2048;
/// Datagrams read from one socket before the next one has its turn: a flood must not starve the others.
const READS_A_TURN: usize = 64;
/// A drain ends after this long whatever still comes (contract §2, `port_drain`).
const DRAIN_CAP: Duration = Duration::from_secs(30);
/// Ticks are made up after a stall up to this long.
const MADE_UP: Duration = Duration::from_secs(1);
/// Ready descriptors taken from epoll at once.
const EVENTS: usize = 64;

const TIMER_TOKEN: u64 = u64::MAX;
const COMMAND_TOKEN: u64 = u64::MAX - 1;
/// Beside the number of a seat: its other socket.
const CONTROL_TOKEN: u64 = 1 << 32;

/// What a call task tells its lane.
#[derive(Debug)]
pub(super) enum Command {
    /// Take over a leg.
    Add(Box<NewLeg>),
    /// Start to send frames: Graph has taken the accept.
    OpenAudio(usize),
    /// Graph has the answer now: the relay will listen.
    AnswerDelivered(usize),
    /// SIP has agreed on something, at first or anew.
    Agree(usize, Box<Agreement>),
    /// Press these keys towards the far end.
    Press(usize, Box<str>),
    /// Let a leg go: say goodbye to the peer and drain its port.
    Remove(usize),
    /// End the thread, for an orderly stop.
    Stop,
}

/// What a trunk's leg does from now on.
#[derive(Debug)]
pub(super) struct Agreement {
    /// What was agreed on.
    pub terms: RtpTerms,
    /// Another signal path, where another codec or packet time was.
    pub audio: Option<CallerAudio>,
}

/// A leg on its way to the lane.
#[derive(Debug)]
pub(super) struct NewLeg {
    /// Slot number, the leg's name on this lane.
    pub index: usize,
    /// Its own socket.
    pub socket: UdpSocket,
    /// The socket of RTCP, where it has one for itself.
    pub control: Option<UdpSocket>,
    /// Engine, jitter buffer and codecs.
    pub leg: Leg,
    /// The lane's ends of the rings.
    pub end: LaneEnd,
    /// Where to say what happened.
    pub events: Sender<LaneEvent>,
}

/// What a lane tells a call task.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "the report comes once a second; boxing it would allocate on the lane")]
pub enum LaneEvent {
    /// Media may flow: ICE and DTLS are up, or SIP has agreed on where it goes.
    Up,
    /// The leg is lost for good.
    Lost,
    /// The first media packet of the caller.
    Media,
    /// RTCP BYE.
    Bye,
    /// A key was pressed.
    Dtmf(char),
    /// The caller speaks, or does no more.
    Overlap(Overlap),
    /// The figures of the last second.
    Report(LegReport),
    /// A bug in the leg; it is gone.
    Panicked,
}

/// One call on the lane.
struct Seat {
    phase: u32,
    socket: UdpSocket,
    control: Option<UdpSocket>,
    leg: Leg,
    end: LaneEnd,
    events: Sender<LaneEvent>,
    reported: Instant,
    /// The next deadline of the engine.
    due: Option<Instant>,
}

/// A socket that outlives its call.
struct Drain {
    socket: UdpSocket,
    until: Instant,
    cap: Instant,
}

/// Everything a lane is made of.
pub(super) struct Lane {
    pub(super) commands: Receiver<Command>,
    pub(super) command_bell: Arc<Bell>,
    pub(super) ticks: TickSender,
    pub(super) pool: Arc<Pool>,
    pub(super) port_drain: Duration,
    pub(super) reports: Arc<LaneReport>,
}

/// The running state.
struct Running {
    lane: Lane,
    epoll: Epoll,
    timer: TimerFd,
    seats: Vec<Option<Seat>>,
    seated: usize,
    drains: Vec<Drain>,
    per_phase: [usize; PHASES as usize],
    /// When the next phase is due, and which one.
    next_phase: Instant,
    phase: u32,
    lateness: Lateness,
    buffer: Box<[u8; DATAGRAM]>,
}

impl Lane {
    /// Runs until [`Command::Stop`].
    ///
    /// # Errors
    /// The kernel refuses epoll or the timer; the process cannot work without them.
    pub(super) fn run(self, calls: usize) -> nix::Result<()> {
        Running::new(self, calls)?.work()
    }
}

impl Running {
    fn new(lane: Lane, calls: usize) -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER_TOKEN))?;
        epoll.add(lane.command_bell.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, COMMAND_TOKEN))?;
        let mut seats = Vec::with_capacity(calls);
        seats.resize_with(calls, || None);
        Ok(Self {
            lane,
            epoll,
            timer,
            seats,
            seated: 0,
            drains: Vec::with_capacity(2 * calls),
            per_phase: [0; PHASES as usize],
            next_phase: Instant::now(),
            phase: 0,
            lateness: Lateness::default(),
            buffer: Box::new([0; DATAGRAM]),
        })
    }

    fn work(&mut self) -> nix::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let timeout = self.engine_timeout(Instant::now());
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(errno) => return Err(errno),
            };
            for event in &events[..ready] {
                match event.data() {
                    TIMER_TOKEN => {
                        self.timer.wait().ok();
                    }
                    COMMAND_TOKEN => {
                        self.lane.command_bell.quiet();
                        if self.obey()? {
                            return Ok(());
                        }
                    }
                    token => {
                        let seat = usize::try_from(token & !CONTROL_TOKEN).unwrap_or(usize::MAX);
                        self.read(seat, token & CONTROL_TOKEN != 0);
                    }
                }
            }
            let now = Instant::now();
            self.engines(now);
            self.tick(now);
        }
    }

    /// The timer covers the ticks; engines in set-up have finer deadlines (ICE checks, DTLS flights).
    fn engine_timeout(&self, now: Instant) -> EpollTimeout {
        let due = self.seats.iter().flatten().filter(|seat| !seat.leg.is_up()).filter_map(|seat| seat.due).min();
        match due {
            None => EpollTimeout::NONE,
            Some(due) => {
                // Rounded up: waking a moment early would spin.
                let wait = due.saturating_duration_since(now) + Duration::from_micros(999);
                EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO)
            }
        }
    }

    /// Takes all commands; true when the thread has to end.
    fn obey(&mut self) -> nix::Result<bool> {
        loop {
            match self.lane.commands.try_recv() {
                Ok(Command::Add(leg)) => self.add(*leg)?,
                Ok(Command::OpenAudio(index)) => {
                    if let Some(seat) = self.seat(index) {
                        seat.leg.open();
                    }
                }
                Ok(Command::AnswerDelivered(index)) => {
                    let now = Instant::now();
                    if let Some(seat) = self.seat(index) {
                        seat.leg.answer_delivered(now);
                        settle(seat);
                    }
                }
                Ok(Command::Agree(index, agreement)) => self.agree(index, *agreement, Instant::now()),
                Ok(Command::Press(index, keys)) => {
                    if let Some(seat) = self.seat(index) {
                        seat.leg.press(&keys);
                    }
                }
                Ok(Command::Remove(index)) => self.remove(index, Instant::now()),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Ok(true),
                Err(TryRecvError::Empty) => return Ok(false),
            }
        }
    }

    fn seat(&mut self, index: usize) -> Option<&mut Seat> {
        self.seats.get_mut(index).and_then(Option::as_mut)
    }

    fn add(&mut self, new: NewLeg) -> nix::Result<()> {
        let now = Instant::now();
        let phase = (0..PHASES).min_by_key(|phase| self.per_phase[*phase as usize]).unwrap_or(0);
        let index = new.index;
        self.epoll.add(&new.socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        if let Some(control) = &new.control {
            self.epoll.add(control, EpollEvent::new(EpollFlags::EPOLLIN, index as u64 | CONTROL_TOKEN))?;
        }
        let mut seat = Seat {
            phase,
            socket: new.socket,
            control: new.control,
            leg: new.leg,
            end: new.end,
            events: new.events,
            reported: now,
            due: None,
        };
        if self.seated == 0 {
            self.start_timer(now)?;
        }
        // ICE checks start here, before the answer reached Graph: Meta lets them converge once it has it.
        settle(&mut seat);
        self.per_phase[phase as usize] += 1;
        self.seated += 1;
        self.seats[index] = Some(seat);
        Ok(())
    }

    fn start_timer(&mut self, now: Instant) -> nix::Result<()> {
        self.next_phase = now + PHASE;
        self.phase = 0;
        let every = TimeSpec::from_duration(PHASE);
        self.timer.set(Expiration::IntervalDelayed(every, every), TimerSetTimeFlags::empty())
    }

    /// Takes what SIP agreed on; a socket that RTCP needs no longer is let go.
    fn agree(&mut self, index: usize, agreement: Agreement, now: Instant) {
        let Some(seat) = self.seats.get_mut(index).and_then(Option::as_mut) else { return };
        let mux = agreement.terms.rtcp_mux;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if seat.leg.agree(now, agreement.terms, agreement.audio).is_err() {
                tell(&seat.events, LaneEvent::Lost);
            }
            settle(seat);
        }));
        if outcome.is_err() {
            self.drop_panicked(index);
        } else if mux && let Some(control) = seat.control.take() {
            self.epoll.delete(&control).ok();
            self.let_drain(control, now);
        }
    }

    /// Keeps a socket that was used until nothing comes any more.
    fn let_drain(&mut self, socket: UdpSocket, now: Instant) {
        self.drains.push(Drain { socket, until: now + self.lane.port_drain, cap: now + DRAIN_CAP });
    }

    fn remove(&mut self, index: usize, now: Instant) {
        let Some(mut seat) = self.seats.get_mut(index).and_then(Option::take) else { return };
        self.seated -= 1;
        self.per_phase[seat.phase as usize] -= 1;
        if catch_unwind(AssertUnwindSafe(|| {
            seat.leg.close(now);
            transmit(&mut seat);
        }))
        .is_err()
        {
            tell(&seat.events, LaneEvent::Panicked);
        }
        for socket in std::iter::once(seat.socket).chain(seat.control) {
            self.epoll.delete(&socket).ok();
            self.let_drain(socket, now);
        }
        self.lane.pool.give_lane_end(index, seat.end);
    }

    /// Reads what came for one call.
    fn read(&mut self, index: usize, control: bool) {
        let Some(seat) = self.seats.get_mut(index).and_then(Option::as_mut) else { return };
        let buffer = &mut self.buffer;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..READS_A_TURN {
                let Some(socket) = (if control { seat.control.as_ref() } else { Some(&seat.socket) }) else { break };
                match socket.recv_from(&mut buffer[..]) {
                    Ok((length, from)) => seat.leg.receive(Instant::now(), plain(from), &buffer[..length], control),
                    // An unreachable peer shows up here as a refusal of what we sent; the engine has its own timers.
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                    Err(_) => break,
                }
            }
            settle(seat);
        }));
        if outcome.is_err() {
            self.drop_panicked(index);
        }
    }

    /// Fires the engines' deadlines that have come.
    fn engines(&mut self, now: Instant) {
        for index in 0..self.seats.len() {
            let Some(seat) = self.seats[index].as_mut() else { continue };
            if seat.due.is_none_or(|due| due > now) {
                continue;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                seat.leg.handle_timeout(now);
                settle(seat);
            }));
            if outcome.is_err() {
                self.drop_panicked(index);
            }
        }
    }

    /// Runs the phases that are due. After a stall they are caught up, so that no frame is lost to it, a frame of each call
    /// at one go: the rings between lane and call task hold a few, and what far ends held back is read in between.
    fn tick(&mut self, now: Instant) {
        if self.seated == 0 {
            self.drain(now);
            if self.drains.is_empty() {
                self.timer.unset().ok();
            }
            // No phase ticks here: what was said last would stand until the next call.
            self.lane.reports.rest(&mut self.lateness, self.drains.len());
            return;
        }
        let mut ticked = false;
        let given_up = frames_given_up(now.saturating_duration_since(self.next_phase));
        if given_up > 0 {
            self.next_phase += FRAME * given_up;
            for seat in self.seats.iter_mut().flatten() {
                seat.leg.skip_ticks(given_up);
            }
        }
        let mut left = PHASES;
        while self.next_phase <= now && left > 0 {
            left -= 1;
            let due = self.next_phase;
            self.lateness.add(now - due);
            let phase = self.phase;
            for index in 0..self.seats.len() {
                let Some(seat) = self.seats[index].as_mut().filter(|seat| seat.phase == phase) else { continue };
                if catch_unwind(AssertUnwindSafe(|| frame(seat, due, now))).is_err() {
                    self.drop_panicked(index);
                }
            }
            self.phase = (self.phase + 1) % PHASES;
            self.next_phase += PHASE;
            ticked = true;
        }
        if ticked {
            self.lane.ticks.ticked();
            // A lane that never catches up stops at one and the same phase, and must not fall silent about it.
            if self.phase == 0 || left == 0 {
                self.drain(now);
                self.lane.reports.publish(&mut self.lateness, now, self.seated, self.drains.len());
            }
        }
    }

    /// Reads what still comes for closed calls, and lets their ports go when it is quiet.
    fn drain(&mut self, now: Instant) {
        let wait = self.lane.port_drain;
        let buffer = &mut self.buffer;
        self.drains.retain_mut(|drain| {
            for _ in 0..READS_A_TURN {
                if drain.socket.recv_from(&mut buffer[..]).is_err() {
                    break;
                }
                drain.until = now + wait;
            }
            now < drain.until && now < drain.cap
        });
    }

    /// A bug in one leg ends that leg alone.
    fn drop_panicked(&mut self, index: usize) {
        if let Some(seat) = self.seats.get_mut(index).and_then(Option::take) {
            self.seated -= 1;
            self.per_phase[seat.phase as usize] -= 1;
            for socket in std::iter::once(&seat.socket).chain(&seat.control) {
                self.epoll.delete(socket).ok();
            }
            tell(&seat.events, LaneEvent::Panicked);
            self.lane.pool.give_lane_end(index, seat.end);
        }
    }
}

/// Whole frames that are not made up after a stall: none of a stall up to a second, which the far ends wait out; all of a
/// longer one (a suspended machine), so that each leg's clock is right and its phase stays its own.
fn frames_given_up(behind: Duration) -> u32 {
    if behind <= MADE_UP {
        return 0;
    }
    u32::try_from(behind.as_millis() / FRAME.as_millis()).unwrap_or(u32::MAX)
}

/// One 20 ms frame of one call, both ways. `due` is when it should have been: to the jitter buffer ticks that are made up
/// are 20 ms apart like any others, or all packets behind the first would count as late.
fn frame(seat: &mut Seat, due: Instant, now: Instant) {
    seat.leg.listen(due, &mut seat.end);
    seat.leg.speak(now, &mut seat.end);
    settle(seat);
    if now.saturating_duration_since(seat.reported) >= Duration::from_secs(1) {
        seat.reported += Duration::from_secs(1);
        let report = seat.leg.report(seat.end.depth());
        tell(&seat.events, LaneEvent::Report(report));
    }
    seat.end.mark();
}

/// Hands on what the engine has to say and to send.
fn settle(seat: &mut Seat) {
    while let Some(event) = seat.leg.poll_event() {
        tell(&seat.events, event);
        seat.end.mark();
    }
    transmit(seat);
    seat.due = seat.leg.deadline();
}

fn transmit(seat: &mut Seat) {
    let Seat { leg, socket, control, .. } = seat;
    leg.transmit(|to, packet, is_control| {
        // Without a socket of its own RTCP goes out beside RTP: better than not at all.
        let socket = control.as_ref().filter(|_| is_control).unwrap_or(socket);
        // UDP: what the kernel does not take is lost, like on any link; the engine repeats what matters.
        socket.send_to(packet, to).ok();
    });
}

/// Rare events only; a call task that does not read for 64 of them is gone, and its supervisor knows.
fn tell(events: &Sender<LaneEvent>, event: LaneEvent) {
    events.try_send(event).ok();
}

/// A dual-stack socket shows IPv4 peers as mapped addresses; candidates name them plainly.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

const _: () = assert!(PHASE.as_millis() * PHASES as u128 == FRAME.as_millis());

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::super::bridge;
    use super::*;

    fn running() -> Running {
        let lane = Lane {
            commands: sync_channel(1).1,
            command_bell: Arc::new(Bell::new().unwrap()),
            ticks: bridge::ticks().unwrap().0,
            pool: Arc::new(Pool::new(1)),
            port_drain: Duration::ZERO,
            reports: Arc::new(LaneReport::default()),
        };
        Running::new(lane, 1).unwrap()
    }

    #[tokio::test]
    async fn what_a_standstill_left_is_made_up_a_frame_at_a_go() {
        let mut running = running();
        // A call as far as the clock is concerned.
        running.seated = 1;
        let start = running.next_phase;
        let mut now = start + FRAME * 5;
        running.tick(now);
        assert_eq!(running.next_phase, start + FRAME, "sockets and call tasks come in between");
        let mut behind = now - running.next_phase;
        while running.next_phase <= now {
            now += PHASE;
            running.tick(now);
            let left = now.saturating_duration_since(running.next_phase);
            assert!(left < behind, "{left:?} after {behind:?}");
            behind = left;
        }
        assert!(now - start <= FRAME * 7, "two frames of time for five: {:?}", now - start);
    }

    #[tokio::test]
    async fn a_lane_that_stays_behind_says_so() {
        let mut running = running();
        (running.seated, running.phase) = (1, 1);
        let start = running.next_phase;
        // Each frame takes as long as it lasts: there is never an end of it.
        for frame in 5..70 {
            running.tick(start + FRAME * frame);
        }
        assert!(running.lane.reports.late_p99() > Duration::from_millis(40), "{:?}", running.lane.reports.late_p99());
    }

    #[test]
    fn a_short_stall_is_made_up_and_of_a_long_one_no_whole_frame() {
        assert_eq!(frames_given_up(Duration::ZERO), 0);
        assert_eq!(frames_given_up(Duration::from_millis(1_000)), 0);
        for behind in [1_001_u64, 1_019, 1_020, 5_003, 86_400_000] {
            let behind = Duration::from_millis(behind);
            let left = behind - FRAME * frames_given_up(behind);
            assert!(left < FRAME, "{left:?} of {behind:?}");
        }
    }
}

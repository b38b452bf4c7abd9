//! The media threads and the way to them.
//!
//! [`Lanes::open`] makes a caller leg of WebRTC from an offer, [`Lanes::open_rtp`] one of a trunk, with everything that is
//! expensive done here, before a lane sees it; the [`CallerLink`] that comes back is the call task's side. Letting it drop closes the leg.

mod bridge;
mod engine;
mod lane;
mod leg;
mod ports;
mod self_test;
mod slots;
mod stats;
mod trunk;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sauti_core::call::outcome::Fault;
use sauti_core::config::Media;
use sauti_core::media::floor::BargeIn;
use sauti_media::rtp_sdp::RtpRefusal;
use sauti_media::webrtc::{Certificate, LegSettings, WebRtcLeg};
use sauti_media::webrtc_sdp::SdpRefusal;
use tokio::sync::mpsc;

use bridge::Bell;
pub use lane::LaneEvent;
use lane::{Command, Lane, NewLeg};
pub use leg::LegReport;
pub use ports::PortError;
use ports::Ports;
pub use self_test::{SELF_TEST_WITHIN, SelfTestError};
pub use slots::{DOWN_TARGET, TaskEnd};
use slots::{Pool, Shared};
use stats::LaneReport;
use trunk::TrunkSide;
pub use trunk::{Negotiated, RtpLegSettings, RtpOpened, SrtpPolicy};

use crate::lanes::engine::Engine;
use crate::lanes::leg::{Codec, Leg};

/// Commands waiting for a lane: three a call, and a lane takes them within a tick.
const COMMANDS: usize = 1024;
/// Events waiting for a call task: a few at set-up, one a second later.
const EVENTS: usize = 64;

/// No caller leg could be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The offer cannot be answered.
    #[error("offer refused: {0}")]
    Offer(#[from] SdpRefusal),
    /// The description of a trunk cannot be answered, or is no answer to ours.
    #[error("description refused: {0}")]
    Rtp(#[from] RtpRefusal),
    /// No port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// More calls than slots, or slots not yet given back.
    #[error("no media slot is free; limits.max_calls is the number of slots")]
    NoSlot,
    /// The codec could not be made.
    #[error("opus: {0}")]
    Codec(String),
    /// The lane does not take commands any more.
    #[error("media lane {0} does not take calls; the daemon has to be restarted")]
    LaneDead(usize),
    /// Making the leg panicked.
    #[error("a bug in the making of the leg; the log names its place")]
    Bug,
}

impl OpenError {
    /// The word for the log.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Offer(refusal) => refusal.label(),
            Self::Rtp(refusal) => refusal.label(),
            Self::Port(_) => "no_port",
            Self::NoSlot => "no_slot",
            Self::Codec(_) => "codec",
            Self::LaneDead(_) => "lane_dead",
            Self::Bug => "bug",
        }
    }

    /// True where the description is at fault, not the box: SIP says 488 then, and 503 else.
    #[must_use]
    pub const fn is_sdp(&self) -> bool {
        matches!(self, Self::Offer(_) | Self::Rtp(_))
    }

    /// Whose fault it is.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Offer(_) => Fault::Whatsapp,
            Self::Rtp(_) => Fault::Carrier,
            Self::Port(_) => Fault::Operator,
            Self::NoSlot | Self::Codec(_) | Self::LaneDead(_) | Self::Bug => Fault::Box,
        }
    }
}

/// The lanes could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel refused a descriptor.
    #[error("media lanes: {0}; see LimitNOFILE")]
    Kernel(#[from] std::io::Error),
    /// The DTLS certificate could not be made.
    #[error("DTLS certificate: {0}")]
    Certificate(String),
}

/// All media threads.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Handle>,
    pool: Arc<Pool>,
    ports: Ports,
    advertise: Vec<IpAddr>,
    certificate: Certificate,
    codec: Codec,
    barge_in: BargeIn,
}

#[derive(Debug)]
struct Handle {
    commands: SyncSender<Command>,
    bell: Arc<Bell>,
    reports: Arc<LaneReport>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    fn send(&self, command: Command) -> bool {
        let sent = self.commands.try_send(command).is_ok();
        self.bell.ring();
        sent
    }
}

impl Lanes {
    /// Starts the threads; `dead` is told when one of them ends for another reason than [`Lanes`] being dropped.
    ///
    /// Must be called inside the runtime: the bridges live there. `barge_in` is how the lanes themselves judge
    /// interruptions; off where the model's server does.
    ///
    /// # Errors
    /// The kernel has no descriptors, or no certificate could be made.
    pub fn start(
        config: &Media,
        barge_in: BargeIn,
        max_calls: usize,
        dead: &mpsc::Sender<String>,
    ) -> Result<Self, StartError> {
        let pool = Arc::new(Pool::new(max_calls));
        let certificate = Certificate::generate().map_err(|error| StartError::Certificate(error.to_string()))?;
        let advertise = ports::advertised(config.bind, &config.advertise)?;
        let mut lanes = Vec::with_capacity(config.lanes);
        for number in 0..config.lanes.max(1) {
            let (commands, inbox) = sync_channel(COMMANDS);
            let command_bell = Arc::new(Bell::new().map_err(std::io::Error::from)?);
            let (ticks, ticked) = bridge::ticks()?;
            let reports = Arc::new(LaneReport::default());
            let lane = Lane {
                commands: inbox,
                command_bell: Arc::clone(&command_bell),
                ticks,
                pool: Arc::clone(&pool),
                port_drain: config.port_drain,
                reports: Arc::clone(&reports),
            };
            let dead = dead.clone();
            let thread = std::thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
                let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lane.run(max_calls)));
                let why = match end {
                    Ok(Ok(())) => return,
                    Ok(Err(errno)) => format!("lane {number}: {errno}"),
                    Err(_) => format!("lane {number} panicked"),
                };
                // The daemon ends on the first message; a full channel holds one already.
                dead.try_send(why).ok();
            })?;
            tokio::spawn(bridge::run(ticked, Arc::clone(&pool)));
            lanes.push(Handle { commands, bell: command_bell, reports, thread: Some(thread) });
        }
        let ports = Ports::new(config.bind, config.ports);
        let codec = Codec { bitrate: config.opus_bitrate, complexity: config.opus_complexity };
        Ok(Self { lanes, pool, ports, advertise, certificate, codec, barge_in })
    }

    /// Makes the leg that answers `offer`: socket, engine, codecs, answer. Some milliseconds of work, no waiting.
    ///
    /// # Errors
    /// The offer cannot be answered, or the box has no port, slot or lane for it.
    pub fn open(self: &Arc<Self>, offer: &str) -> Result<(CallerLink, String), OpenError> {
        let (socket, local) = self.ports.bind()?;
        let candidates: Vec<_> = self.advertise.iter().map(|ip| SocketAddr::new(*ip, local.port())).collect();
        let settings = LegSettings { certificate: &self.certificate, local, advertise: &candidates };
        let (engine, answer) = WebRtcLeg::answer(Instant::now(), offer, &settings)?;
        let audio = leg::webrtc_audio(&engine, self.codec);
        let leg = Leg::new(Engine::WebRtc(Box::new(engine)), audio, self.barge_in);
        let leg = leg.map_err(|error| OpenError::Codec(error.to_string()))?;
        Ok((self.seat(socket, None, leg)?, answer))
    }

    /// Gives a leg its slot and its lane.
    fn seat(
        self: &Arc<Self>,
        socket: UdpSocket,
        control: Option<UdpSocket>,
        leg: Leg,
    ) -> Result<CallerLink, OpenError> {
        let slot = self.pool.take().ok_or(OpenError::NoSlot)?;
        let number = (0..self.lanes.len()).min_by_key(|number| self.lanes[*number].reports.legs()).unwrap_or_default();
        let (events, inbox) = mpsc::channel(EVENTS);
        let index = slot.index;
        let link = CallerLink {
            shared: slot.task.shared(),
            frames: Some(slot.task),
            events: inbox,
            index,
            number,
            lanes: Arc::clone(self),
            trunk: None,
        };
        let new = NewLeg { index, socket, control, leg, end: slot.lane, events };
        if self.lanes[number].send(Command::Add(Box::new(new))) { Ok(link) } else { Err(OpenError::LaneDead(number)) }
    }

    /// Worst tick lateness (p99 of the last second) over all lanes.
    #[must_use]
    pub fn late_p99(&self) -> Duration {
        self.lanes.iter().map(|lane| lane.reports.late_p99()).max().unwrap_or_default()
    }

    /// Legs on the lanes, slots out of the pool, sockets that drain: what has to return to zero.
    #[must_use]
    pub fn tables(&self) -> Tables {
        Tables {
            legs: self.lanes.iter().map(|lane| lane.reports.legs()).sum(),
            slots: self.pool.in_use(),
            drains: self.lanes.iter().map(|lane| lane.reports.drains()).sum(),
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        for lane in &mut self.lanes {
            lane.send(Command::Stop);
            if let Some(thread) = lane.thread.take() {
                thread.join().ok();
            }
        }
    }
}

/// Sizes of the tables that belong to the media threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    /// Legs on lanes.
    pub legs: usize,
    /// Slots out of the pool.
    pub slots: usize,
    /// Ports of closed calls that still drain.
    pub drains: usize,
}

/// The call task's side of its caller leg.
#[derive(Debug)]
pub struct CallerLink {
    frames: Option<TaskEnd>,
    shared: &'static Shared,
    events: mpsc::Receiver<LaneEvent>,
    index: usize,
    number: usize,
    lanes: Arc<Lanes>,
    /// What a leg of a trunk has beside.
    trunk: Option<Box<TrunkSide>>,
}

impl CallerLink {
    /// The rings and counters.
    pub fn frames(&mut self) -> &mut TaskEnd {
        // Taken only by drop.
        #[expect(clippy::unwrap_used, reason = "present until drop")]
        self.frames.as_mut().unwrap()
    }

    /// Waits for an event or a tick, whichever comes first.
    pub async fn next(&mut self) -> LinkNews {
        let Self { events, shared, .. } = self;
        tokio::select! {
            biased;
            event = events.recv() => LinkNews::Event(event),
            () = shared.ticked() => LinkNews::Tick,
        }
    }

    /// Tells the leg that Graph has its answer.
    pub fn answer_delivered(&self) {
        self.lanes.lanes[self.number].send(Command::AnswerDelivered(self.index));
    }

    /// Lets frames go out; false when the lane does not listen.
    #[must_use]
    pub fn open_audio(&self) -> bool {
        self.lanes.lanes[self.number].send(Command::OpenAudio(self.index))
    }
}

/// What [`CallerLink::next`] came back for.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "the report comes once a second; boxing it would allocate on the lane")]
pub enum LinkNews {
    /// The lane said something; `None` when the leg is gone.
    Event(Option<LaneEvent>),
    /// A frame's time has passed: look at the rings.
    Tick,
}

impl Drop for CallerLink {
    fn drop(&mut self) {
        self.lanes.lanes[self.number].send(Command::Remove(self.index));
        if let Some(end) = self.frames.take() {
            self.lanes.pool.give_task_end(self.index, end);
        }
    }
}

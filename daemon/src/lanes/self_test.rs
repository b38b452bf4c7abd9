//! The box calls itself once before it says that it is ready: a tone each way through a real lane.
//!
//! The far end is the emulated phone, over a socket of this machine: ICE, DTLS, SRTP, Opus, rings and ticks are those
//! of every call. It knows no model and no Graph, and proves nothing about the network beyond this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sauti_core::media::frame::{FRAME, FRAME_SAMPLES, Frame, SAMPLE_RATE};
use sauti_core::media::level::{Tone, tone_level};
use sauti_media::webrtc_sdp::OfferShape;
use sauti_sim::caller::person::{Person, Step};
use sauti_sim::caller::phone::{Phone, PhoneError};
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::{CallerLink, DOWN_TARGET, LaneEvent, Lanes, LinkNews, OpenError};

/// Longest wait for everything; a machine that is busy with its own start takes a second.
pub const SELF_TEST_WITHIN: Duration = Duration::from_secs(10);
/// From the phone to the model, and from the model to the phone: apart, so that no echo passes for the other.
const TONES_HZ: [f64; 2] = [440.0, 1_000.0];
/// Share of a frame's energy that has to be the tone; Opus leaves it nearly whole.
const CLEAN: f64 = 0.8;
/// Frames in which it has to be.
const ENOUGH: usize = 10;
/// Longest that a tone is sent.
const TONE: Duration = Duration::from_secs(5);
/// Largest datagram.
const DATAGRAM: usize = 2_048;

/// The box could not hear itself.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// No leg could be made: its port, its codec, or its lane.
    #[error("self-test: {0}")]
    Leg(#[from] OpenError),
    /// The emulated phone could not be made.
    #[error("self-test: {0}")]
    Phone(#[from] PhoneError),
    /// The kernel gives no socket, or takes none of its packets.
    #[error("self-test: UDP on {0}: {1}; is media.bind an address of this machine?")]
    Socket(IpAddr, std::io::Error),
    /// ICE or DTLS did not come up.
    #[error(
        "self-test: no media connection over {0}, this machine's own address, within {within} s; does a firewall stop \
         UDP there?",
        within = SELF_TEST_WITHIN.as_secs()
    )]
    NoConnection(IpAddr),
    /// The connection is up, and a tone is missing.
    #[error(
        "self-test: a tone sent through a media lane did not arrive ({up} of {ENOUGH} frames up, {down} down); the \
         machine is far too slow, or this is a bug: report it"
    )]
    NoTone {
        /// Clean frames that would have gone to the model.
        up: usize,
        /// Clean frames that the phone heard.
        down: usize,
    },
}

/// What was heard, in clean frames.
#[derive(Debug, Clone, Copy, Default)]
struct Clean {
    up: usize,
    down: usize,
}

impl Lanes {
    /// Sends a tone each way through a lane, and waits until both were heard, `within` at most. Takes a slot and a
    /// port of the range, as a call does; the port is drained like a call's.
    ///
    /// # Errors
    /// What did not work, and what to do about it.
    pub async fn self_test(self: &Arc<Self>, within: Duration) -> Result<(), SelfTestError> {
        let here = match self.ports.address() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let refused = |error| SelfTestError::Socket(here, error);
        let socket = UdpSocket::bind((here, 0)).await.map_err(refused)?;
        let local = socket.local_addr().map_err(refused)?;
        let tone = Tone::new(TONES_HZ[0], 0.3);
        let person = Person::new(vec![Step::Say(samples(tone).into()), Step::HangUp]);
        let (phone, offer) = Phone::dial(Instant::now(), local, &self.certificate, &OfferShape::default(), person)?;
        let lanes = Arc::clone(self);
        let opened = tokio::task::spawn_blocking(move || lanes.open(&offer)).await;
        let (link, answer) = opened.unwrap_or(Err(OpenError::Bug))?;
        let mut call = SelfCall { socket, phone, link, tone: Tone::new(TONES_HZ[1], 0.3), clean: Clean::default() };
        call.phone.answered(Instant::now(), &answer)?;
        call.run(Instant::now() + within).await.map_err(refused)?;
        let Clean { up, down } = call.clean;
        match call.phone.connected() {
            None => Err(SelfTestError::NoConnection(here)),
            Some(_) if up < ENOUGH || down < ENOUGH => Err(SelfTestError::NoTone { up, down }),
            Some(_) => Ok(()),
        }
    }
}

fn samples(mut tone: Tone) -> Vec<i16> {
    let mut samples = vec![0; usize::try_from(TONE.as_secs()).unwrap_or(1) * SAMPLE_RATE as usize];
    tone.fill(&mut samples);
    samples
}

fn is_clean(samples: &[i16; FRAME_SAMPLES], hertz: f64) -> bool {
    tone_level(samples, hertz) >= CLEAN
}

/// The call of the box with itself.
struct SelfCall {
    socket: UdpSocket,
    phone: Phone,
    link: CallerLink,
    tone: Tone,
    clean: Clean,
}

impl SelfCall {
    /// Runs until enough was heard, the leg is lost, or time is up.
    async fn run(&mut self, until: Instant) -> std::io::Result<()> {
        let mut ticks = interval(FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut buffer = [0; DATAGRAM];
        let mut heard = 0;
        while Instant::now() < until && !self.phone.is_lost() && (self.clean.up < ENOUGH || self.clean.down < ENOUGH) {
            let due = self.phone.deadline().map_or(until, |due| due.min(until));
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => self.phone.receive(Instant::now(), from, &buffer[..length]),
                    // The other socket is not bound yet, or gone already: the engines repeat what matters.
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                    Err(error) => return Err(error),
                },
                news = self.link.next() => if !self.news(&news) { return Ok(()) },
                _ = ticks.tick() => self.phone.tick(Instant::now()),
                () = sleep_until(due.into()) => self.phone.handle_timeout(Instant::now()),
            }
            for frame in self.phone.person.heard[heard..].as_chunks().0 {
                self.clean.down += usize::from(is_clean(frame, TONES_HZ[1]));
                heard += FRAME_SAMPLES;
            }
            while let Some((to, datagram)) = self.phone.poll_transmit() {
                self.send(to, datagram.as_ref()).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, to: SocketAddr, datagram: &[u8]) -> std::io::Result<()> {
        match self.socket.send_to(datagram, to).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Does what a call task does; false when the leg is gone.
    fn news(&mut self, news: &LinkNews) -> bool {
        match news {
            LinkNews::Event(Some(LaneEvent::Up)) => {
                self.link.answer_delivered();
                self.phone.accepted(Instant::now(), TONE);
                return self.link.open_audio();
            }
            LinkNews::Event(Some(LaneEvent::Lost | LaneEvent::Panicked) | None) => return false,
            LinkNews::Event(Some(_)) => {}
            LinkNews::Tick => {
                let frames = self.link.frames();
                while let Some(frame) = frames.up.dequeue() {
                    self.clean.up += usize::from(is_clean(&frame.samples, TONES_HZ[0]));
                }
                while frames.down.len() < DOWN_TARGET && frames.down.ready() {
                    let frame = Frame { samples: self.tone.frame(), ..Frame::SILENCE };
                    // There is room: `ready` was asked, and nobody else puts frames in.
                    frames.down.enqueue(frame).ok();
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use sauti_core::config::Media;
    use tokio::sync::mpsc;

    use super::*;

    fn lanes(bind: Ipv4Addr) -> (Arc<Lanes>, mpsc::Receiver<String>) {
        let (dead, died) = mpsc::channel(1);
        let media = Media {
            bind: bind.into(),
            advertise: Vec::new(),
            ports: (46_000, 46_099),
            threads: 1,
            lanes: 1,
            opus_bitrate: 24_000,
            opus_complexity: 0,
            port_drain: Duration::from_millis(10),
        };
        (Arc::new(Lanes::start(&media, sauti_core::media::floor::BargeIn::Normal, 1, &dead).unwrap()), died)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_good_box_hears_itself_and_its_one_slot_is_free_again() {
        let (lanes, _died) = lanes(Ipv4Addr::UNSPECIFIED);
        for _ in 0..2 {
            lanes.self_test(SELF_TEST_WITHIN).await.unwrap();
            let patience = Instant::now() + SELF_TEST_WITHIN;
            while lanes.tables().slots > 0 {
                assert!(Instant::now() < patience, "{:?}", lanes.tables());
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_box_without_time_to_connect_says_so() {
        let (lanes, _died) = lanes(Ipv4Addr::LOCALHOST);
        let error = lanes.self_test(Duration::ZERO).await.unwrap_err();
        assert!(matches!(error, SelfTestError::NoConnection(_)), "{error}");
        assert!(error.to_string().contains("firewall"), "{error}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_found_out() {
        let (lanes, _died) = lanes(Ipv4Addr::new(192, 0, 2, 1));
        let error = lanes.self_test(SELF_TEST_WITHIN).await.unwrap_err().to_string();
        assert!(error.contains("192.0.2.1") && error.contains("media.bind"), "{error}");
    }
}

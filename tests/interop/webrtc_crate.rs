//! The async `webrtc` crate calls, as a client with full ICE.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::media_engine::MIME_TYPE_OPUS;
use rtc::rtp::{Header, Packet};
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use sauti::simulate::loopback::meta::{MEDIA_EVERY, ToPhone};
use sauti_core::media::frame::{FRAME, FRAME_SAMPLES, SAMPLE_RATE};
use sauti_core::pii::Pii;
use sauti_media::opus::{Decoder, Encoder, EncoderSettings, MAX_ENCODED_BYTES, MAX_PACKET_SAMPLES};
use sauti_sim::whatsapp::person::Person;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
    RTCIceGatheringState, RTCPeerConnectionState, RTCSessionDescription, Registry, register_default_interceptors,
};

use crate::ears::{self, CALLER, SPEAK_AFTER, Words};
use crate::outside;
use crate::stage::Stage;

const OPUS: u8 = 111;
const SSRC: u32 = 0x5a17_0001;
/// RTP ticks of Opus (48 kHz) in a sample at 24 kHz, and in a frame.
const TICKS: u32 = 2;
const FRAME_TICKS: u32 = 960;
/// Fewest packets each way.
const FEWEST_PACKETS: usize = 400;
const UP_WITHIN: Duration = Duration::from_secs(15);

/// What the crate tells its user.
struct Phone {
    gathered: watch::Sender<bool>,
    connected: watch::Sender<bool>,
    packets: Arc<Mutex<Vec<Packet>>>,
}

#[async_trait]
impl PeerConnectionEventHandler for Phone {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        self.gathered.send_replace(state == RTCIceGatheringState::Complete);
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.connected.send_replace(state == RTCPeerConnectionState::Connected);
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let packets = Arc::clone(&self.packets);
        tokio::spawn(async move {
            while let Some(event) = track.poll().await {
                if let TrackRemoteEvent::OnRtpPacket(packet) = event {
                    packets.lock().unwrap_or_else(PoisonError::into_inner).push(packet);
                }
            }
        });
    }
}

fn opus() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: MIME_TYPE_OPUS.to_owned(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".to_owned(),
        rtcp_feedback: Vec::new(),
    }
}

async fn until(mut flag: watch::Receiver<bool>, what: &str) {
    let waited = tokio::time::timeout(UP_WITHIN, flag.wait_for(|holds| *holds)).await;
    assert!(waited.is_ok_and(|held| held.is_ok()), "the webrtc crate: not {what} within {UP_WITHIN:?}");
}

/// Silence until it is time to speak, then the caller's turn, then silence; 20 ms at a time.
async fn speak(track: Arc<TrackLocalStaticRTP>, words: &Words) -> usize {
    let mut samples = vec![0; usize::try_from(SPEAK_AFTER.as_millis()).unwrap_or(0) * 24];
    for name in CALLER {
        samples.extend_from_slice(&words.line(name).samples);
        samples.extend_from_slice(&[0; 24 * 300]);
    }
    let mut encoder = Encoder::new(EncoderSettings { bitrate: 24_000, complexity: 3, expected_loss: 0 }).expect("Opus");
    let frames = usize::try_from(Duration::from_secs_f64(words.seconds()).as_millis() / FRAME.as_millis()).unwrap_or(0);
    let mut ticks = interval(FRAME);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut packet, mut sent) = ([0; MAX_ENCODED_BYTES], 0);
    for number in 0..u32::try_from(frames).unwrap_or(0) {
        ticks.tick().await;
        let mut frame = [0; FRAME_SAMPLES];
        let from = samples.len().min(sent * FRAME_SAMPLES);
        let part = &samples[from..samples.len().min(from + FRAME_SAMPLES)];
        frame[..part.len()].copy_from_slice(part);
        let length = encoder.encode(&frame, &mut packet).expect("a frame can be encoded");
        let header = Header {
            version: 2,
            payload_type: OPUS,
            sequence_number: u16::try_from(number).unwrap_or(0),
            timestamp: number * FRAME_TICKS,
            ssrc: SSRC,
            ..Header::default()
        };
        let payload = bytes::Bytes::copy_from_slice(&packet[..length]);
        track.write_rtp(Packet { header, payload }).await.expect("a packet can be sent");
        sent += 1;
    }
    sent
}

/// What came, each packet where its timestamp puts it.
fn heard(mut packets: Vec<Packet>) -> Vec<i16> {
    packets.sort_by_key(|packet| packet.header.sequence_number);
    let mut decoder = Decoder::new().expect("Opus");
    let (mut samples, mut decoded) = (Vec::new(), Box::new([0; MAX_PACKET_SAMPLES]));
    let mut next: Option<u32> = None;
    for packet in packets.iter().filter(|packet| packet.header.payload_type == OPUS) {
        let missing = next.map_or(0, |next| packet.header.timestamp.wrapping_sub(next) / TICKS);
        if missing < SAMPLE_RATE * 10 {
            samples.resize(samples.len() + usize::try_from(missing).unwrap_or(0), 0);
        }
        let count = decoder.decode(&packet.payload, &mut decoded).expect("what came is Opus");
        samples.extend_from_slice(&decoded[..count]);
        next = Some(packet.header.timestamp.wrapping_add(u32::try_from(count).unwrap_or(0) * TICKS));
    }
    samples
}

#[tokio::test]
async fn the_webrtc_crate_and_the_model_understand_each_other() {
    let _alone = outside::alone();
    let Some(python) = outside::python("pystoi, soundfile") else { return };
    let words = Words::load();
    let stage = Stage::open("webrtc-crate", words.script(), Ipv4Addr::LOCALHOST).await;
    let (gathered, when_gathered) = watch::channel(false);
    let (connected, when_connected) = watch::channel(false);
    let packets = Arc::default();
    let phone = Phone { gathered, connected, packets: Arc::clone(&packets) };
    let (connection, track) = connection(phone).await;

    let offer = connection.create_offer(None).await.expect("an offer");
    connection.set_local_description(offer).await.expect("its own offer is taken");
    until(when_gathered, "gathered").await;
    let offer = connection.local_description().await.expect("an offer with candidates");
    let meta = stage.emulators.meta.clone();
    let mut line = meta.ring(Person::test_caller(), Pii::new(offer.sdp), None).await.expect("it rings");
    let answer = tokio::time::timeout(UP_WITHIN, line.news.recv()).await.expect("the daemon answers");
    let Some(ToPhone::Answer(answer)) = answer else { panic!("not an answer but {answer:?}") };
    let answer = RTCSessionDescription::answer(answer.expose().to_owned()).expect("an answer");
    connection.set_remote_description(answer).await.expect("the crate takes the answer");
    until(when_connected, "connected").await;
    let sent = {
        let mut speaking = std::pin::pin!(speak(track, &words));
        let mut beat = interval(MEDIA_EVERY);
        loop {
            tokio::select! {
                sent = &mut speaking => break sent,
                // What really came is judged below.
                _ = beat.tick() => meta.media(&line.wacid).await,
            }
        }
    };
    meta.hung_up(&line.wacid).await;
    let left = stage.close().await;
    connection.close().await.expect("it closes");

    let packets = std::mem::take(&mut *packets.lock().unwrap_or_else(PoisonError::into_inner));
    assert!(sent >= FEWEST_PACKETS && packets.len() >= FEWEST_PACKETS, "{sent} sent, {} received", packets.len());
    ears::write_wav(&left.path("model.wav"), SAMPLE_RATE, left.one_good_call());
    ears::write_wav(&left.path("phone.wav"), SAMPLE_RATE, &heard(packets));
    ears::both_understand(&python, &left.path("phone.wav"), &left.path("model.wav")).await;
}

async fn connection(phone: Phone) -> (impl PeerConnection, Arc<TrackLocalStaticRTP>) {
    let mut media = MediaEngine::default();
    let parameters = RTCRtpCodecParameters { rtp_codec: opus(), payload_type: OPUS };
    media.register_codec(parameters, RtpCodecKind::Audio).expect("Opus can be registered");
    let registry = register_default_interceptors(Registry::new(), &mut media).expect("reports");
    let connection = PeerConnectionBuilder::new()
        .with_configuration(RTCConfigurationBuilder::new().build())
        .with_media_engine(media)
        .with_interceptor_registry(registry)
        .with_handler(Arc::new(phone))
        .with_udp_addrs(vec!["127.0.0.1:0"])
        .build()
        .await
        .expect("a connection");
    let coding = RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(SSRC), ..Default::default() },
        codec: opus(),
        ..Default::default()
    };
    let track = MediaStreamTrack::new(
        "stream".to_owned(),
        "track".to_owned(),
        "microphone".to_owned(),
        RtpCodecKind::Audio,
        vec![coding],
    );
    let track = Arc::new(TrackLocalStaticRTP::new(track));
    connection.add_track(Arc::clone(&track) as Arc<dyn TrackLocal>).await.expect("a track");
    (connection, track)
}

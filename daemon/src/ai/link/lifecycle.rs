//! The life of a socket to the model in every way that it can end, and that the next one is whole again.
//!
//! Others crashed when a socket went away at the wrong moment, or came back without media; so each phase is cut off
//! here, and after each ending a new socket has to carry events and audio both ways.

use sauti_core::ai::verdict::Failure;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;

use super::tests::{PATIENCE, listen, next, pair, pair_with, read, write};
use super::*;
use crate::ai::dialer::Dialer;

const SECRET: &str = "canary-openai-key";

/// A new socket of the same dialer carries events and audio both ways.
async fn is_whole_again(listener: &TcpListener, dialer: &Dialer) {
    let serve = async { accept_async(listener.accept().await.unwrap().0).await.unwrap() };
    let (link, mut server) = tokio::join!(dialer.connect(None, PATIENCE), serve);
    let mut link = link.unwrap();
    link.send_text("configured anew");
    link.send_audio("audio");
    write(&mut server, Message::text("speech")).await;
    assert_eq!(next(&mut link).await, LinkEvent::Text("speech".into()));
    for expected in ["configured anew", "audio"] {
        assert_eq!(read(&mut server).await.unwrap().unwrap(), Message::text(expected));
    }
    assert_eq!((link.queued(), link.dropped_audio()), (0, 0));
}

/// Plays the server's side of one connection with raw bytes, from the request on; returns what the dialer says.
async fn cut_off(listener: &TcpListener, dialer: &Dialer, answer: &[u8], read_request: bool) -> Result<Link, Failure> {
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        if read_request {
            let mut request = [0; 4096];
            stream.read(&mut request).await.unwrap_or_default();
        }
        stream.write_all(answer).await.unwrap_or_default();
        // Without a lingering close the answer would be lost with the unread request.
        stream.shutdown().await.unwrap_or_default();
        stream.read_to_end(&mut Vec::new()).await.unwrap_or_default();
    };
    let (link, ()) = tokio::join!(dialer.connect(None, PATIENCE), serve);
    link
}

/// A WebSocket and the raw stream behind the server's side of it.
async fn raw(listener: &TcpListener, dialer: &Dialer) -> (Link, TcpStream) {
    let serve = async { accept_async(listener.accept().await.unwrap().0).await.unwrap().into_inner() };
    let (link, stream) = tokio::join!(dialer.connect(None, PATIENCE), serve);
    (link.unwrap(), stream)
}

#[tokio::test]
async fn a_handshake_that_is_cut_off_in_any_phase_fails_and_the_next_one_is_whole() {
    let (listener, dialer) = listen().await;
    let whole = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                 sec-websocket-accept: wrong\r\n\r\n";
    for (answer, read_request) in [
        ("", false),
        ("", true),
        ("HTTP/1.1 ", true),
        (&whole[..whole.len() - 4], true),
        (whole, true),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
        ("\u{16}\u{3}\u{1}", true),
    ] {
        let failure = cut_off(&listener, &dialer, answer.as_bytes(), read_request).await.unwrap_err();
        assert!(!format!("{failure:?}").contains(SECRET), "{failure:?}");
        is_whole_again(&listener, &dialer).await;
    }
}

#[tokio::test]
async fn a_peer_that_resets_at_once_fails_the_handshake_and_the_next_one_is_whole() {
    let (listener, dialer) = listen().await;
    let serve = async {
        let stream = listener.accept().await.unwrap().0;
        // Closing with a request unread sends a reset.
        stream.readable().await.unwrap();
        drop(stream);
    };
    let (link, ()) = tokio::join!(dialer.connect(None, PATIENCE), serve);
    assert_eq!(link.unwrap_err().code.as_str(), "handshake_failed");
    is_whole_again(&listener, &dialer).await;
}

#[tokio::test]
async fn a_name_that_nobody_knows_and_a_port_where_nobody_listens_fail_without_the_key() {
    for url in ["http://nobody.invalid/v1", "http://127.0.0.1:1/v1", "http://[::1]:1/v1"] {
        let dialer = tests::dialer(url.to_owned());
        let failure = dialer.connect(None, PATIENCE).await.unwrap_err();
        assert!(failure.retry && ["dns_failed", "connect_failed"].contains(&failure.code.as_str()), "{failure:?}");
    }
}

#[tokio::test]
async fn frames_that_are_none_end_the_link_and_the_next_one_is_whole() {
    let (listener, dialer) = listen().await;
    let long_ping = [&[0x89, 0x7E, 0x00, 0x7E][..], &[0; 126]].concat();
    let frames: [&[u8]; 8] = [
        // An opcode that does not exist, reserved bits, a masked frame of a server.
        &[0x83, 0x01, b'x'],
        &[0xF1, 0x01, b'x'],
        &[0x81, 0x81, 1, 2, 3, 4, b'x'],
        // No UTF-8; a continuation of nothing; a new message within a fragmented one.
        &[0x81, 0x02, 0xC3, 0x28],
        &[0x80, 0x01, b'x'],
        &[0x01, 0x01, b'a', 0x81, 0x01, b'b'],
        // A ping longer than control frames may be; a message that claims 2^63 bytes.
        &long_ping,
        &[0x81, 0x7F, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
    ];
    for frame in frames {
        let (mut link, mut stream) = raw(&listener, &dialer).await;
        stream.write_all(frame).await.unwrap();
        let event = next(&mut link).await;
        assert!(matches!(event, LinkEvent::Lost(Lost::Protocol | Lost::TooLarge)), "{frame:?} {event:?}");
        assert_eq!(next(&mut link).await, event, "and it goes on telling so");
        is_whole_again(&listener, &dialer).await;
    }
}

#[tokio::test]
async fn a_message_that_is_cut_off_in_its_middle_is_no_message() {
    let (listener, dialer) = listen().await;
    for cut in [1, 2, 3, 5] {
        let (mut link, mut stream) = raw(&listener, &dialer).await;
        stream.write_all(&[&[0x81, 0x05][..], b"hello"].concat()[..cut]).await.unwrap();
        drop(stream);
        assert!(matches!(next(&mut link).await, LinkEvent::Lost(Lost::Ended | Lost::Io)), "{cut}");
        is_whole_again(&listener, &dialer).await;
    }
}

#[tokio::test]
async fn a_far_end_that_never_answers_our_close_costs_no_more_than_was_given() {
    let (link, server) = pair().await;
    let begun = Instant::now();
    timeout(PATIENCE, link.close(Duration::from_millis(50))).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(50));
    drop(server);
    // One that has stopped reading, so that not even the close frame goes out.
    let (mut link, server) = pair().await;
    let piece = "x".repeat(128 * 1024);
    (0..200).for_each(|_| link.send_text(&piece));
    timeout(PATIENCE, link.close(Duration::from_millis(50))).await.unwrap();
    drop(server);
}

#[tokio::test]
async fn a_half_open_connection_is_found_out_by_its_ping_while_we_go_on_sending() {
    let quick = Heartbeat { every: Duration::from_millis(20), within: Duration::from_millis(200) };
    let (mut link, server) = pair_with(quick).await;
    // The far end neither reads nor writes nor closes; the kernel goes on taking what we send.
    let talking = async {
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        loop {
            tokio::select! {
                event = link.next() => return event,
                _ = pace.tick() => link.send_audio("audio"),
            }
        }
    };
    assert_eq!(timeout(PATIENCE, talking).await.unwrap(), LinkEvent::Lost(Lost::Silent));
    drop(server);
}

#[tokio::test]
async fn a_link_may_be_dropped_in_any_state() {
    for state in 0..4 {
        let (mut link, mut server) = pair().await;
        match state {
            0 => {}
            1 => (0..300).for_each(|n| link.send_text(&n.to_string())),
            2 => write(&mut server, Message::text("x".repeat(1024 * 1024))).await,
            _ => {
                link.send_audio("audio");
                timeout(Duration::ZERO, link.next()).await.unwrap_err();
            }
        }
        drop(link);
        while let Some(Ok(_)) = read(&mut server).await {}
    }
}

/// A generator that repeats: splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    }

    /// What a server could write next: a frame, a broken one, or anything.
    fn bytes(&mut self) -> Vec<u8> {
        let length = u8::try_from(self.roll(126)).unwrap_or(0);
        let body: Vec<u8> = (0..length).map(|_| u8::try_from(self.roll(256)).unwrap_or(0)).collect();
        let text: Vec<u8> = body.iter().map(|byte| b'a' + byte % 26).collect();
        match self.roll(8) {
            0..=2 => [&[0x81, length][..], &text].concat(),
            3 => [&[0x82, length][..], &body].concat(),
            4 => [&[0x89, length][..], &body].concat(),
            5 => [&[0x8A, length][..], &body].concat(),
            6 => [&[0x88, 2][..], &1011_u16.to_be_bytes()].concat(),
            _ => body,
        }
    }
}

#[tokio::test]
async fn whatever_a_server_writes_and_whenever_it_goes_the_link_ends_and_the_next_one_is_whole() {
    let (listener, dialer) = listen().await;
    let first: u64 = std::env::var("SAUTI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + 60 {
        let mut dice = Dice(seed);
        let (mut link, mut stream) = raw(&listener, &dialer).await;
        let steps = 1 + dice.roll(12);
        let server = async {
            for _ in 0..steps {
                let mut bytes = dice.bytes();
                if dice.roll(6) == 0 {
                    bytes.truncate(bytes.len() / 2);
                }
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
                if dice.roll(4) == 0 {
                    tokio::task::yield_now().await;
                }
            }
            if dice.roll(2) == 0 {
                stream.shutdown().await.unwrap_or_default();
            }
            drop(stream);
        };
        let client = async {
            let mut heard = 0_u64;
            loop {
                link.send_audio("audio");
                match link.next().await {
                    LinkEvent::Text(_) => heard += 1,
                    end => return (heard, end),
                }
            }
        };
        let both = async { tokio::join!(client, server) };
        let ((heard, end), ()) = timeout(PATIENCE, both).await.unwrap_or_else(|_| panic!("seed {seed}: it hangs"));
        assert!(heard <= steps * 64, "seed {seed}: {heard} texts");
        assert_eq!(next(&mut link).await, end, "seed {seed}");
        if seed % 10 == 0 {
            is_whole_again(&listener, &dialer).await;
        }
    }
}

//! One message of our own for each case of RFC 4475 §3, sent to the endpoint: what it answers a known far end, and that
//! a stranger hears nothing whatever he sends. The messages are `tests/wire/sip`, named as the RFC names its cases.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

use super::bench::{Bench, LOOPBACK, Message, Peer};

/// What a case must come to. Silence is right where RFC 4475 says "discard", and allowed where a message cannot even
/// be answered, because it does not say whom to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// One of these final codes, or a call.
    Codes(&'static [u16]),
    /// It is taken as a call.
    Call,
    /// Nothing is to be answered, or nothing can be.
    Silence,
}
use Wanted::{Call, Codes, Silence};

/// The cases in the order of the RFC.
const CASES: [(&str, Wanted); 49] = [
    ("wsinv", Call),
    ("intmeth", Codes(&[405, 501])),
    ("esc01", Call),
    ("escnull", Codes(&[405])),
    ("esc02", Codes(&[405, 501])),
    ("lwsdisp", Codes(&[200])),
    ("longreq", Call),
    ("dblreq", Codes(&[200])),
    ("semiuri", Codes(&[200])),
    ("transports", Codes(&[200])),
    ("mpart01", Codes(&[415])),
    ("unreason", Silence),
    ("noreason", Silence),
    ("badinv01", Codes(&[400])),
    ("clerr", Codes(&[400])),
    ("ncl", Codes(&[400])),
    ("scalar02", Codes(&[400])),
    ("scalarlg", Silence),
    ("quotbal", Codes(&[400])),
    ("ltgtruri", Codes(&[400])),
    ("lwsruri", Codes(&[400])),
    ("lwsstart", Codes(&[400])),
    ("trws", Call),
    ("escruri", Codes(&[400])),
    ("baddate", Call),
    ("regbadct", Codes(&[400, 405])),
    ("badaspec", Codes(&[200, 400])),
    ("baddn", Codes(&[200, 400])),
    ("badvers", Codes(&[505])),
    ("mismatch01", Codes(&[400])),
    ("mismatch02", Codes(&[400, 405, 501])),
    ("bigcode", Silence),
    ("badbranch", Codes(&[200])),
    ("insuf", Codes(&[400])),
    ("unkscm", Codes(&[416])),
    ("novelsc", Codes(&[416, 484])),
    ("unksm2", Codes(&[400, 405])),
    ("bext01", Codes(&[420])),
    ("invut", Codes(&[415])),
    ("regaut01", Codes(&[405])),
    ("multi01", Codes(&[400])),
    ("mcl01", Codes(&[400])),
    ("bcast", Silence),
    ("zeromf", Codes(&[483])),
    ("cparam01", Codes(&[405])),
    ("cparam02", Codes(&[405])),
    ("regescrt", Codes(&[405])),
    ("sdp01", Call),
    ("inv2543", Call),
];

/// Where the endpoint drops a message without a word although the RFC would have it answered: its parser takes none of
/// these, and what it cannot parse it cannot answer. All but one are broken or of methods that nobody has; `wsinv` is
/// sound, with folded lines and spaces before its colons, as no far end writes that we know of.
const DROPPED: [&str; 9] =
    ["wsinv", "intmeth", "esc02", "scalar02", "lwsruri", "lwsstart", "badvers", "mismatch02", "insuf"];
/// Where it takes a call that the RFC would rather have refused: what is wrong is mended on reading.
const MENDED: [&str; 2] = ["quotbal", "ltgtruri"];

/// Where the RFC's own message comes to something else than ours, and whether to a call: `badinv01` has nothing but stray
/// separators, which are skipped; `trws` is an OPTIONS; `inv2543` has neither the tag in From nor the Contact that RFC
/// 3261 wants (§8.1.1.3, §8.1.1.8), as ours has, and becomes a call when it is given both.
const ORIGINALS: [(&str, bool); 3] = [("badinv01", true), ("trws", false), ("inv2543", false)];

fn message(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire/sip").join(format!("{name}.sip"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// After so long nothing more comes.
const QUIET: Duration = Duration::from_millis(150);
/// Where something is due, it has more time.
const SOON: Duration = Duration::from_secs(5);

/// Sends bytes; the final codes that come back. `kept` keeps the socket: a refusal that nobody acknowledges is repeated for
/// 32 s, and must not reach a later case at the same port.
fn answers(bench: &Bench, bytes: &[u8], due: bool, kept: &mut Vec<UdpSocket>) -> Vec<u16> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(if due { SOON } else { QUIET })).unwrap();
    socket.send_to(bytes, bench.udp()).unwrap();
    let (mut codes, mut buffer) = (Vec::new(), vec![0; 65_536]);
    while let Ok(length) = socket.recv(&mut buffer) {
        let code = Message::parse(&buffer[..length]).code();
        assert!(length < bytes.len() + 600, "an answer of {length} bytes to {}", bytes.len());
        codes.push(code);
        socket.set_read_timeout(Some(QUIET)).unwrap();
    }
    kept.push(socket);
    codes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_of_rfc_4475_is_answered_rightly_or_not_at_all() {
    let mut bench = Bench::start(LOOPBACK).await;
    let (mut odd, mut kept) = (BTreeMap::new(), Vec::new());
    for (name, wanted) in CASES {
        let bytes = message(name);
        let due = !matches!(wanted, Silence) && !DROPPED.contains(&name);
        let codes = tokio::task::block_in_place(|| answers(&bench, &bytes, due, &mut kept));
        let call = bench.calls.try_recv().ok();
        let finals: Vec<u16> = codes.iter().copied().filter(|code| *code >= 200).collect();
        let right = match wanted {
            _ if DROPPED.contains(&name) => codes.is_empty() && call.is_none(),
            Codes(_) if MENDED.contains(&name) => call.is_some(),
            Call => call.is_some() && finals.is_empty(),
            Codes(codes) => call.is_none() && finals.first().is_some_and(|code| codes.contains(code)),
            Silence => codes.is_empty() && call.is_none(),
        };
        if !right {
            odd.insert(name, (codes, call.is_some()));
        }
        drop(call);
        let mut alive = Peer::new(&bench).await;
        assert_eq!(alive.ask("OPTIONS", 1, "", "").await.code(), 200, "after {name}");
    }
    assert!(odd.is_empty(), "{odd:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_hears_nothing_whichever_case_he_sends() {
    let bench = Bench::start(LOOPBACK).await;
    let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    for (name, _) in CASES {
        socket.send_to(&message(name), bench.udp()).unwrap();
    }
    let mut buffer = vec![0; 65_536];
    assert!(tokio::task::block_in_place(|| socket.recv(&mut buffer)).is_err());
    assert_eq!(bench.sip.tables().transactions, 0);
    let files = std::fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire/sip")).unwrap().count();
    assert_eq!(files, CASES.len(), "one message a case");
}

/// The RFC's own messages, byte for byte, where `.ci/setup` could have them: they are not ours to keep. Where they name
/// somebody else's address, nothing comes back; whether a call comes of them, and that the endpoint lives on, is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_messages_of_the_rfc_itself_are_taken_as_ours_are() {
    let at = |name: &str, otherwise: &str| {
        let beside_build = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join(otherwise);
        std::env::var_os(name).map_or(beside_build, PathBuf::from)
    };
    let Ok(files) = std::fs::read_dir(at("SAUTI_RFC4475", "rfc4475")) else {
        let skips = at("SAUTI_TEST_LOGS", "test-logs");
        std::fs::create_dir_all(&skips).unwrap();
        let mut skips = OpenOptions::new().create(true).append(true).open(skips.join("skipped.txt")).unwrap();
        writeln!(skips, "skipped: the messages of RFC 4475, because its text could not be had").unwrap();
        return;
    };
    let mut bench = Bench::start(&LOOPBACK.replacen("+35690000002", "*", 1)).await;
    let (mut odd, mut seen, mut kept) = (Vec::new(), 0, Vec::new());
    for file in files {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        tokio::task::block_in_place(|| answers(&bench, &bytes, false, &mut kept));
        let case = CASES.into_iter().find(|(case, _)| *case == name);
        let may = case.map(|(name, wanted)| {
            let differs = ORIGINALS.into_iter().find(|(original, _)| *original == name).map(|(_, call)| call);
            differs.unwrap_or_else(|| (wanted == Call || MENDED.contains(&name)) && !DROPPED.contains(&name))
        });
        let call = match may {
            Some(true) => tokio::time::timeout(SOON, bench.calls.recv()).await.is_ok(),
            _ => bench.calls.try_recv().is_ok(),
        };
        seen += usize::from(case.is_some());
        if may.is_some_and(|may| may != call) {
            odd.push((name.clone(), call));
        }
        let mut alive = Peer::new(&bench).await;
        assert_eq!(alive.ask("OPTIONS", 1, "", "").await.code(), 200, "after {name}");
    }
    assert!(seen >= 45, "{seen} of the RFC's messages");
    assert!(odd.is_empty(), "{odd:?}");
}

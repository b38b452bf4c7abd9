//! Calls of a trunk that a killed daemon left: at the next start each that stood gets its BYE, once.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use sauti_sim::openai::Script;
use tokio::net::{TcpListener, UdpSocket};

use super::carrier::Caller;
use super::world::{Options, World, model, until, until_async};

/// A port that is free for UDP and TCP: the daemon must have the same one after its crash.
async fn free_port() -> u16 {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let port = udp.local_addr().expect("an address").port();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            return port;
        }
    }
}

fn sealed(world: &World) -> i64 {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let ledger = rusqlite::Connection::open_with_flags(world.ledger(), flags).expect("a ledger");
    ledger.query_row("SELECT count(*) FROM live_dialogs", [], |row| row.get(0)).expect("a table")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_dialog_that_a_killed_daemon_left_gets_its_bye_once_at_the_next_start() {
    let port = free_port().await;
    let more = format!(
        "[sip]\nudp = \"127.0.0.1:{port}\"\ntcp = \"127.0.0.1:{port}\"\n[[trunk]]\nname = \"carrier\"\n\
         allow = [\"127.0.0.0/8\"]\noptions_every = \"0s\"\n[[trunk.route]]\ncalled = \"100\"\n"
    );
    // The fourth session is not configured before the crash, so that call still rings.
    let slow = |facts: &_| {
        let mut settings = model(Script::tones(3, Duration::from_secs(2)), facts);
        if facts.connection == 3 {
            settings.latency.session_updated = Duration::from_secs(60);
        }
        settings
    };
    let limits = "no_media = \"60s\"\nconnect_within = \"20s\"\n";
    let mut world = World::start(Options { more, limits, model: Arc::new(slow), ..Options::named("left") }).await;
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut callers = Vec::new();
    for (who, transport, wanted) in [(1, "UDP", 200), (2, "TCP", 200), (3, "UDP", 200), (4, "UDP", 180)] {
        let mut caller = Caller::new(transport, who, target).await;
        caller.dial(target, wanted).await;
        callers.push(caller);
    }
    until("three were accepted", || world.rows().iter().filter(|row| row.accepted_at.is_some()).count() == 3).await;
    // It rings before the ledger has it.
    until("the one that rings is written down", || world.rows().len() == 4).await;
    assert_eq!(sealed(&world), 3, "the one that rings has no dialog that stands");
    world.daemon.signal(Signal::SIGKILL);
    assert!(!world.daemon.ended().await.success());
    for file in ["ledger.db", "ledger.db-wal"] {
        let bytes = std::fs::read(world.folder.path().join(file)).expect("a file");
        for caller in &callers {
            for canary in [&caller.call_id, &caller.number] {
                assert!(!bytes.windows(canary.len()).any(|part| part == canary.as_bytes()), "sealed in {file}");
            }
        }
    }
    // The third one's carrier is gone as well.
    let dead = callers.remove(2);
    drop(dead);
    world.restart().await;
    for caller in &mut callers[..2] {
        caller.is_told().await;
    }
    let count = |kind| format!("sauti_sip_farewells_total{{kind=\"{kind}\"}}");
    until_async("the dead one is given up", async || world.metric(&count("silent")).await >= 1.0).await;
    assert_eq!((world.metric(&count("confirmed")).await, world.metric(&count("silent")).await), (2.0, 1.0));
    let trouble = world.daemon.entries("TRUNK_CALL_ERROR");
    assert_eq!(trouble.len(), 1, "said once: {trouble:?}");
    assert_eq!((&trouble[0]["STAGE"], &trouble[0]["REASON"]), (&"farewell".into(), &"silent".into()));
    assert!(callers[2].is_left_alone().await, "a call that rings has no dialog to end");
    let ends: Vec<_> = world.rows().into_iter().map(|row| (row.outcome, row.fault)).collect();
    assert_eq!(ends, vec![(Some("restart".to_owned()), Some("box".to_owned())); 4]);
    until("nothing stays sealed", || sealed(&world) == 0).await;
    assert_eq!(world.metric("sauti_table_live_calls").await, 0.0);
    for caller in &mut callers {
        // A BYE that was repeated before it was answered.
        while !caller.is_left_alone().await {}
    }
    assert!(world.stop().await.success());
    world.restart().await;
    for caller in &mut callers {
        assert!(caller.is_left_alone().await, "told once");
    }
    assert!(world.stop().await.success());
}

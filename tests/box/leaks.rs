//! Many short calls, some of which never connect: afterwards the daemon is as it was before.
//!
//! A few dozen cycles in every run; `SAUTI_CYCLES=2000` for the long one, whose figures are printed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sauti::simulate::loopback::phones::Manner;
use sauti_sim::caller::person::Step;
use sauti_sim::whatsapp::calls::Cause;
use tokio::task::JoinSet;

use super::world::{Options, World, until};

/// Calls at one time.
const TOGETHER: u32 = 4;
/// One in so many finds no way through ICE.
const DEAF: u32 = 5;

/// Who was refused calls again after this long: the box looks at its lateness once a second.
const CALL_AGAIN: Duration = Duration::from_secs(1);

/// What became of some cycles.
#[derive(Debug, Clone, Copy, Default)]
struct Went {
    /// Accepted, and hung up by the caller.
    connected: u32,
    /// Refused at once, because this machine was too busy to be heard well; done again.
    refused: u32,
}

/// Runs cycles `from..to`, a few at a time.
async fn cycles(world: &World, from: u32, mut to: u32) -> Went {
    let mut running = JoinSet::new();
    let most = from + 4 * (to - from);
    let (mut next, mut went) = (from, Went::default());
    while next < to || !running.is_empty() {
        if next < to && running.len() < TOGETHER as usize {
            let deaf = next % DEAF == DEAF - 1;
            // Who gets no connection hangs up after a while, as people do; or the daemon gives up first.
            let impatient = deaf && next.is_multiple_of(2);
            let gives_up = impatient.then_some(Duration::from_millis(400));
            let manner = Manner { deaf, gives_up, ..Manner::default() };
            let script = vec![Step::Pause(Duration::from_millis(200)), Step::HangUp];
            let call = world.call_as(next % 1_000, script, manner);
            running.spawn(async move { (deaf, call.await.expect("the phone lives")) });
            next += 1;
            continue;
        }
        if let Some(one) = running.join_next().await {
            let (deaf, lived) = one.expect("the phone lives");
            assert_eq!(lived.trouble, None);
            assert!(matches!(lived.over, Some(Cause::HungUp | Cause::Rejected)), "{:?}", lived.over);
            assert!(!deaf || lived.connected.is_none(), "the deaf hear nothing");
            went.connected += u32::from(lived.accepted.is_some());
            if lived.over == Some(Cause::Rejected) && lived.answered.is_none() {
                went.refused += 1;
                to = most.min(to + 1);
                tokio::time::sleep(CALL_AGAIN).await;
            }
        }
    }
    went
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_and_closing_leaves_memory_descriptors_and_tables_where_they_were() {
    let count = std::env::var("SAUTI_CYCLES").ok().and_then(|count| count.parse().ok()).unwrap_or(30);
    let limits = "no_media = \"3s\"\nmax_calls = 100\n";
    let world = World::start(Options { limits, ..Options::named("leaks") }).await;
    // Pools, arenas and connections are made by the first calls and kept.
    let warm = 4 * TOGETHER;
    let first = cycles(&world, 0, warm).await;
    world.until_tables_are_empty().await;
    let before = world.daemon.footprint();
    let began = Instant::now();
    let half = warm + count / 2;
    let run = async {
        let mut went = cycles(&world, warm, half).await;
        let middle = world.daemon.footprint();
        let rest = cycles(&world, half, warm + count).await;
        went.connected += rest.connected;
        went.refused += rest.refused;
        (went, middle)
    };
    let highest = RefCell::new(BTreeMap::<String, f64>::new());
    let watch = async {
        loop {
            for (name, size) in world.tables().await {
                let mut highest = highest.borrow_mut();
                let seen = highest.entry(name).or_default();
                *seen = seen.max(size);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (went, middle) = tokio::select! {
        done = run => done,
        () = watch => unreachable!("it watches for ever"),
    };
    world.until_tables_are_empty().await;
    let highest = highest.into_inner();
    for name in ["calls", "legs", "slots", "drains", "live_calls"] {
        let seen = highest.get(&format!("sauti_table_{name}")).copied().unwrap_or(0.0);
        assert!(seen > 0.0, "{name} was never above 0: {highest:?}");
    }
    // Connections to far ends that closed are noticed when they are used next, or when the peer's close is read.
    until("descriptors return", || world.daemon.footprint().descriptors <= before.descriptors + 2).await;
    let after = world.daemon.footprint();
    eprintln!(
        "{count} cycles, {went:?}, in {:.1} s: before {before:?}, half way {middle:?}, after {after:?}; \
         tables at most {highest:?}",
        began.elapsed().as_secs_f64(),
    );
    // Threads for short blocking work come with the calls and leave after some idle seconds.
    assert!(after.threads <= before.threads + u64::from(TOGETHER), "{after:?}");
    let grown = after.rss_kib.saturating_sub(before.rss_kib);
    assert!(grown < 8 * 1024, "memory grew by {grown} KiB over {count} cycles");
    let rows = world.rows();
    assert_eq!(rows.len(), (warm + count + first.refused + went.refused) as usize);
    assert!(rows.iter().all(|row| row.outcome.is_some()));
    assert!(went.connected >= count * (DEAF - 1) / DEAF * 9 / 10, "{went:?}");
}

//! Calls that do not end as they should, many at once, after which nothing is left (peers §3, bugs 47 to 49).

use std::time::Duration;

use sauti::sip::DialogEvent;

use super::bench::{ANSWER, Bench, LOOPBACK, OFFER, Peer, SOON, answer_all, event, tally};
use super::calls::reply;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_gives_up_gets_her_487_at_every_stage() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut early = Peer::new(&bench).await;
    early.invite("", OFFER).await;
    let cancel = early.request_in("CANCEL", 1, 1, "", "");
    early.send(&cancel).await;
    let mut codes = Vec::new();
    while codes.len() < 2 {
        let message = early.receive().await;
        if message.code() >= 200 {
            codes.push((message.code(), message.header("CSeq").unwrap_or_default().to_owned()));
        }
    }
    codes.sort();
    assert_eq!(codes, [(200, "1 CANCEL".to_owned()), (487, "1 INVITE".to_owned())]);
    let mut invite = bench.call().await;
    assert!(matches!(event(&mut invite.events).await, DialogEvent::Cancelled));
    assert!(invite.dialog.answer(ANSWER).await.is_err(), "too late");

    let mut by_bye = Peer::new(&bench).await;
    by_bye.invite("", OFFER).await;
    by_bye.until("180").await;
    let bye = by_bye.request("BYE", 2, "", "");
    by_bye.send(&bye).await;
    let mut codes = Vec::new();
    while codes.len() < 2 {
        let message = by_bye.receive().await;
        if message.code() >= 200 {
            codes.push(message.code());
        }
    }
    codes.sort_unstable();
    assert_eq!(codes, [200, 487], "a BYE in the early dialog ends the INVITE too");
    bench.call().await;

    let mut late = Peer::new(&bench).await;
    let (mut invite, _) = late.talk(&mut bench, "").await;
    let cancel = late.request_in("CANCEL", 1, 1, "", "");
    late.send(&cancel).await;
    assert!(matches!(late.receive().await.code(), 200 | 481));
    assert!(invite.events.try_recv().is_err(), "a CANCEL after the answer changes nothing");
    assert_eq!(late.ask("BYE", 2, "", "").await.code(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialog_that_is_dropped_is_not_left_hanging() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut ringing = Peer::new(&bench).await;
    ringing.invite("", OFFER).await;
    drop(bench.call().await);
    assert_eq!(ringing.until("4").await.code(), 480);
    let ack = ringing.request_in("ACK", 1, 1, "", "");
    ringing.send(&ack).await;
    let mut talking = Peer::new(&bench).await;
    drop(talking.talk(&mut bench, "").await);
    let bye = talking.until("BYE").await;
    talking.send(&reply(&bye, 200, "")).await;
    bench.idle(Duration::from_secs(45)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bye_that_the_far_end_does_not_know_any_more_ends_the_call_at_once() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut peer = Peer::new(&bench).await;
    let (invite, _) = peer.talk(&mut bench, "").await;
    let dialog = invite.dialog.clone();
    let begun = std::time::Instant::now();
    let ending = tokio::spawn(async move { dialog.bye().await });
    let bye = peer.until("BYE").await;
    peer.send(&reply(&bye, 481, "")).await;
    // Whether it counts as said or as refused is all the same: it is over.
    ending.await.unwrap().ok();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // Whoever attends to the dialog takes it out of the table just after.
    while bench.sip.tables().dialogs > 0 {
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", bench.sip.tables());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(peer.is_left_alone().await, "and is not said again");
    drop(invite);
    bench.idle(Duration::from_secs(45)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_of_each_bad_ending_leave_nothing_behind() {
    let text = LOOPBACK.replace("calls_per_second = 200", "calls_per_second = 1000\ncalls = 2000");
    let Bench { sip, calls, metrics } = Bench::start(&format!("[limits]\nmax_calls = 400\n{text}")).await;
    let mut endings = answer_all(calls);
    let (stand_in, unused) = tokio::sync::mpsc::channel(1);
    drop(stand_in);
    let bench = Bench { sip, calls: unused, metrics };
    let mut peers = Vec::new();
    for number in 0..800_u32 {
        let mut peer = Peer::new(&bench).await;
        peer.invite("", OFFER).await;
        if number % 40 == 39 {
            // The box sets the pace: this one is answered when those before it were taken, so no more than these wait.
            peer.until("200").await;
        }
        peers.push((number % 4, peer));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for (kind, mut peer) in peers {
        tasks.spawn(async move {
            if peer.to_tag.is_empty() {
                peer.until("200").await;
            }
            match kind {
                // never a word again: no ACK
                0 => {}
                // hangs up without ever having acknowledged
                1 => assert_eq!(peer.ask("BYE", 2, "", "").await.code(), 200),
                // the wrong tag first, then the right one
                2 => {
                    peer.ack(1, "").await;
                    let right = std::mem::replace(&mut peer.to_tag, "guess".to_owned());
                    assert_eq!(peer.ask("BYE", 2, "", "").await.code(), 481);
                    peer.to_tag = right;
                    assert_eq!(peer.ask("BYE", 3, "", "").await.code(), 200);
                }
                // twice
                _ => {
                    peer.ack(1, "").await;
                    assert_eq!(peer.ask("BYE", 2, "", "").await.code(), 200);
                    assert_eq!(peer.ask("BYE", 3, "", "").await.code(), 481);
                }
            }
        });
    }
    let highest = bench.sip.tables();
    assert!(highest.dialogs >= 200 && highest.transactions >= 200, "{highest:?}");
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let mut ended = Vec::new();
    while ended.len() < 800 {
        ended.push(tokio::time::timeout(Duration::from_secs(60), endings.recv()).await.expect("an ending").unwrap());
    }
    let ended = tally(ended);
    assert_eq!((ended.get("no ack"), ended.get("bye")), (Some(&200), Some(&600)), "{ended:?}");
    // our BYE to those who vanished is repeated for 32 s, and repeats of it are remembered for as long again
    bench.idle(Duration::from_secs(120)).await;
    assert!(SOON < Duration::from_secs(32));
}

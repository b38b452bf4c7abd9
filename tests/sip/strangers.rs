//! Whoever is not known gets no answer; whoever is known gets no more than it may have (peers §3, bugs 73 and 74).

use std::time::Duration;

use sauti::sip::DialogEvent;
use sauti_core::pii::Pii;

use super::bench::{Bench, LOOPBACK, OFFER, Peer, event};
use super::calls::reply;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_no_trunk_names_gets_not_a_byte() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut stranger = Peer::at("127.0.0.2", bench.udp()).await;
    for method in ["INVITE", "OPTIONS", "REGISTER", "BYE", "SUBSCRIBE"] {
        let request = stranger.request(method, 1, "", OFFER);
        stranger.send(&request).await;
    }
    for rubbish in ["\r\n\r\n", "INVITE", "\u{0}\u{1}", "SIP/2.0 200 OK\r\n\r\n"] {
        stranger.send(rubbish).await;
    }
    assert!(stranger.is_left_alone().await);
    bench.no_call().await;
    assert_eq!(bench.metric("sauti_sip_refused_total{kind=\"unknown_source\"}"), 9.0);
    let tables = bench.sip.tables();
    assert_eq!((tables.dialogs, tables.transactions, tables.sources), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bye_or_an_answer_from_elsewhere_changes_no_call_even_with_the_right_tags() {
    let text = format!(
        "{LOOPBACK}[[trunk]]\nname = \"other\"\nallow = [\"127.0.0.3\"]\noptions_every = \"0s\"\n\
         [[trunk.route]]\ncalled = \"*\"\n"
    );
    let mut bench = Bench::start(&text).await;
    let mut peer = Peer::new(&bench).await;
    let (mut invite, _) = peer.talk(&mut bench, "").await;
    for (from, heard) in [("127.0.0.2", "nothing: a stranger"), ("127.0.0.3", "nothing: another trunk")] {
        let mut forger = Peer::at(from, bench.udp()).await;
        (forger.call_id, forger.tag, forger.to_tag) = (peer.call_id.clone(), peer.tag.clone(), peer.to_tag.clone());
        let bye = forger.request("BYE", 2, "", "");
        forger.send(&bye).await;
        assert!(forger.is_left_alone().await, "{heard}");
    }
    let dialog = invite.dialog.clone();
    let asking = tokio::spawn(async move { dialog.refer(&Pii::new("sip:desk@example.org")).await });
    let asked = peer.until("REFER").await;
    let refused = bench.metric("sauti_sip_refused_total{kind=\"unknown_source\"}");
    let forger = Peer::at("127.0.0.3", bench.udp()).await;
    forger.send(&reply(&asked, 603, "")).await;
    let begun = std::time::Instant::now();
    while bench.metric("sauti_sip_refused_total{kind=\"unknown_source\"}") <= refused {
        assert!(begun.elapsed() < Duration::from_secs(5), "it was taken for the right one's");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    peer.send(&reply(&asked, 202, "")).await;
    assert_eq!(asking.await.unwrap(), Ok(()), "another trunk refuses nothing in its name");
    let right = peer.to_tag.clone();
    peer.to_tag = "guessed".to_owned();
    assert_eq!(peer.ask("BYE", 2, "", "").await.code(), 481, "right source, wrong tag");
    assert!(invite.events.try_recv().is_err(), "the call goes on");
    peer.to_tag = right;
    assert_eq!(peer.ask("BYE", 3, "", "").await.code(), 200);
    assert!(matches!(event(&mut invite.events).await, DialogEvent::Bye));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_source_that_runs_wild_is_cut() {
    let text = LOOPBACK.replace("calls_per_second = 200", "calls_per_second = 5\ncalls = 3");
    let mut bench = Bench::start(&text).await;
    let mut scanner = Peer::new(&bench).await;
    for _ in 0..100 {
        let options = scanner.request("OPTIONS", 1, "", "");
        scanner.send(&options).await;
    }
    let mut answered = 0;
    while let Ok(message) = tokio::time::timeout(Duration::from_millis(400), scanner.receive()).await {
        assert_eq!(message.code(), 200);
        answered += 1;
    }
    assert!((20..=30).contains(&answered), "{answered} of 100 answered");
    let mut codes = Vec::new();
    let mut kept = Vec::new();
    let begun = std::time::Instant::now();
    for _ in 0..8 {
        let mut peer = Peer::new(&bench).await;
        peer.invite("", OFFER).await;
        let first = peer.until("").await;
        let answer = if first.code() == 100 { peer.until("").await } else { first };
        codes.push((answer.code(), answer.header("Retry-After").map(str::to_owned)));
        kept.push(peer);
    }
    let three = codes.iter().filter(|(code, _)| *code == 180).count();
    let full = codes.iter().filter(|(code, after)| *code == 503 && after.as_deref() == Some("5")).count();
    let rate = codes.iter().filter(|(code, after)| *code == 503 && after.as_deref() == Some("1")).count();
    // One more is looked at for each fifth of a second that this took.
    let more = usize::try_from(begun.elapsed().as_millis() / 200).unwrap();
    assert_eq!((three, full + rate), (3, 5), "{codes:?}");
    assert!((2..=2 + more).contains(&full), "{codes:?} in {:?}", begun.elapsed());
    for _ in 0..3 {
        bench.call().await;
    }
}

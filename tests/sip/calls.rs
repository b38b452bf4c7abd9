//! Calls that come in: what is answered, offered, renewed and refused, message by message.

use std::time::Duration;

use sauti::sip::{Broken, DialogError, DialogEvent, Invite, NO_ACK, Refuse};
use sauti_core::sip::trace::Way;

use super::bench::{ANSWER, Bench, LOOPBACK, Message, OFFER, Peer, event, shown};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_rings_at_once_is_answered_with_a_contact_and_ends_with_bye() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut peer = Peer::new(&bench).await;
    peer.invite("Record-Route: <sip:127.0.0.1:5999;lr>\r\nRecord-Route: <sip:127.0.0.1:5998;lr>\r\n", OFFER).await;
    // a 100 comes before it only where the transaction was looked at before it rang
    peer.until("180").await;
    let mut invite = bench.call().await;
    assert_eq!((&*invite.trunk, invite.route.called.as_str()), ("test", "+35690000002"));
    assert_eq!(shown(invite.caller.as_ref()), Some("+250780000001"));
    assert_eq!(shown(invite.called.as_ref()), Some("+35690000002"));
    assert_eq!(shown(invite.offer.as_ref()), Some(OFFER));
    assert!(!format!("{invite:?}").contains("250780000001"));
    invite.dialog.answer(ANSWER).await.unwrap();
    assert_eq!(invite.dialog.answer(ANSWER).await, Err(DialogError::Gone), "once");
    let answer = peer.until("200").await;
    let port = bench.udp().port();
    assert_eq!(answer.header("Contact"), Some(format!("<sip:sauti@127.0.0.1:{port}>").as_str()), "field bug 45");
    assert_eq!(answer.all("Record-Route").len(), 2);
    assert_eq!((answer.body.as_str(), answer.header("Content-Type")), (ANSWER, Some("application/sdp")));
    peer.ack(1, "").await;
    assert!(matches!(event(&mut invite.events).await, DialogEvent::Confirmed { sdp: None }));
    assert_eq!(peer.ask("BYE", 2, "", "").await.code(), 200);
    assert!(matches!(event(&mut invite.events).await, DialogEvent::Bye));
    let trace = invite.dialog.messages().lines();
    let told = trace.iter().filter(|line| !line.first.starts_with("100"));
    let lines: Vec<_> = told.map(|line| (line.way, line.first.split(' ').next().unwrap())).collect();
    let (to_us, from_us) = (Way::In, Way::Out);
    let expected =
        [(to_us, "INVITE"), (from_us, "180"), (from_us, "200"), (to_us, "ACK"), (to_us, "BYE"), (from_us, "200")];
    assert_eq!(lines, expected);
    assert!(!format!("{trace:?}").contains("35690000002"), "{trace:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_bye_follows_the_record_route_and_the_contact() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut peer = Peer::new(&bench).await;
    let own = peer.own();
    let (invite, _) =
        peer.talk(&mut bench, &format!("Record-Route: <sip:{own};lr>, <sip:127.0.0.1:5998;lr>\r\n")).await;
    let dialog = invite.dialog.clone();
    let ended = tokio::spawn(async move { dialog.bye().await });
    let bye = peer.until("BYE").await;
    assert_eq!(bye.first, format!("BYE sip:peer@{own} SIP/2.0"));
    let routes = bye.all("Route").join(", ");
    assert_eq!(routes, format!("<sip:{own};lr>, <sip:127.0.0.1:5998;lr>"), "strictly in order");
    peer.send(&reply(&bye, 200, "")).await;
    ended.await.unwrap().unwrap();
}

/// An answer to a request that came.
pub(crate) fn reply(request: &Message, code: u16, more: &str) -> String {
    let via: Vec<String> = request.all("Via").iter().map(|via| format!("Via: {via}\r\n")).collect();
    let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
    let to = header("To");
    let to = if to.contains("tag=") { to } else { format!("{to};tag=far") };
    let body = more.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let headers = more.split_once("\r\n\r\n").map_or(more, |(headers, _)| headers);
    let headers = if headers.is_empty() { String::new() } else { format!("{headers}\r\n") };
    format!(
        "SIP/2.0 {code} Said\r\n{}From: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        via.concat(),
        header("From"),
        header("Call-ID"),
        header("CSeq"),
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_offer_is_ours_in_the_200_and_theirs_in_the_ack() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut peer = Peer::new(&bench).await;
    peer.invite("", "").await;
    let mut invite = bench.call().await;
    assert!(invite.offer.is_none());
    invite.dialog.answer(ANSWER).await.unwrap();
    assert_eq!(peer.until("200").await.body, ANSWER);
    peer.ack(1, OFFER).await;
    let DialogEvent::Confirmed { sdp } = event(&mut invite.events).await else { panic!() };
    assert_eq!(shown(sdp.as_ref()), Some(OFFER));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_re_invite_that_leaves_the_offer_to_us_is_answered_in_its_ack() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut peer = Peer::new(&bench).await;
    let (mut invite, _) = peer.talk(&mut bench, "").await;
    let asked = peer.request("INVITE", 2, "", "");
    peer.send(&asked).await;
    let DialogEvent::Reoffer { sdp: None, reply } = event(&mut invite.events).await else { panic!() };
    reply.answer(ANSWER).await;
    assert_eq!(peer.until("200").await.body, ANSWER);
    peer.ack(2, OFFER).await;
    let DialogEvent::Answered { sdp } = event(&mut invite.events).await else { panic!() };
    assert_eq!(shown(Some(&sdp)), Some(OFFER));
    // After other requests too the library says that the dialog stands; that is no answer.
    for sequence in [3, 4] {
        let key = peer.ask("INFO", sequence, "Content-Type: application/dtmf-relay\r\n", "Signal=5\r\n").await;
        assert_eq!(key.code(), 200);
        assert!(matches!(event(&mut invite.events).await, DialogEvent::Dtmf('5')));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hold_refresh_keys_and_refusals_within_a_call() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut peer = Peer::new(&bench).await;
    let (mut invite, _) = peer.talk(&mut bench, "").await;
    let answers = tokio::spawn(async move {
        let DialogEvent::Reoffer { sdp, reply } = event(&mut invite.events).await else { panic!() };
        assert!(shown(sdp.as_ref()).unwrap().contains("a=sendonly"));
        reply.answer(&format!("{ANSWER}a=recvonly\r\n")).await;
        let DialogEvent::Reoffer { reply, .. } = event(&mut invite.events).await else { panic!() };
        reply.refuse(488).await;
        let DialogEvent::Reoffer { reply, .. } = event(&mut invite.events).await else { panic!() };
        drop(reply);
        let DialogEvent::Dtmf('5') = event(&mut invite.events).await else { panic!() };
        invite
    });
    let held = peer.ask("INVITE", 2, "", &format!("{OFFER}a=sendonly\r\n")).await;
    assert!(held.code() == 200 && held.body.ends_with("a=recvonly\r\n") && held.header("Contact").is_some());
    peer.ack(2, "").await;
    let refused = peer.request("INVITE", 3, "", OFFER);
    peer.send(&refused).await;
    assert_eq!(peer.until("488").await.header("CSeq"), Some("3 INVITE"));
    let ack = peer.request_in("ACK", 3, 5, "", "");
    peer.send(&ack).await;
    assert_eq!(peer.ask("UPDATE", 4, "", OFFER).await.code(), 488, "an offer that nobody looked at");
    assert_eq!(
        peer.ask("UPDATE", 5, "Session-Expires: 200;refresher=uac\r\nSupported: timer\r\n", "")
            .await
            .header("Session-Expires"),
        Some("200;refresher=uac")
    );
    assert_eq!(peer.ask("INFO", 6, "Content-Type: application/dtmf-relay\r\n", "Signal=5\r\n").await.code(), 200);
    assert_eq!(peer.ask("INFO", 7, "Content-Type: text/plain\r\n", "hello").await.code(), 415);
    assert_eq!(peer.ask("OPTIONS", 8, "", "").await.code(), 200);
    assert_eq!(peer.ask("REFER", 9, "Refer-To: <sip:x@y>\r\n", "").await.code(), 603);
    assert_eq!(
        peer.ask(
            "NOTIFY",
            10,
            "Event: refer\r\nSubscription-State: active\r\nContent-Type: message/sipfrag\r\n",
            "SIP/2.0 100 Trying"
        )
        .await
        .code(),
        481,
        "nobody referred"
    );
    assert_eq!(
        peer.ask("INFO", 3, "Content-Type: application/dtmf-relay\r\n", "Signal=5\r\n").await.code(),
        500,
        "out of order"
    );
    let mut invite = answers.await.unwrap();
    assert_eq!(peer.ask("BYE", 11, "", "").await.code(), 200);
    assert!(matches!(event(&mut invite.events).await, DialogEvent::Bye));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_offer_and_our_refer_get_their_answers() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut peer = Peer::new(&bench).await;
    let (mut invite, _) = peer.talk(&mut bench, "").await;
    let (dialog, own) = (invite.dialog.clone(), peer.own());
    let offering = tokio::spawn(async move { dialog.reinvite(ANSWER).await });
    let asked = peer.until("INVITE").await;
    assert_eq!(asked.body, ANSWER);
    peer.send(&reply(
        &asked,
        200,
        &format!("Contact: <sip:peer@{own}>\r\nContent-Type: application/sdp\r\n\r\n{OFFER}"),
    ))
    .await;
    assert_eq!(shown(offering.await.unwrap().ok().as_ref()), Some(OFFER));
    peer.until("ACK").await;
    let dialog = invite.dialog.clone();
    let referring = tokio::spawn(async move { dialog.refer(&sauti_core::pii::Pii::new("sip:desk@example.org")).await });
    let asked = peer.until("REFER").await;
    assert_eq!(asked.header("Refer-To"), Some("<sip:desk@example.org>"));
    peer.send(&reply(&asked, 202, "")).await;
    referring.await.unwrap().unwrap();
    for (sequence, status, state) in
        [(2, "100 Trying", "active;expires=60"), (3, "200 OK", "terminated;reason=noresource")]
    {
        let headers = format!("Event: refer\r\nSubscription-State: {state}\r\nContent-Type: message/sipfrag\r\n");
        assert_eq!(peer.ask("NOTIFY", sequence, &headers, &format!("SIP/2.0 {status}\r\n")).await.code(), 200);
    }
    assert!(matches!(event(&mut invite.events).await, DialogEvent::Referred { code: 100, is_final: false }));
    assert!(matches!(event(&mut invite.events).await, DialogEvent::Referred { code: 200, is_final: true }));
    let dialog = invite.dialog.clone();
    let referring = tokio::spawn(async move { dialog.refer(&sauti_core::pii::Pii::new("sip:desk@example.org")).await });
    let asked = peer.until("REFER").await;
    peer.send(&reply(&asked, 603, "")).await;
    assert_eq!(referring.await.unwrap(), Err(DialogError::Refused { code: 603, retry_after: None }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reliable_ringing_is_repeated_until_prack() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut peer = Peer::new(&bench).await;
    peer.invite("Require: 100rel\r\n", OFFER).await;
    let first = peer.until("180").await;
    assert!(first.header("Require").is_some_and(|require| require.contains("100rel")));
    let sequence = first.header("RSeq").unwrap().to_owned();
    let again = peer.until("180").await;
    assert_eq!(again.header("RSeq"), Some(sequence.as_str()), "the same one again");
    assert_eq!(peer.ask("PRACK", 2, &format!("RAck: {sequence} 1 INVITE\r\n"), "").await.code(), 200);
    assert!(peer.is_left_alone().await, "and no more after it");
    let invite = bench.call().await;
    invite.dialog.answer(ANSWER).await.unwrap();
    peer.until("200").await;
    peer.ack(1, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_is_said_rightly() {
    let mut bench = Bench::start(LOOPBACK).await;
    let cases: [(&str, &str, u16, &str, Option<&str>); 6] = [
        ("Require: nosuch, timer\r\n", OFFER, 420, "Unsupported", Some("nosuch")),
        ("Content-Type: text/plain\r\n", "hello", 415, "Accept", Some("application/sdp")),
        ("Content-Encoding: gzip\r\n", OFFER, 415, "Accept", Some("application/sdp")),
        ("Session-Expires: 30\r\nSupported: timer\r\n", OFFER, 422, "Min-SE", Some("90")),
        ("Max-Forwards: 0\r\n", OFFER, 483, "Retry-After", None),
        ("To: <sip:x@y>;tag=gone\r\n", OFFER, 481, "Retry-After", None),
    ];
    for (headers, body, code, name, value) in cases {
        let mut peer = Peer::new(&bench).await;
        let mut request = peer.request("INVITE", 1, "", body);
        for line in headers.split_inclusive("\r\n") {
            let (header, _) = line.split_once(':').unwrap();
            let kept = request.split_inclusive("\r\n").filter(|one| !one.starts_with(&format!("{header}:")));
            request = kept.collect::<String>().replacen("Content-Length", &format!("{line}Content-Length"), 1);
        }
        peer.send(&request).await;
        let answer = peer.until("4").await;
        assert_eq!((answer.code(), answer.header(name)), (code, value), "{headers}");
    }
    let mut peer = Peer::new(&bench).await;
    let wrong = peer.request("INVITE", 1, "", OFFER).replace("INVITE sip:+35690000002", "INVITE sip:+35690000003");
    peer.send(&wrong).await;
    assert_eq!(peer.until("4").await.code(), 404, "no route");
    let mut peer = Peer::new(&bench).await;
    let register = peer.ask("REGISTER", 1, "", "").await;
    assert!(register.code() == 405 && register.header("Allow").is_some_and(|allow| allow.contains("INVITE")));
    bench.no_call().await;
    let mut peer = Peer::new(&bench).await;
    peer.invite("", OFFER).await;
    let invite = bench.call().await;
    let later = Refuse { code: 503, retry_after: Some(Duration::from_secs(17)) };
    invite.dialog.refuse(later).await.unwrap();
    let answer = peer.until("503").await;
    assert_eq!(answer.header("Retry-After"), Some("17"));
    let mut twice = Peer::new(&bench).await;
    twice.invite("", OFFER).await;
    // Dropped it would be refused, perhaps before the other way is tried.
    let rings = bench.call().await;
    let forked = twice.request("INVITE", 1, "", OFFER);
    twice.send(&forked).await;
    assert_eq!(twice.until("48").await.code(), 482, "the same call by another way");
    drop(rings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_nobody_refreshes_ends_and_others_are_refreshed_by_update_or_re_invite() {
    let mut bench = Bench::start(LOOPBACK).await;
    let mut peer = Peer::new(&bench).await;
    let more = "Session-Expires: 90;refresher=uas\r\nSupported: timer\r\n";
    let mut others = Vec::new();
    for takes in [Update::Unnamed, Update::Refused, Update::Answered] {
        let mut other = Peer::new(&bench).await;
        let allow = if takes == Update::Unnamed { "Allow: INVITE, ACK, BYE, CANCEL\r\n" } else { "" };
        let (invite, _) = other.talk(&mut bench, &format!("{more}{allow}")).await;
        others.push(tokio::spawn(refreshed(other, invite, takes)));
    }
    let (mut invite, answer) = peer.talk(&mut bench, more).await;
    assert_eq!(answer.header("Session-Expires"), Some("90;refresher=uas"));
    let begun = std::time::Instant::now();
    let refresh = tokio::time::timeout(Duration::from_secs(50), async {
        loop {
            if let Ok(message) = tokio::time::timeout(Duration::from_secs(1), peer.receive_any()).await {
                return message;
            }
        }
    });
    let refresh = refresh.await.unwrap();
    assert!(refresh.first.starts_with("UPDATE ") && (44..47).contains(&begun.elapsed().as_secs()), "{refresh:?}");
    assert_eq!(refresh.header("Session-Expires"), Some("90;refresher=uac"));
    // not answered: a third before the end, the box gives up
    let broken = tokio::time::timeout(Duration::from_secs(20), invite.events.recv()).await.unwrap();
    assert!(matches!(broken, Some(DialogEvent::Broken(Broken::SessionExpired))), "{broken:?}");
    let bye = loop {
        let message = peer.receive_any().await;
        if message.first.starts_with("BYE") {
            break message;
        }
    };
    peer.send(&reply(&bye, 200, "")).await;
    assert!(NO_ACK.contains("advertise"));
    for other in others {
        other.await.unwrap();
    }
}

/// The next message, however long the far end waits before it says something.
async fn at_last(peer: &mut Peer) -> Message {
    let patience = std::time::Instant::now() + Duration::from_secs(50);
    loop {
        if let Ok(message) = tokio::time::timeout(Duration::from_secs(1), peer.receive_any()).await {
            return message;
        }
        assert!(std::time::Instant::now() < patience, "nothing comes");
    }
}

/// How a far end takes our UPDATE.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Update {
    /// Its `Allow` does not name it, so that none comes.
    Unnamed,
    /// It refuses it.
    Refused,
    /// It answers, and that is all.
    Answered,
}

/// A far end whose call outlives the time after which it would have been given up.
async fn refreshed(mut peer: Peer, mut invite: Invite, takes: Update) {
    if takes != Update::Unnamed {
        let update = at_last(&mut peer).await;
        assert!(update.first.starts_with("UPDATE "), "{update:?}");
        let renewed = "Require: timer\r\nSession-Expires: 90;refresher=uac";
        let (code, headers) = if takes == Update::Answered { (200, renewed) } else { (405, "") };
        peer.send(&reply(&update, code, headers)).await;
    }
    if takes != Update::Answered {
        let due = tokio::time::timeout(Duration::from_secs(50), invite.events.recv()).await.unwrap();
        assert!(matches!(due, Some(DialogEvent::RefreshDue)), "{due:?}");
        let dialog = invite.dialog.clone();
        let offering = tokio::spawn(async move { dialog.reinvite(ANSWER).await });
        let asked = peer.until("INVITE").await;
        assert_eq!((asked.body.as_str(), asked.header("Session-Expires")), (ANSWER, Some("90;refresher=uac")));
        let answer = format!(
            "Contact: <sip:peer@{}>\r\nRequire: timer\r\nSession-Expires: 90;refresher=uac\r\n\
             Content-Type: application/sdp\r\n\r\n{OFFER}",
            peer.own()
        );
        peer.send(&reply(&asked, 200, &answer)).await;
        assert_eq!(shown(offering.await.unwrap().ok().as_ref()), Some(OFFER));
        peer.until("ACK").await;
    }
    let later = tokio::time::timeout(Duration::from_secs(20), invite.events.recv()).await;
    assert!(later.is_err(), "the call goes on: {later:?}");
}

use sauti_core::pii::Pii;
use secrecy::SecretString;

use super::*;

const NUMBER: &str = "35690000002";
const PASSWORD: &str = "canary-trunk-password";
const URI: &str = "sip:+250780000001@wa.meta.vc;transport=tls";
const OFFER: &str = "v=0\r\na=rtpmap:111 opus/48000/2\r\n";

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
fn waiting() -> (Instant, Callee) {
    let account = Account::new(&Pii::new(NUMBER), "edge.example.org", SecretString::from(PASSWORD));
    (Instant::now(), Callee::new(account, 5))
}

fn invite(uri: &str, from_host: &str) -> Message {
    Message::new(format!("INVITE {uri} SIP/2.0"))
        .with("Via", "SIP/2.0/TLS edge.example.org:5061;branch=z9hG4bK1")
        .with("From", format!("<sip:+{NUMBER}@{from_host}>;tag=box"))
        .with("To", format!("<{uri}>"))
        .with("Call-ID", "c1")
        .with("CSeq", "1 INVITE")
        .with("Contact", "<sip:sauti@edge.example.org:5061;transport=tls>")
        .with_sdp(OFFER)
}

fn sent(callee: &mut Callee) -> Vec<Message> {
    std::iter::from_fn(|| callee.poll_transmit())
        .map(|wire| Message::parse(std::str::from_utf8(&wire).unwrap()).unwrap())
        .collect()
}

fn events(callee: &mut Callee) -> Vec<CalleeEvent> {
    std::iter::from_fn(|| callee.poll_event()).collect()
}

/// Asks, is challenged, and asks again with a digest that `change` has spoilt; what comes back.
fn asked(invite: &Message, change: impl Fn(&mut Credentials)) -> (Callee, Option<u16>, String) {
    let (now, mut callee) = waiting();
    callee.receive(now, invite);
    let refused = sent(&mut callee).remove(0);
    let Some(challenge) = refused.header("Proxy-Authenticate").and_then(Challenge::read) else {
        return (callee, refused.status(), refused.start);
    };
    let uri = invite.start.split(' ').nth(1).unwrap();
    let mut proof = Credentials::answer(&challenge, NUMBER, &SecretString::from(PASSWORD), ("INVITE", uri), "0a4f113b");
    change(&mut proof);
    callee.receive(now, &invite.clone().with("Proxy-Authorization", proof.write()));
    let reply = sent(&mut callee).remove(0);
    (callee, reply.status(), reply.start)
}

#[test]
fn a_call_is_always_challenged_first_and_in_metas_words() {
    let (now, mut callee) = waiting();
    callee.receive(now, &invite(URI, "edge.example.org"));
    let refused = sent(&mut callee).remove(0);
    assert_eq!(refused.status(), Some(407));
    let words = refused.header("Proxy-Authenticate").unwrap();
    assert!(words.starts_with("Digest realm=\"wa.meta.vc\",nonce=\"") && words.ends_with("algorithm=MD5,qop=\"auth\""));
    assert!(callee.faults.all().is_empty(), "the first one cannot know the nonce");
    let (mut callee, status, _) = asked(&invite(URI, "edge.example.org"), |_| {});
    assert_eq!((status, events(&mut callee)), (Some(100), vec![CalleeEvent::Invited(OFFER.to_owned())]));
}

#[test]
fn a_digest_must_be_as_metas_sample_has_it() {
    for (place, change) in [
        (1, (|proof: &mut Credentials| proof.username = format!("+{NUMBER}")) as fn(&mut Credentials)),
        (2, |proof| proof.realm = "sauti".to_owned()),
        (3, |proof| proof.nonce = "other".to_owned()),
        (4, |proof| proof.opaque = None),
        (5, |proof| proof.uri = "sip:+250780000001@wa.meta.vc".to_owned()),
        (6, |proof| proof.counted = None),
        (7, |proof| proof.response = "0".repeat(32)),
    ] {
        let (callee, status, _) = asked(&invite(URI, "edge.example.org"), change);
        assert_eq!((status, callee.faults.all().len()), (Some(403), 1), "{place}");
    }
}

#[test]
fn addresses_that_meta_does_not_know_are_404() {
    for uri in [
        "sip:+250780000001@192.0.2.7;transport=tls",
        "sip:+250780000001@[2001:db8::1];transport=tls",
        "sips:+250780000001@wa.meta.vc;transport=tls",
        "sip:+250780000001@wa.meta.vc",
        "sip:+250780000001@example.org;transport=tls",
    ] {
        let (callee, status, _) = asked(&invite(uri, "edge.example.org"), |_| {});
        assert_eq!((status, callee.faults.all().len()), (Some(404), 1), "{uri}");
    }
    let (_, status, _) =
        asked(&invite("sip:RW.13491208655302741918@wa.meta.vc;transport=tls", "edge.example.org"), |_| {});
    assert_eq!(status, Some(100), "a user id can be called");
}

#[test]
fn only_the_host_of_the_settings_and_its_parent_may_call() {
    for (host, status) in [("edge.example.org", 100), ("example.org", 100), ("org", 403), ("other.example.org", 403)] {
        let (_, got, words) = asked(&invite(URI, host), |_| {});
        assert_eq!(got, Some(status), "{host}");
        let sentence =
            format!("SIP server {host} from INVITE does not match any SIP server configured for phone number id");
        assert_eq!(words.contains(&sentence), status == 403, "{words}");
    }
    let mut other = invite(URI, "edge.example.org");
    other.headers[1].1 = "<sip:+250780000002@edge.example.org>;tag=box".to_owned();
    assert_eq!(asked(&other, |_| {}).1, Some(400));
}

/// A call that she has picked up, not yet acknowledged, and the 200.
fn picked_up() -> (Instant, Callee, Message) {
    let now = waiting().0;
    let (mut callee, ..) = asked(&invite(URI, "edge.example.org"), |_| {});
    callee.ring();
    callee.pick_up(now, "v=0\r\n");
    let mut replies = sent(&mut callee);
    assert_eq!(replies.iter().map(Message::status).collect::<Vec<_>>(), [Some(180), Some(200)]);
    let ok = replies.remove(1);
    assert_eq!(ok.all("Record-Route").collect::<Vec<_>>(), [INNER_PROXY, OUTER_PROXY]);
    events(&mut callee);
    (now, callee, ok)
}

/// A request of the box within the dialog.
fn within(ok: &Message, method: &str, routes: &[&str]) -> Message {
    let request = Message::new(format!("{method} {} SIP/2.0", uri_of(ok.header("Contact").unwrap())))
        .with("Via", "SIP/2.0/TLS edge.example.org:5061;branch=z9hG4bK2")
        .with("From", ok.header("From").unwrap())
        .with("To", ok.header("To").unwrap())
        .with("Call-ID", "c1")
        .with("CSeq", format!("1 {method}"));
    routes.iter().fold(request, |request, route| request.with("Route", *route))
}

#[test]
fn a_call_is_acknowledged_and_ended_by_either_side_by_both_proxies() {
    let (now, mut callee, ok) = picked_up();
    callee.receive(now, &within(&ok, "ACK", &[OUTER_PROXY, INNER_PROXY]));
    assert_eq!((events(&mut callee), callee.deadline()), (vec![CalleeEvent::Acknowledged], None));
    callee.receive(now, &within(&ok, "BYE", &[OUTER_PROXY, INNER_PROXY]));
    assert_eq!((sent(&mut callee)[0].status(), events(&mut callee)), (Some(200), vec![CalleeEvent::HungUp]));
    assert!(callee.faults.all().is_empty());

    let (now, mut callee, ok) = picked_up();
    callee.receive(now, &within(&ok, "ACK", &[OUTER_PROXY, INNER_PROXY]));
    callee.hang_up(now);
    let bye = sent(&mut callee).remove(0);
    assert_eq!(bye.start, "BYE sip:sauti@edge.example.org:5061;transport=tls SIP/2.0");
    callee.receive(now, &bye.reply("200 OK"));
    assert!(events(&mut callee).contains(&CalleeEvent::Over));
}

#[test]
fn an_ack_that_leaves_the_route_is_not_seen_and_the_call_falls_after_32_seconds() {
    for routes in [&[][..], &[INNER_PROXY, OUTER_PROXY]] {
        let (start, mut callee, ok) = picked_up();
        callee.receive(start, &within(&ok, "ACK", routes));
        assert!(events(&mut callee).is_empty());
        let mut repeated = 0;
        while let Some(due) = callee.deadline() {
            callee.handle_timeout(due);
            repeated += sent(&mut callee).len();
            assert!(due <= start + GIVEN_UP);
        }
        assert_eq!((events(&mut callee), callee.faults.all().len()), (vec![CalleeEvent::Lost], 1));
        assert!((6..12).contains(&repeated), "the 200 is repeated meanwhile: {repeated}");
    }
}

#[test]
fn a_bye_that_leaves_the_route_is_not_seen_either() {
    let (now, mut callee, ok) = picked_up();
    callee.receive(now, &within(&ok, "ACK", &[OUTER_PROXY, INNER_PROXY]));
    callee.receive(now, &within(&ok, "BYE", &[OUTER_PROXY]));
    assert!(sent(&mut callee).is_empty());
    callee.handle_timeout(now + GIVEN_UP);
    assert!(events(&mut callee).contains(&CalleeEvent::Lost));
}

#[test]
fn she_declines_and_the_box_cancels() {
    let (mut callee, ..) = asked(&invite(URI, "edge.example.org"), |_| {});
    callee.decline();
    let busy = sent(&mut callee).remove(0);
    assert_eq!(busy.status(), Some(486));
    let mut ack = invite(URI, "edge.example.org");
    ack.start = format!("ACK {URI} SIP/2.0");
    ack.headers.retain(|(name, _)| name != "To");
    callee.receive(waiting().0, &ack.with("To", busy.header("To").unwrap()));
    assert!(callee.faults.all().is_empty(), "the ACK of a refusal goes to where the INVITE went: {:?}", callee.faults);

    let (now, (mut callee, ..)) = (waiting().0, asked(&invite(URI, "edge.example.org"), |_| {}));
    let mut cancel = invite(URI, "edge.example.org");
    cancel.start = format!("CANCEL {URI} SIP/2.0");
    callee.receive(now, &cancel);
    assert_eq!(sent(&mut callee).iter().map(Message::status).collect::<Vec<_>>(), [Some(200), Some(487)]);
    assert!(events(&mut callee).contains(&CalleeEvent::Cancelled));
}

#[test]
fn a_registration_is_refused_and_options_are_answered() {
    let (now, mut callee) = waiting();
    let mut request = invite(URI, "edge.example.org");
    for (method, status, faults) in [("REGISTER", 403, 1), ("OPTIONS", 200, 1), ("SUBSCRIBE", 481, 2)] {
        request.start = format!("{method} {URI} SIP/2.0");
        callee.receive(now, &request);
        assert_eq!(sent(&mut callee)[0].status(), Some(status), "{method}");
        assert_eq!(callee.faults.all().len(), faults, "{method}");
    }
}

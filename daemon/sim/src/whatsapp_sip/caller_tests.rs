use secrecy::SecretString;

use super::*;

const NUMBER: &str = "35690000002";
const PASSWORD: &str = "canary-trunk-password";

fn account() -> Account {
    Account::new(&Pii::new(NUMBER), "edge.example.org", SecretString::from(PASSWORD))
}

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
fn dialled() -> (Instant, WhatsAppCall) {
    let now = Instant::now();
    let dial = Dial {
        person: Person::test_caller(),
        hides_number: false,
        wacid: Pii::new("wacid.HBgMMjUw=="),
        sdp: "v=0\r\n".to_owned(),
        via: "192.0.2.7:8191".to_owned(),
    };
    (now, WhatsAppCall::dial(now, account(), dial, 1))
}

fn sent(call: &mut WhatsAppCall) -> Vec<Message> {
    std::iter::from_fn(|| call.poll_transmit())
        .map(|wire| Message::parse(std::str::from_utf8(&wire).unwrap()).unwrap())
        .collect()
}

fn methods(call: &mut WhatsAppCall) -> Vec<String> {
    sent(call).iter().filter_map(|message| message.method().map(str::to_owned)).collect()
}

fn events(call: &mut WhatsAppCall) -> Vec<CallEvent> {
    std::iter::from_fn(|| call.poll_event()).collect()
}

/// A response as the box should write it.
fn answer(invite: &Message, status: &str) -> Message {
    let mut reply = invite.reply(status);
    for (name, value) in &mut reply.headers {
        if name == "To" {
            value.push_str(";tag=box");
        }
    }
    reply
}

fn challenge(invite: &Message) -> Message {
    answer(invite, "407 Proxy Authentication Required")
        .with("Proxy-Authenticate", "Digest realm=\"sauti\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"")
}

fn ok(invite: &Message, routes: &[&str]) -> Message {
    let ok = answer(invite, "200 OK").with("Contact", "<sip:sauti@edge.example.org:5061;transport=tls>");
    routes.iter().fold(ok, |ok, route| ok.with("Record-Route", *route)).with_sdp("v=0\r\n")
}

/// A call that was challenged, and its INVITE that counts.
fn proved() -> (Instant, WhatsAppCall, Message) {
    let (now, mut call) = dialled();
    let first = sent(&mut call).remove(0);
    call.receive(now, &challenge(&first));
    let mut more = sent(&mut call);
    assert_eq!((more.len(), more[0].method(), more[0].header("Via")), (2, Some("ACK"), first.header("Via")));
    (now, call, more.remove(1))
}

/// A call that is up.
fn talking() -> (Instant, WhatsAppCall, Message) {
    let (now, mut call, invite) = proved();
    call.receive(now, &answer(&invite, "180 Ringing"));
    call.receive(now, &ok(&invite, &[OUTER_PROXY, INNER_PROXY]));
    assert_eq!(events(&mut call), [CallEvent::Ringing, CallEvent::Answered("v=0\r\n".to_owned())]);
    let ack = sent(&mut call).remove(0);
    assert_eq!(ack.start, "ACK sip:sauti@edge.example.org:5061;transport=tls SIP/2.0");
    (now, call, invite)
}

/// A request of the box within the dialog.
fn within(call: &WhatsAppCall, method: &str, routes: &[&str]) -> Message {
    let request = Message::new(format!("{method} {} SIP/2.0", call.dialog.contact))
        .with("Via", "SIP/2.0/TLS edge.example.org:5061;branch=z9hG4bK7")
        .with("From", format!("<sip:+{NUMBER}@edge.example.org>;tag=box"))
        .with("To", format!("<sip:+250780000001@{META}>;tag={}", call.dialog.own_tag))
        .with("Call-ID", call.dialog.call_id.as_str())
        .with("CSeq", format!("7 {method}"));
    routes.iter().fold(request, |request, route| request.with("Route", *route))
}

#[test]
fn an_invite_bears_what_metas_do() {
    let (_, mut call) = dialled();
    let invite = sent(&mut call).remove(0);
    assert_eq!(invite.start, "INVITE sip:+35690000002@edge.example.org;transport=tls SIP/2.0");
    for (name, value) in [
        ("Call-ID", "outgoing:wacid.HBgMMjUw=="),
        ("Contact", "<sip:+250780000001@wa.meta.vc;transport=tls;ob>;isfocus"),
        ("X-FB-External-Domain", "wa.meta.vc"),
        ("User-Agent", "Facebook SipGateway"),
        ("x-wa-meta-wacid", "wacid.HBgMMjUw=="),
        ("x-wa-meta-user-id", "RW.13491208655302741918"),
        ("Allow", "INVITE, ACK, BYE, CANCEL, NOTIFY, OPTIONS"),
    ] {
        assert_eq!(invite.header(name), Some(value), "{name}");
    }
    assert!(invite.header("From").unwrap().starts_with("\"250780000001\" <sip:+250780000001@wa.meta.vc>;tag="));
    assert_eq!(invite.all("Record-Route").collect::<Vec<_>>(), [OUTER_PROXY, INNER_PROXY]);
    assert!(invite.header("Proxy-Authorization").is_none() && invite.header("Session-Expires").is_none());
}

#[test]
fn who_hides_her_number_is_a_user_id_and_parameters_of_the_settings_stand_in_the_address() {
    let (now, call) = dialled();
    let account = Account { user_params: ";tgrp=wacall".to_owned(), ..account() };
    let mut call = WhatsAppCall::dial(now, account, Dial { hides_number: true, ..call.dial }, 1);
    let invite = sent(&mut call).remove(0);
    assert_eq!(invite.start, "INVITE sip:+35690000002;tgrp=wacall@edge.example.org;transport=tls SIP/2.0");
    assert!(invite.header("From").unwrap().contains("<sip:RW.13491208655302741918@wa.meta.vc>"));
    assert!(!String::from_utf8_lossy(&invite.to_wire()).contains("250780000001"));
}

#[test]
fn a_challenge_of_either_kind_is_answered_as_in_metas_sample() {
    for (status, asked, header) in [
        ("407 Proxy Authentication Required", "Proxy-Authenticate", "Proxy-Authorization"),
        ("401 Unauthorized", "WWW-Authenticate", "Authorization"),
    ] {
        let (now, mut call) = dialled();
        let first = sent(&mut call).remove(0);
        let ask = "Digest realm=\"sauti\",nonce=\"n1\",opaque=\"o1\",algorithm=MD5,qop=\"auth\"";
        call.receive(now, &answer(&first, status).with(asked, ask));
        let again = sent(&mut call).remove(1);
        assert_eq!((again.cseq(), again.header("Call-ID")), (Some((2, "INVITE")), first.header("Call-ID")));
        assert_ne!(again.header("Via"), first.header("Via"), "another transaction");
        let proof = Credentials::read(again.header(header).unwrap()).unwrap();
        assert_eq!((proof.username.as_str(), proof.opaque.as_deref()), (NUMBER, Some("o1")));
        assert_eq!(proof.uri, "sip:+35690000002@edge.example.org", "without its transport");
        assert!(proof.proves("INVITE", &SecretString::from(PASSWORD)));
        // Who does not believe it says so for good.
        call.receive(now, &answer(&again, "403 Forbidden"));
        assert_eq!(events(&mut call), [CallEvent::Refused { status: 403, retry_after: None }]);
    }
}

#[test]
fn a_challenge_that_meta_cannot_answer_ends_the_call() {
    let (now, mut call) = dialled();
    let first = sent(&mut call).remove(0);
    let ask = "Digest realm=\"sauti\",nonce=\"n1\",algorithm=SHA-256,qop=\"auth\"";
    call.receive(now, &answer(&first, "407 Proxy Authentication Required").with("Proxy-Authenticate", ask));
    assert_eq!(methods(&mut call), ["ACK"]);
    assert_eq!((events(&mut call).len(), call.faults.all().len()), (1, 1));
}

#[test]
fn a_box_that_does_not_ask_for_a_proof_is_at_fault() {
    let (now, mut call) = dialled();
    let first = sent(&mut call).remove(0);
    call.receive(now, &answer(&first, "180 Ringing"));
    call.receive(now, &ok(&first, &[OUTER_PROXY, INNER_PROXY]));
    assert_eq!(call.faults.all().len(), 2, "{:?}", call.faults);
}

#[test]
fn a_call_is_acknowledged_and_ended_with_its_length() {
    let (now, mut call, _) = talking();
    call.hang_up(now + Duration::from_secs(75));
    let bye = sent(&mut call).remove(0);
    assert_eq!(bye.start, "BYE sip:sauti@edge.example.org:5061;transport=tls SIP/2.0");
    assert_eq!(bye.header("x-wa-meta-call-duration"), Some("75"));
    assert_eq!(bye.header("x-wa-meta-wacid"), Some("wacid.HBgMMjUw=="));
    assert_eq!(bye.all("Route").count(), 0, "both proxies have taken theirs out");
    call.receive(now, &bye.reply("200 OK"));
    assert_eq!(events(&mut call), [CallEvent::Over]);
    assert!(call.is_over() && call.faults.all().is_empty(), "{:?}", call.faults);
}

#[test]
fn the_box_hangs_up_by_both_proxies() {
    let (now, mut call, _) = talking();
    let bye = within(&call, "BYE", &[OUTER_PROXY, INNER_PROXY]);
    call.receive(now, &bye);
    assert_eq!(sent(&mut call)[0].status(), Some(200));
    assert_eq!(events(&mut call), [CallEvent::HungUp]);
    assert!(call.faults.all().is_empty(), "{:?}", call.faults);
}

#[test]
fn a_bye_without_its_route_is_not_seen_and_the_call_falls_after_32_seconds() {
    let (now, mut call, _) = talking();
    assert_eq!(call.deadline(), None, "a call that is up waits for nothing");
    call.receive(now, &within(&call, "BYE", &[]));
    assert!(sent(&mut call).is_empty() && events(&mut call).is_empty(), "nobody answers it");
    assert_eq!(call.faults.all().len(), 1);
    assert_eq!(call.deadline(), Some(now + GIVEN_UP));
    call.handle_timeout(now + GIVEN_UP - Duration::from_millis(1));
    assert!(events(&mut call).is_empty());
    call.handle_timeout(now + GIVEN_UP);
    assert_eq!(events(&mut call), [CallEvent::Lost]);
    assert!(call.is_over());
}

#[test]
fn a_200_without_both_record_routes_gets_no_ack_and_the_call_falls_after_32_seconds() {
    for routes in [&[][..], &[OUTER_PROXY], &[INNER_PROXY, OUTER_PROXY]] {
        let (now, mut call, invite) = proved();
        call.receive(now, &ok(&invite, routes));
        assert!(sent(&mut call).is_empty(), "no ACK");
        assert_eq!((call.faults.all().len(), call.deadline()), (1, Some(now + GIVEN_UP)), "{:?}", call.faults);
        call.handle_timeout(now + GIVEN_UP);
        assert_eq!(events(&mut call).last(), Some(&CallEvent::Lost));
    }
}

#[test]
fn whatever_meta_cannot_do_is_refused_and_counted_and_the_call_goes_on() {
    let (now, mut call, _) = talking();
    let expected = [("INVITE", 500), ("UPDATE", 405), ("INFO", 405), ("REFER", 405), ("REGISTER", 403)];
    for (place, (method, status)) in (1..).zip(expected) {
        let request = within(&call, method, &[OUTER_PROXY, INNER_PROXY]);
        call.receive(now, &request);
        assert_eq!(sent(&mut call)[0].status(), Some(status), "{method}");
        assert_eq!(call.faults.all().len(), place, "{:?}", call.faults);
    }
    assert!(!call.is_over() && events(&mut call).is_empty());
}

#[test]
fn an_answer_that_meta_cannot_reach_or_refresh_is_told() {
    let (now, mut call, invite) = proved();
    let mut wrong = ok(&invite, &[OUTER_PROXY, INNER_PROXY]).with("Session-Expires", "1800;refresher=uas");
    for (name, value) in &mut wrong.headers {
        if name == "Contact" {
            "<sips:sauti@192.0.2.1>".clone_into(value);
        }
    }
    call.receive(now, &wrong);
    assert_eq!(call.faults.all().len(), 3, "{:?}", call.faults);
}

#[test]
fn a_cancel_ends_with_487_and_one_that_crosses_the_200_with_bye() {
    let (now, mut call, invite) = proved();
    call.receive(now, &answer(&invite, "180 Ringing"));
    call.hang_up(now);
    let cancel = sent(&mut call).remove(0);
    assert_eq!((cancel.cseq(), cancel.header("Via")), (Some((2, "CANCEL")), invite.header("Via")));
    call.receive(now, &cancel.reply("200 OK"));
    call.receive(now, &answer(&invite, "487 Request Terminated"));
    assert!(events(&mut call).contains(&CallEvent::Refused { status: 487, retry_after: None }));
    assert!(call.faults.all().is_empty(), "{:?}", call.faults);

    let (now, mut call, invite) = proved();
    call.hang_up(now);
    call.receive(now, &ok(&invite, &[OUTER_PROXY, INNER_PROXY]));
    assert_eq!(methods(&mut call), ["CANCEL", "ACK", "BYE"]);
}

#[test]
fn nobody_rings_for_longer_than_a_minute() {
    let (now, mut call, invite) = proved();
    call.receive(now, &answer(&invite, "180 Ringing"));
    assert_eq!(call.deadline(), Some(now + RINGS));
    call.handle_timeout(now + RINGS);
    assert_eq!(methods(&mut call), ["CANCEL"]);
    call.handle_timeout(now + RINGS + GIVEN_UP);
    assert!(events(&mut call).contains(&CallEvent::Lost));
}

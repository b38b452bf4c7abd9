//! Reading requests as carriers, WhatsApp and rubbish send them.

use super::*;

fn request(first: &str, headers: &str, body: &str) -> Request {
    let text = format!(
        "{first}\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let SipMessage::Request(request) = SipMessage::try_from(text.as_bytes()).unwrap() else { panic!() };
    request
}

const COMMON: &str = "From: \"Test Caller\" <sip:+250780000001@sip.example.net>;tag=1\r\nTo: <sip:x@y>\r\n\
                      Call-ID: 1@a\r\nCSeq: 1 INVITE\r\nContact: <sip:a@192.0.2.1>\r\nMax-Forwards: 70\r\n";

fn read_it(first: &str, more: &str, body: &str) -> Result<Read, Refused> {
    read(&request(first, &format!("{COMMON}{more}"), body), IpAddr::from([192, 0, 2, 1]), Transport::Udp)
}

#[test]
fn caller_called_and_offer_are_found() {
    let more = "Content-Type: application/sdp\r\nSession-Expires: 1800\r\nSupported: timer, 100rel\r\n";
    let read = read_it("INVITE sip:+35690000002;npdi@edge.example.org SIP/2.0", more, "v=0\r\n").unwrap();
    assert_eq!(read.user.as_deref(), Some("+35690000002"));
    assert_eq!(read.caller.as_ref().map(Pii::expose), Some("+250780000001"));
    assert_eq!(read.offer.as_ref().map(Pii::expose), Some("v=0\r\n"));
    assert!(read.asked.supported && read.asked.expires.is_some_and(|expires| expires.seconds == 1800));
    assert!(!read.requires_100rel && read.whatsapp.is_none());
    assert!(!format!("{read:?}").contains("250780000001"), "what is about people does not show");
}

#[test]
fn an_asserted_identity_stands_over_from_and_a_private_one_is_nobodys() {
    let first = "INVITE sip:x@y SIP/2.0";
    let asserted = "P-Asserted-Identity: \"Test Caller\" <sip:250780000002@h>, <tel:+250780000002>\r\n";
    let caller = |more: &str| read_it(first, more, "").unwrap().caller.map(|caller| caller.expose().to_owned());
    assert_eq!(caller(asserted).as_deref(), Some("250780000002"));
    assert_eq!(
        caller("P-Asserted-Identity: <tel:+250780000002;phone-context=x>\r\n").as_deref(),
        Some("+250780000002")
    );
    assert_eq!(caller(&format!("{asserted}Privacy: id;critical\r\n")), None);
    let anonymous = COMMON.replace("+250780000001", "anonymous");
    let read = read(&request(first, &anonymous, ""), "192.0.2.1".parse().unwrap(), Transport::Udp).unwrap();
    assert!(read.caller.is_none() && read.offer.is_none());
}

#[test]
fn a_whatsapp_call_carries_its_id_in_a_header_or_in_its_call_id() {
    let more = "x-wa-meta-wacid: wacid.HBgM\r\nx-wa-meta-user-id: RW.13491208655302741918\r\n";
    let named = read_it("INVITE sip:x@y SIP/2.0", more, "").unwrap().whatsapp.unwrap();
    assert_eq!(named.wacid.expose(), "wacid.HBgM");
    assert_eq!(named.bsuid.unwrap().expose(), "RW.13491208655302741918");
    let by_id = COMMON.replace("Call-ID: 1@a", "Call-ID: outgoing:wacid.HBgM");
    let by_id = read(&request("INVITE sip:x@y SIP/2.0", &by_id, ""), "192.0.2.1".parse().unwrap(), Transport::Tls);
    assert_eq!(by_id.unwrap().whatsapp.unwrap().wacid.expose(), "wacid.HBgM");
}

#[test]
fn what_lacks_a_header_that_it_must_have_is_malformed() {
    for lacking in ["From", "To", "Call-ID", "CSeq"] {
        let headers: String =
            COMMON.lines().filter(|line| !line.starts_with(lacking)).map(|line| format!("{line}\r\n")).collect();
        let read = read(&request("INVITE sip:x@y SIP/2.0", &headers, ""), "192.0.2.1".parse().unwrap(), Transport::Udp);
        assert_eq!(read.map(|_| ()).unwrap_err(), Refused::Malformed, "{lacking}");
    }
    let other = COMMON.replace("1 INVITE", "1 BYE");
    let other = request("INVITE sip:x@y SIP/2.0", &other, "");
    assert!(read(&other, "192.0.2.1".parse().unwrap(), Transport::Udp).is_err(), "CSeq names another method");
    let cut = "INVITE sip:x@y SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n";
    let cut = format!("{cut}{COMMON}Content-Type: application/sdp\r\nContent-Length: 900\r\n\r\nv=0\r\n");
    if let Ok(SipMessage::Request(cut)) = SipMessage::try_from(cut.as_bytes()) {
        assert_eq!(
            read(&cut, "192.0.2.1".parse().unwrap(), Transport::Udp).map(|_| ()).unwrap_err(),
            Refused::Malformed
        );
    }
}

#[test]
fn digits_of_info_bodies_are_read_and_others_are_none() {
    let digit = |kind: &str, body: &str| {
        dtmf_of(&request("INFO sip:x@y SIP/2.0", &format!("{COMMON}Content-Type: {kind}\r\n"), body))
    };
    assert_eq!(digit("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n"), Some('5'));
    assert_eq!(digit("application/dtmf-relay", "Duration= 160\r\nsignal= *\r\n"), Some('*'));
    assert_eq!(digit("application/dtmf-relay", "Signal=11"), Some('#'));
    assert_eq!(digit("application/dtmf", "a\r\n"), Some('A'));
    assert_eq!(digit("application/dtmf-relay", "Signal=16"), None, "a hook flash is no digit");
    assert_eq!(digit("application/dtmf", "flash"), None);
    assert_eq!(digit("text/plain", "Signal=5"), None);
}

#[test]
fn escapes_in_a_user_are_read_and_odd_ones_do_no_harm() {
    assert_eq!(tidy("%2B250780000001").as_deref(), Some("+250780000001"));
    assert_eq!(tidy("a%2").as_deref(), Some("a%2"));
    assert_eq!(tidy("%zz").as_deref(), Some("%zz"));
    assert_eq!(tidy("%00"), None);
    assert_eq!(tidy("%ff"), None);
}

//! What Meta does with a request that the box sends within a dialog: strict loose routing, and few methods.
//!
//! Shared by both directions; it keeps no state of the call.

use super::{ALLOW, Faults, INNER_PROXY, OUTER_PROXY};
use crate::trunk::message::{Message, listed, parameter};

/// Meta's half of a dialog, as the box has to name it.
#[derive(Debug, Clone)]
pub struct Dialog {
    /// Its Call-ID.
    pub call_id: String,
    /// The tag that Meta gave itself.
    pub own_tag: String,
    /// The tag of the box; `None` until it has said one.
    pub their_tag: Option<String>,
    /// The URI of Meta's `Contact`.
    pub contact: String,
}

/// What became of a request of the box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It never reached Meta: nobody answers it.
    Lost,
    /// An acknowledgement.
    Ack,
    /// It is answered with this, and the call goes on.
    Answered(Message),
    /// It is answered with this, and the call is over.
    Ended(Message),
}

impl Dialog {
    /// The `Contact` of Meta's messages.
    #[must_use]
    pub fn contact_header(&self) -> String {
        format!("<{}>;isfocus", self.contact)
    }

    /// Takes a request of the box; what it does wrong is added to `faults`.
    pub fn hear(&self, request: &Message, faults: &mut Faults) -> Heard {
        let method = request.method().unwrap_or_default();
        if let Some(astray) = self.astray(request) {
            faults.add(format!("{method} {astray}, so it is lost"));
            return Heard::Lost;
        }
        if method == "ACK" {
            return Heard::Ack;
        }
        let tags = ["From", "To"].map(|name| request.header(name).and_then(|value| parameter(value, "tag")));
        if tags != [self.their_tag.as_deref(), Some(self.own_tag.as_str())] {
            faults.add(format!("{method} with tags of no dialog"));
            return Heard::Answered(request.reply("481 Call/Transaction Does Not Exist"));
        }
        match method {
            "BYE" => Heard::Ended(request.reply("200 OK")),
            "OPTIONS" => Heard::Answered(request.reply("200 OK").with("Allow", ALLOW)),
            "NOTIFY" => Heard::Answered(request.reply("200 OK")),
            "INVITE" => {
                faults.add("a re-INVITE, which Meta answers with 500");
                Heard::Answered(request.reply("500 Server Internal Error"))
            }
            _ => {
                faults.add(format!("{method}, which Meta does not know"));
                Heard::Answered(request.reply("405 Method Not Allowed").with("Allow", ALLOW))
            }
        }
    }

    /// Why a request does not find its way; `None` where it does: its Request-URI is our Contact, letter by letter, and it
    /// goes by both proxies in their order (RFC 3261 §12.2.1.1).
    fn astray(&self, request: &Message) -> Option<&'static str> {
        let uri = request.start.split(' ').nth(1).unwrap_or_default();
        if uri != self.contact {
            return Some("does not name the Contact");
        }
        let routes: Vec<&str> = request.all("Route").flat_map(listed).collect();
        (routes != [OUTER_PROXY, INNER_PROXY]).then_some("does not go by both proxies in their order")
    }
}

/// Why the answer of the box to a request of Meta cannot be followed: its `Record-Route` must be the request's, or the ACK
/// goes elsewhere. `None` where it can.
#[must_use]
pub fn unroutable(response: &Message) -> Option<&'static str> {
    let routes: Vec<&str> = response.all("Record-Route").flat_map(listed).collect();
    (routes != [OUTER_PROXY, INNER_PROXY])
        .then_some("200 without both Record-Routes in their order, so its ACK is lost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialog() -> Dialog {
        Dialog {
            call_id: "outgoing:wacid.HBgM".to_owned(),
            own_tag: "meta".to_owned(),
            their_tag: Some("box".to_owned()),
            contact: "sip:+250780000001@wa.meta.vc;transport=tls;ob".to_owned(),
        }
    }

    fn request(method: &str) -> Message {
        Message::new(format!("{method} {} SIP/2.0", dialog().contact))
            .with("Route", OUTER_PROXY)
            .with("Route", INNER_PROXY)
            .with("Via", "SIP/2.0/TLS localhost:5061;branch=z9hG4bK1")
            .with("From", "<sip:+35690000002@edge.example.org>;tag=box")
            .with("To", "<sip:+250780000001@wa.meta.vc>;tag=meta")
            .with("Call-ID", dialog().call_id)
            .with("CSeq", format!("2 {method}"))
    }

    fn heard(request: &Message) -> (Heard, Vec<String>) {
        let mut faults = Faults::default();
        let heard = dialog().hear(request, &mut faults);
        (heard, faults.all().to_vec())
    }

    fn status(request: &Message) -> (Option<u16>, usize) {
        match heard(request) {
            (Heard::Answered(reply) | Heard::Ended(reply), faults) => (reply.status(), faults.len()),
            (Heard::Lost | Heard::Ack, faults) => (None, faults.len()),
        }
    }

    /// The same with some headers in place of those of a name.
    fn with(mut request: Message, name: &str, values: &[&str]) -> Message {
        request.headers.retain(|(found, _)| found != name);
        values.iter().fold(request, |request, value| request.with(name, *value))
    }

    #[test]
    fn a_bye_by_both_proxies_ends_the_call() {
        let (Heard::Ended(reply), faults) = heard(&request("BYE")) else { panic!() };
        assert_eq!((reply.status(), faults.len()), (Some(200), 0));
        let joined = format!("{OUTER_PROXY}, {INNER_PROXY}");
        assert!(matches!(heard(&with(request("BYE"), "Route", &[&joined])).0, Heard::Ended(_)), "in one line");
    }

    #[test]
    fn a_request_that_leaves_the_route_is_never_seen() {
        for method in ["ACK", "BYE"] {
            for routes in [
                &[][..],
                &[OUTER_PROXY],
                &[INNER_PROXY],
                &[INNER_PROXY, OUTER_PROXY],
                &[OUTER_PROXY, "<sip:onevc-sip-proxy.fbinfra.net:8191;transport=tls>"],
                &[OUTER_PROXY, INNER_PROXY, OUTER_PROXY],
            ] {
                let (heard, faults) = heard(&with(request(method), "Route", routes));
                assert_eq!((heard, faults.len()), (Heard::Lost, 1), "{method} {routes:?}");
            }
            for uri in ["sip:+250780000001@wa.meta.vc", "sip:+250780000001@wa.meta.vc;ob;transport=tls"] {
                let mut request = request(method);
                request.start = format!("{method} {uri} SIP/2.0");
                assert_eq!(heard(&request).0, Heard::Lost, "{uri}");
            }
        }
        assert_eq!(heard(&request("ACK")), (Heard::Ack, Vec::new()));
    }

    #[test]
    fn what_meta_cannot_do_is_refused_and_counted() {
        for (method, code, faults) in [
            ("INVITE", 500, 1),
            ("UPDATE", 405, 1),
            ("INFO", 405, 1),
            ("REFER", 405, 1),
            ("PRACK", 405, 1),
            ("OPTIONS", 200, 0),
            ("NOTIFY", 200, 0),
        ] {
            assert_eq!(status(&request(method)), (Some(code), faults), "{method}");
        }
        let (Heard::Answered(reply), _) = heard(&request("REFER")) else { panic!() };
        assert_eq!(reply.header("Allow"), Some("INVITE, ACK, BYE, CANCEL, NOTIFY, OPTIONS"));
    }

    #[test]
    fn tags_of_another_dialog_end_nothing() {
        let other = with(request("BYE"), "To", &["<sip:+250780000001@wa.meta.vc>;tag=other"]);
        assert_eq!(status(&other), (Some(481), 1));
    }

    #[test]
    fn an_answer_must_give_both_record_routes_back() {
        let answer = |routes: &[&str]| with(request("INVITE").reply("200 OK"), "Record-Route", routes);
        assert_eq!(unroutable(&answer(&[OUTER_PROXY, INNER_PROXY])), None);
        for routes in [&[][..], &[OUTER_PROXY], &[INNER_PROXY, OUTER_PROXY]] {
            assert!(unroutable(&answer(routes)).is_some(), "{routes:?}");
        }
    }
}

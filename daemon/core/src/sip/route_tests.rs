//! Routing on configurations as people write them.

use std::path::Path;

use super::*;
use crate::config::check::{Environment, read};

const TWO: &str = r#"
[openai]
[sip]
udp = "0.0.0.0:5060"
tcp = "0.0.0.0:5060"
tls = "0.0.0.0:5061"
certificate = "/c.pem"
key = "/k.pem"
[[trunk]]
name = "mtn-rw"
allow = ["192.0.2.0/28"]
[[trunk.route]]
called = "+35690000002"
languages = ["en"]
[[trunk.route]]
called = "356*"
[[trunk]]
name = "go-mt"
transport = "tls"
allow = ["198.51.100.7"]
[[trunk.route]]
called = "*"
"#;

fn peers(text: &str) -> Peers {
    let secrets = |_: &str| Some("canary-trunk-password".to_owned());
    let read_file = |_: &Path| Err("none".to_owned());
    let environment = Environment { host_name: "h", cores: 1, secrets: &secrets, read_file: &read_file };
    Peers::of(&read(text, &environment).unwrap())
}

fn facts<'f>(source: &str, user: &'f str) -> Facts<'f> {
    Facts {
        source: source.parse().unwrap(),
        transport: Transport::Udp,
        scheme: "sip",
        user: Some(user),
        max_forwards: Some(70),
        require: "",
        content_type: Some("application/sdp"),
        content_encoding: None,
        has_contact: true,
    }
}

fn refusal(peers: &Peers, facts: &Facts<'_>) -> Refused {
    peers.route(facts).unwrap_err().1
}

#[test]
fn the_first_route_that_fits_answers() {
    let peers = peers(TWO);
    let first = peers.route(&facts("192.0.2.3", "35690000002")).unwrap();
    assert_eq!((first.peer, first.route.languages.len()), (0, 1));
    let second = peers.route(&facts("::ffff:192.0.2.3", "+35699")).unwrap();
    assert_eq!(second.route.called, "356*");
}

#[test]
fn whom_no_trunk_names_gets_no_answer() {
    let peers = peers(TWO);
    for source in ["192.0.2.16", "203.0.113.9", "2001:db8::1"] {
        assert!(!peers.know(source.parse().unwrap()));
        let why = refusal(&peers, &facts(source, "35690000002"));
        assert_eq!((why, why.code()), (Refused::UnknownSource, None));
    }
    let spoofable = refusal(&peers, &facts("198.51.100.7", "35690000002"));
    assert_eq!((spoofable, spoofable.code()), (Refused::WrongTransport, None), "a TLS trunk is not believed over UDP");
}

#[test]
fn a_number_that_nobody_answers_is_refused_with_the_reason() {
    let peers = peers(TWO);
    assert_eq!(refusal(&peers, &facts("192.0.2.3", "250780000001")), Refused::NoRoute);
    let nobody = Facts { user: None, ..facts("192.0.2.3", "") };
    assert_eq!(refusal(&peers, &nobody), Refused::NoNumber);
    assert!(Refused::NoRoute.words().contains("[[trunk.route]]"));
}

#[test]
fn each_flaw_has_its_code() {
    let peers = peers(TWO);
    let fine = facts("192.0.2.3", "35690000002");
    for (flawed, code) in [
        (Facts { scheme: "tel", ..fine }, 416),
        (Facts { max_forwards: Some(0), ..fine }, 483),
        (Facts { require: "timer, nosuch", ..fine }, 420),
        (Facts { has_contact: false, ..fine }, 400),
        (Facts { content_type: Some("text/plain"), ..fine }, 415),
        (Facts { content_encoding: Some("gzip"), ..fine }, 415),
    ] {
        assert_eq!(refusal(&peers, &flawed).code(), Some(code));
    }
    let sound =
        Facts { require: "100rel,timer", content_type: Some("Application/SDP; charset=x"), scheme: "SIPS", ..fine };
    assert!(peers.route(&sound).is_ok());
    assert_eq!(unsupported("timer, nosuch ,other").collect::<Vec<_>>(), ["nosuch", "other"]);
}

#[test]
fn addresses_that_a_registrar_resolved_to_are_its_trunks() {
    let text = "[openai]\n[sip]\nudp = \"0.0.0.0:5060\"\n[[trunk]]\nname = \"a\"\nregistrar = \"sip.example.net\"\n\
                username = \"one\"\n[[trunk.route]]\ncalled = \"one\"\n[[trunk]]\nname = \"b\"\n\
                registrar = \"sip.example.net\"\nusername = \"two\"\n[[trunk.route]]\ncalled = \"356*\"\n";
    let mut peers = peers(text);
    let there: IpAddr = "192.0.2.9".parse().unwrap();
    assert!(!peers.know(there));
    peers.set_resolved(0, [there]);
    peers.set_resolved(1, [there]);
    assert_eq!(peers.route(&facts("192.0.2.9", "one")).unwrap().peer, 0, "by the user that it registered");
    assert_eq!(peers.route(&facts("192.0.2.9", "+35690000002")).unwrap().peer, 1, "by the route that answers");
    assert_eq!(refusal(&peers, &facts("192.0.2.9", "nobody")), Refused::Ambiguous);
    peers.set_resolved(0, []);
    assert!(!peers.is_from(0, there, Transport::Udp) && peers.is_from(1, there, Transport::Tcp));
}

#[test]
fn whatsapp_is_a_peer_over_tls_alone() {
    let text = "[whatsapp]\nphone_number_id = \"7\"\nsignalling = \"sip\"\n[whatsapp.sip]\nhostname = \"e.example.org\"\n\
                [openai]\n[sip]\ntls = \"0.0.0.0:5061\"\ncertificate = \"/c.pem\"\nkey = \"/k.pem\"\n";
    let peers = peers(text);
    let tls = Facts { transport: Transport::Tls, ..facts("157.240.1.1", "+35690000002") };
    let routed = peers.route(&tls).unwrap();
    assert_eq!(peers.peer(routed.peer).unwrap().door, Door::WhatsappSip);
    assert_eq!(refusal(&peers, &facts("157.240.1.1", "+35690000002")), Refused::WrongTransport);
    assert_eq!(peers.by_name("whatsapp"), Some(0));
}

proptest::proptest! {
    #[test]
    fn routing_never_panics_and_a_stranger_is_never_answered(
        source in proptest::array::uniform4(0_u8..), user in ".{0,12}", require in ".{0,12}", scheme in ".{0,5}",
    ) {
        let peers = peers(TWO);
        let source = IpAddr::from(source);
        let asked = Facts { source, user: Some(&user), require: &require, scheme: &scheme, ..facts("192.0.2.1", "") };
        if let Err((_, why)) = peers.route(&asked) {
            proptest::prop_assert!(peers.know(source) || why.code().is_none());
        }
    }
}

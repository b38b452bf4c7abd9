//! SIP messages, as they come from a trunk and from strangers.

use std::net::IpAddr;
use std::path::Path;
use std::sync::OnceLock;

use sauti::sip::{Verdict, judge};
use sauti_core::config::Transport;
use sauti_core::config::check::{Environment, read};
use sauti_core::sip::route::{Peers, Refused};

const CONFIG: &str = "[openai]\n[sip]\nudp = \"0.0.0.0:5060\"\n[[trunk]]\nname = \"a\"\nallow = [\"127.0.0.1\"]\n\
                      [[trunk.route]]\ncalled = \"+35690000002\"\n[[trunk]]\nname = \"b\"\ntransport = \"tls\"\n\
                      outbound_proxy = \"192.0.2.9\"\nallow = [\"127.0.0.4\"]\n[[trunk.route]]\ncalled = \"*\"\n";

fn peers() -> &'static Peers {
    static PEERS: OnceLock<Peers> = OnceLock::new();
    PEERS.get_or_init(|| {
        let secrets = |_: &str| Some("canary-trunk-password".to_owned());
        let read_file = |_: &Path| Err("none".to_owned());
        let text = CONFIG.replace("[sip]\n", "[sip]\ntls = \"0.0.0.0:5061\"\ncertificate = \"/c\"\nkey = \"/k\"\n");
        let environment = Environment { host_name: "h", cores: 1, secrets: &secrets, read_file: &read_file };
        Peers::of(&read(&text, &environment).expect("a sound configuration"))
    })
}

/// Judges the bytes as a message of a trunk, of the same trunk by another way, and of a stranger.
///
/// Beside that nothing panics: a stranger is never answered, nor is a TLS trunk over UDP, so that no forged source can
/// be made to receive anything; and what is refused has a code to be refused with.
pub(crate) fn sip(data: &[u8]) {
    let from = |source: [u8; 4], transport| judge(data, peers(), IpAddr::from(source), transport);
    assert_eq!(from([203, 0, 113, 9], Transport::Udp), Verdict::Silent(Refused::UnknownSource));
    assert!(matches!(from([127, 0, 0, 4], Transport::Udp), Verdict::Silent(_)));
    for (source, transport) in [([127, 0, 0, 1], Transport::Udp), ([127, 0, 0, 4], Transport::Tls)] {
        match from(source, transport) {
            Verdict::Answer(why) => assert!(why.code().is_some_and(|code| (400..700).contains(&code))),
            Verdict::Silent(why) => assert!(why == Refused::Malformed || why.code().is_none()),
            Verdict::Routed(peer) => assert!(peer < 2),
            Verdict::Other => {}
        }
    }
}

//! Files with SIP in them: listeners, trunks, routes, WhatsApp over SIP.

use super::*;

const SIP: &str = "[openai]\n[sip]\nudp = \"0.0.0.0:5060\"\n";

fn with_trunk(keys: &str) -> String {
    format!("{SIP}[[trunk]]\nname = \"mtn-rw\"\n{keys}\n")
}

#[test]
fn a_trunk_that_names_its_networks_and_a_number_has_a_default_for_the_rest() {
    let config = good(&with_trunk("allow = [\"192.0.2.0/28\"]\n[[trunk.route]]\ncalled = \"+35690000002\""));
    let trunk = &config.trunks[0];
    assert_eq!((trunk.transport, trunk.srtp), (Transport::Udp, Srtp::Off));
    assert_eq!(trunk.codecs, [Codec::Pcma, Codec::Pcmu]);
    assert_eq!((trunk.calls, trunk.calls_per_second), (100, 10));
    assert_eq!((trunk.options_every, trunk.register_every), (Some(Duration::from_secs(30)), Duration::from_secs(600)));
    assert!(!trunk.early_media && trunk.public_network);
    assert_eq!(trunk.routes[0].languages, config.node.languages);
    assert_eq!(config.notes.iter().map(|note| note.path.as_str()).collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(config.effective_toml().contains("# trunk_mtn_rw_password: set\n"));
}

#[test]
fn what_cannot_work_with_trunks_is_a_problem_with_a_fix() {
    let allow = "allow = [\"192.0.2.0/28\"]\n";
    let cases = [
        (with_trunk(""), "trunk[0].name", "nobody could call"),
        (with_trunk("registrar = \"sip.example.net\""), "trunk[0].registrar", "without username"),
        (
            with_trunk("registrar = \"sip:me@sip.example.net\"\nusername = \"kigali-edge\""),
            "trunk[0].registrar",
            "more than a host",
        ),
        (with_trunk("allow = [\"0.0.0.0/0\"]"), "trunk[0].allow", "lets everybody in"),
        (with_trunk(&format!("{allow}codecs = [\"gsm\"]")), "trunk[0].codecs", "none of the words"),
        (with_trunk(&format!("{allow}codecs = [\"pcma\", \"pcma\"]")), "trunk[0].codecs", "twice"),
        (with_trunk(&format!("{allow}transport = \"tcp\"")), "trunk[0].transport", "no tcp listener"),
        (with_trunk(&format!("{allow}advertise = \"0.0.0.0\"")), "trunk[0].advertise", "nobody can send to"),
        (with_trunk(&format!("{allow}from = \"reception\"")), "trunk[0].from", "no address of record"),
        (with_trunk(&format!("{allow}calls_per_second = 0")), "trunk[0].calls_per_second", "out of range"),
        (with_trunk(&format!("{allow}[[trunk.route]]\nagent = \"default\"")), "trunk[0].route[0].called", "missing"),
        (with_trunk(&format!("{allow}[[trunk.route]]\ncalled = \"+3*6\"")), "trunk[0].route[0].called", "characters"),
        (
            with_trunk(&format!("{allow}[[trunk.route]]\ncalled = \"*\"\nagent = \"x\"")),
            "trunk[0].route[0].agent",
            "none",
        ),
        (
            with_trunk("allow = [\"192.0.2.0/28\"]\n[[trunk]]\nname = \"mtn_rw\"\nallow = [\"192.0.3.1\"]"),
            "trunk[1].name",
            "share",
        ),
        (
            with_trunk("allow = [\"192.0.2.0/24\"]\n[[trunk]]\nname = \"go\"\nallow = [\"192.0.2.7\"]"),
            "trunk[1].allow",
            "overlaps",
        ),
        (with_trunk(allow).replace("mtn-rw", "whatsapp"), "trunk[0].name", "WhatsApp over SIP"),
        ("[openai]\n[[trunk]]\nname = \"a\"\nallow = [\"192.0.2.1\"]\n".to_owned(), "sip", "is missing"),
        ("[openai]\n[sip]\n".to_owned(), "sip", "listens nowhere"),
        (format!("{SIP}tls = \"0.0.0.0:5061\"\nkey = \"/k\"\n"), "sip.tls", "without certificate"),
        (format!("{SIP}key = \"/k\"\n"), "sip.key", "without tls"),
        (format!("{SIP}tcp = \"0.0.0.0:8080\"\n"), "sip.tcp", "already used by http.public"),
        (with_trunk(allow).replace("[openai]", ""), "openai", "nobody to answer with"),
        (format!("[media]\nports = \"40000-40149\"\n{}", with_trunk(allow)), "media.ports", "needs two"),
        (
            format!("{SMALLEST}[sip]\nudp = \"0.0.0.0:5060\"\n")
                .replace("\n[openai]", "\nsignalling = \"sip\"\n[openai]")
                .replace("[sip]", "[whatsapp.sip]\nhostname = \"edge.example.org\"\n[sip]"),
            "whatsapp.signalling",
            "TLS only",
        ),
    ];
    for (text, path, reason) in cases {
        let problem = problem(&text);
        assert_eq!(problem.path, path, "{text}: {problem}");
        assert!(problem.to_string().contains(reason) && !problem.fix.is_empty(), "{text}: {problem}");
    }
}

#[test]
fn a_registration_needs_its_password_and_a_trunk_without_one_does_not() {
    let registers = with_trunk("registrar = \"sip.example.net\"\nusername = \"kigali-edge\"");
    let only_openai = |name: &str| (name == "openai_api_key").then(|| "canary-openai-key".to_owned());
    let problems = read_with(&registers, &only_openai).map(|_| ()).unwrap_err().problems;
    assert_eq!(problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), ["trunk_mtn_rw_password"]);
    assert!(problems[0].fix.contains("SAUTI_TRUNK_MTN_RW_PASSWORD"), "{}", problems[0].fix);
    let config = good(&registers);
    assert!(config.trunks[0].password.is_some() && !format!("{config:?}").contains("canary"));
    read_with(&with_trunk("allow = [\"192.0.2.1\"]"), &only_openai).unwrap();
}

#[test]
fn two_accounts_behind_the_same_addresses_are_told_apart_by_their_user() {
    let second = "allow = [\"192.0.2.1\"]\nusername = \"a\"\n[[trunk]]\nname = \"go\"\nallow = [\"192.0.2.1\"]\n";
    good(&with_trunk(&format!("{second}username = \"b\"")));
    assert_eq!(problem(&with_trunk(&format!("{second}username = \"a\""))).path, "trunk[1].allow");
}

#[test]
fn what_is_risky_with_trunks_is_noted() {
    let noted = |text: &str| good(text).notes.iter().map(|note| note.path.clone()).collect::<Vec<_>>();
    let route = "[[trunk.route]]\ncalled = \"*\"";
    let allow = "allow = [\"192.0.2.0/28\"]";
    assert_eq!(noted(&with_trunk(&format!("{allow}\nsrtp = \"sdes\"\n{route}"))), ["trunk[0].srtp"]);
    assert_eq!(noted(&with_trunk(allow)), ["trunk[0]"]);
    let few = format!("[media]\nports = \"40000-40219\"\n{}", with_trunk(&format!("{allow}\n{route}")));
    assert_eq!(noted(&few), ["media.ports"]);
    assert_eq!(noted(SIP), ["sip", "whatsapp"]);
}

#[test]
fn whatsapp_over_sip_knows_metas_networks_and_needs_its_password() {
    let text = "[whatsapp]\nphone_number_id = \"7\"\nsignalling = \"sip\"\n[whatsapp.sip]\n\
                hostname = \"edge.example.org\"\n[openai]\n[sip]\ntls = \"0.0.0.0:5061\"\n\
                certificate = \"/c.pem\"\nkey = \"/k.pem\"\n";
    let config = good(text);
    let Signalling::Sip(sip) = &config.whatsapp.as_ref().unwrap().signalling else { panic!() };
    assert_eq!((sip.hostname.as_str(), sip.host.to_string().as_str()), ("edge.example.org", "wa.meta.vc"));
    assert_eq!(sip.allow.len(), 23);
    assert!(sip.allow.iter().any(|network| network.contains("157.240.1.1".parse().unwrap())));
    let page = config.effective_toml();
    assert_eq!(good(&page).effective_toml(), page);
    let without = |name: &str| all_secrets(name).filter(|_| name != "whatsapp_sip_password");
    let problems = read_with(text, &without).map(|_| ()).unwrap_err().problems;
    assert_eq!(problems[0].path, "whatsapp_sip_password");
    let no_name = text.replace("hostname = \"edge.example.org\"\n", "");
    assert_eq!(problem(&no_name).path, "whatsapp.sip.hostname");
}

//! What `sauti route` says about INVITEs that people have in files.

use std::path::PathBuf;

use sauti_core::config::check::{Environment, read};

use super::*;
use crate::cli::ConfigArg;

const CONFIG: &str = "[openai]\n[sip]\nudp = \"0.0.0.0:5060\"\n[[trunk]]\nname = \"mtn-rw\"\nallow = [\"192.0.2.0/28\"]\n\
                      [[trunk.route]]\ncalled = \"+35690000002\"\nlanguages = [\"en\"]\n";
const INVITE: &str = "INVITE sip:35690000002@edge.example.org SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.3:5060;branch=z9hG4bK1\n\
                      From: <sip:+250780000001@h>;tag=1\nTo: <sip:x@h>\nCall-ID: 1\nCSeq: 1 INVITE\n\
                      Contact: <sip:a@192.0.2.3>\nContent-Type: application/sdp\nContent-Length: 999\n\nv=0\n";

fn config() -> Config {
    let secrets = |_: &str| Some("canary-openai-key".to_owned());
    let read_file = |_: &Path| Err("none".to_owned());
    read(CONFIG, &Environment { host_name: "h", cores: 1, secrets: &secrets, read_file: &read_file }).unwrap()
}

fn asked(text: &str, source: Option<&str>, transport: Option<&str>) -> (Value, bool) {
    let args = RouteArgs {
        config: ConfigArg { config: PathBuf::new() },
        file: PathBuf::new(),
        source: source.map(|source| source.parse().unwrap()),
        transport: transport.map(str::to_owned),
        json: true,
    };
    let (mut rows, good) = routed(&config(), text.as_bytes(), &args).unwrap();
    (rows.remove(0), good)
}

#[test]
fn an_invite_from_a_file_shows_its_trunk_and_route() {
    let (row, good) = asked(INVITE, None, None);
    assert!(good);
    assert_eq!(
        (&row["trunk"], &row["route"], &row["languages"]),
        (&json!("mtn-rw"), &json!("+35690000002"), &json!(["en"]))
    );
    assert!(table(&[row]).starts_with("agent: default\n"));
}

#[test]
fn a_refusal_names_its_reason_its_code_and_what_to_do() {
    let (row, good) = asked(&INVITE.replace("sip:35690000002", "sip:250780000001"), None, None);
    assert!(!good);
    assert_eq!((&row["verdict"], &row["reason"], &row["code"]), (&json!("refused"), &json!("no_route"), &json!(404)));
    assert_eq!(row["trunk"], "mtn-rw");
    assert!(row["words"].as_str().unwrap().contains("[[trunk.route]]"));
    let (stranger, _) = asked(INVITE, Some("203.0.113.9"), None);
    assert_eq!((&stranger["verdict"], &stranger["reason"]), (&json!("dropped"), &json!("unknown_source")));
    let (other_way, _) = asked(INVITE, None, Some("tls"));
    assert_eq!(other_way["reason"], "wrong_transport");
}

#[test]
fn the_list_shows_every_trunk_and_no_secret() {
    let rows = list(&config());
    assert_eq!((rows.len(), &rows[0]["routes"]), (1, &json!(["+35690000002 -> default (en)"])));
    assert!(!table(&rows).contains("canary"));
}

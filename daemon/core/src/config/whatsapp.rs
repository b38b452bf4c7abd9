//! `[whatsapp]`: the WhatsApp door, signalled by Graph or by SIP.

use std::time::Duration;

use super::check::Context;
use super::file::{Complaint, Section};
use super::{HostPort, Network, Signalling, WhatsApp, WhatsAppSip, trunk, values};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// IPv4 networks of Meta (whatsapp-calling §3.8); its own list changes, `[whatsapp.sip] allow` overrides this one.
const META: [&str; 23] = [
    "31.13.24.0/21",
    "31.13.64.0/18",
    "45.64.40.0/22",
    "57.141.0.0/21",
    "57.141.8.0/22",
    "57.141.12.0/23",
    "57.144.0.0/14",
    "66.220.144.0/20",
    "69.63.176.0/20",
    "69.171.224.0/19",
    "74.119.76.0/22",
    "102.132.96.0/20",
    "103.4.96.0/22",
    "129.134.0.0/16",
    "147.75.208.0/20",
    "157.240.0.0/16",
    "163.70.128.0/17",
    "163.77.128.0/17",
    "173.252.64.0/18",
    "179.60.192.0/22",
    "185.60.216.0/22",
    "185.89.216.0/22",
    "204.15.20.0/22",
];

fn meta_networks() -> Vec<Network> {
    META.iter().filter_map(|network| Network::parse(network)).collect()
}

fn host_name(value: &toml::de::DeValue<'_>) -> Result<String, Complaint> {
    let HostPort { host, port } = values::host_port(value)?;
    if port.is_some() {
        return Err(Complaint::new("has a port", "write the name alone; [sip] tls has the port"));
    }
    Ok(host)
}

/// Reads the section.
pub(super) fn read(context: &Context<'_, '_>, section: Section<'_, '_>) -> Option<WhatsApp> {
    let phone_number_id = section.read("phone_number_id", values::meta_id);
    let app_id = section.read("app_id", values::meta_id);
    let waba_id = section.read("waba_id", values::meta_id);
    let graph_url = section.read_or(
        "graph_url",
        |value| values::url(value, &["https"]),
        || "https://graph.facebook.com".to_owned(),
    );
    let graph_version = section.read_or("graph_version", values::graph_version, || "v26.0".to_owned());
    let stale = SECOND..=10 * MINUTE;
    let stale_after = section.read_or("stale_after", |value| values::duration(value, stale), || 45 * SECOND);
    let signalling = section.read_or("signalling", |value| values::one_of(value, &["graph", "sip"]), || "graph");
    let sip = section.section("sip");
    let hostname = sip.read("hostname", host_name);
    let host = sip.read_or("host", values::host_port, || HostPort { host: "wa.meta.vc".to_owned(), port: None });
    let allow = sip.read_or("allow", |value| values::list(value, trunk::peers), meta_networks);
    let number = sip.read("number", values::digits);
    if !section.is_present() {
        return None;
    }
    if context.whole && !section.has("phone_number_id") {
        let fix = "write phone_number_id = \"…\"; the app's API set-up page shows it beside the number";
        section.complain("phone_number_id", "is missing; calls are answered through it", fix);
    }
    let by_sip = signalling.value == "sip";
    if by_sip && context.whole && !sip.has("hostname") {
        let fix = "write hostname = \"…\" under [whatsapp.sip], the one of the number's SIP settings at Meta";
        sip.complain("hostname", "is missing; Meta refuses calls from any other name", fix);
    }
    if !by_sip && sip.is_present() {
        context.book.note("whatsapp.sip", "is not used: signalling is \"graph\"");
    }
    sip.finish();
    section.finish();
    let access_token = context.secrets.required("whatsapp_access_token", "[whatsapp]");
    let app_secret = context.secrets.required("whatsapp_app_secret", "[whatsapp]");
    let verify_token = context.secrets.required("whatsapp_verify_token", "[whatsapp]");
    let signalling = if by_sip {
        Signalling::Sip(WhatsAppSip {
            hostname: hostname.map_or_else(String::new, |given| given.value),
            host: host.value,
            allow: allow.value,
            number: number.map(|given| given.value),
            password: context.secrets.required("whatsapp_sip_password", "[whatsapp] signalling = \"sip\""),
        })
    } else {
        Signalling::Graph
    };
    Some(WhatsApp {
        phone_number_id: phone_number_id.map_or_else(String::new, |given| given.value),
        app_id: app_id.map(|given| given.value),
        waba_id: waba_id.map(|given| given.value),
        graph_url: graph_url.value,
        graph_version: graph_version.value,
        stale_after: stale_after.value,
        signalling,
        access_token,
        app_secret,
        verify_token,
    })
}

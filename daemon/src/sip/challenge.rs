//! Digest towards those who call us: WhatsApp over SIP is challenged with 407 (whatsapp-calling §4).
//!
//! Nonces need no table (`core::sip::nonce`); the digest is the library's, MD5 where the answer names no algorithm.

use std::net::IpAddr;

use jiff::Timestamp;
use rsipstack::dialog::authenticate::verify_digest;
use rsipstack::sip::typed::Authorization;
use rsipstack::sip::{Header, Request};
use sauti_core::pii::BoxKey;
use sauti_core::sip::nonce::{self, Verdict};
use secrecy::{ExposeSecret as _, SecretString};

use super::read;

/// What we call ourselves in challenges; Meta leaves it to us.
const REALM: &str = "sauti";

/// How an INVITE stands that must be authenticated.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The digest matches.
    Good,
    /// There is none, or its nonce is old: challenge with this header.
    Missing(Header),
    /// It does not match.
    Bad,
}

/// Judges the credentials of an INVITE to the number `called`, with or without `+`.
pub(super) fn judge(
    key: &BoxKey,
    now: Timestamp,
    request: &Request,
    source: IpAddr,
    called: &str,
    password: &SecretString,
) -> Proof {
    let given = read::value(request, "Proxy-Authorization").or_else(|| read::value(request, "Authorization"));
    let Some(text) = given else { return Proof::Missing(challenge(key, now, source, false)) };
    let Ok(credentials) = Authorization::parse(&text) else { return Proof::Bad };
    match nonce::judge(key, now, source, &credentials.nonce) {
        Verdict::Fresh => {}
        Verdict::Stale => return Proof::Missing(challenge(key, now, source, true)),
        Verdict::Foreign => return Proof::Bad,
    }
    let digits = called.strip_prefix('+').unwrap_or(called);
    let matches = credentials.username == digits
        && credentials.realm == REALM
        && read::user_of(&credentials.uri).is_some_and(|user| user.trim_start_matches('+') == digits)
        && verify_digest(&credentials, password.expose_secret(), request.method(), &text);
    if matches { Proof::Good } else { Proof::Bad }
}

fn challenge(key: &BoxKey, now: Timestamp, source: IpAddr, stale: bool) -> Header {
    let nonce = nonce::make(key, now, source);
    let stale = if stale { ", stale=true" } else { "" };
    Header::ProxyAuthenticate(
        format!("Digest realm=\"{REALM}\", nonce=\"{nonce}\", algorithm=MD5, qop=\"auth\"{stale}").into(),
    )
}

#[cfg(test)]
mod tests {
    use rsipstack::dialog::authenticate::compute_digest;
    use rsipstack::sip::headers::auth::{Algorithm, AuthQop};
    use rsipstack::sip::{Method, SipMessage};

    use super::*;

    const NUMBER: &str = "35690000002";

    fn invite(credentials: &str) -> Request {
        let text = format!(
            "INVITE sip:+{NUMBER}@edge.example.org;transport=tls SIP/2.0\r\nVia: SIP/2.0/TLS 157.240.1.1;branch=z9hG4bK1\r\n\
             From: <sip:a@wa.meta.vc>;tag=1\r\nTo: <sip:+{NUMBER}@edge.example.org>\r\nCall-ID: 1\r\n\
             CSeq: 2 INVITE\r\n{credentials}Content-Length: 0\r\n\r\n"
        );
        let SipMessage::Request(request) = SipMessage::try_from(text.as_bytes()).unwrap() else { panic!() };
        request
    }

    fn asked(key: &BoxKey, now: Timestamp, request: &Request) -> Proof {
        let source = "157.240.1.1".parse().unwrap();
        judge(key, now, request, source, &format!("+{NUMBER}"), &SecretString::from("canary-trunk-password"))
    }

    fn answer(nonce: &str, user: &str, password: &str) -> String {
        let uri = format!("sip:+{NUMBER}@edge.example.org");
        let qop = AuthQop::Auth { cnonce: "0a4f113b".into(), nc: 1 };
        let response = compute_digest(user, password, REALM, nonce, &Method::Invite, &uri, Algorithm::Md5, Some(&qop));
        format!(
            "Proxy-Authorization: Digest username=\"{user}\",realm=\"{REALM}\",nonce=\"{nonce}\",uri=\"{uri}\",\
             qop=auth,nc=00000001,cnonce=\"0a4f113b\",response=\"{response}\"\r\n"
        )
    }

    #[test]
    fn an_invite_is_challenged_and_the_answer_as_meta_writes_it_is_taken() {
        let (key, now) = (BoxKey::new([5; 32]), Timestamp::from_second(1_800_000_000).unwrap());
        let Proof::Missing(Header::ProxyAuthenticate(header)) = asked(&key, now, &invite("")) else { panic!() };
        let nonce = header.0.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let good = answer(&nonce, NUMBER, "canary-trunk-password");
        assert_eq!(asked(&key, now, &invite(&good)), Proof::Good);
        assert_eq!(asked(&key, now, &invite(&answer(&nonce, NUMBER, "guess"))), Proof::Bad);
        assert_eq!(asked(&key, now, &invite(&answer(&nonce, "250780000001", "canary-trunk-password"))), Proof::Bad);
        assert_eq!(asked(&key, now, &invite(&answer("made-up", NUMBER, "canary-trunk-password"))), Proof::Bad);
        assert_eq!(asked(&key, now, &invite("Proxy-Authorization: Basic eA==\r\n")), Proof::Bad);
        let later = Timestamp::from_second(1_800_000_100).unwrap();
        let Proof::Missing(Header::ProxyAuthenticate(again)) = asked(&key, later, &invite(&good)) else { panic!() };
        assert!(again.0.contains("stale=true"), "{}", again.0);
    }
}

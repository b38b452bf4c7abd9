//! Digest (RFC 2617 with MD5, as Meta's samples have it), for the side that proves itself and for the one that judges.
//!
//! On purpose not the daemon's: two sides with the same mistake would agree.

use md5::{Digest as _, Md5};
use secrecy::{ExposeSecret as _, SecretString};

/// A challenge: `WWW-Authenticate` or `Proxy-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Whose users are asked for.
    pub realm: String,
    /// What the answer is made for.
    pub nonce: String,
    /// To be given back as it is.
    pub opaque: Option<String>,
    /// `qop` holds `auth`.
    pub auth: bool,
    /// Another algorithm than MD5, which Meta is not known to do.
    pub other_algorithm: bool,
}

impl Challenge {
    /// Reads the value of the header; `None` for anything but a digest.
    #[must_use]
    pub fn read(value: &str) -> Option<Self> {
        let fields = Fields::read(value)?;
        Some(Self {
            realm: fields.get("realm")?.to_owned(),
            nonce: fields.get("nonce")?.to_owned(),
            opaque: fields.get("opaque").map(str::to_owned),
            auth: fields.get("qop").is_some_and(|qop| qop.split(',').any(|one| one.trim() == "auth")),
            other_algorithm: fields.get("algorithm").is_some_and(|name| !name.eq_ignore_ascii_case("MD5")),
        })
    }

    /// The value of the header, in the order of Meta's sample.
    #[must_use]
    pub fn write(&self) -> String {
        let Self { realm, nonce, opaque, .. } = self;
        let opaque = opaque.as_ref().map_or_else(String::new, |opaque| format!("opaque=\"{opaque}\","));
        format!("Digest realm=\"{realm}\",nonce=\"{nonce}\",{opaque}algorithm=MD5,qop=\"auth\"")
    }
}

/// An answer to a challenge: `Authorization` or `Proxy-Authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Who.
    pub username: String,
    /// The challenge's.
    pub realm: String,
    /// The challenge's.
    pub nonce: String,
    /// What is asked for.
    pub uri: String,
    /// The proof.
    pub response: String,
    /// `qop`, `nc` and `cnonce`, where the challenge had `qop`.
    pub counted: Option<(String, String, String)>,
    /// The challenge's.
    pub opaque: Option<String>,
}

impl Credentials {
    /// Answers a challenge for one request.
    #[must_use]
    pub fn answer(
        challenge: &Challenge,
        username: &str,
        password: &SecretString,
        (method, uri): (&str, &str),
        cnonce: &str,
    ) -> Self {
        let counted = challenge.auth.then(|| ("auth".to_owned(), "00000001".to_owned(), cnonce.to_owned()));
        let mut answer = Self {
            username: username.to_owned(),
            realm: challenge.realm.clone(),
            nonce: challenge.nonce.clone(),
            uri: uri.to_owned(),
            response: String::new(),
            counted,
            opaque: challenge.opaque.clone(),
        };
        answer.response = answer.proof(method, password);
        answer
    }

    /// Reads the value of the header.
    #[must_use]
    pub fn read(value: &str) -> Option<Self> {
        let fields = Fields::read(value)?;
        let own = |name| fields.get(name).map(str::to_owned);
        let counted = match own("qop") {
            Some(qop) => Some((qop, own("nc")?, own("cnonce")?)),
            None => None,
        };
        Some(Self {
            username: own("username")?,
            realm: own("realm")?,
            nonce: own("nonce")?,
            uri: own("uri")?,
            response: own("response")?,
            counted,
            opaque: own("opaque"),
        })
    }

    /// The value of the header as Meta writes it: no `algorithm`, `nc` and `qop` bare.
    #[must_use]
    pub fn write(&self) -> String {
        use std::fmt::Write as _;
        let Self { username, realm, nonce, uri, response, .. } = self;
        let mut text = format!(
            "Digest username=\"{username}\",realm=\"{realm}\",nonce=\"{nonce}\",uri=\"{uri}\",response=\"{response}\""
        );
        // Writing to a String cannot fail.
        if let Some((qop, nc, cnonce)) = &self.counted {
            write!(text, ",cnonce=\"{cnonce}\",qop={qop},nc={nc}").ok();
        }
        if let Some(opaque) = &self.opaque {
            write!(text, ",opaque=\"{opaque}\"").ok();
        }
        text
    }

    /// True when whoever wrote it has the password.
    #[must_use]
    pub fn proves(&self, method: &str, password: &SecretString) -> bool {
        self.response.eq_ignore_ascii_case(&self.proof(method, password))
    }

    /// RFC 2617 §3.2.2.1.
    fn proof(&self, method: &str, password: &SecretString) -> String {
        let Self { username, realm, nonce, uri, .. } = self;
        let who = hash(&format!("{username}:{realm}:{}", password.expose_secret()));
        let what = hash(&format!("{method}:{uri}"));
        match &self.counted {
            Some((qop, nc, cnonce)) => hash(&format!("{who}:{nonce}:{nc}:{cnonce}:{qop}:{what}")),
            None => hash(&format!("{who}:{nonce}:{what}")),
        }
    }
}

fn hash(text: &str) -> String {
    hex::encode(Md5::digest(text.as_bytes()))
}

/// The `name=value` pairs behind `Digest`.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn read(value: &'a str) -> Option<Self> {
        let (scheme, mut rest) = value.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("digest") {
            return None;
        }
        let mut fields = Vec::new();
        while !rest.trim().is_empty() {
            let (name, after) = rest.split_once('=')?;
            let (value, after) = match after.trim_start().strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => {
                    let bare = after.trim_start();
                    bare.split_at(bare.find(',').unwrap_or(bare.len()))
                }
            };
            fields.push((name.trim(), value.trim()));
            rest = after.trim_start().trim_start_matches(',');
        }
        Some(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_2617_comes_out() {
        let challenge = Challenge::read(
            "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
             nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"",
        )
        .unwrap();
        let password = SecretString::from("Circle Of Life");
        let answer = Credentials::answer(&challenge, "Mufasa", &password, ("GET", "/dir/index.html"), "0a4f113b");
        assert_eq!(answer.response, "6629fae49393a05397450978507c4ef1");
        assert_eq!(Credentials::read(&answer.write()), Some(answer.clone()));
        assert!(answer.proves("GET", &password));
        assert!(!answer.proves("INVITE", &password) && !answer.proves("GET", &SecretString::from("guess")));
    }

    #[test]
    fn an_answer_has_the_fields_of_metas_sample_and_no_algorithm() {
        let sample = "Digest realm=\"wa.meta.vc\",nonce=\"419ac2415577f8e1\",opaque=\"440badfc05072367\",algorithm=MD5,\
                      qop=\"auth\"";
        let challenge = Challenge::read(sample).unwrap();
        assert_eq!(challenge.write(), sample);
        let uri = "sip:+35690000002@edge.example.org";
        let password = SecretString::from("canary-trunk-password");
        let text = Credentials::answer(&challenge, "35690000002", &password, ("INVITE", uri), "1").write();
        for part in ["qop=auth", "nc=00000001", "cnonce=\"1\"", "opaque=\"440badfc05072367\""] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("algorithm"));
    }

    #[test]
    fn what_is_no_digest_is_not_read() {
        for text in ["", "Digest", "Basic eA==", "Digest realm=\"a", "Digest realm=\"a\",nonce"] {
            assert_eq!(Challenge::read(text), None, "{text}");
        }
        assert_eq!(Credentials::read("Digest username=\"a\",realm=\"b\""), None);
        assert!(Challenge::read("Digest realm=\"a\",nonce=\"b\",algorithm=SHA-256").unwrap().other_algorithm);
    }
}

//! SIP messages as text (RFC 3261 §7): enough to place a call and to judge what comes back.

use std::fmt::Write as _;

/// A request or a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `INVITE sip:… SIP/2.0` or `SIP/2.0 200 OK`.
    pub start: String,
    /// Names as written, values trimmed, in order.
    pub headers: Vec<(String, String)>,
    /// What follows the empty line.
    pub body: String,
}

impl Message {
    /// A message without headers.
    #[must_use]
    pub fn new(start: impl Into<String>) -> Self {
        Self { start: start.into(), headers: Vec::new(), body: String::new() }
    }

    /// Adds a header at the end.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the body, an SDP.
    #[must_use]
    pub fn with_sdp(mut self, sdp: &str) -> Self {
        sdp.clone_into(&mut self.body);
        self.with("Content-Type", "application/sdp")
    }

    /// Reads a whole message; `None` for what is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let start = lines.next().filter(|start| start.contains("SIP/2.0"))?.to_owned();
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':')?;
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        Some(Self { start, headers, body: body.to_owned() })
    }

    /// Takes the first whole message off a stream (RFC 3261 §18.3: `Content-Length` says where it ends). Empty lines
    /// between messages are keep-alives.
    pub fn take(stream: &mut Vec<u8>) -> Option<Self> {
        let blank = stream.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        stream.drain(..blank);
        let head = stream.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let mut message = Self::parse(std::str::from_utf8(stream.get(..head)?).ok()?)?;
        let length = message.header("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let body = std::str::from_utf8(stream.get(head..head.checked_add(length)?)?).ok()?.to_owned();
        message.body = body;
        stream.drain(..head + length);
        Some(message)
    }

    /// The first header of this name; compact forms count (RFC 3261 §7.3.3).
    #[must_use]
    pub fn header(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every header of this name, in order.
    pub fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let short = match name {
            "Via" => "v",
            "From" => "f",
            "To" => "t",
            "Call-ID" => "i",
            "Contact" => "m",
            "Content-Length" => "l",
            "Content-Type" => "c",
            _ => "",
        };
        let named = move |written: &str| {
            written.eq_ignore_ascii_case(name) || (!short.is_empty() && written.eq_ignore_ascii_case(short))
        };
        self.headers.iter().filter(move |(written, _)| named(written)).map(|(_, value)| value.as_str())
    }

    /// The status of a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The method of a request.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.start.split_once(' ').map(|(method, _)| method).filter(|method| !method.starts_with("SIP/"))
    }

    /// Number and method of `CSeq`.
    #[must_use]
    pub fn cseq(&self) -> Option<(u32, &str)> {
        let (number, method) = self.header("CSeq")?.split_once(' ')?;
        Some((number.parse().ok()?, method.trim()))
    }

    /// The message on the wire, with `Content-Length`.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        let mut text = String::with_capacity(512 + self.body.len());
        text.push_str(&self.start);
        text.push_str("\r\n");
        for (name, value) in &self.headers {
            // Writing to a String cannot fail.
            write!(text, "{name}: {value}\r\n").ok();
        }
        write!(text, "Content-Length: {}\r\n\r\n{}", self.body.len(), self.body).ok();
        text.into_bytes()
    }

    /// A response to this request: what RFC 3261 §8.2.6.2 wants repeated, and nothing else.
    #[must_use]
    pub fn reply(&self, status: &str) -> Self {
        let mut reply = Self::new(format!("SIP/2.0 {status}"));
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            reply.headers.extend(self.all(name).map(|value| (name.to_owned(), value.to_owned())));
        }
        reply
    }
}

/// The URI between the angle brackets of an address, or the address without its parameters.
#[must_use]
pub fn uri_of(address: &str) -> &str {
    match address.split_once('<') {
        Some((_, rest)) => rest.split_once('>').map_or(rest, |(uri, _)| uri),
        None => address.split(';').next().unwrap_or_default().trim(),
    }
}

/// A parameter of an address or a `Via`, e.g. `tag`.
#[must_use]
pub fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let parameters = value.rsplit_once('>').map_or(value, |(_, rest)| rest);
    parameters.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// The addresses of a header that may list several (RFC 3261 §7.3.1); a comma within angle brackets is none between.
pub fn listed(value: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    let between = move |sign: char| {
        inside = (inside || sign == '<') && sign != '>';
        sign == ',' && !inside
    };
    value.split(between).map(str::trim).filter(|address| !address.is_empty())
}

/// What is wrong with a response to an INVITE, whoever sent it (RFC 3261 §8.2.6.2, §12.1.1). `branch` and `tag` are those
/// of the request.
#[must_use]
pub fn flaws(response: &Message, branch: &str, tag: &str) -> Vec<&'static str> {
    let status = response.status().unwrap_or_default();
    let mut found = Vec::new();
    let mut check = |holds: bool, what: &'static str| {
        if !holds {
            found.push(what);
        }
    };
    let of = |name, key| response.header(name).and_then(|value| parameter(value, key));
    check(of("Via", "branch") == Some(branch), "a response does not repeat our Via");
    check(of("From", "tag") == Some(tag), "a response does not repeat our From tag");
    check(status <= 100 || of("To", "tag").is_some(), "a response beyond 100 has no To tag");
    if (200..300).contains(&status) {
        check(response.header("Contact").is_some(), "a 200 without Contact");
        let sdp = response.header("Content-Type").is_some_and(|kind| kind.eq_ignore_ascii_case("application/sdp"));
        check(sdp, "a 200 without SDP");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_from_what_it_writes_also_out_of_a_stream() {
        let message = Message::new("INVITE sip:100@127.0.0.1 SIP/2.0")
            .with("Via", "SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bKa;rport")
            .with("CSeq", "1 INVITE")
            .with_sdp("v=0\r\n");
        let mut stream = [b"\r\n\r\n".as_slice(), &message.to_wire(), &message.to_wire()[..40]].concat();
        let back = Message::take(&mut stream).unwrap();
        assert_eq!((back.method(), back.cseq(), back.body.as_str()), (Some("INVITE"), Some((1, "INVITE")), "v=0\r\n"));
        assert_eq!(Message::take(&mut stream), None, "half of a message is none yet");
        assert_eq!(stream.len(), 40);
    }

    #[test]
    fn addresses_give_their_uri_and_their_parameters() {
        let address = "\"A;b\" <sip:1@h;transport=tcp>;tag=x1";
        assert_eq!((uri_of(address), parameter(address, "tag")), ("sip:1@h;transport=tcp", Some("x1")));
        assert_eq!(parameter("SIP/2.0/UDP h:1;branch=z9hG4bKq", "branch"), Some("z9hG4bKq"));
        assert_eq!(Message::parse("hello"), None);
        assert_eq!(listed("<sip:a?b=1,2;lr>, <sip:c>,").collect::<Vec<_>>(), ["<sip:a?b=1,2;lr>", "<sip:c>"]);
    }
}

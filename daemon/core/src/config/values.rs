//! Single values: from what stands behind a key to a type, or why not.
//!
//! Pure text work, used by [`super::check`]; ranges and units are the contract's.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::file::{Complaint, looks_like_secret, wrong_kind};
use super::{HostPort, Network};

type Parsed<T> = Result<T, Complaint>;

/// Any text, without white space at its ends.
pub(super) fn text(value: &DeValue<'_>) -> Parsed<String> {
    let raw = value.as_str().ok_or_else(|| Complaint::new(wrong_kind(value, "a text"), "write it in quotes"))?;
    if looks_like_secret(raw) {
        let fix = "take it out, change the secret if others could read it, and give it as a systemd credential";
        return Err(Complaint::new("looks like a secret, and secrets never stand in the file", fix).hidden());
    }
    Ok(raw.trim().to_owned())
}

/// A text that says something.
pub(super) fn words(value: &DeValue<'_>, longest: usize) -> Parsed<String> {
    let text = text(value)?;
    let length = text.chars().count();
    if text.is_empty() {
        return Err(Complaint::new("is empty", "write some words, or take the line out for the default"));
    }
    if length > longest {
        let reason = format!("has {length} characters; {longest} is the most");
        return Err(Complaint::new(reason, format!("shorten it to {longest} characters")));
    }
    Ok(text)
}

/// A name as it goes into headers, addresses and rows: 1 to 128 visible ASCII characters without space or quote.
pub(super) fn name(value: &DeValue<'_>) -> Parsed<String> {
    let text = words(value, 128)?;
    if text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') {
        Ok(text)
    } else {
        Err(Complaint::new("has a space or a character beyond ASCII", "write the name alone, in plain letters"))
    }
}

/// A name made of letters, digits, `.`, `_` and `-`.
pub(super) fn plain_name(value: &DeValue<'_>) -> Parsed<String> {
    let text = words(value, 64)?;
    if is_plain_name(&text) {
        Ok(text)
    } else {
        Err(Complaint::new("has characters that a name may not have", "use letters, digits, '.', '_' and '-' only"))
    }
}

/// True for 1 to 64 letters, digits, `.`, `_` and `-`.
pub(super) fn is_plain_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// One of a few words.
pub(super) fn one_of(value: &DeValue<'_>, words: &[&'static str]) -> Parsed<&'static str> {
    let given = text(value)?;
    words
        .iter()
        .copied()
        .find(|word| *word == given)
        .ok_or_else(|| Complaint::new("is none of the words known here", format!("write one of {}", quoted(words))))
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

/// An id that Meta gives out: digits only.
pub(super) fn meta_id(value: &DeValue<'_>) -> Parsed<String> {
    const FIX: &str = "copy the id from the app's API set-up page, in quotes";
    if matches!(value, DeValue::Integer(_)) {
        return Err(Complaint::new("is a whole number where a text belongs", "write the same digits in quotes"));
    }
    let text = text(value)?;
    if text.starts_with('+') {
        return Err(Complaint::new("is a telephone number, not the number's id", FIX).hidden());
    }
    if (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(text)
    } else {
        Err(Complaint::new("is no id; ids are 1 to 32 digits", FIX))
    }
}

/// A whole number within `range`.
pub(super) fn whole(value: &DeValue<'_>, range: RangeInclusive<u32>) -> Parsed<u32> {
    let fix = || format!("write a whole number from {} to {}", range.start(), range.end());
    let DeValue::Integer(number) = value else {
        return Err(Complaint::new(wrong_kind(value, "a whole number"), fix()));
    };
    let read = i64::from_str_radix(number.as_str(), number.radix()).ok().and_then(|number| u32::try_from(number).ok());
    read.filter(|number| range.contains(number)).ok_or_else(|| {
        Complaint::new(format!("is out of range; it goes from {} to {}", range.start(), range.end()), fix())
    })
}

/// A decimal number from 0 to 1.
pub(super) fn fraction(value: &DeValue<'_>) -> Parsed<f32> {
    let text = match value {
        DeValue::Float(number) => number.as_str(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        _ => return Err(Complaint::new(wrong_kind(value, "a decimal number"), "write a number from 0.0 to 1.0")),
    };
    text.parse()
        .ok()
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| Complaint::new("is out of range; it goes from 0.0 to 1.0", "write a number from 0.0 to 1.0"))
}

/// True or false.
pub(super) fn flag(value: &DeValue<'_>) -> Parsed<bool> {
    value
        .as_bool()
        .ok_or_else(|| Complaint::new(wrong_kind(value, "true or false"), "write true or false, without quotes"))
}

/// A duration within `range`: whole numbers with units, `"15m"`, `"250ms"`, `"1m30s"`.
pub(super) fn duration(value: &DeValue<'_>, range: RangeInclusive<Duration>) -> Parsed<Duration> {
    let fix = || {
        let (least, most) = (written(*range.start()), written(*range.end()));
        format!("write a number with its unit (ms, s, m, h) in quotes, from \"{least}\" to \"{most}\"")
    };
    let Some(text) = value.as_str() else {
        return Err(Complaint::new(wrong_kind(value, "a duration"), fix()));
    };
    let Some(duration) = parse_duration(text.trim()) else {
        return Err(Complaint::new("is no duration", fix()));
    };
    if range.contains(&duration) {
        return Ok(duration);
    }
    let (side, bound) = if duration < *range.start() { ("short", range.start()) } else { ("long", range.end()) };
    let word = if side == "short" { "least" } else { "most" };
    Err(Complaint::new(format!("is too {side}; {} is the {word}", written(*bound)), fix()))
}

/// Reads `15m`, `250ms`, `1h30m`; each unit at most once, the larger first. `None` for anything else.
fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let (mut rest, mut millis, mut allowed) = (text, 0_u64, &UNITS[..]);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at_checked(letters)?;
        let position = allowed.iter().position(|(name, _)| *name == unit)?;
        let part = number.parse::<u64>().ok()?.checked_mul(allowed.get(position)?.1)?;
        millis = millis.checked_add(part)?;
        allowed = allowed.get(position + 1..)?;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

/// Writes a duration as [`duration`] reads it, in its largest units.
pub(super) fn written(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if millis >= size {
            text.push_str(&format!("{}{unit}", millis / size));
            millis %= size;
        }
    }
    text
}

/// An address with a port; port 0 lets the system choose.
pub(super) fn socket(value: &DeValue<'_>) -> Parsed<SocketAddr> {
    const FIX: &str = "write an IP address and a port from 0 to 65535, like \"127.0.0.1:9090\" or \"[::]:8080\"";
    let text = text(value)?;
    text.parse().map_err(|_| match text.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_err() => {
            Complaint::new(format!("has port {port:?}; ports end at 65535"), FIX)
        }
        Some((host, _)) if host.parse::<IpAddr>().is_err() => {
            Complaint::new("has a name where an IP address belongs", FIX)
        }
        _ => Complaint::new("is no address with a port", FIX),
    })
}

/// An IP address.
pub(super) fn ip(value: &DeValue<'_>) -> Parsed<IpAddr> {
    let text = text(value)?;
    text.parse().map_err(|_| Complaint::new("is no IP address", "write an IP address, like \"0.0.0.0\""))
}

/// Every item of a list, read by `item`; the first one that cannot be used names itself.
pub(super) fn list<T>(value: &DeValue<'_>, item: impl Fn(&DeValue<'_>) -> Parsed<T>) -> Parsed<Vec<T>> {
    let Some(items) = value.as_array() else {
        return Err(Complaint::new(wrong_kind(value, "a list"), "write the items in brackets: [\"…\"]"));
    };
    let mut read = Vec::new();
    for (index, value) in items.iter().enumerate() {
        read.push(item(value.get_ref()).map_err(|complaint| {
            let shown = match value.get_ref().as_str() {
                Some(text) if complaint.show => format!("has {text:?} as its item {}, which", index + 1),
                _ => format!("has an item {} which", index + 1),
            };
            Complaint { reason: format!("{shown} {}", complaint.reason), ..complaint }
        })?);
    }
    Ok(read)
}

/// A network in CIDR form or a single address.
pub(super) fn network(value: &DeValue<'_>) -> Parsed<Network> {
    let text = text(value)?;
    Network::parse(&text).ok_or_else(|| {
        Complaint::new("is no network", "write an address, or one with a prefix length, like \"10.0.0.0/8\"")
    })
}

/// A range of UDP ports, both ends included.
pub(super) fn ports(value: &DeValue<'_>) -> Parsed<(u16, u16)> {
    const FIX: &str = "write the first and the last port, like \"40000-40999\"";
    let text = text(value)?;
    let parsed = text.split_once('-').map(|(first, last)| (first.trim().parse::<u16>(), last.trim().parse::<u16>()));
    match parsed {
        Some((Ok(first), Ok(last))) if first > last => Err(Complaint::new("ends before it begins", FIX)),
        Some((Ok(first), Ok(_))) if first < 1024 => {
            Err(Complaint::new("begins below 1024, where only root may bind", FIX))
        }
        Some((Ok(first), Ok(last))) => Ok((first, last)),
        Some(_) => Err(Complaint::new("has an end that is no port; ports are 1024 to 65535", FIX)),
        None => Err(Complaint::new("is no range of ports", FIX)),
    }
}

/// Graph's version segment.
pub(super) fn graph_version(value: &DeValue<'_>) -> Parsed<String> {
    let text = text(value)?;
    let digits = |part: &str| !part.is_empty() && part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit());
    match text.strip_prefix('v').and_then(|version| version.split_once('.')) {
        Some((major, minor)) if digits(major) && digits(minor) => Ok(text),
        _ => Err(Complaint::new("is no Graph version", "write it as Meta does, like \"v26.0\"")),
    }
}

/// A base address, without a trailing slash; unencrypted schemes only towards this machine.
///
/// `schemes` are the encrypted ones that are accepted; the unencrypted twin of each counts for loopback hosts.
pub(super) fn url(value: &DeValue<'_>, schemes: &[&str]) -> Parsed<String> {
    let fix = || format!("write an address like \"{}://host/path\"", schemes.first().copied().unwrap_or("https"));
    let text = text(value)?;
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Complaint::new("is no address with a scheme", fix()));
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if authority.contains('@') {
        let fix = "take the part before the @ out; secrets are given as systemd credentials";
        return Err(Complaint::new("carries a user or password", fix).hidden());
    }
    let Some(host) = host_of(authority) else {
        return Err(Complaint::new("has no usable host", fix()));
    };
    if path.contains(['?', '#']) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Complaint::new("has a query, a fragment or white space", fix()));
    }
    let scheme = scheme.to_ascii_lowercase();
    let unencrypted = schemes.iter().any(|secure| secure.strip_suffix('s') == Some(scheme.as_str()));
    if unencrypted && !is_loopback(host) {
        let reason = format!("is unencrypted, and {scheme}:// is for this machine's own addresses only");
        return Err(Complaint::new(reason, format!("write {scheme}s://, or a loopback host")));
    }
    if !unencrypted && !schemes.contains(&scheme.as_str()) {
        return Err(Complaint::new(format!("has the scheme {scheme:?}, which cannot be used here"), fix()));
    }
    Ok(format!("{scheme}://{authority}{}", path.trim_end_matches('/')))
}

/// A host name or address, with or without a port.
pub(super) fn host_port(value: &DeValue<'_>) -> Parsed<HostPort> {
    const FIX: &str = "write a name or an address, with a port if it is not the usual one, like \"sip.example.net\"";
    let text = text(value)?;
    if text.contains(['@', '/']) || text.starts_with("sip") && text.contains("sip:") {
        return Err(Complaint::new("is more than a host", FIX).hidden());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(HostPort { host: address.to_string(), port: None });
    }
    let host = host_of(&text).ok_or_else(|| Complaint::new("is no usable host", FIX))?;
    let port = text.rsplit_once(':').filter(|(before, _)| before.trim_end_matches(']').ends_with(host));
    let port = port.and_then(|(_, port)| port.parse().ok());
    if port == Some(0) || host.is_empty() {
        return Err(Complaint::new("is no usable host", FIX));
    }
    Ok(HostPort { host: host.to_owned(), port })
}

/// Digits alone, as a text.
pub(super) fn digits(value: &DeValue<'_>) -> Parsed<String> {
    let text = text(value)?;
    if (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(text)
    } else {
        Err(Complaint::new("is not 1 to 32 digits", "write the digits alone, in quotes, without +").hidden())
    }
}

/// The host of `host`, `host:port`, `[v6]:port`; `None` if there is none or the port is no port.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, after)
        }
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    let host_fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    // Neither a resolver nor TLS takes an empty label, or one beyond 63 characters (RFC 1035 §2.3.4).
    let labels_fit = host.contains(':')
        || host.strip_suffix('.').unwrap_or(host).split('.').all(|label| (1..=63).contains(&label.len()));
    (port_fits && labels_fit && host.bytes().all(host_fits)).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> DeValue<'static> {
        DeValue::String(text.to_owned().into())
    }

    #[test]
    fn durations_read_back_as_they_are_written() {
        for (text, millis) in
            [("15m", 900_000), ("250ms", 250), ("3s", 3_000), ("1h", 3_600_000), ("1m30s", 90_000), ("0s", 0)]
        {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis));
            assert_eq!(written(duration), text);
        }
        for text in ["", "15", "m", "15 m", "-3s", "1.5s", "3s1m", "1s1s", "3S", "99999999999999999h", "5μs"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn an_unencrypted_address_is_for_this_machine_only() {
        let https = |text| url(&string(text), &["https"]);
        for fine in ["http://127.0.0.1:8443/v1", "http://localhost", "http://[::1]:80", "https://api.openai.com/v1"] {
            assert_eq!(https(fine).unwrap(), fine);
        }
        assert_eq!(https("https://graph.facebook.com/").unwrap(), "https://graph.facebook.com");
        for bad in ["http://example.org", "http://127.0.0.1.example.org", "http://[::2]", "ws://localhost", "ftp://x"] {
            assert!(https(bad).is_err(), "{bad}");
        }
        for bad in ["example.org", "https://", "https://a b", "https://h:99999", "https://h/x?y", "https://[::1"] {
            assert!(https(bad).is_err(), "{bad}");
        }
        assert_eq!(url(&string("ws://127.0.0.1:9/v1"), &["https", "wss"]).unwrap(), "ws://127.0.0.1:9/v1");
    }

    #[test]
    fn an_address_with_a_password_is_refused_without_repeating_it() {
        let complaint = url(&string("https://me:canary-whatsapp-token@example.org"), &["https"]).unwrap_err();
        assert!(!complaint.show);
        assert!(!complaint.reason.contains("canary"));
    }

    #[test]
    fn a_host_that_no_resolver_takes_is_refused() {
        for host in ["a..b", ".example.org", "", "..", &"a".repeat(64)] {
            assert!(url(&string(&format!("https://{host}/v1")), &["https"]).is_err(), "{host}");
        }
        for host in ["example.org.", "edge-1.example.org:8443", "[::1]:443"] {
            assert!(url(&string(&format!("https://{host}/v1")), &["https"]).is_ok(), "{host}");
        }
    }

    #[test]
    fn a_port_beyond_the_last_is_named() {
        let complaint = socket(&string("127.0.0.1:99999")).unwrap_err();
        assert!(complaint.reason.contains("99999"), "{}", complaint.reason);
        assert!(socket(&string("localhost:80")).is_err());
        assert!(socket(&string("[::]:8080")).is_ok());
    }

    #[test]
    fn port_ranges_run_forward_and_above_the_reserved_ones() {
        assert_eq!(ports(&string("40000-40999")).unwrap(), (40_000, 40_999));
        for bad in ["40999-40000", "80-90", "40000", "40000-70000", "a-b", ""] {
            assert!(ports(&string(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_names_the_item_that_cannot_be_used() {
        let value = DeValue::parse(r#"["10.0.0.0/8", "10.0.0.0/33"]"#).unwrap();
        let complaint = list(value.get_ref(), network).unwrap_err();
        assert!(complaint.reason.contains("10.0.0.0/33"), "{}", complaint.reason);
        assert!(complaint.reason.contains("item 2"), "{}", complaint.reason);
    }
}

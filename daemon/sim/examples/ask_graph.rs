//! The emulated Graph on a pair of pipes, for clients that we did not write.
//!
//! First it tells the two calls that ring, a line each. Then every line on stdin is a request: method, path,
//! authorization, base64 of the body, apart by tabs; every line on stdout its reply: status, base64 of the body.

use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use sauti_core::now::Now;
use sauti_sim::whatsapp::dice::Dice;
use sauti_sim::whatsapp::graph::{Graph, GraphOptions, HttpRequest};
use sauti_sim::whatsapp::offer::Offer;
use sauti_sim::whatsapp::person::Person;
use secrecy::SecretString;

fn main() -> io::Result<()> {
    let token = SecretString::from("canary-whatsapp-token".to_owned());
    let mut graph = Graph::new(GraphOptions::prompt("100000000000002", token), 1);
    #[expect(clippy::disallowed_methods, reason = "this program drives the machine, so it brings the clock")]
    let now = Now { mono: Instant::now(), wall: Timestamp::UNIX_EPOCH };
    let mut out = io::stdout().lock();
    for nth in 0..2 {
        let person = Person::numbered(nth);
        let wacid = graph.new_wacid(&person, nth == 0);
        let relay = SocketAddr::from((Ipv4Addr::LOCALHOST, 3_484));
        graph.ring(now, &wacid, &person, &Offer::new(&mut Dice::new(u64::from(nth)), relay).sdp(now.wall));
        writeln!(out, "{}", wacid.expose())?;
    }
    out.flush()?;
    let mut effects = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let parts: Vec<&str> = line.split('\t').collect();
        let [method, path, authorization, body] = parts.as_slice() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a request has four parts, apart by tabs"));
        };
        let body = STANDARD.decode(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let authorization = Some(*authorization).filter(|value| !value.is_empty());
        let request = HttpRequest { method, path, authorization, body: &body };
        match graph.handle(now, request, &mut effects) {
            Some(reply) => writeln!(out, "{}\t{}", reply.status, STANDARD.encode(&reply.body))?,
            None => writeln!(out, "0\t")?,
        }
        out.flush()?;
    }
    Ok(())
}

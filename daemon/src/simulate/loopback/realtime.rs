//! The emulated Realtime server on a loopback socket: a skin that feeds frames and performs what comes out.
//!
//! All that a connection leaves behind goes to its place in [`Sessions`], under the identifier that the daemon sent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use sauti_sim::openai::{Handshake, Out, RealtimeServer, Record, RequestFacts, ServerSettings, handshake};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

/// Largest event; the service takes appends of up to 15 MiB.
const MAX_MESSAGE: usize = 24 * 1024 * 1024;
/// Longest wait for the HTTP request of a connection.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Settings for a connection, by what its request says.
pub type Choose = dyn Fn(&RequestFacts) -> ServerSettings + Send + Sync;

/// What a connection left behind.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The `OpenAI-Safety-Identifier` of its request.
    pub identifier: String,
    /// Audio, instants, faults.
    pub record: Arc<Record>,
}

/// All connections that have ended, and how many are open.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    finished: Vec<Finished>,
    open: BTreeMap<u64, String>,
}

impl Sessions {
    fn with<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.with(|table| table.open.len())
    }

    /// What the ended connections left behind; each is handed out once.
    pub fn take_finished(&self) -> Vec<Finished> {
        self.with(|table| std::mem::take(&mut table.finished))
    }
}

/// Serves connections until the listener's task is dropped.
pub async fn serve(listener: TcpListener, choose: Arc<Choose>, sessions: Sessions) {
    let mut number = 0;
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (choose, sessions) = (Arc::clone(&choose), sessions.clone());
        tokio::spawn(connection(stream, number, choose, sessions));
        number += 1;
    }
}

async fn connection(stream: TcpStream, number: u64, choose: Arc<Choose>, sessions: Sessions) {
    stream.set_nodelay(true).ok();
    let before = RequestFacts { connection: number, ..RequestFacts::default() };
    tokio::time::sleep(choose(&before).answers_after()).await;
    let mut chosen = None;
    #[expect(clippy::result_large_err, reason = "tungstenite's own type for a refused handshake")]
    let decide = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let facts = facts(request, number);
        let settings = choose(&facts);
        let verdict = handshake(&settings, &facts);
        if let Handshake::Refuse { status, body } = &verdict {
            return Err(refusal(*status, body));
        }
        if let Handshake::Accept { subprotocol: Some(name) }
        | Handshake::AcceptThenClose { subprotocol: Some(name), .. } = &verdict
            && let Ok(name) = HeaderValue::from_str(name)
        {
            response.headers_mut().insert("sec-websocket-protocol", name);
        }
        chosen = Some((facts, settings, verdict));
        Ok(response)
    };
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let accepted = accept_hdr_async_with_config(stream, decide, Some(config));
    let Ok(Ok(mut socket)) = tokio::time::timeout(HANDSHAKE_WITHIN, accepted).await else { return };
    let Some((facts, settings, verdict)) = chosen else { return };
    if let Handshake::AcceptThenClose { events, code, reason, .. } = verdict {
        for event in events {
            socket.send(Message::text(event)).await.ok();
        }
        close(&mut socket, code, reason).await;
        return;
    }
    let identifier = facts.header("openai-safety-identifier").next().unwrap_or_default().to_owned();
    sessions.with(|table| table.open.insert(number, identifier.clone()));
    let record = drive(&mut socket, settings, &facts).await;
    sessions.with(|table| {
        table.open.remove(&number);
        table.finished.push(Finished { identifier, record: Arc::new(record) });
    });
}

fn facts(request: &Request, connection: u64) -> RequestFacts {
    let headers = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    RequestFacts {
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        headers,
        connection,
    }
}

fn refusal(status: u16, body: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

/// What was said on one way and has not arrived.
type Way<T> = VecDeque<(Instant, T)>;

/// Takes what has arrived by now.
fn arrived<T>(way: &mut Way<T>) -> Option<T> {
    let arrived = way.front().is_some_and(|(at, _)| *at <= Instant::now());
    if arrived { way.pop_front().map(|(_, what)| what) } else { None }
}

/// Drives one session to its end and returns its record.
async fn drive(socket: &mut WebSocketStream<TcpStream>, settings: ServerSettings, facts: &RequestFacts) -> Record {
    let one_way = settings.one_way;
    let mut server = RealtimeServer::new(Instant::now(), Arc::new(settings), facts);
    let mut out = Vec::new();
    // No bound: a client that floods fills its own machine's memory, and a server that answers is paced by its script.
    let (mut up, mut down) = (Way::new(), Way::new());
    server.open(Instant::now(), &mut out);
    loop {
        let at = Instant::now() + one_way;
        down.extend(out.drain(..).map(|out| (at, out)));
        if !perform(socket, &mut down).await {
            break;
        }
        let arrives = up.front().map(|(at, _)| *at).into_iter().chain(down.front().map(|(at, _)| *at)).min();
        let next = server.deadline().into_iter().chain(arrives).min();
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(message)) => up.push_back((Instant::now() + one_way, message)),
            },
            () = due(next) => {},
        }
        while let Some(message) = arrived(&mut up) {
            receive(&mut server, &message, &mut out);
        }
        if server.deadline().is_some_and(|due| due <= Instant::now()) {
            server.handle_timeout(Instant::now(), &mut out);
        }
    }
    // What was under way arrives before the end of the connection does.
    for (_, message) in up {
        receive(&mut server, &message, &mut out);
    }
    server.disconnected(Instant::now());
    server.take_record()
}

fn receive(server: &mut RealtimeServer, message: &Message, out: &mut Vec<Out>) {
    match message {
        Message::Text(text) => server.receive(Instant::now(), text, out),
        Message::Binary(bytes) => server.receive_binary(Instant::now(), bytes.len(), out),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
    }
}

async fn due(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Performs what the server wants done and what has come the whole way; false when the connection is over.
async fn perform(socket: &mut WebSocketStream<TcpStream>, down: &mut Way<Out>) -> bool {
    while let Some(act) = arrived(down) {
        match act {
            Out::Text(text) => {
                if socket.feed(Message::text(text)).await.is_err() {
                    return false;
                }
            }
            Out::Close { code, reason } => {
                close(socket, code, reason).await;
                return false;
            }
            Out::Abort => return false,
            Out::HalfOpen => std::future::pending().await,
        }
    }
    socket.flush().await.is_ok()
}

async fn close(socket: &mut WebSocketStream<TcpStream>, code: u16, reason: String) {
    let frame = CloseFrame { code: code.into(), reason: reason.into() };
    // A client that is gone has got the message in its own way.
    socket.close(Some(frame)).await.ok();
    while let Ok(Some(Ok(_))) = tokio::time::timeout(Duration::from_secs(1), socket.next()).await {}
}

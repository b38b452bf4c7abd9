//! The signalling desk: callers from outside hand in their offer, the emulated Meta rings with it, unchanged, in a
//! signed webhook, and what the daemon gives Graph in its pre-accept goes back. See README.md beside this file.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sauti::simulate::loopback::meta::{Line, MEDIA_EVERY, MetaLink, ToPhone};
use sauti_core::pii::Pii;
use sauti_sim::whatsapp::calls::Cause;
use sauti_sim::whatsapp::person::Person;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

const JSON: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

/// One call at the desk.
#[derive(Debug, Default)]
struct Call {
    wacid: Option<Pii>,
    answer: Option<Pii>,
    over: Option<Cause>,
}

#[derive(Clone)]
struct Desk {
    meta: MetaLink,
    calls: Arc<Mutex<BTreeMap<String, Call>>>,
}

#[derive(Deserialize)]
struct Offer {
    sdp: String,
}

#[derive(Deserialize)]
struct Which {
    call: String,
}

/// Opens a desk on a free port of `host`; it stands as long as the runtime.
pub(crate) async fn open(meta: MetaLink, host: Ipv4Addr) -> SocketAddr {
    let desk = Desk { meta, calls: Arc::default() };
    let routes = Router::new()
        .route("/", get(page))
        .route("/offer", post(take_offer))
        .route("/answer", get(give_answer))
        .route("/bye", post(bye))
        .with_state(desk);
    let listener = TcpListener::bind((host, 0)).await.expect("the desk listens");
    let address = listener.local_addr().expect("the desk has an address");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

impl Desk {
    fn call<T>(&self, id: &str, act: impl FnOnce(&mut Call) -> T) -> T {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        act(calls.entry(id.to_owned()).or_default())
    }

    /// Hears what Meta tells the phone, and tells Meta that media flows: only the caller could see that it does not,
    /// and says so in its statistics.
    async fn follow(self, id: String, line: Line) {
        let Line { wacid, mut news, .. } = line;
        let (mut open, mut beat) = (false, tokio::time::interval(MEDIA_EVERY));
        loop {
            tokio::select! {
                told = news.recv() => match told {
                    Some(ToPhone::Answer(sdp)) => self.call(&id, |call| call.answer = Some(sdp)),
                    Some(ToPhone::Accepted) => open = true,
                    Some(ToPhone::Over(cause)) => return self.call(&id, |call| call.over = Some(cause)),
                    None => return,
                },
                _ = beat.tick(), if open => self.meta.media(&wacid).await,
            }
        }
    }
}

async fn page() -> Response {
    ([(header::CONTENT_TYPE, "text/html")], "<!doctype html><title>desk</title>").into_response()
}

async fn take_offer(State(desk): State<Desk>, body: Bytes) -> Response {
    let Ok(offer) = serde_json::from_slice::<Offer>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let Some(line) = desk.meta.ring(Person::test_caller(), Pii::new(offer.sdp), None).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "Meta does not let it ring").into_response();
    };
    let id = line.wacid.expose().to_owned();
    desk.call(&id, |call| call.wacid = Some(line.wacid.clone()));
    tokio::spawn(desk.clone().follow(id.clone(), line));
    (StatusCode::CREATED, JSON, json!({ "call": id }).to_string()).into_response()
}

async fn give_answer(State(desk): State<Desk>, Query(which): Query<Which>) -> Response {
    let (answer, over) = desk.call(&which.call, |call| (call.answer.clone(), call.over));
    match (answer, over) {
        (_, Some(cause)) => (StatusCode::GONE, format!("the call is over: {cause:?}")).into_response(),
        (Some(sdp), None) => (JSON, json!({"type": "answer", "sdp": sdp.expose()}).to_string()).into_response(),
        (None, None) => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn bye(State(desk): State<Desk>, Query(which): Query<Which>) -> StatusCode {
    if let Some(wacid) = desk.call(&which.call, |call| call.wacid.clone()) {
        desk.meta.hung_up(&wacid).await;
    }
    StatusCode::OK
}

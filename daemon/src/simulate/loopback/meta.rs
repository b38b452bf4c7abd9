//! Meta on loopback: the emulated Graph API behind HTTP, and its webhooks on their way to the daemon.
//!
//! One task owns both machines; HTTP handlers and phones send it messages. Phones are told what the relay learns.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use sauti_core::now::Now;
use sauti_core::pii::Pii;
use sauti_core::whatsapp::signature::SIGNATURE_HEADER;
use sauti_sim::whatsapp::calls::{CallRecord, Cause, GraphEffect};
use sauti_sim::whatsapp::delivery::{CLIENT_TIMEOUT, Delivery, PostOffice};
use sauti_sim::whatsapp::graph::{FaultRule, Graph, HttpReply, HttpRequest, Seen, SentText};
use sauti_sim::whatsapp::person::Person;
use sauti_sim::whatsapp::webhooks::{Change, ErrorForm, Generation, Webhooks};
use tokio::sync::{mpsc, oneshot};

use crate::http::MAX_BODY;

/// Messages waiting for Meta.
const INBOX: usize = 4096;
/// Messages waiting for a phone.
const PHONE_INBOX: usize = 64;
/// Deliveries kept for whoever asks what was sent.
const KEPT: usize = 64;
/// Media is reported to Graph this often at most: it only watches for silence of many seconds.
pub const MEDIA_EVERY: Duration = Duration::from_secs(1);

/// What a phone is told.
#[derive(Debug, Clone)]
pub enum ToPhone {
    /// The answer reached the relay.
    Answer(Pii),
    /// The call is open.
    Accepted,
    /// The call is over.
    Over(Cause),
}

/// What Meta is told.
pub enum ToMeta {
    /// The daemon asks Graph.
    Request {
        /// HTTP method.
        method: String,
        /// Path with the query.
        path: String,
        /// The header of that name.
        authorization: Option<String>,
        /// The bytes.
        body: Bytes,
        /// Takes the answer; `None` = there will never be one.
        reply: oneshot::Sender<Option<HttpReply>>,
    },
    /// Somebody calls; the answer is the call's id and what the phone will be told.
    Ring {
        /// Who calls.
        person: Box<Person>,
        /// The phone's SDP.
        offer: Pii,
        /// The keys of this call's webhooks, if other than usual.
        generation: Option<Generation>,
        /// Takes the line; `None` = the number is busy beyond what Meta allows.
        reply: oneshot::Sender<Option<Line>>,
    },
    /// Media of the daemon arrived at a phone.
    Media(Pii),
    /// A person hung up.
    HungUp(Pii),
    /// A webhook was answered, or not.
    Delivered {
        /// The delivery.
        id: u64,
        /// Its HTTP status; `None` = no answer in time.
        status: Option<u16>,
    },
    /// What a call went through.
    Record {
        /// The call.
        wacid: Pii,
        /// Takes the record; `None` = no such call.
        reply: oneshot::Sender<Option<Box<CallRecord>>>,
    },
    /// The requests that came to Graph, in order.
    Seen(oneshot::Sender<Vec<Seen>>),
    /// The latest webhooks, the newest last.
    Sent(oneshot::Sender<Vec<Delivery>>),
    /// Something is to go wrong from now on.
    Inject(FaultRule),
    /// The daemon moved: webhooks go there from now on.
    Target(String),
    /// A webhook is to be delivered, of whatever does not come about here.
    Tell(Box<Change>),
    /// A person calls by SIP: texts to her are allowed from now on.
    CallsBySip(Box<Person>),
    /// The texts that the daemon sent.
    Texts(oneshot::Sender<Vec<SentText>>),
}

/// A ringing line.
#[derive(Debug)]
pub struct Line {
    /// Names the call.
    pub wacid: Pii,
    /// What the phone will be told.
    pub news: mpsc::Receiver<ToPhone>,
    /// When the connect webhook's first delivery began; filled in later.
    pub posted: oneshot::Receiver<Instant>,
}

/// The way to Meta.
#[derive(Debug, Clone)]
pub struct MetaLink(mpsc::Sender<ToMeta>);

impl std::fmt::Debug for ToMeta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ToMeta")
    }
}

impl MetaLink {
    /// A person calls; `None` when the number has as many calls as it may. `generation` overrides the usual keys of
    /// this call's webhooks.
    pub async fn ring(&self, person: Person, offer: Pii, generation: Option<Generation>) -> Option<Line> {
        let (reply, answer) = oneshot::channel();
        self.0.send(ToMeta::Ring { person: Box::new(person), offer, generation, reply }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// Media of the daemon arrived at a phone; once in [`MEDIA_EVERY`] is enough.
    pub async fn media(&self, wacid: &Pii) {
        self.0.send(ToMeta::Media(wacid.clone())).await.ok();
    }

    /// The person hung up.
    pub async fn hung_up(&self, wacid: &Pii) {
        self.0.send(ToMeta::HungUp(wacid.clone())).await.ok();
    }

    /// What a call went through; `None` for one that Graph never saw.
    pub async fn record(&self, wacid: &Pii) -> Option<Box<CallRecord>> {
        let (reply, answer) = oneshot::channel();
        self.0.send(ToMeta::Record { wacid: wacid.clone(), reply }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// The texts that the daemon sent, in order.
    pub async fn texts(&self) -> Vec<SentText> {
        self.list(ToMeta::Texts).await
    }

    /// The requests that came to Graph, in order.
    pub async fn seen(&self) -> Vec<Seen> {
        self.list(ToMeta::Seen).await
    }

    /// The latest webhooks as they were sent, the newest last; some dozens are kept.
    pub async fn sent(&self) -> Vec<Delivery> {
        self.list(ToMeta::Sent).await
    }

    /// Lets something go wrong at Graph from now on.
    pub async fn inject(&self, rule: FaultRule) {
        self.0.send(ToMeta::Inject(rule)).await.ok();
    }

    /// A person calls by SIP, which Graph has no part in but for the texts that may follow.
    pub async fn calls_by_sip(&self, person: &Person) {
        self.0.send(ToMeta::CallsBySip(Box::new(person.clone()))).await.ok();
    }

    /// Delivers a webhook, signed, late and repeated as all of them.
    pub async fn tell(&self, change: Change) {
        self.0.send(ToMeta::Tell(Box::new(change))).await.ok();
    }

    /// Sends all further webhooks, repeated ones included, to another address.
    pub async fn retarget(&self, target: String) {
        self.0.send(ToMeta::Target(target)).await.ok();
    }

    async fn list<T>(&self, ask: impl FnOnce(oneshot::Sender<Vec<T>>) -> ToMeta) -> Vec<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(ask(reply)).await.ok();
        answer.await.unwrap_or_default()
    }
}

/// A call as Meta sees it.
struct Ringing {
    person: Person,
    webhooks: Webhooks,
    phone: mpsc::Sender<ToPhone>,
    posted: Option<oneshot::Sender<Instant>>,
}

/// The task's state.
pub struct Meta {
    graph: Graph,
    post: PostOffice,
    webhooks: Webhooks,
    target: String,
    http: reqwest::Client,
    link: mpsc::Sender<ToMeta>,
    calls: BTreeMap<Pii, Ringing>,
    /// Connects whose first delivery has not left, in order.
    unposted: Vec<Pii>,
    sent: VecDeque<Delivery>,
}

fn now() -> Now {
    Now { mono: Instant::now(), wall: Timestamp::now() }
}

impl Meta {
    /// Starts the task; webhooks go to `target`. Returns the way to it and Graph's routes.
    pub fn start(
        graph: Graph,
        post: PostOffice,
        webhooks: Webhooks,
        target: oneshot::Receiver<String>,
    ) -> (MetaLink, Router) {
        let (link, inbox) = mpsc::channel(INBOX);
        let own = link.clone();
        tokio::spawn(async move {
            let Ok(target) = target.await else { return };
            let http = reqwest::Client::builder().no_proxy().timeout(CLIENT_TIMEOUT).build();
            let Ok(http) = http else { return };
            let meta = Self {
                graph,
                post,
                webhooks,
                target,
                http,
                link: own,
                calls: BTreeMap::new(),
                unposted: Vec::new(),
                sent: VecDeque::with_capacity(KEPT),
            };
            meta.run(inbox).await;
        });
        let routes = Router::new().fallback(ask).with_state(MetaLink(link.clone()));
        (MetaLink(link), routes)
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<ToMeta>) {
        let mut effects = Vec::new();
        loop {
            let due = [self.graph.deadline(), self.post.deadline()].into_iter().flatten().min();
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => self.take(message, &mut effects),
                    None => return,
                },
                () = sleep_until(due) => self.graph.tick(now(), &mut effects),
            }
            for effect in effects.drain(..) {
                self.perform(effect);
            }
            while let Some(delivery) = self.post.due(Instant::now()) {
                self.deliver(delivery);
            }
        }
    }

    fn take(&mut self, message: ToMeta, effects: &mut Vec<GraphEffect>) {
        match message {
            ToMeta::Request { method, path, authorization, body, reply } => {
                let request =
                    HttpRequest { method: &method, path: &path, authorization: authorization.as_deref(), body: &body };
                let answer = self.graph.handle(now(), request, effects);
                // Whoever asked acts on the answer at once: a phone has to know before.
                for effect in effects.drain(..) {
                    self.perform(effect);
                }
                reply.send(answer).ok();
            }
            ToMeta::Ring { person, offer, generation, reply } => {
                reply.send(self.ring(*person, &offer, generation)).ok();
            }
            ToMeta::Media(wacid) => self.graph.media(now(), &wacid),
            ToMeta::HungUp(wacid) => self.graph.end(now(), &wacid, Cause::HungUp, effects),
            ToMeta::Delivered { id, status } => self.post.answered(Instant::now(), id, status),
            ToMeta::Record { wacid, reply } => {
                reply.send(self.graph.record(&wacid).cloned().map(Box::new)).ok();
            }
            ToMeta::Texts(reply) => {
                reply.send(self.graph.texts().to_vec()).ok();
            }
            ToMeta::Seen(reply) => {
                reply.send(self.graph.seen().to_vec()).ok();
            }
            ToMeta::Sent(reply) => {
                reply.send(self.sent.iter().cloned().collect()).ok();
            }
            ToMeta::Inject(rule) => self.graph.inject(rule),
            ToMeta::Target(target) => self.target = target,
            ToMeta::CallsBySip(person) => self.graph.sign_of_life(now(), &person),
            ToMeta::Tell(change) => self.post.post(Instant::now(), *change),
        }
    }

    fn ring(&mut self, person: Person, offer: &Pii, generation: Option<Generation>) -> Option<Line> {
        let at = now();
        let generation = generation.unwrap_or(self.webhooks.generation);
        let webhooks = Webhooks { generation, ..self.webhooks.clone() };
        let wacid = self.graph.new_wacid(&person, true);
        if !self.graph.ring(at, &wacid, &person, offer) {
            return None;
        }
        self.post.post(at.mono, webhooks.connect(at.wall, &wacid, &person, offer));
        let (phone, news) = mpsc::channel(PHONE_INBOX);
        let (posted, posted_at) = oneshot::channel();
        self.calls.insert(wacid.clone(), Ringing { person, webhooks, phone, posted: Some(posted) });
        self.unposted.push(wacid.clone());
        Some(Line { wacid, news, posted: posted_at })
    }

    fn perform(&mut self, effect: GraphEffect) {
        match effect {
            GraphEffect::AnswerDelivered { wacid, sdp, at } => self.tell(&wacid, at, ToPhone::Answer(sdp)),
            GraphEffect::Accepted { wacid, at } => self.tell(&wacid, at, ToPhone::Accepted),
            GraphEffect::Ended { wacid, ending, at } => {
                self.tell(&wacid, at, ToPhone::Over(ending.cause));
                let opaque = self.graph.record(&wacid).and_then(|record| record.opaque.clone());
                if let Some(call) = self.calls.get(&wacid) {
                    let change = call.webhooks.terminate(
                        Timestamp::now(),
                        &wacid,
                        &call.person,
                        &ending,
                        ErrorForm::Doubled,
                        opaque.as_deref(),
                    );
                    self.post.post(Instant::now(), change);
                }
            }
            GraphEffect::TextTaken { id, opaque, .. } => {
                if let Some(call) = self.calls.values().next() {
                    let change = call.webhooks.message_status(
                        Timestamp::now(),
                        &id,
                        &call.person,
                        "sent",
                        opaque.as_deref(),
                        None,
                    );
                    self.post.post(Instant::now(), change);
                }
            }
            GraphEffect::Calling { .. } | GraphEffect::SettingsChanged => {}
        }
    }

    /// Tells a phone, when it takes hold.
    fn tell(&self, wacid: &Pii, at: Instant, news: ToPhone) {
        let Some(call) = self.calls.get(wacid) else { return };
        let phone = call.phone.clone();
        let news = match at.checked_duration_since(Instant::now()) {
            Some(_) => news,
            None => match phone.try_send(news) {
                Ok(()) => return,
                Err(full) => full.into_inner(),
            },
        };
        tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            phone.send(news).await.ok();
        });
    }

    fn deliver(&mut self, delivery: Delivery) {
        let leaving = Instant::now();
        for wacid in self.unposted.drain(..) {
            if let Some(posted) = self.calls.get_mut(&wacid).and_then(|call| call.posted.take()) {
                posted.send(leaving).ok();
            }
        }
        if self.sent.len() == KEPT {
            self.sent.pop_front();
        }
        self.sent.push_back(delivery.clone());
        let mut request = self.http.post(&self.target).header(header::CONTENT_TYPE, "application/json");
        if let Some(signature) = &delivery.signature {
            request = request.header(SIGNATURE_HEADER, signature);
        }
        let (request, link, id) = (request.body(delivery.body.to_vec()), self.link.clone(), delivery.id);
        tokio::spawn(async move {
            let status = request.send().await.ok().map(|answer| answer.status().as_u16());
            link.send(ToMeta::Delivered { id, status }).await.ok();
        });
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Graph's HTTP side: every route is the machine's.
async fn ask(State(meta): State<MetaLink>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let authorization =
        head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let path = head.uri.path_and_query().map_or_else(|| head.uri.path().to_owned(), ToString::to_string);
    let (reply, answer) = oneshot::channel();
    let message = ToMeta::Request { method: head.method.to_string(), path, authorization, body, reply };
    if meta.0.send(message).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match answer.await {
        Ok(Some(HttpReply { status, body, delay })) => {
            tokio::time::sleep(delay).await;
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        // No answer at all: the client has to give up.
        Ok(None) => std::future::pending().await,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

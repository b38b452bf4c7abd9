//! Sessions that wait, over real sockets, against the emulated server: it notes whatever is said to one too early.

use std::sync::Mutex;

use rustls::RootCertStore;
use sauti_core::config::{Language, OpenAi};
use sauti_core::pii::Pii;
use sauti_sim::openai::{
    ClientFaultKind, ExpectedKey, Fault, HandshakeFault, Latency, RequestFacts, Script, ServerSettings, Trouble, When,
};
use tokio::net::TcpListener;

use super::super::link::tests::{openai, tls};
use super::*;
use crate::ai::providers::Dialled;
use crate::simulate::loopback::realtime::{Sessions, serve};

/// Longer than anything takes; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pool, its providers and the emulated server.
struct Rig {
    providers: Arc<Providers>,
    metrics: Arc<Metrics>,
    sessions: Sessions,
    settings: OpenAi,
    connections: Arc<Mutex<Vec<u64>>>,
}

impl Rig {
    /// `trouble` spoils the settings of a connection by its number.
    async fn new(trouble: impl Fn(u64, &mut ServerSettings) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = openai(format!("http://{}/v1", listener.local_addr().unwrap()));
        let (sessions, connections) = (Sessions::default(), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&connections);
        let choose = move |facts: &RequestFacts| {
            let script = Script::tones(2, Duration::from_secs(1));
            let mut settings = ServerSettings::new(ExpectedKey::new("canary-openai-key"), script);
            settings.latency = Latency::ZERO;
            settings.owned_sessions = true;
            settings.recording.client_frames = true;
            trouble(facts.connection, &mut settings);
            if !facts.path.is_empty() {
                seen.lock().unwrap().push(facts.connection);
            }
            settings
        };
        tokio::spawn(serve(listener, Arc::new(choose), sessions.clone()));
        let metrics = Arc::new(Metrics::new());
        let providers =
            Arc::new(Providers::new(&settings, &tls(RootCertStore::empty()), Arc::clone(&metrics)).unwrap());
        Self { providers, metrics, sessions, settings, connections }
    }

    fn update(&self, language: Language) -> SessionUpdate {
        SessionUpdate::new(&self.settings, Pii::new("Be brief."), language, &[Language::En, Language::Sw])
    }

    fn pool(&self, size: usize) -> Pool {
        let settings = Settings { size, update: self.update(Language::En), max_output_tokens: 1024 };
        Pool::start(&self.providers, settings, Arc::clone(&self.metrics))
    }

    fn waiting(&self) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix("sauti_table_warm ")).unwrap();
        line.parse().unwrap()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn connect(&self) -> Dialled {
        self.providers.connect(Climb::default(), None).await
    }

    fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }
}

/// A call as far as the pool goes: its session, its socket.
struct Owner {
    session: Session,
    playout: Playout,
    link: Link,
    news: Vec<Effect>,
}

impl Owner {
    fn new(dialled: Dialled, update: SessionUpdate) -> Self {
        let input = if dialled.warm { session::Input::Adopted } else { session::Input::Opened };
        let mut owner = Self {
            session: Session::new(update),
            playout: Playout::new(1024),
            link: dialled.result.unwrap().0,
            news: Vec::new(),
        };
        owner.session.handle(now(), input, &mut owner.playout, &mut owner.news);
        owner
    }

    /// Goes on until an effect comes for which `wanted` holds.
    async fn until(&mut self, wanted: impl Fn(&Effect) -> bool) {
        let mut line = String::new();
        let going_on = async {
            loop {
                let mut found = false;
                for effect in std::mem::take(&mut self.news) {
                    found |= wanted(&effect);
                    if let Effect::Send(event) = &effect {
                        event.write_json(&mut line);
                        self.link.send_text(&line);
                    }
                }
                if found {
                    return;
                }
                let event = self.link.next().await;
                self.session.handle(now(), event.input(), &mut self.playout, &mut self.news);
            }
        };
        tokio::time::timeout(PATIENCE, going_on).await.unwrap();
    }
}

#[tokio::test]
async fn a_call_takes_a_session_over_at_once_tells_it_its_language_and_hears_it_speak() {
    let rig = Rig::new(|_, settings| settings.latency.session_created = Duration::from_millis(300)).await;
    let pool = rig.pool(2);
    rig.until("two sessions wait", |rig| rig.waiting() == 2).await;
    let begun = Instant::now();
    let dialled = rig.connect().await;
    assert!(dialled.warm && dialled.misses.is_empty());
    let mut owner = Owner::new(dialled, rig.update(Language::Sw));
    assert!(owner.session.is_ready() && owner.news.contains(&Effect::Ready));
    assert!(begun.elapsed() < Duration::from_millis(100), "no handshake and no answer is waited for");
    owner.session.handle(
        now(),
        session::Input::Say(session::Line::Greeting, Pii::new("Habari!")),
        &mut owner.playout,
        &mut owner.news,
    );
    owner.until(|effect| matches!(effect, Effect::Audio { first: true })).await;
    owner.link.close(CLOSE_WITHIN).await;
    rig.until("the session that was taken is replaced", |rig| rig.waiting() == 2).await;
    pool.close().await;
    assert_eq!(rig.waiting(), 0);
    rig.until("every session is closed", |rig| rig.sessions.open() == 0).await;
    let finished = rig.sessions.take_finished();
    assert_eq!(finished.len(), 3);
    assert!(finished.iter().all(|session| session.record.count(ClientFaultKind::NotOwned) == 0));
    assert!(finished.iter().all(|session| session.record.client_faults.is_empty()));
    let spoken: Vec<_> = finished.iter().filter(|session| !session.record.spoken.is_empty()).collect();
    assert_eq!(spoken.len(), 1);
    let said: Vec<&str> = spoken[0].record.client_log.iter().map(|(_, text)| text.as_str()).collect();
    let updates: Vec<_> = said.iter().filter(|text| text.contains("session.update")).collect();
    assert_eq!(updates.len(), 2, "{said:?}");
    assert!(finished.iter().filter(|session| session.record.spoken.is_empty()).all(|s| s.record.client_log.len() == 1));
}

#[tokio::test]
async fn without_a_session_that_waits_a_call_opens_one_of_its_own() {
    let rig = Rig::new(|_, _| ()).await;
    assert!(!rig.connect().await.warm, "there is no pool");
    let pool = rig.pool(1);
    rig.until("a session waits", |rig| rig.waiting() == 1).await;
    let (first, second) = tokio::join!(rig.connect(), rig.connect());
    assert_eq!([first.warm, second.warm].iter().filter(|warm| **warm).count(), 1);
    assert!(first.result.is_ok() && second.result.is_ok());
    pool.close().await;
    assert!(!rig.connect().await.warm, "the pool is closed");
}

#[tokio::test]
async fn a_session_that_ends_while_it_waits_is_replaced_after_a_pause_and_counts_against_nobody() {
    let ends = |trouble| Fault { when: When::AfterOpen(Duration::from_millis(100)), trouble };
    let rig = Rig::new(move |number, settings| match number {
        0 => settings.faults.push(ends(Trouble::Close { code: 1001, reason: "going away".to_owned() })),
        1 => settings.faults.push(ends(Trouble::Abort)),
        _ => {}
    })
    .await;
    let begun = Instant::now();
    let pool = rig.pool(1);
    rig.until("the third session is open", |rig| rig.connections() == 3 && rig.waiting() == 1).await;
    assert!(begun.elapsed() >= FIRST_PAUSE * 3, "each one comes later than the one before");
    assert!(rig.metrics.render().contains(r#"sauti_model_breaker{provider="primary"} 0"#));
    assert!(rig.connect().await.warm);
    pool.close().await;
}

#[tokio::test]
async fn refused_handshakes_are_tried_one_by_one_with_growing_pauses_until_the_breaker_opens() {
    let rig = Rig::new(|_, settings| {
        settings.handshake_faults =
            vec![HandshakeFault { connections: u64::MAX, status: 429, code: "rate_limit_exceeded".to_owned() }];
    })
    .await;
    let pool = rig.pool(8);
    rig.until("the breaker opens", |rig| rig.metrics.render().contains(r#"sauti_model_breaker{provider="primary"} 2"#))
        .await;
    assert_eq!(rig.connections(), 3, "one at a time, and none once the breaker is open");
    assert_eq!(rig.waiting(), 0);
    pool.close().await;
}

#[tokio::test]
async fn a_server_that_does_not_configure_the_session_gives_none_to_wait() {
    let rig = Rig::new(|number, settings| {
        if number == 0 {
            let error = Trouble::Error {
                kind: "server_error".to_owned(),
                code: Some("server_error".to_owned()),
                message: String::new(),
            };
            settings.faults.push(Fault { when: When::AfterOpen(Duration::ZERO), trouble: error });
            settings.latency.session_updated = Duration::from_secs(3600);
        }
    })
    .await;
    let pool = rig.pool(1);
    rig.until("the second one waits", |rig| rig.waiting() == 1).await;
    assert_eq!(rig.connections(), 2);
    pool.close().await;
}

#[tokio::test]
async fn a_pool_that_is_told_to_end_while_it_opens_a_session_ends() {
    let rig = Rig::new(|_, settings| settings.latency.session_created = Duration::from_secs(3600)).await;
    let pool = rig.pool(1);
    rig.until("one is being opened", |rig| rig.connections() == 1).await;
    tokio::time::timeout(PATIENCE, pool.close()).await.unwrap();
    rig.until("its socket is closed", |rig| rig.sessions.open() == 0).await;
}

//! An HTTP/1.1 listener that outlives bad peers: slow headers, half-open sockets and floods are cut off.
//!
//! It knows connections, not routes: an axum [`Router`] is handed in. One listener is one task; each
//! connection is one more, and there are never more than [`CONNECTIONS`].

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::obs::logging::{EventName, Field, log_event};

/// Connections at one time: Meta's senders keep few, a flood meets a full house.
const CONNECTIONS: usize = 512;
/// Longest wait for a TLS handshake or for the headers of a request.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// Longest life of a connection: idle keep-alives end here, and a request that is under way is the last one.
const CONNECTION_WITHIN: Duration = Duration::from_secs(120);
/// How long that last request may still take; longer than its body may (10 s).
const LAST_REQUEST_WITHIN: Duration = Duration::from_secs(15);

/// A listener that is bound and not yet served.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    name: &'static str,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("http.{name} {address}: {source}; is another program on that port, or the address not this machine's?")]
pub struct ListenError {
    name: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl Listener {
    /// Binds `address`; `name` is the configuration key that errors name.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn bind(name: &'static str, address: SocketAddr) -> Result<Self, ListenError> {
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(Self { listener, name }),
            Err(source) => Err(ListenError { name, address, source }),
        }
    }

    /// Where it listens; the port is the real one when 0 was asked for.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves `router` until `stop` turns true; then no connection is taken and running requests are finished.
    pub async fn serve(
        self,
        router: Router,
        tls: Option<watch::Receiver<TlsAcceptor>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors: calls that end free some; a busy loop would not.
                let values = [(Field::Stage, self.name.into()), (Field::Reason, "accept".into())];
                log_event(EventName::ServiceError, None, &values);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let router = router.clone();
            let acceptor = tls.as_ref().map(|tls| tls.borrow().clone());
            tokio::spawn(async move {
                // What goes wrong on one connection is that peer's affair: it is closed, nothing is logged.
                connection(stream, acceptor, router).await;
                drop(place);
            });
        }
    }
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, router: Router) {
    stream.set_nodelay(true).ok();
    match acceptor {
        None => http(TokioIo::new(stream), router).await,
        Some(acceptor) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HEADERS_WITHIN, acceptor.accept(stream)).await {
                http(TokioIo::new(stream), router).await;
            }
        }
    }
}

async fn http<I>(io: I, router: Router)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_headers(64)
        .max_buf_size(64 * 1024)
        .serve_connection(io, TowerToHyperService::new(router));
    let mut served = pin!(served);
    if tokio::time::timeout(CONNECTION_WITHIN, served.as_mut()).await.is_err() {
        // Cut off in mid-request, a webhook would be answered to nobody.
        served.as_mut().graceful_shutdown();
        tokio::time::timeout(LAST_REQUEST_WITHIN, served).await.ok();
    }
}

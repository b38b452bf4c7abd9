//! Signalling of one emulated call on a socket of its own: SIP messages in and out, over UDP, TCP or TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sauti_sim::trunk::message::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Largest message or packet.
pub(super) const DATAGRAM: usize = 8192;

/// See the module. A stream keeps what it has read of a message that is not whole.
#[derive(Debug)]
pub(super) enum Wire {
    Udp(UdpSocket),
    Tcp(TcpStream, Vec<u8>),
    Tls(Box<TlsStream<TcpStream>>, Vec<u8>),
}

impl Wire {
    pub(super) async fn udp(target: SocketAddr) -> std::io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(target).await?;
        Ok(Self::Udp(socket))
    }

    pub(super) async fn tcp(target: SocketAddr) -> std::io::Result<Self> {
        Ok(Self::Tcp(TcpStream::connect(target).await?, Vec::new()))
    }

    /// A TLS stream to a listener that must prove to be `name`.
    pub(super) async fn tls(target: SocketAddr, name: &str, trusted: Arc<ClientConfig>) -> std::io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
        let stream = TcpStream::connect(target).await?;
        let stream = TlsConnector::from(trusted).connect(name, stream).await?;
        Ok(Self::Tls(Box::new(stream), Vec::new()))
    }

    pub(super) fn local(&self) -> std::io::Result<SocketAddr> {
        match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Tcp(stream, _) => stream.local_addr(),
            Self::Tls(stream, _) => stream.get_ref().0.local_addr(),
        }
    }

    pub(super) async fn send(&mut self, wire: &[u8]) {
        // What does not go is repeated or given up, as on any line.
        match self {
            Self::Udp(socket) => drop(socket.send(wire).await),
            Self::Tcp(stream, _) => drop(stream.write_all(wire).await),
            Self::Tls(stream, _) => drop(stream.write_all(wire).await),
        }
    }

    /// Ends a stream as its kind is ended.
    pub(super) async fn close(&mut self) {
        // Whoever is gone already needs no goodbye.
        match self {
            Self::Udp(_) => {}
            Self::Tcp(stream, _) => drop(stream.shutdown().await),
            Self::Tls(stream, _) => drop(stream.shutdown().await),
        }
    }

    /// The next messages; an error when the connection is gone. Safe to be dropped in mid-wait.
    pub(super) async fn receive(&mut self, buffer: &mut [u8]) -> std::io::Result<Vec<Message>> {
        let (length, held) = match self {
            Self::Udp(socket) => {
                let length = socket.recv(buffer).await?;
                let text = buffer.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
                return Ok(text.and_then(Message::parse).into_iter().collect());
            }
            Self::Tcp(stream, held) => (stream.read(buffer).await?, held),
            Self::Tls(stream, held) => (stream.read(buffer).await?, held),
        };
        if length == 0 {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        held.extend_from_slice(buffer.get(..length).unwrap_or_default());
        Ok(std::iter::from_fn(|| Message::take(held)).collect())
    }
}

//! The wire between a worker and a server, to be cut, slowed and torn.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that go on at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// The same on a slow wire.
const SLOW_CHUNK_BYTES: usize = 1024;

/// What the wire does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// It carries everything.
    Sound,
    /// It carries everything, this much later.
    Far(Duration),
    /// Each kilobyte takes this long.
    Slow(Duration),
    /// Each connection is cut after so many bytes of the server's, in the middle of an answer or not.
    Torn(usize),
    /// Nobody listens.
    Away,
}

/// Takes connections on a loopback port and passes them on to a server. Serves until it is dropped.
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    server: SocketAddr,
    wire: Wire,
    /// Connections of an earlier round are cut.
    round: u64,
}

impl Proxy {
    /// Before a server on loopback, which need not be there yet.
    pub async fn before(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (state, watched) = watch::channel(State { server, wire: Wire::Sound, round: 0 });
        let port = listener.local_addr()?.port();
        Ok(Self { port, state, serving: tokio::spawn(serve(listener, watched)) })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A server's URL with this proxy's port in the place of its own.
    pub fn url(&self, url: &str) -> Result<String> {
        let mut url = reqwest::Url::parse(url).context("a server's URL")?;
        url.set_port(Some(self.port)).ok().context("a URL with a port")?;
        Ok(url.to_string())
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.round += 1);
    }

    /// What the wire does from now on, to connections that are there as well.
    pub fn set(&self, wire: Wire) {
        self.state.send_modify(|state| state.wire = wire);
        if wire == Wire::Away {
            self.cut();
        }
    }

    /// Another server from now on; connections to the one before are cut.
    pub fn turn_to(&self, port: u16) {
        self.state.send_modify(|state| {
            state.server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            state.round += 1;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
        self.cut();
    }
}

async fn serve(listener: TcpListener, state: watch::Receiver<State>) {
    while let Ok((client, _)) = listener.accept().await {
        if state.borrow().wire != Wire::Away {
            tokio::spawn(carry(client, state.clone()));
        }
    }
}

/// Until either side ends, or the wire is cut.
async fn carry(client: TcpStream, mut state: watch::Receiver<State>) -> std::io::Result<()> {
    let State { server, round, .. } = *state.borrow();
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (requests, answers) = (state.clone(), state.clone());
    tokio::select! {
        _ = state.wait_for(|state| state.round != round) => Ok(()),
        ended = pump(from_client, to_server, requests, false) => ended,
        ended = pump(from_server, to_client, answers, true) => ended,
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: watch::Receiver<State>,
    is_answer: bool,
) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut answered = 0;
    loop {
        let slow = matches!(state.borrow().wire, Wire::Slow(_));
        let most = if slow { SLOW_CHUNK_BYTES } else { CHUNK_BYTES };
        let read = from.read(&mut buffer[..most]).await?;
        if read == 0 {
            return Ok(());
        }
        let wire = state.borrow().wire;
        match wire {
            Wire::Far(pause) | Wire::Slow(pause) => tokio::time::sleep(pause).await,
            Wire::Torn(bytes) if is_answer && answered + read >= bytes => {
                return to.write_all(&buffer[..bytes.saturating_sub(answered).min(read)]).await;
            }
            Wire::Torn(_) if is_answer => answered += read,
            Wire::Sound | Wire::Torn(_) | Wire::Away => {}
        }
        to.write_all(&buffer[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what comes.
    async fn echo() -> Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        Ok(port)
    }

    async fn connect(proxy: &Proxy) -> Result<TcpStream> {
        Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await?)
    }

    /// What comes back of 100 bytes before the end, at most 100.
    async fn returned(stream: &mut TcpStream) -> usize {
        let mut answer = [0; 100];
        let mut length = 0;
        if stream.write_all(&[7; 100]).await.is_err() {
            return 0;
        }
        while length < 100 {
            match stream.read(&mut answer[length..]).await {
                Ok(0) | Err(_) => break,
                Ok(read) => length += read,
            }
        }
        length
    }

    #[tokio::test]
    async fn a_wire_is_sound_torn_cut_away_and_leads_elsewhere() -> Result<()> {
        let proxy = Proxy::before(echo().await?).await?;
        let mut sound = connect(&proxy).await?;
        assert_eq!(returned(&mut sound).await, 100);
        proxy.set(Wire::Far(Duration::from_millis(1)));
        assert_eq!(returned(&mut sound).await, 100);
        proxy.set(Wire::Slow(Duration::from_millis(1)));
        assert_eq!(returned(&mut sound).await, 100);
        proxy.set(Wire::Torn(60));
        assert_eq!(returned(&mut connect(&proxy).await?).await, 60);
        proxy.set(Wire::Away);
        assert_eq!(returned(&mut sound).await, 0);
        assert_eq!(returned(&mut connect(&proxy).await?).await, 0);
        proxy.set(Wire::Sound);
        let mut sound = connect(&proxy).await?;
        assert_eq!(returned(&mut sound).await, 100);
        proxy.turn_to(echo().await?);
        assert_eq!(returned(&mut sound).await, 0);
        assert_eq!(returned(&mut connect(&proxy).await?).await, 100);
        let url = proxy.url("postgres://a:b@127.0.0.1:5432/shop")?;
        assert_eq!(url, format!("postgres://a:b@127.0.0.1:{}/shop", proxy.port()));
        Ok(())
    }
}

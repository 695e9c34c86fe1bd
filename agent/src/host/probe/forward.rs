//! A loopback port that leads to one release: what `$DEPLOYD_CANDIDATE_URL` points to.
//!
//! Each connection is joined to one with the mark, byte for byte. It lives as long as its handle; only this
//! host can reach it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use super::{Target, connect_tcp};

/// An open port. Dropping it closes the port and every connection through it.
#[derive(Debug)]
pub struct Forward {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Forward {
    /// Opens a port that leads to the target.
    pub async fn open(target: Target) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        Ok(Self { addr, task: tokio::spawn(serve(listener, target)) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as a URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: Target) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(join(client, target.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: the next connection may have better luck.
                    tracing::warn!(%error, "a connection to a candidate was not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn join(mut client: TcpStream, target: Target) {
    let joined = match target {
        Target::Tcp { addr, mark } => match connect_tcp(addr, mark).await {
            Ok(mut server) => tokio::io::copy_bidirectional(&mut client, &mut server).await,
            Err(error) => Err(error),
        },
        Target::Unix(path) => match UnixStream::connect(path).await {
            Ok(mut server) => tokio::io::copy_bidirectional(&mut client, &mut server).await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = joined {
        tracing::debug!(%error, "a connection to a candidate broke");
    }
}

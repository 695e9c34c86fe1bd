//! Connections that are in the way: handshakes that never end, and clients that send a byte now and then.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::netns::NetPath;

const THREADS: usize = 8;
/// Files of this process besides.
const FILES: u64 = 1000;
const CONNECT: Duration = Duration::from_secs(2);
/// How often a slow client sends a byte.
const BYTE: Duration = Duration::from_secs(1);
/// What a handshake begins with: the head of a record of 512 bytes, and one byte of it.
const BEGINNING: [u8; 6] = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01];

/// A crowd that holds as many connections as it is let, and opens another for each that is closed.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Starts a crowd of `held` connections to `target`.
    pub fn start(from: &NetPath, target: SocketAddr, held: usize) -> Result<Self> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let wanted = most.max(held as u64 + FILES);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).context("failed to raise the number of files")?;
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let share = held.div_ceil(THREADS);
        let threads = (0..THREADS)
            .map(|_| {
                let (stop, opened, from) = (Arc::clone(&stop), Arc::clone(&opened), from.clone());
                thread::spawn(move || {
                    from.enter_thread()?;
                    crowd(target, share, &stop, &opened);
                    Ok(())
                })
            })
            .collect();
        Ok(Self { stop, opened, threads })
    }

    /// How many connections were opened so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Ends it; how many connections it opened in all.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(self.opened.load(Ordering::Relaxed))
    }
}

fn crowd(target: SocketAddr, share: usize, stop: &AtomicBool, opened: &AtomicU64) {
    let mut held: Vec<TcpStream> = Vec::new();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if held.len() < share {
            // A server that is full lets nobody in for a while: then this waits, which is its right.
            if let Ok(stream) = TcpStream::connect_timeout(&target, CONNECT) {
                let begun = (&stream).write_all(&BEGINNING).and_then(|()| stream.set_nonblocking(true));
                if begun.is_ok() {
                    opened.fetch_add(1, Ordering::Relaxed);
                    held.push(stream);
                }
            }
        } else {
            thread::sleep(Duration::from_millis(5));
        }
        if last.elapsed() >= BYTE {
            last = Instant::now();
            // Those that the server has closed make room for others.
            held.retain(|stream| is_open(stream) && (&*stream).write_all(&[0]).is_ok());
        }
    }
}

/// Whether the server has neither closed it nor said anything.
fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(stream.peek(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}
